"""The family of clip classifiers: networks that name the class of an event's clip.

Accepted: settings with `image_size`, `num_frames`, `num_classes` and `special` (frames | flow), and
a forward pass (B, 3, num_frames + 2, image_size, image_size) → (B, num_classes). Training has a
learning rate per group where the network's parameters are named `embed…` and `groups.N…`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.stages.files import read_table
from models.contract import Counted, Section

if TYPE_CHECKING:
    import pandas as pd

    from models.epoch_record import FoldEpochs
    from models.recipe import Recipe
    from models.runs.files import FoldJob, RunFiles
    from models.stacked.choice import Packing
    from models.stacked.proof import Proof


class ClipFamily:
    """See `models.contract.Family`."""

    name, spots, recognises, multi_label = "recognition of clips", False, True, True

    def training_facts(self, recipe: Recipe) -> dict[str, Any]:
        """None beyond `model` and `train`."""
        return {}

    def fit(self, jobs: Sequence[FoldJob]) -> None:
        """A pack of folds: one as ever, several as one program."""
        from models.hsta.fold import fit_folds

        fit_folds(jobs)

    def plan_packs(
        self, jobs: Sequence[FoldJob], max_memory_mb: float | None = None
    ) -> tuple[list[list[FoldJob]], Packing]:
        """The jobs in packs for `fit`, by `train.folds_at_once`; why, and how many side by side."""
        from models.hsta.packs import plan_packs

        return plan_packs(jobs, max_memory_mb)

    def prove(self, jobs: Sequence[FoldJob], fold: str, steps: int = 100) -> Proof:
        """One fold alone against the same fold beside the others; see `models.hsta.fold`."""
        from models.hsta.fold import prove_fold

        return prove_fold(jobs, fold, steps)

    def decode_fold(self, recipe: Recipe, folder: Path) -> None:
        """Class probabilities need no decoding."""

    def score(self, run: RunFiles) -> pd.DataFrame:
        """UF1, UAR, accuracy; see `models.scores.recognition`, of action units `.units`."""
        return _scores(run.recipe).score_table(run.predictions())

    def count(self, run: RunFiles, dataset: str | None = None) -> Counted:
        """Confusion counts per person."""
        return _scores(run.recipe).count(run.predictions(), dataset)

    def count_epochs(self, recipe: Recipe, folder: Path) -> FoldEpochs:
        """Confusion counts of a fold's people at every recorded epoch."""
        table = read_table(folder / "epochs.parquet")
        return _scores(recipe).count_epochs(folder.name, table)

    def rules(self, recipe: Recipe) -> dict[str, Any]:
        """A clip is named or not: no rules."""
        return {}

    def sections(self, run: RunFiles, most: int | None = None) -> Iterator[Section]:
        """Attention over a few clips, where the network is HSTA; not on the UI's small page."""
        if most is not None or run.recipe.network_name != "hsta":
            return
        from models.report.attention import NOTE, attention_strips

        found = list(attention_strips(run))
        if found:
            yield Section("Attention", NOTE, found, anchor="attention")

    def intervals(self, run: RunFiles) -> None:
        """Clips are given, not found."""


def _scores(recipe: Recipe) -> Any:
    """The room of scores that fits the labels."""
    from models.scores import recognition, units

    return units if recipe.labels == "aus" else recognition


FAMILY = ClipFamily()
