"""Training ME-TST and ME-TST+: settings, losses, schedule and the fit loop.

As in the authors' releases: Adam, OneCycle with momentum cycling stepped every batch, the last
epoch's weights (no selection), squared error on the spot probability and cross-entropy with class
weights. The loop is a function of (network, windows, settings, seed); a run that was killed goes on
from its last saved epoch and ends with the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import TrainingError
from models.fitting import load_resume_point, save_resume_point
from models.me_tst.labels import class_weights, jitter_factors
from models.me_tst.settings import MeTstTrainConfig

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
    """Train in place and return the history, one row per epoch: epoch, loss, spot, recog, lr.

    `resume`: a file the state is saved to between epochs and continued from if it is there. The
    result depends on the inputs and the seed alone, not on interruptions. Raises `TrainingError`
    for a loss that is not finite.
    """
    network.to(device).train()
    steps = -(-len(windows) // config.batch_size)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.max_lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.max_lr, total_steps=max(1, config.epochs * steps)
    )
    weights = torch.from_numpy(class_weights(windows.classes, config.neutral_factor, strategy)).to(
        device
    )
    data = [torch.from_numpy(a).to(device) for a in (windows.motion, windows.spot, windows.classes)]
    history: list[dict[str, float]] = []
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        rng = np.random.default_rng([seed, 1])
        if resume is not None and resume.exists():
            history = _restore(resume, network, optimiser, schedule, rng)
        saved = time.monotonic()
        for epoch in range(len(history), config.epochs):
            order = rng.permutation(len(windows))
            factors = torch.from_numpy(jitter_factors(len(windows), config.jitter, rng)).to(device)
            row = _epoch(network, data, order, factors, weights, config, optimiser, schedule)
            history.append({"epoch": float(epoch), **row})
            if not np.isfinite(row["loss"]):
                raise TrainingError(
                    f"epoch {epoch}",
                    expected="a finite loss",
                    got=str(row["loss"]),
                    todo="Lower max_lr; check the motion features.",
                )
            if resume is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _save(resume, network, optimiser, schedule, rng, history)
                saved = time.monotonic()
            if progress is not None:
                progress((epoch + 1) / config.epochs, f"loss {row['loss']:.4f}")
    network.eval()
    return history


def _epoch(
    network: nn.Module,
    data: list[Tensor],
    order: npt.NDArray[np.int64],
    factors: Tensor,
    weights: Tensor,
    config: MeTstTrainConfig,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> dict[str, float]:
    """One pass; returns the means over windows of the losses, and the last learning rate."""
    motion, spot, classes = data
    sums = torch.zeros(2, dtype=torch.float64, device=motion.device)  # read once an epoch
    for start in range(0, len(order), config.batch_size):
        batch = torch.from_numpy(order[start : start + config.batch_size]).to(motion.device)
        scaled = motion[batch] * factors[batch, None, None]
        probability, logits = network(scaled[:, None])
        losses = torch.stack(
            [
                spot_loss(probability, spot[batch]),
                recog_loss(logits, classes[batch], weights),
            ]
        )
        total = config.spot_weight * losses[0] + config.recog_weight * losses[1]
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        sums += losses.detach() * len(batch)
    spot_mean, recog_mean = (sums / len(order)).tolist()
    return {
        "loss": config.spot_weight * spot_mean + config.recog_weight * recog_mean,
        "spot": spot_mean,
        "recog": recog_mean,
        "lr": float(schedule.get_last_lr()[0]),
    }


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
        spots.append(spot.float().cpu().numpy())
        logits.append(recog.float().cpu().numpy())
    return np.concatenate(spots), np.concatenate(logits)


def _save(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
    history: list[dict[str, float]],
) -> None:
    """Write all that the next epoch depends on."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    groups = optimiser.state_dict()["param_groups"]
    facts = {
        "history": history,
        "schedule": schedule.state_dict(),
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in groups],
        "numpy": rng.bit_generator.state,
        "torch": [state.numpy().tobytes().hex() for state in (torch.get_rng_state(), *devices)],
    }
    save_resume_point(path, network, optimiser, facts)


def _restore(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
) -> list[dict[str, float]]:
    """Restore what `_save` wrote and return the history. Raises TrainingError for another file."""
    facts = load_resume_point(path, network, optimiser)
    for group, saved in zip(optimiser.param_groups, facts["groups"], strict=True):
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    schedule.load_state_dict(facts["schedule"])
    rng.bit_generator.state = facts["numpy"]
    own, *devices = (torch.tensor([*bytes.fromhex(s)], dtype=torch.uint8) for s in facts["torch"])
    torch.set_rng_state(own)
    if devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(devices)
    history: list[dict[str, float]] = facts["history"]
    return history
