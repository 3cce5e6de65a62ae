"""The family of window networks: they spot intervals in whole videos and name them.

Accepted: settings with `in_channels`, and a forward pass (B, 1, in_channels, k) of ROI motion →
(spot probability (B, k), class logits (B, k, 5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.errors import StoreError
from data.stages.identity import stable_hash
from models.contract import Counted, Section
from models.scores.bootstrap import group_counts
from models.scores.table import nothing_scored

if TYPE_CHECKING:
    import pandas as pd

    from models.epoch_record import FoldEpochs
    from models.recipe import Recipe
    from models.runs.files import FoldJob, RunFiles
    from models.stacked.choice import Packing
    from models.stacked.proof import Proof


class WindowFamily:
    """See `models.contract.Family`."""

    name, spots, recognises = "spotting and recognition in videos", True, False
    multi_label = False

    def training_facts(self, recipe: Recipe) -> dict[str, Any]:
        """Strategy 0 trains without a neutral class; the other two train alike."""
        return {"strategy": 0} if recipe.decode.strategy == 0 else {}

    def fit(self, jobs: Sequence[FoldJob]) -> None:
        """A pack of folds: one as ever, several as one program."""
        from models.me_tst.fold import fit_folds

        fit_folds(jobs)

    def plan_packs(
        self, jobs: Sequence[FoldJob], max_memory_mb: float | None = None
    ) -> tuple[list[list[FoldJob]], Packing]:
        """The jobs in packs for `fit`, by `train.folds_at_once`; why, and how many side by side."""
        from models.me_tst.packs import plan_packs

        return plan_packs(jobs, max_memory_mb)

    def prove(self, jobs: Sequence[FoldJob], fold: str, steps: int = 100) -> Proof:
        """One fold alone against the same fold beside the others; see `models.me_tst.fold`."""
        from models.me_tst.fold import prove_fold

        return prove_fold(jobs, fold, steps)

    def decode_fold(self, recipe: Recipe, folder: Path) -> None:
        """Intervals again from the fold's curves."""
        from models.me_tst.fold import decode_fold

        decode_fold(recipe, folder)

    def score(self, run: RunFiles) -> pd.DataFrame:
        """Spotting, recognition, STRS; see `models.me_tst.scores`."""
        from models.me_tst.fold import score

        return score(run)

    def count(self, run: RunFiles, dataset: str | None = None) -> Counted:
        """Hits, misses and confusions per person."""
        from models.report.spotting import results_of
        from models.scores.spotting import recognition_of, scored_classes, spotting_of, statistics

        results = [r for r in results_of(run)[0] if dataset in (None, r.curves.dataset)]
        if not results:
            raise nothing_scored(dataset or run.folder.name)
        results.sort(key=lambda r: (r.curves.dataset, r.curves.video))
        people, counts = group_counts(
            [r.curves.person for r in results], np.stack([r.counts for r in results])
        )
        classes = scored_classes(r.curves.dataset for r in results)
        truth = [
            [c.dataset, c.video, list(c.truth.events), c.truth.emotions.tolist()]
            for c in (r.curves for r in results)
        ]

        def of(total: npt.NDArray[Any]) -> dict[str, Callable[[npt.NDArray[Any]], float]]:
            every = statistics(classes, total)
            return {name: every[name] for name in ("spotting_f1", "strs")}

        def describe(total: npt.NDArray[Any]) -> str:
            spot, named = spotting_of(total), recognition_of(total, classes)
            return (
                f"TP {spot.tp}, FP {spot.fp}, FN {spot.fn}; {named.num_samples} matched events "
                f"of {len(classes)} classes"
            )

        return Counted(people, counts, of, stable_hash(truth), describe, classes=tuple(classes))

    def count_epochs(self, recipe: Recipe, folder: Path) -> FoldEpochs:
        """Hits, misses and confusions of a fold's people at every recorded epoch."""
        from models.me_tst.epochs import count_epochs
        from models.me_tst.fold import protocol_of

        train: Any = recipe.train
        return count_epochs(recipe, folder, protocol_of(recipe.decode, train))

    def rules(self, recipe: Recipe) -> dict[str, Any]:
        """What counts as a hit, in which videos, and what is learned from tested people."""
        decode = recipe.decode
        return {
            "matcher": decode.matcher,
            "iou": decode.iou,
            "videos": decode.videos,
            "stitch": decode.stitch,
            "half-width of tested people": decode.k_p == "global",
        }

    def sections(self, run: RunFiles, most: int | None = None) -> Iterator[Section]:
        """Timelines of test videos with their key."""
        from models.report import spotting

        missing = "Timelines: not computed."
        try:
            shown, total = spotting.timelines(run, *(() if most is None else (most,)))
        except StoreError as error:
            shown, total, missing = [], 0, f"Timelines could not be drawn: {error}"
        note = spotting.note(run)
        if len(shown) < total:
            note += (
                f" {len(shown)} of {total} videos are shown; all curves are in the folds'"
                " curves.h5."
            )
        pictures = [(one.figure, one.caption) for one in shown]
        yield Section("Spotting", note, pictures, missing, spotting.colour_key(), "spotting")

    def intervals(self, run: RunFiles) -> dict[str, list[Any]]:
        """Predicted intervals in MEGC's form, by dataset."""
        from models.report.spotting import megc_rows

        return megc_rows(run)


FAMILY = WindowFamily()
