"""One line of a challenge's score sheet: a value with its counts, or why there is none.

A value that cannot be computed is None with a reason, never 0 and never NaN: a zero says that an
answer was wrong, not that there was nothing to answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data.errors import InputError

RIGHT, PRIORS = "", "priors only"
OVERALL = "overall"  # the part that is all parts together


@dataclass(frozen=True)
class ChallengeScore:
    """A measure of one part of the test set.

    `rule`: "" for the definition itself, `PRIORS` for an answer that looks at no video, else the
    name of published code that computes it otherwise. `counts` are what the ratio was made of.
    `note`: with `value` None the reason, else what a reader must know.
    """

    part: str
    measure: str
    value: float | None
    counts: Mapping[str, float] = field(default_factory=dict)
    rule: str = RIGHT
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.note:
            raise InputError(f"score {self.measure}", expected="a reason", got="none")
        if self.value is not None and not math.isfinite(self.value):
            raise InputError(
                f"score {self.measure}", expected="a finite value or none", got=str(self.value)
            )

    def row(self) -> dict[str, str]:
        """The line for people; words in every cell."""
        counted = ", ".join(f"{name} {number:g}" for name, number in self.counts.items())
        return {
            "part": self.part,
            "measure": self.measure,
            "rule": self.rule or "as defined",
            "value": "unavailable" if self.value is None else f"{self.value:.4f}",
            "counts": counted or "–",
            "note": self.note,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return {**asdict(self), "counts": dict(self.counts)}


@dataclass(frozen=True)
class ScoreSheet:
    """All lines of one evaluation: `form` of the files, `notes` on all of it."""

    form: str
    scores: tuple[ChallengeScore, ...]
    notes: tuple[str, ...] = ()

    def find(self, part: str, measure: str, rule: str = RIGHT) -> ChallengeScore:
        """The one line of that name. Raises InputError naming those that exist."""
        found = [s for s in self.scores if (s.part, s.measure, s.rule) == (part, measure, rule)]
        if len(found) != 1:
            known = sorted(
                {f"{s.part} / {s.measure} / {s.rule or 'as defined'}" for s in self.scores}
            )
            raise InputError(
                "score sheet",
                expected=f"one of {'; '.join(known)}",
                got=f"{part} / {measure} / {rule or 'as defined'}",
            )
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return {
            "form": self.form,
            "notes": list(self.notes),
            "scores": [s.to_json() for s in self.scores],
        }


def defined(value: float, reason: str) -> tuple[float | None, str]:
    """(value, "") where it is finite, else (None, reason)."""
    return (float(value), "") if math.isfinite(value) else (None, reason)
