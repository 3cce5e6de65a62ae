"""Which layout a folder looks like, when the one that was named does not fit.

Every adapter is asked whether it finds its recordings among the folders, which costs one walk; the
few that find most are read whole, and what they say of the copy is told: release, sheet, folders.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from data.datasets import ADAPTERS, get_adapter, open_dataset
from data.datasets.listing import walk
from data.datasets.report import Report
from data.errors import ApexflowError

READ = 3  # layouts read whole
PATIENT_S = 15.0  # for all layouts together: of a folder with half a disk below it, a few are tried


@dataclass(frozen=True)
class Guess:
    """A layout that reads this folder: how much of it, and which copy it is."""

    layout: str
    videos: int
    events: int
    dropped: int
    variant: dict[str, str]

    def sentence(self) -> str:
        """'this looks like casme2 (2014 sheet, frames RAW): 255 videos, 255 events'."""
        version, sheet, frames = (
            self.variant.get(name, "").split(",")[0]
            for name in ("sheet_version", "sheet", "frames")
        )
        known = version and not version.startswith("unknown")
        facts = [f"{version} sheet" if known else sheet, f"frames {frames}" if frames else ""]
        facts = [fact for fact in facts if fact]
        which = f" ({', '.join(facts)})" if facts else ""
        lost = f", {self.dropped} dropped" if self.dropped else ""
        counts = f"{self.videos} videos, {self.events} events{lost}"
        return f"this looks like {self.layout}{which}: {counts}"


def guess_layouts(root: Path, besides: str = "") -> list[Guess]:
    """Layouts that read `root`, the likeliest first; not `besides`. Nothing is written."""
    try:
        tree = walk(root)
    except OSError:
        return []
    found: dict[str, int] = {}
    until = time.monotonic() + PATIENT_S
    for name in ADAPTERS:
        if name == besides or time.monotonic() > until:
            continue
        adapter = get_adapter(name)
        try:
            found[name] = len(adapter.find_videos(tree, Report(name)))
        except (ApexflowError, LookupError, ValueError):
            continue
    likely = sorted((n for n in found if found[n]), key=lambda n: -found[n])[:READ]
    guesses: list[Guess] = []
    for name in likely:
        if guesses and time.monotonic() > until:
            break
        try:
            dataset = open_dataset(name, root)
        except ApexflowError:
            continue
        dropped = int((dataset.ledger.action == "dropped").sum())
        events, videos = len(dataset.events), len(dataset.videos)
        guesses.append(Guess(name, videos, events, dropped, dataset.variant))
    return sorted(guesses, key=lambda g: (-g.events, g.dropped, -g.videos))
