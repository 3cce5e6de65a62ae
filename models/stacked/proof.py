"""Proof that a fold trained beside others is the fold trained alone: losses and outputs compared.

A family's `prove_fold` trains one fold twice, by the plain loop (plain network, torch's optimiser)
and within the fused program, from the same weights, and hands what came out to `compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.errors import ConfigError

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """What a comparison found: largest differences of losses and of outputs."""

    fold: str
    folds: int
    steps: int
    loss_gap: float
    output_gap: float
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether both gaps are within the tolerance (a gap that is not a number is not)."""
        return self.loss_gap <= self.tolerance and self.output_gap <= self.tolerance

    def sentence(self) -> str:
        """The finding, for people."""
        verdict = "equal" if self.holds else "NOT equal"
        return (
            f"{self.fold} alone and beside {self.folds - 1} others: {verdict} after {self.steps} "
            f"steps (losses within {self.loss_gap:.1e}, outputs within {self.output_gap:.1e}, "
            f"tolerance {self.tolerance:.0e})"
        )


def compare(
    fold: str,
    folds: int,
    alone: Sequence[Tensor],
    fused: Sequence[Tensor],
    alone_outputs: Sequence[npt.NDArray[Any]],
    fused_outputs: Sequence[npt.NDArray[Any]],
) -> Proof:
    """The largest differences of two trainings' losses and of their outputs.

    Raises ConfigError when they made different numbers of steps, or none.
    """
    if len(alone) != len(fused) or not alone:
        raise ConfigError(
            f"proof of {fold}",
            expected="the same steps, at least one",
            got=f"{len(alone)} and {len(fused)}",
        )
    losses = torch.stack(list(alone)).double() - torch.stack(list(fused)).double()
    outputs = [
        float(np.abs(a.astype(np.float64) - b).max())
        for a, b in zip(alone_outputs, fused_outputs, strict=True)
    ]
    return Proof(fold, folds, len(alone), float(losses.abs().max()), float(np.max(outputs)))


def find_fold(names: Sequence[str], wanted: str) -> int:
    """Place of a fold, given by name or number. Raises ConfigError listing the known ones."""
    for number, name in enumerate(names):
        if wanted == name or (wanted.isdigit() and name.startswith(f"fold-{int(wanted):02d}-")):
            return number
    raise ConfigError("proof", expected=f"a fold among {', '.join(names)}", got=wanted)
