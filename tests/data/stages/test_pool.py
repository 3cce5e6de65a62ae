"""Many jobs in processes: results, errors, a killed child, a stopped child, a full disk, ^C."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from data.stages import crew
from data.stages.limits import WorkerDiedError
from data.stages.pool import map_jobs

ROOT = Path(__file__).resolve().parents[3]


def double(number: int) -> int:
    return 2 * number


def fail_on(bad: int, number: int) -> int:
    if number == bad:
        raise ValueError(f"number {number}")
    return number


def full_on(bad: int, number: int) -> int:
    if number == bad:
        raise OSError(errno.ENOSPC, "No space left on device")
    return number


def die(folder: Path, times: int, number: int) -> int:
    """Job 2 kills its own process, the first `times` times, as the kernel would."""
    mark = folder / f"{number}-{os.getpid()}-{time.monotonic_ns()}"
    mark.touch()
    if number == 2 and len(list(folder.glob("2-*"))) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stop_self(number: int) -> int:
    os.kill(os.getpid(), signal.SIGSTOP)
    return number


class OddError(Exception):
    """Pickles, and cannot be made again: its base is given other arguments."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} because of {why}")


class OddResult:
    """The same as a result."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return OddResult, ()


def odd(kind: str, number: int) -> object:
    if number == 1 and kind == "error":
        raise OddError("rain", "clouds")
    return OddResult(number) if number == 1 else number


def count_siblings(folder: Path, number: int) -> int:
    """As `die` once; at the second try, how many processes compute or wait to."""
    die(folder, 1, number)
    ours = psutil.Process(os.getppid()).children()
    return sum("spawn_main" in " ".join(child.cmdline()) for child in ours) if number == 2 else 0


def unpicklable(number: int) -> object:
    return lambda: number


@pytest.mark.parametrize("workers", [0, 2])
def test_every_job_gives_its_result(workers: int) -> None:
    assert sorted(map_jobs(double, list(range(5)), workers=workers)) == [0, 2, 4, 6, 8]
    assert list(map_jobs(double, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_after_the_good_results_and_its_job_is_discarded(workers: int) -> None:
    found, gone, told = [], [], {}
    with pytest.raises(ValueError, match="number 1"):
        for result in map_jobs(
            partial(fail_on, 1),
            [0, 1, 2, 3],
            workers=workers,
            discard=gone.append,
            ended=lambda job, error: told.update({job: error}),
        ):
            found.append(result)
    assert sorted(found) == [0, 2, 3] and gone == [1]
    assert isinstance(told.pop(1), ValueError) and set(told.values()) == {None}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_begins_nothing_more(workers: int) -> None:
    begun, gone = [], []
    with pytest.raises(OSError, match="No space left"):
        list(
            map_jobs(
                partial(full_on, 1),
                list(range(6)),
                workers=workers,
                started=begun.append,
                discard=gone.append,
            )
        )
    assert begun == [0, 1] and gone == [1]


def test_a_killed_child_costs_only_its_job_a_second_try(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone: list[int] = []
    with caplog.at_level(logging.WARNING):
        found = list(
            map_jobs(
                partial(die, tmp_path, 1),
                [1, 2, 3, 4],
                workers=2,
                label="chunk-{}".format,
                discard=gone.append,
            )
        )
    assert sorted(found) == [1, 2, 3, 4]
    assert {n: len(list(tmp_path.glob(f"{n}-*"))) for n in (1, 2, 3, 4)} == {1: 1, 2: 2, 3: 1, 4: 1}
    assert "chunk-2: expected its worker process to answer" in caplog.text and gone == [2]
    assert "signal 9" in caplog.text and "is repeated, alone" in caplog.text
    assert max(tmp_path.iterdir(), key=lambda p: int(p.name.split("-")[2])).name.startswith("2-")


def test_a_child_killed_twice_is_a_named_error(tmp_path: Path) -> None:
    found = []
    with pytest.raises(WorkerDiedError, match=r"chunk-2: .*--workers 1") as caught:
        for result in map_jobs(
            partial(die, tmp_path, 2), [1, 2, 3], workers=2, label="chunk-{}".format
        ):
            found.append(result)
    assert sorted(found) == [1, 3] and "memory" in str(caught.value)


def test_what_does_not_pickle_is_an_error_not_a_wait() -> None:
    with pytest.raises(RuntimeError, match=r"pickle|local object"):
        list(map_jobs(unpicklable, [1], workers=1))


@pytest.mark.parametrize(
    ("kind", "said"), [("error", "OddError: rain because of clouds"), ("result", "not understood")]
)
def test_what_cannot_be_made_again_is_an_error_of_its_job(kind: str, said: str) -> None:
    found = []
    with pytest.raises(RuntimeError, match=said) as caught:
        for result in map_jobs(partial(odd, kind), [0, 1, 2, 3], workers=1):
            found.append(result)
    assert found == [0, 2, 3]
    assert kind == "result" or "in odd" in caught.value.__notes__[0], "where it was raised"


def test_a_job_is_repeated_with_nobody_beside_it(tmp_path: Path) -> None:
    """Those that wait for a job keep the memory of their last one."""
    found = list(map_jobs(partial(count_siblings, tmp_path), [1, 2, 3, 4], workers=3))
    assert sorted(found) == [0, 0, 0, 1]


def test_who_waits_counts_in_the_ceiling_and_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class Process:
        def __init__(self, name: str) -> None:
            self.pid, self.kill, self.join = name, lambda: ended.append(name), lambda _: None

    def child(name: str, size: int) -> crew.Child:
        pipe: Any = SimpleNamespace(close=lambda: None)
        return crew.Child(Process(name), pipe, job=name, bytes=size)

    sizes = {"idle": 300, "other": 300, "small": 100, "large": 500}
    monkeypatch.setattr(crew, "_bytes_of", lambda child: sizes[child.process.pid])
    monkeypatch.setattr(crew, "_own_bytes", lambda process: 50)
    waiting = [child("idle", 0), child("other", 0)]
    found = crew.Crew(memory_bytes=1300, busy=[child("small", 100), child("large", 500)])
    found.idle = list(waiting)
    found._keep_ceiling()
    assert not ended and len(found.idle) == 2
    found.memory_bytes = 1200
    found._keep_ceiling()
    assert ended == ["idle", "other"] and not found.idle and not found.crowded
    found.memory_bytes = 600
    found._keep_ceiling()
    assert ended[2:] == ["large"] and found.crowded


def test_leaving_early_kills_even_a_stopped_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LOOK_S", 0.2)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt_when_stopped() -> None:
        while not any(
            child.status() == psutil.STATUS_STOPPED for child in psutil.Process().children()
        ):
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    gone: list[int] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under `pytest &`
    try:
        with pytest.raises(KeyboardInterrupt):
            watcher = threading.Thread(target=interrupt_when_stopped, daemon=True)
            watcher.start()
            list(map_jobs(stop_self, [1], workers=1, discard=gone.append))
    finally:
        signal.signal(signal.SIGINT, before)
    children = psutil.Process().children(recursive=True)
    assert gone == [1]
    assert not [c for c in children if c.status() == psutil.STATUS_STOPPED]


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, time
        from data.stages.pool import map_jobs

        def nap(path):
            open(path, "w").write(str(os.getpid()))
            time.sleep(600)

        if __name__ == "__main__":
            list(map_jobs(nap, [os.environ["MARK"]], workers=1))
        """)
    )
    mark = tmp_path / "pid"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": str(mark)}
    parent = subprocess.Popen([sys.executable, str(script)], env=env, cwd=ROOT)
    while not (mark.exists() and mark.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int(mark.read_text()))
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
