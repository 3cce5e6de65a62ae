"""What a network is to the rest of the project, and what its family does with it.

A *network* is settings and two functions (`create`, `load_authors_checkpoint`). Its *family* trains
folds of such networks, scores a run, and shows it; any network that has the family's forward pass
and settings is accepted. Nothing here imports torch: plans, recipes and reports are read without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from data.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from models.recipe import Recipe
    from models.runs.files import FoldJob, RunFiles

Samples = Literal["events", "videos"]
FOLD_FILES = ("weights.safetensors", "model.json", "history.parquet", "predictions.parquet")


class NoDecode(Settings):
    """A family whose outputs need no decoding has no settings for it."""


@dataclass(frozen=True)
class Network:
    """What the rest of the project must know of a network; one line in `models.registry`."""

    settings: type[Settings]
    train: type[Settings]
    module: str  # create(config) -> nn.Module; load_authors_checkpoint(source, **config)
    family: str  # a module with FAMILY
    samples: Samples
    needs: Callable[[Any], tuple[str, ...]]  # settings → the last stages it reads
    decode: type[Settings] = NoDecode

    def code(self) -> Any:
        """The module with `create` and `load_authors_checkpoint`; imports torch."""
        return import_module(self.module)

    def find_family(self) -> Family:
        """Who trains, scores and shows it."""
        found: Family = import_module(self.family).FAMILY
        return found


@dataclass(frozen=True)
class Counted:
    """A run's counts per person (S, ...), and the scores that are functions of their sum."""

    people: list[Any]
    counts: npt.NDArray[np.int64]
    statistics: Mapping[str, Callable[[npt.NDArray[Any]], float]]
    truth: str  # digest of what is true: two runs can be compared when it is the same


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


class Family(Protocol):
    """How networks of one kind are trained, scored, compared and shown."""

    @property
    def name(self) -> str:
        """For people: what kind of network it is."""
        ...

    @property
    def spots(self) -> bool:
        """Whether its networks find intervals in whole videos."""
        ...

    @property
    def recognises(self) -> bool:
        """Whether its networks name the class of a given clip."""
        ...

    def training_facts(self, recipe: Recipe) -> dict[str, Any]:
        """Settings outside `model` and `train` that change the trained weights, if not default."""
        ...

    def fit(self, jobs: Sequence[FoldJob]) -> None:
        """Train these folds and write FOLD_FILES (and more) into each one's folder."""
        ...

    def decode_fold(self, recipe: Recipe, folder: Path) -> None:
        """Write a trained fold's predictions again under the recipe's scoring settings."""
        ...

    def score(self, run: RunFiles) -> pd.DataFrame:
        """The run's metrics table."""
        ...

    def count(self, run: RunFiles) -> Counted:
        """The run's counts per person, for paired comparisons."""
        ...

    def rules(self, recipe: Recipe) -> dict[str, Any]:
        """Scoring rules that two runs must share to be compared."""
        ...

    def sections(self, run: RunFiles, most: int | None = None) -> Iterator[Section]:
        """Parts of the report that only this family has, with at most `most` pictures each."""
        ...

    def intervals(self, run: RunFiles) -> dict[str, list[Any]] | None:
        """Dataset → rows in MEGC's form; None for a family that does not spot."""
        ...
