"""Where everything of a run lives, and who may write there.

    <workspace>/<dataset>/<stage>/      stores of the preprocessing stages
    <workspace>/runs/<recipe>/<run id>/ trained folds, predictions, metrics, report

One process writes to a workspace at a time. The lock is an advisory `flock` that the kernel drops
when its holder dies, however it dies; the file's text names the holder for the one who is refused.
Beside it a heartbeat (`data.stages.heartbeat`) says across machines whether the holder lives, also
when somebody has removed the lock. Both carry the run's token, read again before each publication.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from data.errors import ConfigError, LockedError
from data.stages.files import TEMP_SUFFIX, recover
from data.stages.heartbeat import (
    BEAT_NAME,
    SETTLE_S,
    SHARED,
    Beat,
    Heart,
    file_system,
    lock_trouble,
    patiently,
    wait_for_death,
)

LOCK_NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
logger = logging.getLogger(__name__)
_held: dict[Path, Hold] = {}  # workspaces this process holds


@dataclass(frozen=True)
class Hold:
    """How this process holds a workspace."""

    token: str
    inode: int  # of the lock file
    heart: Heart


class Workspace:
    """Paths inside one workspace folder. Creating the object touches nothing."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def stage(self, dataset: str, stage: str) -> Path:
        """Folder of one dataset's stage store."""
        return self.path / dataset / stage

    def run(self, recipe: str, run_id: str) -> Path:
        """Folder of one training run."""
        return self.path / "runs" / recipe / run_id

    def datasets(self) -> list[str]:
        """Names of datasets that have at least one stage folder."""
        if not self.path.is_dir():
            return []
        return sorted(
            p.name
            for p in self.path.iterdir()
            if p.is_dir() and p.name != "runs" and not p.name.startswith(".")
        )

    @contextmanager
    def lock(self, *, wait_s: float = 0.0, what: str = "run") -> Iterator[str]:
        """Hold the workspace; yields the run's token. Leftovers of dead runs are swept first.

        Raises LockedError naming the holder (process, host, since when, what) if it is still held
        after `wait_s` seconds; ConfigError if the folder cannot be made or written.
        """
        until = time.monotonic() + wait_s
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = _acquire(self.path / LOCK_NAME, until)
        except OSError as error:
            raise ConfigError(
                f"workspace {self.path}",
                expected="a folder this user can write",
                got=str(error),
                todo="Choose another --workspace or fix its permissions.",
            ) from error
        with file:
            living = wait_for_death(self.path, until, time.sleep)
            if living is not None:
                raise _locked(self.path, f"one held by {living}, though its lock file was removed")
            beat = Beat.new(secrets.token_hex(4), what)
            file.truncate(0)
            json.dump(
                {
                    "pid": beat.pid,
                    "host": beat.host,
                    "what": what,
                    "since": beat.since,
                    "token": beat.token,
                },
                file,
            )
            file.flush()
            heart = Heart(self.path, beat)
            _held[self.path] = Hold(beat.token, os.fstat(file.fileno()).st_ino, heart)
            try:
                if file_system(self.path)[0] in SHARED:  # another machine may take it just now
                    time.sleep(SETTLE_S)
                self.check_hold()
                for folder in _store_folders(self.path):
                    recover(folder)
                sweep(self.path)
                for path in self.path.glob(f"{BEAT_NAME}.*"):  # of writers that were killed
                    if beat.token not in path.name:
                        path.unlink(missing_ok=True)
                yield beat.token
            finally:
                del _held[self.path]
                heart.stop()
                file.truncate(0)

    def check_hold(self) -> None:
        """Before something is published: is the lock that this process took still its own?

        Raises LockedError when the lock file was removed, replaced or taken over. A process that
        never locked the workspace (a test, a reader) is not asked.
        """
        if self.path not in _held:
            return
        hold = _held[self.path]
        path = self.path / LOCK_NAME
        try:
            inode, text = patiently(lambda: (path.stat().st_ino, path.read_text()), time.sleep)
            mine = inode == hold.inode and json.loads(text)["token"] == hold.token
        except (OSError, ValueError, KeyError):
            mine = False
        if not mine or not hold.heart.owns():
            got = hold.heart.lost or f"a lock file {path.name} that was removed or taken over"
            raise LockedError(
                f"workspace {self.path}",
                expected="this run to hold it",
                got=got,
                todo="Another run may be writing here: look, then run again.",
                code="lost_lock",
            )


def _acquire(path: Path, until: float) -> TextIO:
    """The lock file, opened and locked. Raises LockedError naming who holds it."""
    while True:
        file = open(path, "a+")  # noqa: SIM115 (held for the whole run)
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if trouble := lock_trouble(*file_system(path)):
                _say_no_locks(path.parent, trouble)
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass  # removed between opening and locking it
        except BlockingIOError:
            if time.monotonic() >= until:
                text = _holder(path)
                file.close()
                raise _locked(path.parent, f"one held by {text}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
            _say_no_locks(path.parent, str(error))
            return file
        file.close()
        time.sleep(min(0.2, max(0.0, until - time.monotonic())))


def _holder(path: Path) -> str:
    """'run hsta_cpu, process 812 on lab3, since 2026-11-26 21:40', as the lock's file tells."""
    text = path.read_text(errors="replace")
    try:
        facts = json.loads(text)
        since = datetime.fromisoformat(facts["since"]).astimezone()
        return (
            f"{facts['what']}, process {facts['pid']} on {facts['host']}, since "
            f"{since:%Y-%m-%d %H:%M}"
        )
    except (ValueError, LookupError, TypeError):
        return text[:200] or "an unnamed process"


def _say_no_locks(workspace: Path, why: str) -> None:
    logger.warning(
        "%s: locks there are not seen from other machines (%s); runs are kept apart by the "
        "heartbeat file alone",
        workspace,
        why,
    )


def _locked(workspace: Path, got: str) -> LockedError:
    return LockedError(
        f"workspace {workspace}",
        expected="no other run on it",
        got=got,
        todo="Wait for it (--wait SECONDS), stop it, or use another --workspace.",
    )


def _store_folders(root: Path) -> list[Path]:
    """Folders with a manifest of their own: a dataset's stages, and runs."""
    stages = [p for p in root.glob("*/*") if p.is_dir() and p.parent.name != "runs"]
    return sorted([*stages, *(p for p in root.glob("runs/*/*") if p.is_dir())])


def sweep(root: Path) -> list[Path]:
    """Remove temporary files that dead runs left; call only while holding the lock."""
    gone = []
    for folder in _store_folders(root):
        depth = 3 if folder.is_relative_to(root / "runs") else 2  # folds keep resume points
        for above in ("", "*/", "*/*/")[:depth]:
            for path in folder.glob(f"{above}.*{TEMP_SUFFIX}"):
                if path.is_file():
                    path.unlink()
                    gone.append(path)
    return gone
