"""Locks across machines: removed locks, dead and living holders elsewhere, no lock service."""

from __future__ import annotations

import errno
import fcntl
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import LockedError
from data.stages import heartbeat
from data.stages.files import replacing
from data.stages.heartbeat import Beat, read_beat, write_beat
from data.stages.workspace import Workspace, _held
from data.stages.writing import StoreWriter


def elsewhere(count: int = 0) -> Beat:
    return replace(Beat.new("aa", "a far run"), machine="other boot pid:[1]", count=count)


def test_with_its_lock_removed_a_living_run_keeps_its_files_and_publishes_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "d" / "align"
    folder.mkdir(parents=True)
    with Workspace(tmp_path).lock(what="run first") as token:
        part = folder / f".part-00-aa.h5.{token}-1.tmp"
        part.write_bytes(b"in flight")
        (tmp_path / ".lock").unlink()
        with pytest.raises(LockedError, match=r"run first.*lock file was removed"):
            Workspace(tmp_path).lock().__enter__()
        assert part.read_bytes() == b"in flight", "nothing was swept"
        writer = StoreWriter(Workspace(tmp_path), folder, token)
        with pytest.raises(LockedError) as caught:
            writer.add_part(part, [], [], {"part": "part-00-aa.h5"})
        assert caught.value.code == "lost_lock" and not (folder / "part-00-aa.h5").exists()
    assert read_beat(tmp_path) is None, "it does not beat after its end"


def test_a_run_whose_heartbeat_is_anothers_stops(tmp_path: Path) -> None:
    workspace, theirs = Workspace(tmp_path), elsewhere()
    with workspace.lock():
        workspace.check_hold()
        write_beat(tmp_path, theirs)
        with pytest.raises(LockedError, match="the heartbeat of a far run"):
            workspace.check_hold()
    assert read_beat(tmp_path) == theirs, "another's beat is left alone"
    with workspace_of_nobody(tmp_path).lock():
        (tmp_path / heartbeat.BEAT_NAME).unlink()
        with pytest.raises(LockedError, match=r"no \.heartbeat"):
            workspace.check_hold()


def workspace_of_nobody(path: Path) -> Workspace:
    (path / heartbeat.BEAT_NAME).unlink()
    return Workspace(path)


def test_a_dead_holder_elsewhere_is_waited_out_and_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beat, now = elsewhere(), 0.0
    count: Callable[[], int] = lambda: 0  # noqa: E731

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        write_beat(tmp_path, replace(beat, count=count()))

    monkeypatch.setattr(time, "monotonic", lambda: now)
    write_beat(tmp_path, beat)
    assert heartbeat.wait_for_death(tmp_path, 0.0, sleep) is None
    assert heartbeat.LEASE_S < now < heartbeat.LEASE_S + 1 and "taken for dead" in caplog.text
    now, count = 0.0, lambda: int(now / heartbeat.BEAT_S)
    found = heartbeat.wait_for_death(tmp_path, 0.0, sleep)
    assert found is not None and now < heartbeat.BEAT_S + 1, "known at its next beat"
    now, dies = 0.0, 60.0
    count = lambda: int(min(now, dies) / heartbeat.BEAT_S)  # noqa: E731
    assert heartbeat.wait_for_death(tmp_path, 300.0, sleep) is None
    assert dies + heartbeat.LEASE_S - 5 < now < dies + heartbeat.LEASE_S + 5


def test_a_dead_holder_of_this_machine_is_known_at_once(tmp_path: Path) -> None:
    write_beat(tmp_path, replace(Beat.new("aa", "run"), created=1.0))  # its number used again
    with Workspace(tmp_path).lock():
        pass


def test_without_a_lock_service_the_heartbeat_keeps_runs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_service(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_service)
    with caplog.at_level(logging.WARNING), Workspace(tmp_path).lock(what="run one"):
        assert "not seen from other machines" in caplog.text and "No locks" in caplog.text
        with pytest.raises(LockedError, match="run one"):
            Workspace(tmp_path).lock().__enter__()


def test_locks_that_stay_on_one_machine_are_recognised() -> None:
    told = heartbeat.lock_trouble
    assert "nolock" in told("nfs", "rw,vers=3,nolock") and "localflock" in told(
        "lustre", "localflock"
    )
    assert not told("nfs4", "rw,local_lock=none") and not told("ext4", "rw")
    assert heartbeat.file_system(Path("/proc/self"))[0] == "proc"


def test_a_heart_beats_and_says_when_it_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    heart = heartbeat.Heart(tmp_path, Beat.new("aa", "run"))
    while (read_beat(tmp_path) or elsewhere()).count < 3:
        assert heart._thread.is_alive() and not heart.lost
        time.sleep(0.01)
    with replacing(tmp_path / heartbeat.BEAT_NAME) as temporary:
        temporary.write_text((tmp_path / heartbeat.BEAT_NAME).read_text().replace('"aa"', '"bb"'))
    while not heart.lost:
        time.sleep(0.01)
    heart.stop()
    assert not heart._thread.is_alive() and (tmp_path / heartbeat.BEAT_NAME).exists()


class Disk:
    """A file server that fails for a while: a clock by hand, and reads that give EIO until then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.now, self.fails_until, read = 100.0, 0.0, Path.read_text

        def read_text(path: Path, *args: Any, **more: Any) -> str:
            if path.name in names and self.now < self.fails_until:
                raise OSError(errno.EIO, "Input/output error")
            return read(path, *args, **more)

        monkeypatch.setattr(Path, "read_text", read_text)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def set_clock_of(self, heart: heartbeat.Heart, monkeypatch: pytest.MonkeyPatch) -> None:
        """The heart waits by this clock too."""

        def wait(timeout: float) -> bool:
            self.sleep(0.0 if heart._end.is_set() else timeout)
            return heart._end.is_set()

        monkeypatch.setattr(heart._end, "wait", wait)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("names", [[heartbeat.BEAT_NAME], [".lock"]])
def test_a_disk_that_fails_for_a_moment_costs_no_run_its_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    workspace = Workspace(tmp_path)
    monkeypatch.setattr(heartbeat.Heart, "_run", lambda heart: None)
    with workspace.lock():
        disk = Disk(monkeypatch, *names)
        disk.set_clock_of(_held[tmp_path].heart, monkeypatch)
        disk.fails_until = disk.now + 1.0
        workspace.check_hold()
        assert 101 < disk.now < 102, "it waited until it could read"
        disk.fails_until = disk.now + 1e9
        with pytest.raises(LockedError) as caught:
            workspace.check_hold()
        assert caught.value.code == "lost_lock" and 120 < disk.now < 125
        disk.fails_until = 0.0
    heart = heartbeat.Heart(tmp_path, Beat.new("aa", "run"))
    disk.set_clock_of(heart, monkeypatch)
    start, disk.fails_until = disk.now, disk.now + 1e9
    heart.stop()
    assert disk.now < start + 1, "an end does not wait for the disk"


def test_a_contender_waits_for_a_beat_that_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, heartbeat.BEAT_NAME)
    for beat in (Beat.new("aa", "run"), elsewhere()):
        write_beat(tmp_path, beat)
        start, disk.fails_until = disk.now, disk.now + 3.0

        def sleep(seconds: float, beat: Beat = beat) -> None:
            disk.sleep(seconds)
            write_beat(tmp_path, replace(beat, count=int(disk.now / heartbeat.BEAT_S)))

        assert heartbeat.wait_for_death(tmp_path, start + 1.0, sleep) is not None
    disk.fails_until = disk.now + 1e9
    start = disk.now
    assert heartbeat.wait_for_death(tmp_path, start, disk.sleep) is None
    assert heartbeat.LEASE_S < disk.now - start < heartbeat.LEASE_S + 2
    with pytest.raises(heartbeat.UnreadableBeatError, match="Input/output"):
        read_beat(tmp_path)


def test_a_living_neighbour_is_not_dead_after_a_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is asked; that its beat cannot be read for a moment says nothing."""
    write_beat(tmp_path, Beat.new("aa", "run"))
    disk = Disk(monkeypatch, heartbeat.BEAT_NAME)

    def sleep(seconds: float) -> None:
        disk.sleep(seconds)
        if 150 < disk.now < 151:
            disk.fails_until = disk.now + 1.0

    assert heartbeat.wait_for_death(tmp_path, disk.now + 90.0, sleep) is not None


def test_mount_points_in_any_script_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "données 被试" / "a\\b"
    folder.mkdir(parents=True)
    names = [str(p).replace("\\", "\\134").replace(" ", "\\040") for p in (folder, folder.parent)]
    table = tmp_path / "mounts"
    table.write_text(f"/dev/a / ext4 rw 0 0\nsrv:/x {names[1]} nfs rw,nolock 0 0\n")
    assert heartbeat.file_system(folder / "ws", table) == ("nfs", "rw,nolock")
    with table.open("a") as file:
        file.write(f"srv:/y {names[0]} lustre rw 0 0\n")
    assert heartbeat.file_system(folder, table) == ("lustre", "rw")
    assert heartbeat.file_system(folder.parent, table) == ("nfs", "rw,nolock")
