"""Whether the run that holds a workspace still lives, told across machines by a file that changes.

A kernel drops a dead process's `flock`, but where the file system keeps locks to each machine, or
has none, another machine does not see it. So a holder also writes a heartbeat: who it is, and a
count that grows. On the holder's own machine its process is asked; from elsewhere the count is
watched, by the watcher's own clock. Its token is what a publication is checked against. A beat that
cannot be read, as where a file server fails for a moment, is no sign that there is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
logger = logging.getLogger(__name__)
BEAT_NAME = ".heartbeat"
BEAT_S = 3.0  # between two beats
LEASE_S = 20.0  # a count that stands still for so long is a dead holder's
OLD_S = 900.0  # a beat that is older than this, by the file server's clock, is not watched
SETTLE_S = 2.0  # where two may take a workspace at once, the one whose beat stays has it
SHARED = (
    *("nfs", "nfs4", "lustre", "cifs", "smb3", "smbfs", "beegfs", "gpfs", "ceph", "glusterfs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "9p", "virtiofs", "afs", "pvfs2", "panfs"),
)
LOCAL_LOCKS = ("nolock", "local_lock=all", "local_lock=flock", "localflock")


class UnreadableBeatError(OSError):
    """There is a beat, and its file cannot be read or holds something else."""


@dataclass(frozen=True)
class Beat:
    """Who holds a workspace, and how often it has said so."""

    token: str
    what: str
    since: str
    host: str
    machine: str  # host, boot and process namespace: where `pid` means something
    pid: int
    created: float  # the process's start, so that a number used again is not taken for it
    count: int = 0

    @classmethod
    def new(cls, token: str, what: str) -> Beat:
        """The first of this process."""
        import psutil

        me = psutil.Process()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            token, what, since, socket.gethostname(), this_machine(), me.pid, me.create_time()
        )

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host}, since {self.since})"


def this_machine() -> str:
    """Names where this process's number means something: host, boot, process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def process_lives(pid: int, created: float) -> bool:
    """Whether the process that began at `created` still runs; a zombie does not."""
    import psutil

    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def read_beat(workspace: Path) -> Beat | None:
    """The workspace's beat; None where there is none. Raises UnreadableBeatError."""
    trouble: Exception | None = None
    for _ in range(3):
        try:
            return Beat(**json.loads((workspace / BEAT_NAME).read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:  # stale handle of a file just replaced
            trouble = error
            time.sleep(0.05)
    raise UnreadableBeatError(f"{workspace / BEAT_NAME}: {trouble}") from trouble


def patiently(read: Callable[[], Result], sleep: Callable[[float], object]) -> Result:
    """What `read` gives, tried again for LEASE_S where it fails for another reason than absence.

    Raises FileNotFoundError at once, another OSError at the end.
    """
    end = time.monotonic() + LEASE_S
    while True:
        try:
            return read()
        except FileNotFoundError:
            raise
        except OSError:
            if time.monotonic() >= end:
                raise
            sleep(0.2)


def write_beat(workspace: Path, beat: Beat) -> None:
    """Replace the workspace's beat; a reader sees the old one whole or the new one whole."""
    path = workspace / BEAT_NAME
    temporary = path.with_name(f"{BEAT_NAME}.{beat.token}")
    temporary.write_text(json.dumps(asdict(beat)))
    temporary.replace(path)


def wait_for_death(workspace: Path, until: float, sleep: Callable[[float], None]) -> Beat | None:
    """Wait for the holder that a heartbeat names to end: None once there is none that lives.

    Gives the living holder's beat when `until` (monotonic seconds) has come. A holder elsewhere is
    watched for LEASE_S even past that: without it nobody can tell. One whose beat cannot be read is
    waited for as one who is silent.
    """
    seen: Beat | None = None
    since = time.monotonic()
    while True:
        try:
            beat = read_beat(workspace)
        except UnreadableBeatError as error:
            if time.monotonic() - since > LEASE_S:
                logger.warning("%s, for %.0f s: its holder is taken for dead", error, LEASE_S)
                return None
            sleep(0.2)
            continue
        if beat is None:
            return None
        now = time.monotonic()
        if beat.machine == this_machine():
            if not process_lives(beat.pid, beat.created):
                return None
            lives, since = True, now
        elif seen is None or (beat.token, beat.count) != (seen.token, seen.count):
            lives, seen, since = seen is not None, beat, now
            if not lives and _age(workspace) > OLD_S:
                return None
        else:
            lives = False
            if now - since > LEASE_S:
                logger.warning("%s gave no sign for %.0f s: taken for dead", beat, now - since)
                return None
        if lives and now >= until:
            return beat
        sleep(0.2)


def _age(workspace: Path) -> float:
    """Seconds since the last beat by the clock of whoever keeps the files; 0 where not known."""
    probe = workspace / f"{BEAT_NAME}.probe-{os.getpid()}"
    try:
        probe.write_text("")
        return probe.stat().st_mtime - (workspace / BEAT_NAME).stat().st_mtime
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


class Heart:
    """Beats for a holder, in a thread, until `stop` or until the workspace is another's."""

    def __init__(self, workspace: Path, beat: Beat) -> None:
        self._workspace, self._beat = workspace, beat
        self.lost = ""  # why the workspace is no longer ours
        self._end = threading.Event()
        write_beat(workspace, beat)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def owns(self) -> bool:
        """Whether the beat in the workspace is still ours; asks the disk, again while it fails."""
        if not self.lost:
            try:
                found = patiently(lambda: read_beat(self._workspace), self._wait)
            except OSError as error:
                self.lost = f"a heartbeat that cannot be read ({error})"
                return False
            if found is None:
                self.lost = f"no {BEAT_NAME} any more"
            elif found.token != self._beat.token:
                self.lost = f"the heartbeat of {found}"
        return not self.lost

    def _wait(self, seconds: float) -> None:
        if self._end.wait(seconds):
            raise UnreadableBeatError("not waited for at the end")

    def stop(self) -> None:
        """Stop beating; the file goes, if it is ours."""
        self._end.set()
        self._thread.join()
        if self.owns():
            (self._workspace / BEAT_NAME).unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._end.wait(BEAT_S) and self.owns():
            self._beat = replace(self._beat, count=self._beat.count + 1)
            with contextlib.suppress(OSError):  # a full disk: the next one may be written
                write_beat(self._workspace, self._beat)


_ESCAPE = re.compile(r"\\(040|011|012|134)")  # all that the kernel writes otherwise


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> tuple[str, str]:
    """Type and options of the file system that holds a path; empty where the system tells none."""
    best, found = "", ("", "")
    with contextlib.suppress(OSError):
        place = str(path.resolve())
        for line in mounts.read_text(errors="surrogateescape").split("\n"):
            if not line:
                continue
            _, mount, kind, options, *_ = line.split(" ")
            mount = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), mount)
            inside = place == mount or place.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, found = mount, (kind, options)
    return found


def lock_trouble(kind: str, options: str) -> str:
    """Why a `flock` there is not seen from other machines; "" where it is, or nobody else looks."""
    local = [o for o in options.split(",") if o in LOCAL_LOCKS]
    return f"{kind} is mounted with {local[0]}" if kind in SHARED and local else ""
