"""Which ME-TST folds are trained as one program on a device: trials with made-up windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.me_tst.many import fit_many
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.stacked import is_stackable
from models.me_tst.training import FoldTraining, Windows
from models.recipe import Recipe
from models.runs.files import FoldJob
from models.spotting import CLASS_NAMES
from models.stacked.choice import STEPS, Packing, Trial, choose, cut_packs, measure
from models.stacked.trace import Trace


def plan_packs(
    jobs: Sequence[FoldJob], max_memory_mb: float | None = None
) -> tuple[list[list[FoldJob]], Packing]:
    """The jobs in packs for `models.me_tst.fold.fit_folds`, and why, by `train.folds_at_once`.

    `max_memory_mb`: of the GPU; default all that is free. Nothing is tried on a CPU.
    """
    recipe, device = jobs[0].recipe, torch.device(jobs[0].device)
    train = recipe.train
    assert isinstance(train, MeTstTrainConfig)
    choice = choose(
        train.folds_at_once,
        len(jobs),
        device,
        lambda n: try_folds(recipe, n, device),
        stackable=is_stackable(recipe.network.code().create(recipe.model)),
        max_memory_mb=max_memory_mb,
    )
    return cut_packs(jobs, choice.at_once, lambda job: len(job.train_videos)), choice


def try_folds(recipe: Recipe, folds: int, device: torch.device) -> Trial:
    """A few steps of `folds` folds of the recipe's network on noise."""
    train = recipe.train
    assert isinstance(train, MeTstTrainConfig)
    settings = train.model_copy(update={"epochs": 1})
    rows, k = (
        settings.batch_size * (max(STEPS) + 1),
        recipe.stage_config("motion").model_dump()["k"],
    )
    channels = recipe.model_dump()["model"]["in_channels"]
    rng = np.random.default_rng(0)
    windows = Windows(
        rng.normal(0, 1, (rows, channels, k)).astype(np.float32),
        rng.integers(0, 2, (rows, k)).astype(np.float32),
        rng.integers(0, len(CLASS_NAMES), (rows, k)).astype(np.int64),
    )
    networks = [recipe.network.code().create(recipe.model) for _ in range(folds)]
    trainings = [FoldTraining(network, np.arange(rows)) for network in networks]

    def run(steps: int) -> None:
        fit_many(trainings, windows, settings, device=str(device), trace=Trace(0, steps))

    return measure(run, device)
