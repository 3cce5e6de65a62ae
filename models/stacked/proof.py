"""Proof that a fold trained beside others is the fold trained alone.

A family makes `Rivals`: the fold's plain loop (plain network, torch's optimiser) and the fused
program of all folds, from the same weights. Compared are

step by step   before every step the fold alone takes the fused fold's weights and moments, then
               both make the step: nothing can add up. In float64, whose rounding is far below what
               any difference in program makes, with the weights and moments after the step; and in
               float32
free           each trains on by itself. Training enlarges rounding, in some networks a million
               times in a hundred steps; how much is measured with a twin, the fold alone once more
               from weights that differ in their last digit
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.errors import ConfigError
from models.fitting import exact_products
from models.stacked.trace import Loop, State, Step

STEPWISE, STEPWISE_DOUBLE = 1e-4, 1e-10  # tolerances: in float32, in float64
FREE_DOUBLE = 1e-7  # of a free training in float64
LIKE_TWIN = 1e3  # how many times a free training may part as far as its twin does
PROBES = 16  # test samples that are asked after every step

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Rivals:
    """A fold alone, its twin, and the fold at place `at` of the fused program, all untrained.

    `outputs(few)`: what alone, twin and fused say in evaluation mode of the fold's test samples
    (few: alone and fused, of the first PROBES), with their weights of the moment; all are in
    training mode afterwards.
    """

    alone: Loop
    twin: Loop
    beside: Loop
    at: int
    outputs: Callable[[bool], Sequence[Outputs]]


@dataclass(frozen=True)
class Gap:
    """The largest differences over so many steps, relative to what is compared where above 1.

    `state`: of weights, buffers and moments after a step; 0 where not compared. `twin`: the larger
    one of losses and outputs between the fold alone and its twin.
    """

    steps: int
    losses: float
    outputs: float
    state: float = 0.0
    twin: float = 0.0

    def within(self, tolerance: float) -> bool:
        """Whether all are; a gap that is not a number is not."""
        return max(self.losses, self.outputs, self.state) <= tolerance

    def text(self) -> str:
        """For people."""
        state = f", weights and moments {self.state:.0e}" if self.state else ""
        return f"losses within {self.losses:.0e}, outputs {self.outputs:.0e}{state}"


@dataclass(frozen=True)
class Proof:
    """What the comparisons found of a fold alone and beside `folds` - 1 others."""

    fold: str
    folds: int
    stepwise_double: Gap
    stepwise: Gap
    free_double: Gap
    free: Gap

    @property
    def holds(self) -> bool:
        """Whether the fold is the same at every step, and stays it as far as rounding allows."""
        stepwise = self.stepwise_double.within(STEPWISE_DOUBLE) and self.stepwise.within(STEPWISE)
        return stepwise and self.free_double.within(self.free_limit)

    @property
    def free_limit(self) -> float:
        """How far the free trainings in float64 may part."""
        return max(FREE_DOUBLE, LIKE_TWIN * self.free_double.twin)

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        gaps = {n: vars(g) for n, g in vars(self).items() if isinstance(g, Gap)}
        return {"fold": self.fold, "folds": self.folds, "holds": self.holds, **gaps}

    def sentence(self) -> str:
        """The finding, for people."""

        def word(gap: Gap, tolerance: float) -> str:
            return "equal" if gap.within(tolerance) else "NOT equal"

        def each(gap: Gap, tolerance: float, kind: str) -> str:
            found = f"{word(gap, tolerance)} ({gap.text()}; tolerance {tolerance:.0e})"
            return f"  each of {gap.steps} steps from the same weights, {kind}: {found}"

        double, single, limit = self.free_double, self.free, self.free_limit
        bound = "tolerance" if limit == FREE_DOUBLE else "as its twin, within"
        return "\n".join(
            [
                f"{self.fold} alone and beside {self.folds - 1} others: "
                f"{'the same' if self.holds else 'NOT the same'}.",
                each(self.stepwise_double, STEPWISE_DOUBLE, "float64"),
                each(self.stepwise, STEPWISE, "float32"),
                f"  {double.steps} steps on their own, float64: {word(double, limit)} "
                f"({double.text()}; {bound} {limit:.0e})",
                f"  {single.steps} steps on their own, float32: {single.text()} (no part of the "
                "verdict: rounding grows in training)",
                "  a fold alone whose first weights differ in the last digit parts from itself by "
                f"{double.twin:.0e} in float64, {single.twin:.0e} in float32",
            ]
        )


def prove(
    fold: str, folds: int, rivals: Callable[[torch.dtype], Rivals], steps: int = 100
) -> Proof:
    """Compare fold `fold` alone with itself among `folds`; `rivals` makes both anew, of a type.

    A fold with fewer steps than `steps` is compared over all it has.
    """
    if folds < 2:
        raise ConfigError(f"proof of {fold}", expected="at least two folds", got=f"{folds}")
    with exact_products():
        return Proof(
            fold,
            folds,
            run_stepwise(rivals(torch.float64), steps, with_state=True),
            run_stepwise(rivals(torch.float32), steps, with_state=False),
            run_free(rivals(torch.float64), steps),
            run_free(rivals(torch.float32), steps),
        )


def run_stepwise(rivals: Rivals, steps: int, with_state: bool) -> Gap:
    """Both make each step from the fused fold's state, and are compared after it."""
    losses, outputs, states = [], [], [0.0]
    for alone, beside in _pairs(rivals, steps):
        losses.append(_loss_gap(alone, 0, beside, rivals.at))
        beside.store()
        outputs.append(difference(*rivals.outputs(True)))
        state = beside.state_of(rivals.at)
        if with_state:
            states.append(_state_gap(alone.state_of(0), state))
        alone.load(0, state)
    _close(rivals)
    return Gap(len(losses), _most(losses), _most(outputs), _most(states))


def run_free(rivals: Rivals, steps: int) -> Gap:
    """All three train by themselves; outputs are compared after the last step."""
    losses, twins = [], []
    for alone, beside in _pairs(rivals, steps):
        losses.append(_loss_gap(alone, 0, beside, rivals.at))
        twins.append(_loss_gap(alone, 0, next(rivals.twin), 0))
    beside.store()
    ours, twin, theirs = rivals.outputs(False)
    _close(rivals)
    parted = max(_most(twins), difference(ours, twin))
    return Gap(len(losses), _most(losses), difference(ours, theirs), twin=parted)


def _pairs(rivals: Rivals, steps: int) -> Iterator[tuple[Step, Step]]:
    """The fold's steps alone and beside others, at most `steps`.

    Raises ConfigError where one of the two ends before the other, or both before the first step.
    """
    own = (step for step in rivals.beside if step.active[rivals.at])
    for number in range(steps):
        alone, beside = next(rivals.alone, None), next(own, None)
        if alone is None or beside is None:
            if alone is not beside or not number:
                raise ConfigError(
                    "proof",
                    expected="a training of as many steps alone as beside others, one at least",
                    got=f"{number}" if alone is beside else f"more than {number} in one of both",
                )
            break
        yield alone, beside


def _loss_gap(alone: Step, first: int, other: Step, second: int) -> float:
    pair = (alone.losses[first], other.losses[second])
    return difference(*([loss.detach().cpu().double().numpy()] for loss in pair))


def difference(ours: Outputs, theirs: Outputs) -> float:
    """The largest difference of two lists of arrays, each over its largest value if above 1.

    NaN if any is, or if an array has no value.
    """
    found = [
        np.abs(a.astype(np.float64) - b).max() / max(1.0, np.abs(a).max()) if a.size else np.nan
        for a, b in zip(ours, theirs, strict=True)
    ]
    return _most(found)


def _state_gap(ours: State, theirs: State) -> float:
    """Of two folds' tensors; a moment that one does not have yet is 0, a missing weight is NaN."""
    gaps = []
    for name in ours.keys() | theirs.keys():
        pair = [state.get(name) for state in (ours, theirs)]
        known = next(tensor for tensor in pair if tensor is not None)
        if None in pair and name.startswith("model."):
            return float("nan")
        arrays = [(known * 0 if t is None else t).detach().cpu().numpy() for t in pair]
        gaps.append(difference(arrays[:1], arrays[1:]))
    return _most(gaps)


def _most(gaps: Sequence[float]) -> float:
    """The largest; NaN if any is."""
    return float(np.max(gaps))


def _close(rivals: Rivals) -> None:
    for loop in (rivals.alone, rivals.twin, rivals.beside):
        loop.close()


def nudged(network: nn.Module) -> nn.Module:
    """The network with every weight moved by its last digit, up or down, in place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            digit = torch.finfo(parameter.dtype).eps
            up = torch.rand(parameter.shape, generator=generator).to(parameter) < 0.5
            parameter.mul_(torch.where(up, 1 + digit, 1 - digit).to(parameter))
    return network


def fused_loop(loops: Sequence[Loop], fold: str) -> Loop:
    """The one loop of several folds. Raises ConfigError where each fold has its own."""
    if len(loops) == 1:
        return loops[0]
    raise ConfigError(
        f"proof of {fold}",
        expected="a network whose folds are trained as one program",
        got="one whose folds are trained one after the other",
        todo="There is nothing to prove.",
    )


def find_fold(names: Sequence[str], wanted: str) -> int:
    """Place of a fold, given by name or number. Raises ConfigError listing the known ones."""
    for number, name in enumerate(names):
        if wanted == name or (wanted.isdigit() and name.startswith(f"fold-{int(wanted):02d}-")):
            return number
    raise ConfigError("proof", expected=f"a fold among {', '.join(names)}", got=wanted)
