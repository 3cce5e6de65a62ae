"""When, where and by what a run was made: a line for each time that something of it was.

`history.jsonl` lies in the run's folder beside its results and, as timings do, outside their
identity: the same run made twice has the same bytes but not the same history. Lines are only added.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data.project import project_commit, project_version
from data.stages.parts import versions_json

NAME = "history.jsonl"
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

    `device`: as `device_name` calls it where the work was done.
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
    line = json.dumps(asdict(session), sort_keys=True) + "\n"
    file = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
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
            one = Session(**json.loads(line))
            datetime.fromisoformat(one.began).timestamp()
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
        found.append(one)
    return found


def _versions() -> dict[str, str]:
    found: dict[str, str] = json.loads(versions_json())
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
