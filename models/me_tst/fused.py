"""ME-TST's folds trained and evaluated as one program: the loop behind `fit_many` of several.

Every fold follows its own `FoldCourse`: its windows, jitter, masks and rates are those of the fold
alone. A round is one epoch of every fold that is not done; in a step each fold brings its next
batch, the last of which may be smaller, and one with fewer steps than the others sits the rest out.
What a step needs from the host goes to the device once a round; losses come back once a round.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.epoch_record import Watch
from models.fitting import exact_products, no_resume_point, read_resume_point, write_resume_point
from models.layers.selective_scan import wide
from models.layers.stochastic_depth import DepthMasks
from models.me_tst import training
from models.me_tst.stacked import drop_rates, forward
from models.me_tst.training import FoldCourse, WindowTensors
from models.stacked.optimiser import FoldAdam, Moment
from models.stacked.stack import Stack
from models.stacked.trace import Loop, State, Step


def fit_fused(
    courses: Sequence[FoldCourse],
    data: WindowTensors,
    device: torch.device,
    watch: Watch | None = None,
) -> Loop:
    """Train the networks of several courses in place; in eval mode when the loop ends."""
    networks = [course.fold.network.to(device) for course in courses]
    net = Stack(networks, device).train()
    optimiser = FoldAdam(net)
    for fold, course in enumerate(courses):
        _resume(net, optimiser, courses, fold)
        course.begin()
    masks = DepthMasks(drop_rates(networks[0]), device)
    weights = torch.from_numpy(np.stack([course.weights for course in courses]))
    weights = weights.to(device, data.motion.dtype)
    saved = time.monotonic()
    try:
        while not all(course.done for course in courses):
            active = [not course.done for course in courses]
            sums = yield from _round(net, courses, active, data, weights, masks, optimiser)
            means = sums.tolist()
            due = time.monotonic() - saved > training.SECONDS_BETWEEN_SAVES
            for fold, course in enumerate(courses):
                if active[fold]:
                    count = len(course.fold.rows)
                    course.finish_epoch(means[fold][0] / count, means[fold][1] / count)
            done = [(f, len(courses[f].history)) for f in range(len(courses)) if active[f]]
            if watch is not None and (asked := watch.due(done)):
                net.store(networks)
                watch.look(asked)
            for fold, course in enumerate(courses):
                if active[fold] and due and course.fold.resume is not None:
                    state = _state_of(net, optimiser, courses, fold)
                    write_resume_point(course.fold.resume, state, course.facts())
            saved = time.monotonic() if due else saved
            for fold, course in enumerate(courses):
                if active[fold]:
                    course.tell()
    finally:
        net.store(networks)
        for network in networks:
            network.eval()


@dataclass
class _Plan:
    """One round on the device: per step and fold the rows, jitter and 1 for a real window."""

    rows: Tensor  # (S, F, B) int64
    jitter: Tensor  # (S, F, B)
    real: Tensor  # (S, F, B)
    sizes: list[list[int]]  # [f][s], 0 where the fold sits out


def _plan(courses: Sequence[FoldCourse], active: Sequence[bool], device: torch.device) -> _Plan:
    own = [course.sizes if on else [] for course, on in zip(courses, active, strict=True)]
    steps, most = max(map(len, own)), max(size for sizes in own for size in sizes)
    shape = (steps, len(courses), most)
    rows, jitter = np.zeros(shape, np.int64), np.ones(shape, np.float32)
    real = np.zeros(shape, np.float32)
    for f, (course, counts) in enumerate(zip(courses, own, strict=True)):
        rows[:, f] = course.fold.rows[0]  # padding: any window will do
        if not counts:
            continue
        order, drawn = course.draw()
        start = 0
        for step, size in enumerate(counts):
            rows[step, f, :size] = order[start : start + size]
            jitter[step, f, :size] = drawn[start : start + size]
            real[step, f, :size] = 1
            start += size
    sizes = [counts + [0] * (steps - len(counts)) for counts in own]
    at, factors, marks = (torch.from_numpy(part).to(device) for part in (rows, jitter, real))
    return _Plan(at, factors, marks, sizes)


def _round(
    net: Stack,
    courses: Sequence[FoldCourse],
    active: Sequence[bool],
    data: WindowTensors,
    weights: Tensor,
    masks: DepthMasks,
    optimiser: FoldAdam,
) -> Generator[Step, None, Tensor]:
    """An epoch of each active fold; sums of both losses (F, 2)."""

    def state_of(fold: int) -> State:
        return _state_of(net, optimiser, courses, fold)

    def load(fold: int, state: State) -> None:
        _load(net, optimiser, courses, fold, state)

    def store() -> None:
        net.store([course.fold.network for course in courses])

    config = courses[0].config
    plan = _plan(courses, active, net.device)
    masks.draw(
        [[size for size in own if size] for own in plan.sizes], [c.generator for c in courses]
    )
    steps = len(plan.rows)
    optimiser.plan(
        [
            [
                Moment(*course.rate(step)) if plan.sizes[f][step] else None
                for f, course in enumerate(courses)
            ]
            for step in range(steps)
        ]
    )
    sums = torch.zeros(net.folds, 2, dtype=torch.float64, device=net.device)
    for step in range(steps):
        rows, real = plan.rows[step], plan.real[step]
        net.step([own[step] for own in plan.sizes], real)
        masks.start(step)
        motion = data.motion[rows] * plan.jitter[step, :, :, None, None]
        losses = fold_losses(
            *forward(net, motion, masks), data.spot[rows], data.classes[rows], weights, real
        )
        total = config.spot_weight * losses[:, 0] + config.recog_weight * losses[:, 1]
        total.sum().backward()  # type: ignore[no-untyped-call]
        net.gradients(optimiser.gradient)
        optimiser.step(step)
        sums += losses.detach() * real.sum(1, keepdim=True)
        yield Step(total, [own[step] > 0 for own in plan.sizes], state_of, load, store)
    return sums


def fold_losses(
    probability: Tensor,
    logits: Tensor,
    spot: Tensor,
    classes: Tensor,
    weights: Tensor,
    real: Tensor,
) -> Tensor:
    """`spot_loss` and `recog_loss` of each fold over its real windows only: (F, 2).

    probability, spot, classes (F, B, k), logits (F, B, k, 5), weights (F, 5), real (F, B). A fold
    without a real window has losses 0.
    """
    frames = (real.sum(1) * spot.shape[-1]).clamp(min=1)
    own = real[..., None]
    square = ((probability - spot).square() * own).sum((1, 2))
    wanted = classes[..., None]
    surprise = -F.log_softmax(wide(logits), -1).gather(-1, wanted)[..., 0]
    weight = weights[:, None, :].expand(-1, classes.shape[1], -1).gather(2, classes)
    return torch.stack([square, (surprise * weight * own).sum((1, 2))], dim=1) / frames[:, None]


def _numbers(network: nn.Module) -> dict[str, int]:
    """Where torch's Adam has each parameter that it moves."""
    named = enumerate(network.named_parameters())
    return {name: number for number, (name, parameter) in named if parameter.requires_grad}


def _state_of(
    net: Stack, optimiser: FoldAdam, courses: Sequence[FoldCourse], fold: int
) -> dict[str, Tensor]:
    """This fold's slice, as the plain loop would have it."""
    tensors = {f"model.{name}": t for name, t in net.state_of(fold).items()}
    return tensors | optimiser.state_of(fold, _numbers(courses[fold].fold.network))


def _load(
    net: Stack, optimiser: FoldAdam, courses: Sequence[FoldCourse], fold: int, state: State
) -> None:
    """Set this fold's slice from what `_state_of`, or the plain loop, gave.

    Raises KeyError or RuntimeError for another network's.
    """
    net.load(fold, {name.removeprefix("model."): t for name, t in state.items()})
    optimiser.load(fold, state, _numbers(courses[fold].fold.network))


def _resume(net: Stack, optimiser: FoldAdam, courses: Sequence[FoldCourse], fold: int) -> None:
    """Continue a fold from its own file, if there is one, whoever wrote it."""
    course = courses[fold]
    path = course.fold.resume
    if path is None or not path.exists():
        return
    tensors, facts = read_resume_point(path)
    try:
        _load(net, optimiser, courses, fold, tensors)
        course.restore(facts)
    except (KeyError, RuntimeError) as error:
        raise no_resume_point(path, str(error)) from error


@exact_products()
@torch.no_grad()
def predict_many(
    networks: Sequence[nn.Module],
    motion: npt.NDArray[np.float32],
    rows: Sequence[npt.NDArray[np.int64]],
    batch_size: int = 64,
    device: str = "cpu",
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Per fold the spot probability (n, k) and logits (n, k, 5) of its rows of motion (W, C, k)."""
    place = torch.device(device)
    net = Stack([network.to(place) for network in networks], place).train(False)
    shared = torch.from_numpy(motion).to(place)
    longest = max(map(len, rows))
    padded = np.zeros((len(rows), longest), np.int64)
    for fold, own in enumerate(rows):
        padded[fold, : len(own)] = own
    at, parts = torch.from_numpy(padded).to(place), []
    for start in range(0, longest, batch_size):
        spot, logits = forward(net, shared[at[:, start : start + batch_size]])
        parts.append((wide(spot).cpu(), wide(logits).cpu()))
    spots, scores = (torch.cat(part, dim=1).numpy() for part in zip(*parts, strict=True))
    return [(spots[f, : len(own)], scores[f, : len(own)]) for f, own in enumerate(rows)]
