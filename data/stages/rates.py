"""How fast this machine is: seconds, bytes and memory of each stage, kept between runs.

A stage's work is counted in what makes it long: megapixels of raw frames read, or units where none
are read. Every run adds what it took to one small file of the user's cache (`rates.json`; another
place by APEXFLOW_RATES, none where that is empty), under the machine's name, the stage, its version
and its settings. It is news for `plan`, never part of a result: a file that cannot be read or
written is passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.settings import Settings
from data.stages.contract import Unit
from data.stages.files import replacing
from data.stages.identity import stable_hash

if TYPE_CHECKING:
    from data.recordings import Recordings

PATIENCE_S = 2.0  # for other runs that write the file
SAME, OTHER = "earlier work on this machine", "this machine under other settings"


@dataclass(frozen=True)
class Rate:
    """Sums over what was made so far; `peak_mb` is the most that one worker held."""

    seconds: float = 0.0
    work: float = 0.0
    bytes: float = 0.0
    peak_mb: float = 0.0
    source: str = SAME  # in words, for people

    def plus(self, other: Rate) -> Rate:
        """Both together. Older sums fade: a machine changes."""
        fade = 0.5 if self.work > other.work > 0 else 1.0
        return Rate(
            fade * self.seconds + other.seconds,
            fade * self.work + other.work,
            fade * self.bytes + other.bytes,
            max(self.peak_mb, other.peak_mb),
        )


def rates_path() -> Path | None:
    """Where rates are kept; None where none are."""
    chosen = os.environ.get("APEXFLOW_RATES")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "apexflow" / "rates.json"


def rate_key(stage: str, version: int, settings: Any, *more: Any) -> str:
    """The entry of a stage under these settings."""
    facts = settings.identity() if isinstance(settings, Settings) else settings
    return f"{stage}/{version}/{stable_hash(facts, *more)[:10]}"


def remember(key: str, rate: Rate) -> None:
    """Add what work took."""
    path = rates_path()
    if path is None or rate.work <= 0 or rate.seconds <= 0:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            known = _read(path)
            own = known.setdefault(platform.node(), {})
            sums = asdict(_rate(own[key]).plus(rate) if key in own else rate)
            own[key] = {name: value for name, value in sums.items() if name != "source"}
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
    except OSError:
        return


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While nobody else of this user changes the file. Raises OSError when they do for long."""
    with open(path.with_name(f"{path.name}.lock"), "a") as lock:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield


def recall(key: str) -> Rate | None:
    """What is known of a key on this machine; else of its stage under other settings."""
    path = rates_path()
    try:
        own = _read(path).get(platform.node(), {}) if path is not None else {}
    except OSError:
        return None
    if key in own:
        return _rate(own[key])
    stage = key.split("/")[0]
    others = [_rate(entry) for name, entry in own.items() if name.split("/")[0] == stage]
    if not others or stage == "train":  # another network says nothing
        return None
    most = max(others, key=lambda rate: rate.work)
    return Rate(most.seconds, most.work, most.bytes, most.peak_mb, OTHER)


def work_of(units: Iterable[Unit], recordings: Recordings) -> float:
    """Megapixels of raw frames that units read; units, where they read none."""
    table = recordings.table("videos")
    sizes = dict(zip(table.video, table.width.fillna(0) * table.height.fillna(0), strict=True))
    frames = dict(zip(table.video, table.num_frames, strict=True))
    total = 0.0
    for unit in units:
        if not unit.frames:
            total += 1
            continue
        onset, offset = unit.facts.get("onset"), unit.facts.get("offset")
        span = frames[unit.video]
        if onset is not None and offset is not None:
            span = min(span, max(1, offset - onset + 1))
        total += float(span) * max(1.0, float(sizes[unit.video])) / 1e6
    return total


def _rate(entry: Any) -> Rate:
    try:
        seconds, work, size, peak = (
            float(entry.get(name, 0.0)) for name in ("seconds", "work", "bytes", "peak_mb")
        )
        return Rate(seconds, work, size, peak)
    except (AttributeError, TypeError, ValueError):
        return Rate()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What is kept; nothing where no file is, or one that holds something else."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, dict)}
