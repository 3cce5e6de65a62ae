"""Proof that a fold trained beside others is the fold trained alone.

A family makes `Rivals`: the fold's plain loop (plain network, torch's optimiser) and the fused
program of all folds, from the same weights. They are compared three times:

free, float64   each trains on by itself. Rounding is so small here that what training makes of it
                stays far below what any difference in program makes
step by step,   before every step the fold alone takes the fused fold's weights and moments; then
float32         both make the step. Nothing can add up
free, float32   told, and no part of the verdict: training enlarges rounding, as it would between
                two processors
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.errors import ConfigError
from models.fitting import exact_products
from models.stacked.trace import Loop, Step

TOLERANCE = 1e-4  # of losses and outputs in float32
DOUBLE_TOLERANCE = 1e-7  # in float64
PROBES = 16  # test samples that are asked after every step

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Rivals:
    """A fold alone and the same fold at place `at` of the fused program, both still untrained.

    `outputs(few)`: what each says in evaluation mode of the fold's test samples (few: of the first
    PROBES), with its weights of the moment; both are in training mode afterwards.
    """

    alone: Loop
    beside: Loop
    at: int
    outputs: Callable[[bool], tuple[Outputs, Outputs]]


@dataclass(frozen=True)
class Gap:
    """The largest differences of losses and of outputs over so many steps."""

    steps: int
    losses: float
    outputs: float

    def within(self, tolerance: float) -> bool:
        """Whether both are; a gap that is not a number is not."""
        return self.losses <= tolerance and self.outputs <= tolerance

    def text(self) -> str:
        """For people."""
        return f"losses within {self.losses:.1e}, outputs within {self.outputs:.1e}"


@dataclass(frozen=True)
class Proof:
    """What the comparisons found of a fold alone and beside `folds` - 1 others."""

    fold: str
    folds: int
    double: Gap
    stepwise: Gap
    free: Gap

    @property
    def holds(self) -> bool:
        """Whether the fold is the same: in float64 on its own, in float32 at every step."""
        return self.double.within(DOUBLE_TOLERANCE) and self.stepwise.within(TOLERANCE)

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        gaps = {name: vars(getattr(self, name)) for name in ("double", "stepwise", "free")}
        tolerances = {"double": DOUBLE_TOLERANCE, "stepwise": TOLERANCE}
        named = {"fold": self.fold, "folds": self.folds, "holds": self.holds}
        return {**named, **gaps, "tolerances": tolerances}

    def sentence(self) -> str:
        """The finding, for people."""
        double, stepwise = (
            "equal" if gap.within(tolerance) else "NOT equal"
            for gap, tolerance in ((self.double, DOUBLE_TOLERANCE), (self.stepwise, TOLERANCE))
        )
        verdict = "the same" if self.holds else "NOT the same"
        if self.free.within(TOLERANCE):
            grown = "equal here too"
        else:
            grown = "rounding that training has enlarged" if self.holds else "not equal"
        return "\n".join(
            [
                f"{self.fold} alone and beside {self.folds - 1} others: {verdict}.",
                f"  {self.double.steps} steps in float64: {double} ({self.double.text()}; "
                f"tolerance {DOUBLE_TOLERANCE:.0e})",
                f"  each of {self.stepwise.steps} steps in float32 from the same weights: "
                f"{stepwise} ({self.stepwise.text()}; tolerance {TOLERANCE:.0e})",
                f"  {self.free.steps} steps in float32, each going its own way: "
                f"{grown} ({self.free.text()}; no part of the verdict)",
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
            run_free(rivals(torch.float64), steps),
            run_stepwise(rivals(torch.float32), steps),
            run_free(rivals(torch.float32), steps),
        )


def run_free(rivals: Rivals, steps: int) -> Gap:
    """Both train by themselves; outputs are compared after the last step, on all test samples."""
    losses = []
    for alone, beside in _pairs(rivals, steps):
        losses.append(_loss_gap(rivals, alone, beside))
    beside.store()
    outputs = difference(*rivals.outputs(False))
    _close(rivals)
    return _gap(losses, [outputs])


def run_stepwise(rivals: Rivals, steps: int) -> Gap:
    """Both make each step from the fused fold's state; losses and outputs are compared after it."""
    losses, outputs = [], []
    for alone, beside in _pairs(rivals, steps):
        losses.append(_loss_gap(rivals, alone, beside))
        beside.store()
        outputs.append(difference(*rivals.outputs(True)))
        alone.load(0, beside.state_of(rivals.at))
    _close(rivals)
    return _gap(losses, outputs)


def _pairs(rivals: Rivals, steps: int) -> Iterator[tuple[Step, Step]]:
    """The fold's steps of both loops side by side, at most `steps`.

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


def _loss_gap(rivals: Rivals, alone: Step, beside: Step) -> float:
    gap = alone.losses[0].detach().double() - beside.losses[rivals.at].detach().double()
    return float(gap.abs())


def difference(ours: Outputs, theirs: Outputs) -> float:
    """The largest difference of two lists of arrays; NaN if any is."""
    pairs = zip(ours, theirs, strict=True)
    return float(np.max([np.abs(a.astype(np.float64) - b).max() for a, b in pairs]))


def _gap(losses: Sequence[float], outputs: Sequence[float]) -> Gap:
    return Gap(len(losses), float(np.max(losses)), float(np.max(outputs)))


def _close(rivals: Rivals) -> None:
    rivals.alone.close()
    rivals.beside.close()


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
