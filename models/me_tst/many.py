"""Training folds of ME-TST: one alone by the plain loop, several as one program, both compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.epoch_record import Watch
from models.fitting import exact_products
from models.me_tst.fused import fit_fused, predict_many
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.stacked import biases_without_gradient, is_stackable
from models.me_tst.training import (
    FoldCourse,
    FoldTraining,
    Windows,
    WindowTensors,
    fit_one,
    predict,
)
from models.stacked.proof import PROBES, Outputs, Rivals, fused_loop, nudged
from models.stacked.trace import Loop, Trace, follow


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
    courses, loops = loops_of(folds, windows, config, strategy=strategy, device=device, watch=watch)
    for loop in loops:
        follow(loop, trace)
    return [course.history for course in courses]


def loops_of(
    folds: Sequence[FoldTraining],
    windows: Windows,
    config: MeTstTrainConfig,
    *,
    strategy: int = 2,
    device: str = "cpu",
    watch: Watch | None = None,
) -> tuple[list[FoldCourse], list[Loop]]:
    """The courses of `fit_many`'s folds and its loops, which train them when they are followed."""
    courses = [FoldCourse(fold, windows, config, strategy) for fold in folds]
    arrays = (windows.motion, windows.spot, windows.classes)
    data = WindowTensors._make(torch.from_numpy(array).to(device) for array in arrays)
    place = torch.device(device)
    if len(folds) == 1 or not is_stackable(folds[0].network):
        return courses, [fit_one(c, data, place, watch, n) for n, c in enumerate(courses)]
    return courses, [fit_fused(courses, data, place, watch)]


def rivals(
    folds: Sequence[FoldTraining],
    at: int,
    windows: Windows,
    config: MeTstTrainConfig,
    tested: Sequence[npt.NDArray[np.int64]],
    *,
    strategy: int = 2,
    device: str = "cpu",
    kind: torch.dtype = torch.float32,
) -> Rivals:
    """Fold `at` alone, twice, and beside the others, in float32 or float64, on copies.

    `tested`: each fold's rows of the windows to be asked. Biases without a gradient are frozen.
    Raises ConfigError where the folds are not one program.
    """
    windows = replace(windows, motion=_as(windows.motion, kind), spot=_as(windows.spot, kind))
    own = [replace(fold, network=_frozen(fold.network).to(kind)) for fold in folds]
    alone = replace(folds[at], network=_frozen(folds[at].network).to(kind))
    twin = replace(alone, network=nudged(copy.deepcopy(alone.network)))
    [first], [second], whole = (
        loops_of(group, windows, config, strategy=strategy, device=device)[1]
        for group in ([alone], [twin], own)
    )

    def outputs(few: bool) -> list[Outputs]:
        rows = [part[:PROBES] if few else part for part in tested]
        found: list[Outputs] = []
        for fold in (alone,) if few else (alone, twin):
            found.append(predict(fold.network, windows.motion[rows[at]], config.batch_size, device))
            fold.network.train()
        networks = [fold.network for fold in own]
        many = predict_many(networks, windows.motion, rows, config.batch_size, device)
        return [*found, many[at]]

    return Rivals(first, second, fused_loop(whole, folds[at].who), at, outputs)


def _frozen(network: nn.Module) -> nn.Module:
    """A copy in which biases whose gradient is rounding noise do not move."""
    copied = copy.deepcopy(network)
    for name in biases_without_gradient(copied):
        copied.get_parameter(name).requires_grad_(False)
    return copied


def _as(array: npt.NDArray[np.float32], kind: torch.dtype) -> npt.NDArray[np.float32]:
    """The array in NumPy's type for torch's `kind`."""
    found: npt.NDArray[np.float32] = torch.from_numpy(array).to(kind).numpy()
    return found
