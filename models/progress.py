"""How far a fold is, for people: rate and time left, and a way out of worker processes.

A fold's `progress(share, text)` is called once an epoch. `ProgressFile` is such a callback that any
process can be given: it leaves the newest word in a small file, which `read_progress` reads.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from data.stages.files import replacing


@dataclass
class Pace:
    """Rate and time left of a training whose samples are counted as they are done."""

    unit: str  # what is counted: windows, clips
    total: int
    done: int = 0
    started: float = field(default_factory=time.perf_counter)

    def text(self, samples: int) -> str:
        """After `samples` more: "812 windows/s, 2 min left"."""
        self.done += samples
        rate = self.done / max(time.perf_counter() - self.started, 1e-9)
        left = max(0, self.total - self.done) / max(rate, 1e-9)
        return f"{rate:.0f} {self.unit}/s, {in_words(left)} left"


def in_words(seconds: float) -> str:
    """A span of time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class ProgressFile:
    """A progress callback that can cross a process border; it writes at most once a second."""

    path: Path

    def __call__(self, share: float, text: str) -> None:
        """Leave (share, text, time) for `read_progress`."""
        if self.path.exists() and share < 1 and time.time() - self.path.stat().st_mtime < 1:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps({"share": share, "text": text, "at": time.time()}))


def read_progress(path: Path) -> tuple[float, str] | None:
    """Share done and what was said last, or None where nothing readable was left."""
    try:
        found = json.loads(path.read_text())
        return float(found["share"]), str(found["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
