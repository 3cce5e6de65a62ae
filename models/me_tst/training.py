"""Training ME-TST and ME-TST+: settings, losses, schedule and the fit loop.

As in the authors' releases: Adam, OneCycle with momentum cycling stepped every batch, the last
epoch's weights (no selection), squared error on the spot probability and cross-entropy with class
weights. The loop is a function of (network, windows, settings, seed); a run that was killed goes on
from its last saved epoch and ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import TrainingError
from models.epoch_record import Watch
from models.fitting import (
    exact_products,
    load_resume_point,
    load_training_state,
    save_resume_point,
    training_state,
)
from models.layers.selective_scan import wide
from models.layers.stochastic_depth import DepthMasks, set_masks
from models.me_tst.labels import class_weights, jitter_factors
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.stacked import drop_rates
from models.progress import Pace
from models.stacked.trace import Loop, State, Step

SECONDS_BETWEEN_SAVES = 15.0


@dataclass(frozen=True)
class Windows:
    """Windows with their labels: motion (n, C, k) float32, spot (n, k) float32, classes (n, k)."""

    motion: npt.NDArray[np.float32]
    spot: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.motion)


def spot_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all frames; both (B, k)."""
    return F.mse_loss(probability, target)


def recog_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy divided by the number of frames, -(1 / B k) sum w_y log p_y.

    logits (B, k, 5), classes (B, k), weights (5,). The authors hand probabilities as targets, for
    which the mean divides by the frames and not by the sum of their weights.
    """
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), classes.reshape(-1), weights, reduction="sum"
    )
    return flat / classes.numel()


@dataclass(frozen=True)
class FoldTraining:
    """One fold to train: a network, its rows of the windows all folds share, and its own files."""

    network: nn.Module
    rows: npt.NDArray[np.int64]
    seed: int = 0
    who: str = "training"
    resume: Path | None = None
    progress: Callable[[float, str], None] | None = None


class WindowTensors(NamedTuple):
    """The shared windows on the device."""

    motion: Tensor
    spot: Tensor
    classes: Tensor


class FoldCourse:
    """All that a fold's training depends on but its weights: order, jitter, masks, rates, history.

    Both loops follow it, so a fold meets the same windows, masks and rates in either.
    """

    def __init__(
        self, fold: FoldTraining, windows: Windows, config: MeTstTrainConfig, strategy: int
    ) -> None:
        self.fold, self.config = fold, config
        self.steps = -(-len(fold.rows) // config.batch_size)
        self.weights = class_weights(windows.classes[fold.rows], config.neutral_factor, strategy)
        self.rng = np.random.default_rng([fold.seed, 1])
        self.generator = torch.Generator().manual_seed(fold.seed)
        self.history: list[dict[str, float]] = []
        self.pace = Pace("windows", 0)

    @property
    def done(self) -> bool:
        """Whether the last epoch is behind it."""
        return len(self.history) >= self.config.epochs

    @property
    def sizes(self) -> list[int]:
        """Windows in each step of an epoch; the last one may have fewer."""
        size, count = self.config.batch_size, len(self.fold.rows)
        return [min(size, count - start) for start in range(0, count, size)]

    def draw(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The next epoch's rows of the shared windows, in order, and the jitter of each."""
        count = len(self.fold.rows)
        order = self.rng.permutation(count)
        factors = jitter_factors(count, self.config.jitter, self.rng)
        return self.fold.rows[order], factors[order]

    def rate(self, step: int) -> tuple[float, float]:
        """Learning rate and beta1 of a step of the coming epoch."""
        total = max(1, self.config.epochs * self.steps)
        return one_cycle(len(self.history) * self.steps + step, total, self.config.max_lr)

    def finish_epoch(self, spot: float, recog: float) -> None:
        """Note the epoch's mean losses and tell of it. Raises TrainingError if not finite."""
        config, epoch = self.config, len(self.history)
        loss = config.spot_weight * spot + config.recog_weight * recog
        rate = self.rate(self.steps)[0]
        row = {"epoch": float(epoch), "loss": loss, "spot": spot, "recog": recog, "lr": rate}
        if not np.isfinite(loss):
            raise TrainingError(
                f"{self.fold.who}, epoch {epoch}",
                expected="a finite loss",
                got=str(loss),
                todo="Lower max_lr; check the motion features.",
            )
        self.history.append(row)

    def begin(self) -> None:
        """Training starts here, or goes on: rates count from now."""
        self.pace = Pace("windows", (self.config.epochs - len(self.history)) * len(self.fold.rows))

    def tell(self) -> None:
        """Say how far the fold is, at what rate, and how long it takes."""
        pace, epochs, done = self.pace.text(len(self.fold.rows)), self.config.epochs, self.history
        if self.fold.progress is not None:
            text = f"epoch {len(done)}/{epochs}: loss {done[-1]['loss']:.4f}, {pace}"
            self.fold.progress(len(done) / epochs, text)

    def facts(self) -> dict[str, Any]:
        """What a resume point says beside the tensors."""
        state = self.generator.get_state().numpy().tobytes().hex()
        return {
            "history": self.history,
            "numpy": self.rng.bit_generator.state,
            "torch": [state],
        }

    def restore(self, facts: dict[str, Any]) -> None:
        """Go on where `facts` were taken."""
        self.history[:] = facts["history"]
        self.rng.bit_generator.state = facts["numpy"]
        state = [*bytes.fromhex(facts["torch"][0])]
        self.generator.set_state(torch.tensor(state, dtype=torch.uint8))


def one_cycle(update: int, total: int, peak: float) -> tuple[float, float]:
    """Learning rate and beta1 of an update, of `total`: torch's OneCycleLR with its defaults.

    30 % of the updates up from peak / 25 to peak while beta1 falls from 0.95 to 0.85, then down to
    peak / 250 000 while it rises again; both along a cosine.
    """
    top, end = 0.3 * total - 1, float(total - 1)
    low, last = peak / 25, peak / 25 / 1e4
    if update <= top:
        share, rates, betas = update / top, (low, peak), (0.95, 0.85)
    else:
        share, rates, betas = (update - top) / (end - top), (peak, last), (0.85, 0.95)

    def between(start: float, stop: float) -> float:
        return stop + (start - stop) / 2.0 * (math.cos(math.pi * share) + 1)

    return between(*rates), between(*betas)


def fit_one(
    course: FoldCourse,
    data: WindowTensors,
    device: torch.device,
    watch: Watch | None = None,
    position: int = 0,
) -> Loop:
    """The plain loop: one network, torch's Adam; it is in eval mode when the loop ends.

    `position`: of the fold, for the watch.
    """
    fold = course.fold
    network = fold.network.to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=course.config.max_lr)
    if fold.resume is not None and fold.resume.exists():
        course.restore(load_resume_point(fold.resume, network, optimiser))
    weights = torch.from_numpy(course.weights).to(device, data.motion.dtype)
    masks = DepthMasks(drop_rates(network), device)
    set_masks(network, masks)
    saved = time.monotonic()
    course.begin()
    try:
        while not course.done:
            masks.draw([course.sizes], [course.generator])
            sums = yield from _epoch(network, course, data, weights, masks, optimiser)
            course.finish_epoch(*(sums / len(fold.rows)).tolist())
            if watch is not None and (due := watch.due([(position, len(course.history))])):
                watch.look(due)
                network.train()
            if fold.resume is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                save_resume_point(fold.resume, network, optimiser, course.facts())
                saved = time.monotonic()
            course.tell()
    finally:
        set_masks(network, None)
        network.eval()


def _epoch(
    network: nn.Module,
    course: FoldCourse,
    data: WindowTensors,
    weights: Tensor,
    masks: DepthMasks,
    optimiser: torch.optim.Optimizer,
) -> Generator[Step, None, Tensor]:
    """One pass; the sums over windows of both losses."""

    def state_of(_: int) -> State:
        return training_state(network, optimiser)

    def load(_: int, state: State) -> None:
        load_training_state(state, network, optimiser)

    config, device = course.config, data.motion.device
    order, jitter = course.draw()
    rows, factors = torch.from_numpy(order).to(device), torch.from_numpy(jitter).to(device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # read once an epoch
    for step, start in enumerate(range(0, len(rows), config.batch_size)):
        at = slice(start, start + config.batch_size)
        batch = rows[at]
        masks.start(step)
        scaled = data.motion[batch] * factors[at, None, None]
        probability, logits = network(scaled[:, None])
        losses = torch.stack(
            [
                spot_loss(probability, data.spot[batch]),
                recog_loss(logits, data.classes[batch], weights),
            ]
        )
        total = config.spot_weight * losses[0] + config.recog_weight * losses[1]
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        for group in optimiser.param_groups:
            group["lr"], beta1 = course.rate(step)
            group["betas"] = (beta1, group["betas"][1])
        optimiser.step()
        sums += losses.detach() * len(batch)
        yield Step(total[None], [True], state_of, load, _up_to_date)
    return sums


def _up_to_date() -> None:
    """A network trained by the plain loop always is."""


@exact_products()
@torch.no_grad()
def predict(
    network: nn.Module, motion: npt.NDArray[np.float32], batch_size: int = 64, device: str = "cpu"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Spot probability (W, k) and class logits (W, k, 5) of motion windows (W, C, k)."""
    network.to(device).eval()
    spots, logits = [], []
    for start in range(0, len(motion), batch_size):
        batch = torch.from_numpy(motion[start : start + batch_size]).to(device)
        spot, recog = network(batch[:, None])
        spots.append(wide(spot).cpu().numpy())
        logits.append(wide(recog).cpu().numpy())
    return np.concatenate(spots), np.concatenate(logits)
