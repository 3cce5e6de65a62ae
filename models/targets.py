"""What a network learns of an event: a class of a label map, or the set of its action units.

A set of action units is written as text, "4+7", so that it goes where a class goes: tables, folds,
digests. Only the twelve units of CD6ME count (Varanka et al. 2022); a coded event with none of them
is "none". For training a set is one whole number, bit i for unit i, so that a batch's targets stay
one number a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.datasets.action_units import unit_numbers
from data.datasets.composite import CD6ME_UNITS
from data.errors import InputError

AUS = "aus"
NONE = "none"
UNITS = tuple(f"AU{n}" for n in CD6ME_UNITS)
# Label maps with fixed classes; those of the others are the dataset's own, found in its events.
CLASSES: dict[str, tuple[str, ...]] = {
    "label_3": ("negative", "positive", "surprise"),
    "label_4": ("negative", "positive", "surprise", "others"),
    "objective_class": ("1", "2", "3", "4", "5", "6", "7"),
}
THRESHOLD = 0.5  # probability from which a unit counts as seen


def label_texts(events: pd.DataFrame, labels: str, uncoded: bool = False) -> pd.Series:
    """Each event's label as text, null where it has none.

    For `aus` the units among CD6ME's in order. `uncoded`: an event without coded units is "none",
    as CD6ME counts it, not null.
    """
    if labels != AUS:
        return events[labels].astype("string")
    texts = [NONE if pd.isna(a) and uncoded else unit_text(a) for a in events.aus]
    return pd.Series(texts, index=events.index, dtype="string")


def texts_of(events: pd.DataFrame, recipe: Any) -> pd.Series:
    """Each event's label under a recipe: `label_texts`, uncoded events as its split has them."""
    uncoded = recipe.labels == AUS and recipe.split.kind == "cd6me"
    return label_texts(events, recipe.labels, uncoded)


def unit_text(aus: str | None) -> str | None:
    """ "4+7" of a canonical action-unit cell (of alternatives the first, held ones not)."""
    if aus is None or pd.isna(aus):
        return None
    return text_of(unit_numbers(str(aus)) & set(CD6ME_UNITS))


def text_of(numbers: set[int]) -> str:
    """The text of a set of unit numbers."""
    return "+".join(map(str, sorted(numbers))) or NONE


def numbers_of(text: str) -> set[int]:
    """The unit numbers of a text. Raises InputError for anything else."""
    if text == NONE:
        return set()
    try:
        return {int(n) for n in text.split("+")}
    except ValueError as error:
        raise InputError("action units", expected="such as 4+7, or none", got=text) from error


def code_of(text: str) -> int:
    """The whole number of a set: bit i for the i-th unit of CD6ME."""
    return sum(1 << CD6ME_UNITS.index(n) for n in numbers_of(text))


def bits_of(codes: npt.ArrayLike, count: int = len(UNITS)) -> npt.NDArray[np.bool_]:
    """(n, count) of codes (n,)."""
    values = np.asarray(codes, np.int64)
    return (values[:, None] >> np.arange(count) & 1).astype(bool)


def seen(chances: npt.NDArray[np.float64]) -> list[str]:
    """The text of each row of unit probabilities (n, units)."""
    return [
        text_of({n for n, p in zip(CD6ME_UNITS, row, strict=True) if p >= THRESHOLD})
        for row in chances
    ]


def truth_matrix(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(n, units) of texts."""
    return bits_of([code_of(t) for t in texts])
