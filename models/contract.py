"""What a network is to the rest of the project: settings, two functions, and a family.

Nothing here imports torch: plans, recipes and reports are read without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data.settings import Settings

Samples = Literal["events", "videos"]
FOLD_FILES = ("weights.safetensors", "model.json", "history.parquet", "predictions.parquet")


class NoDecode(Settings):
    """A family whose outputs need no decoding has no settings for it."""


@dataclass(frozen=True)
class Network:
    """What the rest of the project must know of a network; one line in `models.registry`."""

    settings: type[Settings]
    train: type[Settings]
    module: str  # create(config) -> nn.Module; load_authors_checkpoint(source, **config) if any
    family: str  # a module with FAMILY
    samples: Samples
    needs: Callable[[Any], tuple[str, ...]]  # settings → the last stages it reads
    decode: type[Settings] = NoDecode

    def code(self) -> Any:
        """The module with `create`, and `load_authors_checkpoint` where there are any."""
        return import_module(self.module)


@dataclass(frozen=True)
class Counted:
    """A run's counts per person (S, ...), and the scores that are functions of their sum.

    statistics(total) gives the scores over the classes that `total` has, so that two runs are
    compared over one set of classes; the first is what a choice goes by. describe(total) says what
    counts the scores stand on, floors(total) what (chance, the majority class) would reach.
    """

    people: list[Any]
    counts: npt.NDArray[np.int64]
    statistics: Callable[[npt.NDArray[Any]], Mapping[str, Callable[[npt.NDArray[Any]], float]]]
    truth: str  # digest of what is true: two runs can be compared when it is the same
    describe: Callable[[npt.NDArray[Any]], str] = lambda total: ""
    floors: Callable[[npt.NDArray[Any]], Mapping[str, tuple[float, float]]] = lambda total: {}
    classes: tuple[str, ...] = ()  # that scores are means over


@dataclass(frozen=True)
class Section:
    """A part of the report or of the UI page that only this family has.

    pictures: (figure or uint8 image, caption).
    """

    title: str
    note: str = ""
    pictures: Sequence[tuple[Any, str]] = ()
    missing: str = "Not computed."
    key: Sequence[tuple[str, str]] = ()  # names and their colours
    anchor: str = ""
