"""What a family of networks does: train folds, score a run, show it.

Any network that has its family's forward pass and settings is accepted; no other place asks which
network it has before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from models.contract import Counted, Section
from models.recipe import Recipe
from models.runs.files import FoldJob, RunFiles

if TYPE_CHECKING:
    import pandas as pd

    from models.epoch_record import FoldEpochs
    from models.stacked.choice import Packing
    from models.stacked.proof import Proof


def family_of(recipe: Recipe) -> Family:
    """The family of a recipe's network."""
    found: Family = import_module(recipe.network.family).FAMILY
    return found


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

    @property
    def multi_label(self) -> bool:
        """Whether an output may answer yes or no for itself: `labels: aus`."""
        ...

    def training_facts(self, recipe: Recipe) -> dict[str, Any]:
        """Settings outside `model` and `train` that change the trained weights, if not default."""
        ...

    def fit(self, jobs: Sequence[FoldJob]) -> None:
        """Train these folds and write FOLD_FILES (and more) into each one's folder."""
        ...

    def plan_packs(
        self, jobs: Sequence[FoldJob], max_memory_mb: float | None = None
    ) -> tuple[list[list[FoldJob]], Packing]:
        """The jobs in packs for `fit`, by `train.folds_at_once`; why, and how many side by side."""
        ...

    def prove(self, jobs: Sequence[FoldJob], fold: str, steps: int = 100) -> Proof:
        """Train `fold` alone and beside the other jobs' folds, and compare; writes nothing."""
        ...

    def decode_fold(self, recipe: Recipe, folder: Path) -> None:
        """Write a trained fold's predictions again under the recipe's scoring settings."""
        ...

    def score(self, run: RunFiles) -> pd.DataFrame:
        """The run's metrics table."""
        ...

    def count(self, run: RunFiles, dataset: str | None = None) -> Counted:
        """The run's counts per person, or those on one dataset's samples."""
        ...

    def count_epochs(self, recipe: Recipe, folder: Path) -> FoldEpochs:
        """The counts of a fold's people at every recorded epoch, the last one last."""
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
