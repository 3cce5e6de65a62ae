"""What an epoch of HSTA's training leaves, by either loop: scores, cost, and whether it is sane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from data.errors import TrainingError
from models.fitting import peak_memory_mb
from models.metrics import recognition
from models.targets import bits_of

Done = tuple[tuple[str, ...], Tensor, Tensor, Tensor]  # of a batch: names, labels, loss, guesses


def pace_of(cost: Mapping[str, float]) -> str:
    """An epoch's speed for people: clips a second, waiting for data against computing."""
    data, step = cost["data_seconds"], cost["step_seconds"]
    rate, memory = cost["clips_per_second"], cost["peak_memory_mb"]
    return f"{rate:.0f} clips/s, data {data:.2f} s, steps {step:.2f} s, {memory:.0f} MB at most"


def epoch_cost(seconds: float, waited: float, clips: int, device: torch.device) -> dict[str, float]:
    """What an epoch cost: seconds in all, waiting for data, computing; rate; memory."""
    return {
        "seconds": seconds,
        "data_seconds": waited,
        "step_seconds": seconds - waited,
        "clips_per_second": clips / seconds,
        "peak_memory_mb": peak_memory_mb(device),
    }


def epoch_scores(done: Sequence[Done]) -> dict[str, float]:
    """Mean loss of an epoch's batches, and the scores of what was answered while learning."""
    labels, losses, guesses = zip(*(entry[1:] for entry in done), strict=True)
    loss = torch.stack(losses).double().mean().item()
    true, predicted = torch.cat(labels).numpy(), torch.cat(guesses).cpu().numpy()
    score = recognition(true, predicted, sorted(set(true.tolist()) | set(predicted.tolist())))
    return {"loss": loss, "train_accuracy": score.accuracy, "train_uf1": score.uf1}


def unit_epoch_scores(done: Sequence[Done]) -> dict[str, float]:
    """The same of sets of action units: share of right sets, mean F1 of the units seen or named."""
    labels, losses, guesses = zip(*(entry[1:] for entry in done), strict=True)
    loss = torch.stack(losses).double().mean().item()
    codes, said = torch.cat(labels).numpy(), torch.cat(guesses).cpu().numpy()
    true, predicted = bits_of(codes), bits_of(said)
    both = true.sum(axis=0) + predicted.sum(axis=0)
    f1 = 2 * (true & predicted).sum(axis=0)[both > 0] / both[both > 0]
    uf1 = float(f1.mean()) if f1.size else float("nan")
    return {"loss": loss, "train_accuracy": float((codes == said).mean()), "train_uf1": uf1}


def check_finite(done: Sequence[Done], first: int, epoch: int, who: str) -> None:
    """Raise TrainingError (`loss_not_finite`) naming the first bad batch; `first` is the number of
    the first one given.
    """
    losses = torch.stack([entry[2] for entry in done]).tolist()
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise TrainingError(
                f"{who}, epoch {epoch}, batch {first + number}",
                expected="a finite loss",
                got=f"{loss} on clips {', '.join(done[number][0])}",
                todo="Look at these clips; a lower base_lr, clip_norm or precision fp32 may help.",
                code="loss_not_finite",
            )
