"""What a run and the workers that help it must agree on: code, versions, and the files they see.

The same bytes come out on another machine only if the same code in the same versions reads the
same files. A worker that differs is refused, in words, before it has done anything.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import ApexflowError
from data.stages.heartbeat import LEASE_S, Beat, UnreadableBeatError, read_beat
from data.stages.parts import versions_json

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("data", "models", "tasks", "flows")
SEEN_WITHIN_S = 10.0  # a network file system may show a new file a little later elsewhere


class SiteError(ApexflowError):
    """A worker has other code or versions than the run, or does not see its files."""

    code = "worker_refused"


class RunGoneError(ApexflowError):
    """The run that asked for a job has ended, or has lost its workspace."""

    code = "run_gone"


@functools.cache
def code_digest() -> str:
    """Of every source and table of the project, as this process found them first."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT).as_posix()}\x1f".encode())
                digest.update(path.read_bytes() + b"\x1e")
    return digest.hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what results depend on, torch among them."""
    from importlib.metadata import PackageNotFoundError, version

    found = dict(json.loads(versions_json()))
    for name in ("torch", "pandas", "distributed"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def processor() -> str:
    """The CPU's model: results are byte-identical on one model, and may not be across."""
    try:
        lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines())
        return next(said[1].strip() for said in lines if said[0].strip() == "model name")
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Site:
    """A run as a worker must see it. Picklable, and plain enough to be told as JSON."""

    workspace: str
    token: str
    roots: dict[str, str] = field(default_factory=dict)
    listings: dict[str, str] = field(default_factory=dict)  # root → digest of what lies in it
    code: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Path, token: str, roots: dict[str, Path]) -> Site:
        """The site of a run of this process."""
        places = {name: str(root) for name, root in roots.items()}
        listings = {name: _listing(root) for name, root in roots.items()}
        return cls(str(workspace), token, places, listings, code_digest(), versions())

    def check(self) -> None:
        """Raises SiteError with everything in which this process differs."""
        wrong = []
        if code_digest() != self.code:
            wrong.append(f"other code in {ROOT} (digest {code_digest()}, the run's {self.code})")
        mine = versions()
        for name in sorted({*self.versions, *mine}):
            if self.versions.get(name) != mine.get(name):
                wrong.append(
                    f"{name} {mine.get(name, 'not installed')}, "
                    f"the run {self.versions.get(name, 'none')}"
                )
        wrong += self._workspace_trouble()
        for name, root in self.roots.items():
            if not Path(root).is_dir():
                wrong.append(f"no folder {root} (dataset {name})")
            elif _listing(Path(root)) != self.listings[name]:
                wrong.append(f"{root} (dataset {name}) holds other files than the run sees")
        if wrong:
            raise SiteError(
                f"worker on {platform.node()}, process {os.getpid()}",
                expected="the code, versions and files of the run",
                got="; ".join(wrong),
                todo="Use one checkout, one environment and shared folders under the same paths.",
            )

    def _workspace_trouble(self) -> list[str]:
        folder = Path(self.workspace)
        end = time.monotonic() + SEEN_WITHIN_S
        while (beat := _beat(folder)) is None or beat.token != self.token:
            if not folder.is_dir() or time.monotonic() > end:
                return [f"no workspace {folder} in which the run beats"]
            time.sleep(0.2)
        probe = folder / f".probe-{secrets.token_hex(4)}.tmp"
        try:
            probe.write_text("")
        except OSError as error:
            return [f"workspace {folder} cannot be written ({error.strerror})"]
        finally:
            probe.unlink(missing_ok=True)
        return []


def scheduler_address(text: str) -> str:
    """`tcp://` before a plain HOST:PORT; anything else, a file's path included, as it is."""
    plain = re.fullmatch(r"[^/\s:]+:\d{1,5}", text) and not Path(text).exists()
    return f"tcp://{text}" if plain else text


def _beat(folder: Path, instead: Beat | None = None) -> Beat | None:
    """The workspace's beat; `instead` while it cannot be read, which says nothing new."""
    try:
        return read_beat(folder)
    except UnreadableBeatError:
        return instead


def _listing(root: Path) -> str:
    """Digest of the names in a folder; cheap enough to be asked of every worker."""
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError:
        names = []
    return hashlib.sha256("\x1f".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Pulse:
    """Whether the run that holds a workspace still beats, as seen from a worker."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seen: Beat | None = None
        self._since = self._asked = time.monotonic()
        self._missing = 0

    def check(self) -> None:
        """Raises RunGoneError when another holds the workspace, or nobody has for a while."""
        now = time.monotonic()
        if now - self._asked < 2.0:
            return
        self._asked = now
        beat = _beat(Path(self._site.workspace), self._seen)
        if beat is not None and beat.token == self._site.token and beat != self._seen:
            self._seen, self._since = beat, now
        self._missing = self._missing + 1 if beat is None else 0  # a run takes it away at its end
        other = beat is not None and beat.token != self._site.token
        if other or self._missing > 2 or now - self._since > LEASE_S:
            raise RunGoneError(
                f"workspace {self._site.workspace}",
                expected="the run that asked for this job to hold it",
                got="no beat of it any more",
                todo="The job is given up; nothing of it is published.",
            )
