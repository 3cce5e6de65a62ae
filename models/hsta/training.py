"""HSTA's training: settings, optimiser groups, schedule, balanced sampler, and the fit loop.

The recipe is the origin's (AdamW, layer decay per group, warm-up and cosine per step, balanced
sampling, no augmentation), with its class-token rule repaired. Every epoch seeds its own random
numbers, so training resumed at any epoch continues exactly as if it had not stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.prefetch import ahead
from models.epoch_record import Watch
from models.fitting import (
    autocast_type,
    load_resume_point,
    load_training_state,
    save_resume_point,
    seed_everything,
    seed_of,
    training_state,
)
from models.hsta.clips import Batch, ClipBank, Scale, draw_batch, to_clip
from models.hsta.epochs import (
    Done,
    check_finite,
    epoch_cost,
    epoch_scores,
    pace_of,
    unit_epoch_scores,
)
from models.hsta.input import MIRROR
from models.hsta.network import HSTA
from models.hsta.settings import HstaTrainConfig
from models.layers.dropout import set_generator
from models.layers.selective_scan import wide
from models.progress import Pace
from models.stacked.trace import Loop, State, Step
from models.targets import bits_of

logger = logging.getLogger(__name__)

FUSABLE_PARAMETERS = 24_000_000
CHECK_EVERY = 16  # batches between looks at the loss: each look makes a GPU wait
TEST_STREAM = 1_000_003  # keeps random numbers of evaluation apart from those of any epoch


# ------------------------------------------------------------------------------ optimiser, schedule


def parameter_groups(model: HSTA, config: HstaTrainConfig) -> list[dict[str, Any]]:
    """AdamW groups, each with its `scale` of the learning rate and its weight decay.

    Embeddings: layer_decay^(G+1); group g of G: layer_decay^(G-g); norms and head: 1. Vectors and
    biases do not decay. Class tokens follow `config.class_tokens`.
    """
    num_groups = int(getattr(model.config, "num_groups", 0))  # other networks: one rate for all
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        depth = num_groups + 1
        if parts[0] == "embed":
            depth = 0
        elif parts[0] == "groups":
            depth = int(parts[1]) + 1
        decay = 0.0 if parameter.ndim <= 1 else config.weight_decay
        if parts[-1] == "class_token":
            fixed = config.class_tokens == "fixed"
            depth, decay = (0, 0.0) if fixed else (num_groups + 1, config.weight_decay)
        scale = config.layer_decay ** (num_groups + 1 - depth)
        groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": parameters, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def make_optimiser(model: HSTA, config: HstaTrainConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, one fused kernel per group."""
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(update: int, per_epoch: int, config: HstaTrainConfig) -> float:
    """Rate of the head at an optimiser update: linear from 0 over warm-up, then cosine to min_lr.

    Both ends are scaled by clips per update / 256.
    """
    share = config.batch_size * config.accumulate / 256
    high, low = config.base_lr * share, config.min_lr * share
    warm = round(config.warmup_epochs * per_epoch)
    if update < warm:
        return high * update / warm
    rest = max(1, config.epochs * per_epoch - warm)
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * (update - warm) / rest))


# ------------------------------------------------------------------------------------------ sampler


def epoch_order(
    labels: npt.NDArray[np.int64], config: HstaTrainConfig, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Positions of each batch of one epoch: as many draws as clips, a last partial batch dropped.

    Balanced: with replacement, weight 1 / class count (of sets of units: the count of the whole
    set); else a permutation. Fewer clips than
    `batch_size` make one small batch.
    """
    n = len(labels)
    if config.balanced:
        _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weight = 1.0 / counts[place]
        order = rng.choice(n, n, replace=True, p=weight / weight.sum())
    else:
        order = rng.permutation(n)
    size = min(config.batch_size, n)
    return [order[i : i + size] for i in range(0, n - size + 1, size)]


def loss_weights(
    labels: npt.NDArray[np.int64], num_classes: int, config: HstaTrainConfig
) -> Tensor | None:
    """Class weights of the loss, mean one over the classes present; None for equal ones."""
    if config.class_weights == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes)
    inverse = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)
    return torch.tensor(inverse / inverse[counts > 0].mean(), dtype=torch.float32)


def unit_weights(
    labels: npt.NDArray[np.int64], num_units: int, config: HstaTrainConfig
) -> Tensor | None:
    """What a unit's positive clips count in the loss, negative / positive ones; None for 1.

    At least 1 positive is assumed, so that a unit never seen in training weighs no more than n.
    """
    if config.class_weights == "none":
        return None
    positive = bits_of(labels, num_units).sum(axis=0)
    ratio = (len(labels) - positive) / np.maximum(positive, 1)
    return torch.tensor(np.maximum(ratio, 1e-3), dtype=torch.float32)


# ---------------------------------------------------------------------------------------------- fit


@dataclass
class Fit:
    """What fitting leaves: per epoch its scores, and, apart from them, what it cost."""

    history: list[dict[str, float]] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class FoldTraining:
    """One fold to train: a network, its events in the bank, its own scale, seed and files.

    Folds that are trained together share the frames and special data of their banks.
    """

    model: HSTA
    bank: ClipBank
    positions: Sequence[int]
    scale: Scale
    seed: int = 0
    who: str = "training"
    resume: Path | None = None
    progress: Callable[[float, str], None] | None = None
    multi_label: bool = False  # labels are sets of units (models.targets), each output yes or no

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of each of its events."""
        return self.bank.labels[np.asarray(self.positions)]


def fusable(model: HSTA, config: HstaTrainConfig) -> bool:
    """Whether folds of this network can be trained as one program.

    Not with loss scaling, torch.compile or activation checkpointing, nor at a size whose steps fill
    a device alone. Networks that can draw their dropout from a generator of the fold's own even
    when trained alone, so that both ways agree on every device.
    """
    small = sum(p.numel() for p in model.parameters()) <= FUSABLE_PARAMETERS
    special = config.compile or config.activation_checkpointing or config.precision == "fp16"
    return type(model) is HSTA and small and not special


def fit_one(
    fold: FoldTraining,
    config: HstaTrainConfig,
    device: torch.device,
    result: Fit,
    watch: Watch | None = None,
    position: int = 0,
) -> Loop:
    """The plain loop: one network, torch's AdamW; what it leaves is added to the empty `result`.

    `position`: of the fold, for the watch.
    """
    model, bank, positions, who = fold.model, fold.bank, fold.positions, fold.who
    model.to(device).train()
    model.activation_checkpointing = config.activation_checkpointing
    optimiser = make_optimiser(model, config)
    half = autocast_type(config.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    first, resume = 0, fold.resume
    if resume is not None and resume.exists():
        facts = load_resume_point(resume, model, optimiser)
        first, result.history = int(facts["epoch"]) + 1, list(facts["history"])
        result.timings = list(facts["timings"])
        if facts["scaler"]:
            scaler.load_state_dict(facts["scaler"])
        logger.info("%s: resumed after epoch %d", who, first)
    weigh = unit_weights if fold.multi_label else loss_weights
    weights = weigh(fold.labels, model.config.num_classes, config)
    generator = torch.Generator(device) if fusable(model, config) else None
    set_generator(model, generator)
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if config.compile else model
    scale = torch.tensor(fold.scale, dtype=torch.float32, device=device)
    step = _Step(
        forward, model, optimiser, scaler, half, weights, config, device, scale, fold.multi_label
    )
    pace = Pace("clips", (config.epochs - first) * epoch_clips(len(positions), config))
    try:
        for epoch in range(first, config.epochs):
            seed_everything(fold.seed, epoch)
            if generator is not None:
                generator.manual_seed(seed_of(fold.seed, epoch))
            rng = np.random.default_rng([fold.seed, epoch])
            order = epoch_order(fold.labels, config, rng)
            at = [[positions[i] for i in part] for part in order]
            batches: Iterable[Batch] = (
                draw_batch(bank, part, model.config.num_frames, config.input, rng, augment=True)
                for part in at
            )
            if device.type == "cuda":
                batches = ahead((batch.pinned() for batch in batches), depth=3)
            facts = yield from _run_epoch(step, batches, epoch, len(at), who)
            cost = facts.pop("cost")
            result.timings.append({"epoch": epoch, **cost})
            result.history.append({"epoch": epoch, **facts})
            if watch is not None and (due := watch.due([(position, epoch + 1)])):
                watch.look(due)
                model.train()
            every = config.resume_every
            if resume is not None and every and (epoch + 1) % every == 0:
                record = resume_facts(result)
                record["scaler"] = scaler.state_dict() if scaler.is_enabled() else {}
                save_resume_point(resume, model, optimiser, record)
            tell(fold, config, result, pace)
    finally:
        set_generator(model, None)
    if result.timings:
        logger.info("%s: last epoch %s", who, pace_of(result.timings[-1]))


def type_of(model: nn.Module) -> torch.dtype:
    """What a network's weights are kept in."""
    return next(model.parameters()).dtype


def epoch_clips(count: int, config: HstaTrainConfig) -> int:
    """Clips seen in an epoch of `count` training clips; a last partial batch is dropped."""
    size = min(config.batch_size, count)
    return count // size * size


def resume_facts(result: Fit) -> dict[str, Any]:
    """What a resume point says beside the tensors."""
    epoch = result.history[-1]["epoch"]
    return {
        "epoch": epoch,
        "history": result.history,
        "timings": result.timings,
        "scaler": {},
    }


def tell(fold: FoldTraining, config: HstaTrainConfig, result: Fit, pace: Pace) -> None:
    """Say how far the fold is, at what rate, and how long it takes."""
    left = pace.text(epoch_clips(len(fold.positions), config))
    if fold.progress is None:
        return
    done, row, cost = len(result.history), result.history[-1], result.timings[-1]
    fold.progress(
        done / config.epochs,
        f"{fold.who} epoch {done}/{config.epochs}: loss {row['loss']:.3f}, {left}; "
        f"last {pace_of(cost)}",
    )


@dataclass
class _Step:
    """One batch forward and backward, one update per `accumulate` batches."""

    forward: Callable[[Tensor], Tensor]
    model: HSTA
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    half: torch.dtype | None
    weights: Tensor | None
    config: HstaTrainConfig
    device: torch.device
    scale: Tensor
    multi_label: bool = False

    def made(self, loss: Tensor) -> Step:
        """What the loop shows after the step."""
        return Step(loss[None], [True], self._state_of, self._load, lambda: None)

    def _state_of(self, _: int) -> State:
        return training_state(self.model, self.optimiser)

    def _load(self, _: int, state: State) -> None:
        load_training_state(state, self.model, self.optimiser)

    def backward(self, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        """Loss of the batch and its predictions; gradients are added, weighted by `share`."""
        clip = to_clip(batch, self.device, self.scale, type_of(self.model))
        target = batch.labels.to(self.device, non_blocking=True)
        weights = None if self.weights is None else self.weights.to(self.device, clip.dtype)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            logits = self.forward(clip)
        loss = self._loss(wide(logits), target, weights)
        torch.autograd.backward(self.scaler.scale(loss * share))
        if self.multi_label:
            places = torch.arange(logits.shape[1], device=logits.device)
            return loss.detach(), ((logits.detach() >= 0).long() << places).sum(1)
        return loss.detach(), logits.detach().argmax(1)

    def _loss(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Cross-entropy of classes, or the mean over units of the binary one."""
        smooth = self.config.label_smoothing
        if not self.multi_label:
            return F.cross_entropy(logits, target, weights, label_smoothing=smooth)
        places = torch.arange(logits.shape[1], device=logits.device)
        wanted = (target[:, None] >> places & 1).to(logits.dtype)
        wanted = wanted * (1 - smooth) + smooth / 2
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights)

    def update(self, rate: float) -> None:
        """Apply the gathered gradients at head learning rate `rate`, then clear them."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimiser)
            parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
            nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)


def _run_epoch(
    step: _Step, batches: Iterable[Batch], epoch: int, count: int, who: str
) -> Generator[Step, None, dict[str, Any]]:
    """All batches of an epoch. Losses stay on the device; they are looked at now and then."""
    accumulate = step.config.accumulate
    per_epoch = math.ceil(count / accumulate)
    done: list[Done] = []
    started, waited, checked = time.perf_counter(), 0.0, 0
    stream = iter(batches)
    rate = 0.0
    for number in range(count):
        asked = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - asked
        last = number + 1 == count
        rest = count - number // accumulate * accumulate  # the last update may gather fewer
        done.append((batch.names, batch.labels, *step.backward(batch, 1 / min(accumulate, rest))))
        if (number + 1) % accumulate == 0 or last:
            rate = learning_rate(epoch * per_epoch + number // accumulate, per_epoch, step.config)
            step.update(rate)
        yield step.made(done[-1][2])
        if last or number - checked >= CHECK_EVERY:
            check_finite(done[checked:], checked, epoch, who)
            checked = number + 1
    seconds = time.perf_counter() - started
    clips = sum(len(entry[1]) for entry in done)
    cost = epoch_cost(seconds, waited, clips, step.device)
    answered = unit_epoch_scores(done) if step.multi_label else epoch_scores(done)
    return {**answered, "learning_rate": rate, "cost": cost}


@torch.no_grad()
def predict(
    model: HSTA,
    bank: ClipBank,
    positions: Sequence[int],
    config: HstaTrainConfig,
    *,
    seed: int,
    device: torch.device,
    scale: Scale,
    multi_label: bool = False,
) -> npt.NDArray[np.float64]:
    """Class probabilities (len(positions), classes), in eval mode, by the recipe's test sampling.

    `multi_label`: of every unit by itself, so that rows do not sum to 1.

    Logits are averaged over draws and, with `test_mirror`, over each clip and its mirror image.
    `seed` decides random draws; even ones repeat.
    """
    model.to(device).eval()
    half = autocast_type(config.precision, device)
    random = config.input.test_sampling == "random"
    views = [False, True] if config.input.test_mirror else [False]
    units = torch.tensor(scale, dtype=torch.float32, device=device)
    total = torch.zeros(len(positions), model.config.num_classes, dtype=torch.float64)
    draws = config.input.test_draws if random else 1
    for draw in range(draws):
        rng = np.random.default_rng([seed, TEST_STREAM, draw]) if random else None
        for i in range(0, len(positions), config.batch_size):
            part = positions[i : i + config.batch_size]
            batch = draw_batch(bank, part, model.config.num_frames, config.input, rng)
            for mirrored in views:
                batch.change = torch.tensor([MIRROR] * len(part)) if mirrored else None
                with torch.autocast(device.type, half, enabled=half is not None):
                    logits = model(to_clip(batch, device, units, type_of(model)))
                total[i : i + len(part)] += logits.double().cpu()
    mean = total / (draws * len(views))
    return (mean.sigmoid() if multi_label else mean.softmax(dim=1)).numpy()
