"""Which HSTA folds are trained as one program on a device: trials with made-up clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.hsta.clips import ClipBank
from models.hsta.many import fit_many
from models.hsta.settings import HstaTrainConfig
from models.hsta.training import FoldTraining, fusable
from models.recipe import Recipe
from models.runs.files import FoldJob
from models.stacked.choice import STEPS, Packing, Trial, choose, cut_packs, measure
from models.stacked.trace import Trace
from models.targets import AUS


def plan_packs(
    jobs: Sequence[FoldJob], max_memory_mb: float | None = None
) -> tuple[list[list[FoldJob]], Packing]:
    """The jobs in packs for `models.hsta.fold.fit_folds`, and why, by `train.folds_at_once`.

    `max_memory_mb`: of the GPU; default all that is free. Nothing is tried on a CPU.
    """
    recipe, device = jobs[0].recipe, torch.device(jobs[0].device)
    config, train = recipe.model, recipe.train
    assert isinstance(train, HstaTrainConfig)
    choice = choose(
        train.folds_at_once,
        len(jobs),
        device,
        lambda n: try_folds(recipe, n, device),
        stackable=recipe.labels != AUS and fusable(recipe.network.code().create(config), train),
        max_memory_mb=max_memory_mb,
    )
    return cut_packs(jobs, choice.at_once, lambda job: len(job.train_events)), choice


def try_folds(recipe: Recipe, folds: int, device: torch.device) -> Trial:
    """A few steps of `folds` folds of the recipe's network on noise."""
    config, train = recipe.model, recipe.train
    assert isinstance(train, HstaTrainConfig)
    clips, length, side = train.batch_size, config.num_frames + 2, config.image_size
    settings = train.model_copy(update={"epochs": max(STEPS) + 1})
    rng = np.random.default_rng(0)
    special = None
    if config.special == "flow":
        special = rng.normal(0, 1, (clips, 2, 3, side, side)).astype(np.float32)
    bank = ClipBank(
        frames=rng.integers(0, 256, (clips * length, side, side, 3), dtype=np.uint8),
        start=np.arange(clips) * length,
        count=np.full(clips, length - 2),
        special=special,
        names=tuple(map(str, range(clips))),
        labels=np.arange(clips) % config.num_classes,
    )
    unit = (1.0, 1.0, 1.0, 1.0, 1.0)
    trainings = [
        FoldTraining(recipe.network.code().create(config), bank, range(clips), unit)
        for _ in range(folds)
    ]

    def run(steps: int) -> None:
        fit_many(trainings, settings, device, Trace(0, steps))

    return measure(run, device)
