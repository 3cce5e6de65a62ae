"""When, where and by what a run was made: a line for each time that something of it was.

`history.jsonl` lies in the run's folder beside its results and, as timings do, outside their
identity: the same run made twice has the same bytes but not the same history. Lines are only added.
Each ends with a digest of itself and of the folder's name: one that was changed, or is another
run's, is left out. (A line without one is of a version before these.)
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.project import project_commit, project_version
from data.stages.parts import versions_json

NAME = "history.jsonl"
CHECK = "check"  # the field of a line that holds its digest
PACKAGES = ("torch", "prefect", "pandas", "scipy")  # beside those that stores record


@dataclass(frozen=True)
class Session:
    """One time that a step of a run was done. `began` is UTC; `seconds` is wall clock."""

    step: str
    began: str
    seconds: float
    units: int  # folds trained, or scores and report written
    device: str
    host: str
    version: str
    commit: str
    versions: dict[str, str] = field(default_factory=dict)
    stages: dict[str, list[int]] = field(default_factory=dict)  # "align casme2" → [made, units]

    @property
    def day(self) -> str:
        """'2026-11-26 21:40', local time."""
        return f"{datetime.fromisoformat(self.began).astimezone():%Y-%m-%d %H:%M}"


def note_session(
    folder: Path,
    step: str,
    units: int,
    seconds: float,
    device: str,
    stages: dict[str, list[int]] | None = None,
) -> Session:
    """Add what has just ended to a run's history; returns it.

    `device`: as `models.devices.device_name` calls it where the work was done.
    `stages`: what was done before it in the same go, of how much.
    """
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    session = Session(
        step,
        began.isoformat(timespec="seconds"),
        round(seconds, 2),
        units,
        device,
        platform.node(),
        project_version(),
        project_commit(),
        _versions(),
        stages or {},
    )
    told = asdict(session)
    line = json.dumps({**told, CHECK: _digest(folder, told)}) + "\n"
    file = os.open(folder / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        cut = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a full disk, a crash
        os.write(file, (b"\n" if cut else b"") + line.encode())
    finally:
        os.close(file)
    return session


def read_history(folder: Path) -> list[Session]:
    """The run's sessions, oldest first; lines that cannot be read are left out: it is only news."""
    try:
        lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            told = json.loads(line)
            if told.pop(CHECK, None) not in (_digest(folder, told), None):
                continue
            one = Session(**told)
            datetime.fromisoformat(one.began).timestamp()
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        found.append(one)
    return found


def _digest(folder: Path, told: dict[str, Any]) -> str:
    text = f"{folder.resolve().name} {json.dumps(told, sort_keys=True)}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found: dict[str, str] = json.loads(versions_json())
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
