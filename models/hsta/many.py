"""Training and testing folds of HSTA: one alone by the plain loop, several as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.epoch_record import Watch
from models.hsta.clips import ClipBank, Scale
from models.hsta.fused import fit_fused, predict_fused
from models.hsta.network import HSTA
from models.hsta.settings import HstaTrainConfig
from models.hsta.training import Fit, FoldTraining, fit_one, fusable, predict
from models.stacked.trace import Trace


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
    alone = folds[0].multi_label or not fusable(folds[0].model, config)
    if len(folds) == 1 or alone:
        return [fit_one(f, config, device, trace, watch, n) for n, f in enumerate(folds)]
    return fit_fused(folds, config, device, trace, watch)


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
