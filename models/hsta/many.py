"""Folds of HSTA trained and tested, one alone or several as one program, and both compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from models.epoch_record import Watch
from models.hsta.clips import ClipBank, Scale
from models.hsta.fused import fit_fused, predict_fused
from models.hsta.network import HSTA
from models.hsta.settings import HstaTrainConfig
from models.hsta.training import Fit, FoldTraining, fit_one, fusable, predict
from models.stacked.proof import PROBES, Outputs, Rivals, fused_loop, nudged
from models.stacked.trace import Loop, Trace, follow


def fit(
    model: HSTA,
    bank: ClipBank,
    positions: Sequence[int],
    config: HstaTrainConfig,
    *,
    seed: int,
    device: torch.device,
    scale: Scale,
    resume: Path | None = None,
    who: str = "training",
    progress: Callable[[float, str], None] | None = None,
) -> Fit:
    """Train `model` in place on the clips at `positions`: `fit_many` of one fold."""
    fold = FoldTraining(model, bank, positions, scale, seed, who, resume, progress)
    return fit_many([fold], config, device)[0]


def fit_many(
    folds: Sequence[FoldTraining],
    config: HstaTrainConfig,
    device: torch.device,
    trace: Trace | None = None,
    watch: Watch | None = None,
) -> list[Fit]:
    """Train the folds' networks in place, each from its `resume` if that file exists.

    One fold takes the plain loop, several one program for all of them (`models.hsta.fused`) where
    they are `fusable`, else one plain loop after another; a fold's result is the same either way,
    to rounding, and whether `watch` looks on its way or not (positions are those in `folds`).
    Raises TrainingError naming the fold and the clips when a loss stops being finite.
    """
    results, loops = loops_of(folds, config, device, watch)
    for loop in loops:
        follow(loop, trace)
    return results


def loops_of(
    folds: Sequence[FoldTraining],
    config: HstaTrainConfig,
    device: torch.device,
    watch: Watch | None = None,
) -> tuple[list[Fit], list[Loop]]:
    """What `fit_many` returns, empty, and its loops, which fill it when they are followed."""
    results = [Fit() for _ in folds]
    alone = folds[0].multi_label or not fusable(folds[0].model, config)
    if len(folds) == 1 or alone:
        pairs = enumerate(zip(folds, results, strict=True))
        return results, [fit_one(f, config, device, fit, watch, n) for n, (f, fit) in pairs]
    return results, [fit_fused(folds, config, device, results, watch)]


def predict_many(
    models: Sequence[HSTA],
    bank: ClipBank,
    positions: Sequence[Sequence[int]],
    config: HstaTrainConfig,
    *,
    seeds: Sequence[int],
    device: torch.device,
    scales: Sequence[Scale],
    multi_label: bool = False,
) -> list[npt.NDArray[np.float64]]:
    """Per fold the class probabilities of its positions: `predict`, fused for several folds."""
    if len(models) > 1 and not multi_label and fusable(models[0], config):
        return predict_fused(
            models, bank, positions, config, seeds=seeds, device=device, scales=scales
        )
    return [
        predict(
            model,
            bank,
            own,
            config,
            seed=seed,
            device=device,
            scale=scale,
            multi_label=multi_label,
        )
        for model, own, seed, scale in zip(models, positions, seeds, scales, strict=True)
    ]


def rivals(
    folds: Sequence[FoldTraining],
    at: int,
    config: HstaTrainConfig,
    tested: Sequence[Sequence[int]],
    device: torch.device,
    kind: torch.dtype = torch.float32,
) -> Rivals:
    """Fold `at` alone, twice, and beside the others, in float32 or float64, on copies.

    `tested`: each fold's positions in the bank to be asked. Raises ConfigError where the folds are
    not one program.
    """
    config = config.model_copy(update={"precision": "fp32"})  # no autocast
    own = [replace(fold, model=copy.deepcopy(fold.model).to(kind)) for fold in folds]
    alone = replace(folds[at], model=copy.deepcopy(folds[at].model).to(kind))
    twin = replace(alone, model=cast(HSTA, nudged(copy.deepcopy(alone.model))))
    [first], [second], whole = (
        loops_of(group, config, device)[1] for group in ([alone], [twin], own)
    )

    def outputs(few: bool) -> list[Outputs]:
        asked = [list(part[:PROBES] if few else part) for part in tested]
        found: list[Outputs] = []
        for group in ([alone], own) if few else ([alone], [twin], own):
            chances = predict_many(
                [fold.model for fold in group],
                folds[0].bank,
                asked if group is own else [asked[at]],
                config,
                seeds=[fold.seed for fold in group],
                device=device,
                scales=[fold.scale for fold in group],
            )
            found.append([chances[at if group is own else 0]])
            if group is not own:
                group[0].model.train()
        return found

    return Rivals(first, second, fused_loop(whole, folds[at].who), at, outputs)
