"""Small HSTA's folds trained and evaluated as one program: the loop behind `fit_many` of several.

A round is one epoch of every fold that is not done. Each fold seeds its epoch, orders its clips and
draws frames, augmentation, dropout and stochastic depth as it would alone; a fold with fewer
batches than the others sits the rest of the round out. Clips are decoded once for all folds; where
they fit, they lie on the GPU and a batch is gathered there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from models.epoch_record import Watch
from models.fitting import (
    autocast_type,
    no_resume_point,
    read_resume_point,
    seed_of,
    write_resume_point,
)
from models.hsta.clips import Batch, ClipBank, Scale, draw_rows, to_clip
from models.hsta.epochs import Done, check_finite, epoch_cost, epoch_scores
from models.hsta.input import BLACK, MIRROR, draw_changes
from models.hsta.network import HSTA
from models.hsta.settings import HstaTrainConfig
from models.hsta.stacked import forward
from models.hsta.training import (
    TEST_STREAM,
    Fit,
    FoldTraining,
    epoch_clips,
    epoch_order,
    learning_rate,
    loss_weights,
    parameter_groups,
    resume_facts,
    tell,
    type_of,
)
from models.layers.dropout import FoldDraws
from models.layers.selective_scan import wide
from models.progress import Pace
from models.stacked.optimiser import FoldAdam, Moment
from models.stacked.stack import Stack, by_fold
from models.stacked.trace import Loop, State, Step

GPU_SHARE = 0.25  # of the free memory that the decoded clips may take


def fit_fused(
    folds: Sequence[FoldTraining],
    config: HstaTrainConfig,
    device: torch.device,
    results: Sequence[Fit],
    watch: Watch | None = None,
) -> Loop:
    """Train several folds, for whose networks `fusable` holds, in place; fill their `results`."""
    models = [fold.model.to(device) for fold in folds]
    net = Stack(models, device).train()
    training = _Training(folds, config, net, _Clips(folds[0].bank, device))
    for f, result in enumerate(results):
        training.resume(f, result)
    paces = [
        Pace("clips", (config.epochs - len(r.history)) * epoch_clips(len(fold.positions), config))
        for fold, r in zip(folds, results, strict=True)
    ]
    try:
        while any(len(result.history) < config.epochs for result in results):
            epochs = [len(r.history) if len(r.history) < config.epochs else None for r in results]
            rows = yield from training.round(epochs)
            done = []
            for f, row in enumerate(rows):
                if row is not None:
                    results[f].timings.append({"epoch": row["epoch"], **row.pop("cost")})
                    results[f].history.append(row)
                    done.append((f, len(results[f].history)))
            if watch is not None and (due := watch.due(done)):
                net.store(models)
                watch.look(due)
            for f, _ in done:
                every = config.resume_every
                if folds[f].resume is not None and every and len(results[f].history) % every == 0:
                    training.save(f, results[f])
                tell(folds[f], config, results[f], paces[f])
    finally:
        net.store(models)


class _Clips:
    """The decoded frames all folds share, where batches are gathered from."""

    def __init__(self, bank: ClipBank, device: torch.device) -> None:
        self.bank, self.device = bank, device
        self.frames = torch.from_numpy(bank.frames)
        self.special = None if bank.special is None else torch.from_numpy(bank.special)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.frames.nbytes <= GPU_SHARE * free:
                self.frames = self.frames.to(device)
            if self.special is not None:
                self.special = self.special.to(device)

    def batch(
        self,
        rows: npt.NDArray[np.int64],
        events: npt.NDArray[np.int64],
        config: HstaTrainConfig,
        change: npt.NDArray[np.float32] | None,
    ) -> Batch:
        """Clips of rows (N, F + 2) of the frames, and special data of the events (N,)."""
        frames = self.frames[_sent(np.maximum(rows, 0), self.frames.device)]
        if (black := rows == BLACK).any():
            frames.masked_fill_(_sent(black, frames.device)[..., None, None, None], 0)
        special = self.special
        if special is not None:
            special = special[_sent(events, special.device)]
        return Batch(
            frames=frames,
            special=special,
            labels=torch.empty(0, dtype=torch.int64),
            names=(),
            pixels=config.input.pixels,
            level=config.input.level,
            change=None if change is None else _sent(change, self.device),
        )


def _sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; a GPU goes on working while it comes."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@dataclass
class _Plan:
    """One fold's epoch: per step its events, rows of frames, augmentation."""

    events: list[npt.NDArray[np.int64]] = field(default_factory=list)
    rows: list[npt.NDArray[np.int64]] = field(default_factory=list)
    changes: list[npt.NDArray[np.float32]] = field(default_factory=list)


class _Training:
    """The state of all folds, and one round of it."""

    def __init__(
        self,
        folds: Sequence[FoldTraining],
        config: HstaTrainConfig,
        net: Stack,
        clips: _Clips,
    ) -> None:
        self.folds, self.config, self.net, self.clips = folds, config, net, clips
        device, model = net.device, folds[0].model
        self.num_frames, self.classes = model.config.num_frames, model.config.num_classes
        self.draws = FoldDraws([torch.Generator(device) for _ in folds])
        self.half = autocast_type(config.precision, device)
        self.kind = net.flat.dtype
        scale = torch.ones(1, net.flat.shape[1], dtype=self.kind)
        decay = torch.zeros_like(scale)
        self.numbers: dict[str, int] = {}
        name_of = {id(p): name for name, p in model.named_parameters()}
        for group in parameter_groups(model, config):
            for parameter in group["params"]:
                name = name_of[id(parameter)]
                self.numbers[name] = len(self.numbers)
                start, stop = net.spans[name]
                scale[:, start:stop], decay[:, start:stop] = group["scale"], group["weight_decay"]
        self.optimiser = FoldAdam(
            net,
            eps=config.eps,
            scale=scale.to(device),
            decay=decay.to(device),
            clip_norm=config.clip_norm,
        )
        weights = [loss_weights(fold.labels, self.classes, config) for fold in folds]
        self.weights = None
        if weights[0] is not None:
            own = torch.stack([w for w in weights if w is not None])
            self.weights = own.to(device, self.kind)
        self.scales = torch.tensor([fold.scale for fold in folds], dtype=torch.float32).to(device)

    def round(
        self, epochs: Sequence[int | None]
    ) -> Generator[Step, None, list[dict[str, Any] | None]]:
        """An epoch of each fold (None: done); a row per fold."""
        config, count = self.config, len(self.folds)
        plans = [_Plan() if e is None else self._plan(f, e) for f, e in enumerate(epochs)]
        steps = max(len(plan.events) for plan in plans)
        shares, rates, updating = self._updates(plans, epochs, steps)
        most = max(len(events) for plan in plans for events in plan.events)
        done: list[list[Done]] = [[] for _ in range(count)]
        started, waited = time.perf_counter(), 0.0
        for step in range(steps):
            asked = time.perf_counter()
            batch, labels, real = self._batch(plans, step, most)
            waited += time.perf_counter() - asked
            sizes = [len(p.events[step]) if step < len(p.events) else 0 for p in plans]
            losses, guesses = self._backward(batch, labels, real, sizes, shares[step])
            self.net.gradients(self.optimiser.gradient, add=config.accumulate > 1)
            self.optimiser.step(step)
            if config.accumulate > 1:
                self.optimiser.gradient.mul_(updating[step])
            for f, size in enumerate(sizes):
                if size:
                    names = tuple(self.folds[f].bank.names[e] for e in plans[f].events[step])
                    done[f].append((names, labels[f, :size], losses[f], guesses[f, :size]))
            active = [size > 0 for size in sizes]
            yield Step(losses, active, self.state_of, self.load, self._store)
        seconds = time.perf_counter() - started
        clips = sum(len(events) for plan in plans for events in plan.events)
        cost = epoch_cost(seconds, waited, clips, self.net.device)
        rows: list[dict[str, Any] | None] = []
        for f, epoch in enumerate(epochs):
            if epoch is None:
                rows.append(None)
                continue
            check_finite(done[f], 0, epoch, self.folds[f].who)
            score = epoch_scores(done[f])
            rows.append({"epoch": epoch, **score, "learning_rate": rates[f], "cost": dict(cost)})
        return rows

    def _plan(self, number: int, epoch: int) -> _Plan:
        """What the fold alone would draw for this epoch."""
        fold, plan, config = self.folds[number], _Plan(), self.config
        self.draws.generators[number].manual_seed(seed_of(fold.seed, epoch))
        rng = np.random.default_rng([fold.seed, epoch])
        positions = np.asarray(fold.positions, np.int64)
        for part in epoch_order(fold.labels, config, rng):
            events = positions[part]
            plan.events.append(events)
            rows = draw_rows(fold.bank, list(events), self.num_frames, config.input, rng)
            plan.rows.append(rows)
            if config.input.augment:
                plan.changes.append(draw_changes(len(rows), config.input, rng))
        return plan

    def _updates(
        self, plans: Sequence[_Plan], epochs: Sequence[int | None], steps: int
    ) -> tuple[Tensor, list[float], Tensor]:
        """Loss shares (S, F), each fold's last rate, and 0 where gathered gradients were used."""
        every = self.config.accumulate
        shares = torch.ones(steps, len(plans), dtype=self.kind)
        keep = torch.ones(steps, len(plans), 1)
        table: list[list[Moment | None]] = [[None] * len(plans) for _ in range(steps)]
        last = [0.0] * len(plans)
        for f, (plan, epoch) in enumerate(zip(plans, epochs, strict=True)):
            count = len(plan.events)
            per_epoch = math.ceil(count / every)
            for number in range(count):
                rest = count - number // every * every  # the last update may gather fewer
                shares[number, f] = 1 / min(every, rest)
                if epoch is not None and ((number + 1) % every == 0 or number + 1 == count):
                    update = epoch * per_epoch + number // every
                    last[f] = learning_rate(update, per_epoch, self.config)
                    table[number][f] = Moment(last[f], *self.config.betas)
                    keep[number, f] = 0
        self.optimiser.plan(table)
        return shares.to(self.net.device), last, keep.to(self.net.device)

    def _batch(self, plans: Sequence[_Plan], step: int, most: int) -> tuple[Batch, Tensor, Tensor]:
        """Clips of all folds, fold after fold, with labels (F, B) and 1 for real ones (F, B)."""
        count, frames = len(plans), self.num_frames + 2
        rows = np.zeros((count, most, frames), np.int64)
        events = np.zeros((count, most), np.int64)
        labels, real = np.zeros((count, most), np.int64), np.zeros((count, most), np.float32)
        changes = np.zeros((count, most, len(MIRROR)), np.float32)
        changes[:] = (1, *MIRROR[1:])  # padding: a clip as it is
        for f, plan in enumerate(plans):
            if step >= len(plan.events):
                continue
            size = len(plan.events[step])
            rows[f, :size], events[f, :size] = plan.rows[step], plan.events[step]
            labels[f, :size] = self.folds[f].bank.labels[plan.events[step]]
            real[f, :size] = 1
            if plan.changes:
                changes[f, :size] = plan.changes[step]
        change = changes.reshape(count * most, -1) if self.config.input.augment else None
        batch = self.clips.batch(
            rows.reshape(count * most, frames), events.reshape(-1), self.config, change
        )
        return batch, torch.from_numpy(labels), _sent(real, self.net.device)

    def _backward(
        self, batch: Batch, labels: Tensor, real: Tensor, sizes: list[int], share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses (F,) of one step and its answers (F, B); gradients are added."""
        device, (folds, most) = self.net.device, labels.shape
        target = _sent(labels.numpy(), device)
        self.net.step(sizes, real)
        self.draws.start(sizes)
        scale = self.scales.repeat_interleave(most, dim=0)
        clip = by_fold(to_clip(batch, device, scale, self.kind), folds)
        with torch.autocast(device.type, self.half, enabled=self.half is not None):
            logits = forward(self.net, clip, self.draws)
        losses = fold_losses(wide(logits), target, real, self.weights, self.config.label_smoothing)
        torch.autograd.backward((losses * share).sum())
        return losses.detach(), logits.detach().argmax(-1)

    def save(self, number: int, result: Fit) -> None:
        """This fold's slice, as the plain loop would have saved it."""
        path = self.folds[number].resume
        assert path is not None
        write_resume_point(path, self.state_of(number), resume_facts(result))

    def state_of(self, number: int) -> State:
        """A fold's slice, as the plain loop would have it."""
        tensors = {f"model.{name}": t for name, t in self.net.state_of(number).items()}
        return tensors | self.optimiser.state_of(number, self.numbers)

    def load(self, number: int, state: State) -> None:
        """Set a fold's slice; raises KeyError or RuntimeError for another network's."""
        self.net.load(number, {n.removeprefix("model."): t for n, t in state.items()})
        self.optimiser.load(number, state, self.numbers)

    def _store(self) -> None:
        self.net.store([fold.model for fold in self.folds])

    def resume(self, number: int, result: Fit) -> None:
        """Continue a fold from its own file, if there is one, whoever wrote it."""
        path = self.folds[number].resume
        if path is None or not path.exists():
            return
        tensors, facts = read_resume_point(path)
        try:
            self.load(number, tensors)
            result.history[:], result.timings[:] = facts["history"], facts["timings"]
        except (KeyError, RuntimeError) as error:
            raise no_resume_point(path, str(error)) from error


def fold_losses(
    logits: Tensor, target: Tensor, real: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """torch's cross-entropy of each fold over its real samples: (F,).

    logits (F, B, C), target and real (F, B), weights (F, C) or None. As torch has it, both the loss
    and its smoothing part are divided by the summed weights of the true classes. A fold without a
    real sample has loss 0.
    """
    likely = F.log_softmax(logits, dim=-1)
    each = torch.ones_like(likely[:, 0]) if weights is None else weights
    own = each.gather(1, target) * real
    total = own.sum(1).clamp(min=torch.finfo(own.dtype).tiny)
    loss = -(likely.gather(2, target[..., None])[..., 0] * own).sum(1) / total
    if smoothing == 0:
        return loss
    smooth = -((likely * each[:, None]).sum(-1) * real).sum(1) / total
    return (1 - smoothing) * loss + smoothing / logits.shape[-1] * smooth


@torch.no_grad()
def predict_fused(
    models: Sequence[HSTA],
    bank: ClipBank,
    positions: Sequence[Sequence[int]],
    config: HstaTrainConfig,
    *,
    seeds: Sequence[int],
    device: torch.device,
    scales: Sequence[Scale],
) -> list[npt.NDArray[np.float64]]:
    """Per fold the class probabilities of its positions, by the recipe's test sampling.

    As `models.hsta.training.predict` of each.
    """
    net = Stack([model.to(device) for model in models], device).train(False)
    clips, half = _Clips(bank, device), autocast_type(config.precision, device)
    model, count, longest = models[0], len(models), max(map(len, positions))
    random = config.input.test_sampling == "random"
    draws = config.input.test_draws if random else 1
    views = [False, True] if config.input.test_mirror else [False]
    units = torch.tensor(scales, dtype=torch.float32).to(device)
    total = torch.zeros(count, longest, model.config.num_classes, dtype=torch.float64)
    frames, size = model.config.num_frames, config.batch_size
    for draw in range(draws):
        rngs = [np.random.default_rng([s, TEST_STREAM, draw]) if random else None for s in seeds]
        for start in range(0, longest, size):
            most = min(size, longest - start)
            rows = np.zeros((count, most, frames + 2), np.int64)
            events = np.zeros((count, most), np.int64)
            for f, own in enumerate(positions):
                part = list(own[start : start + size])
                if part:
                    events[f, : len(part)] = part
                    rows[f, : len(part)] = draw_rows(bank, part, frames, config.input, rngs[f])
            for mirrored in views:
                change = (
                    np.tile(np.array(MIRROR, np.float32), (count * most, 1)) if mirrored else None
                )
                batch = clips.batch(
                    rows.reshape(count * most, -1), events.reshape(-1), config, change
                )
                scale = units.repeat_interleave(most, dim=0)
                clip = to_clip(batch, device, scale, type_of(model))
                with torch.autocast(device.type, half, enabled=half is not None):
                    logits = forward(net, by_fold(clip, count))
                total[:, start : start + most] += logits.double().cpu()
    chances = (total / (draws * len(views))).softmax(dim=-1).numpy()
    return [chances[f, : len(own)] for f, own in enumerate(positions)]
