"""Training folds of ME-TST: one alone by the plain loop, several as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.epoch_record import Watch
from models.fitting import exact_products
from models.me_tst.fused import fit_fused
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.stacked import is_stackable
from models.me_tst.training import FoldCourse, FoldTraining, Windows, WindowTensors, fit_one
from models.stacked.trace import Trace


def fit(
    network: nn.Module,
    windows: Windows,
    config: MeTstTrainConfig,
    *,
    strategy: int = 2,
    seed: int = 0,
    device: str = "cpu",
    resume: Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[dict[str, float]]:
    """Train one network on all the windows: `fit_many` of one fold."""
    fold = FoldTraining(network, np.arange(len(windows)), seed, "training", resume, progress)
    return fit_many([fold], windows, config, strategy=strategy, device=device)[0]


@exact_products()
def fit_many(
    folds: Sequence[FoldTraining],
    windows: Windows,
    config: MeTstTrainConfig,
    *,
    strategy: int = 2,
    device: str = "cpu",
    trace: Trace | None = None,
    watch: Watch | None = None,
) -> list[list[dict[str, float]]]:
    """Train the folds' networks in place; per fold the history: epoch, loss, spot, recog, lr.

    One fold takes the plain loop, several one program for all of them (`models.me_tst.fused`) where
    the network has a stacked form; a fold's result is the same either way, to rounding. A fold's
    `resume` is a file that its state is saved to between epochs and continued from if it is there,
    by either loop and in any company.
    The result depends on the inputs and the fold's seed alone, not on interruptions nor on `watch`,
    which is shown networks on their way (positions are those in `folds`). Raises
    `TrainingError` naming the fold for a loss that is not finite.
    """
    courses = [FoldCourse(fold, windows, config, strategy) for fold in folds]
    arrays = (windows.motion, windows.spot, windows.classes)
    data = WindowTensors._make(torch.from_numpy(array).to(device) for array in arrays)
    if len(folds) == 1 or not is_stackable(folds[0].network):
        for position, course in enumerate(courses):
            fit_one(course, data, torch.device(device), trace, watch, position)
    else:
        fit_fused(courses, data, torch.device(device), trace, watch)
    return [course.history for course in courses]
