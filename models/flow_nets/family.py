"""The family of networks that read one picture of flow an event and name its class.

Accepted: settings with `image_size`, `num_classes` and `source` (flow | pictures), and a forward
pass (B, 3, image_size, image_size) → (B, num_classes). Scores, comparison and report are those of
clip classifiers, so that such a network stands beside HSTA on the same samples and folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from data.errors import ConfigError
from models.contract import Section
from models.hsta.family import ClipFamily

if TYPE_CHECKING:
    from models.runs.files import FoldJob, RunFiles
    from models.stacked.choice import Packing
    from models.stacked.proof import Proof


class FlowNetFamily(ClipFamily):
    """See `models.family.Family`."""

    multi_label = False  # a picture has one class
    recognises = False  # `predict` makes clips, not flow pictures

    def fit(self, jobs: Sequence[FoldJob]) -> None:
        """Fold after fold; the pictures are read once."""
        from models.flow_nets.fold import fit_folds

        fit_folds(jobs)

    def plan_packs(
        self, jobs: Sequence[FoldJob], max_memory_mb: float | None = None
    ) -> tuple[list[list[FoldJob]], Packing]:
        """Several folds a pack, so that each process reads the pictures once."""
        from models.flow_nets.fold import plan_packs

        return plan_packs(jobs)

    def prove(self, jobs: Sequence[FoldJob], fold: str, steps: int = 100) -> Proof:
        """Raises ConfigError: these folds are never one program."""
        raise ConfigError(
            "proof",
            expected="a network whose folds can be trained as one program",
            got=jobs[0].recipe.network_name,
            todo="Its folds are trained one after the other: there is nothing to prove.",
        )

    def sections(self, run: RunFiles, most: int | None = None) -> Iterator[Section]:
        """None of its own."""
        return iter(())


FAMILY = FlowNetFamily()
