"""The stand-in for Slurm: a cancelled job ends with all that it started, and so do those left."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.fakes.fake_slurm import FakeSlurm


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_nothing_of_a_job_outlives_it(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path / "slurm")
    script = tmp_path / "job.sh"
    script.write_text('(trap "" TERM; sleep 600) & echo $! > child-$SLURM_JOB_ID; sleep 600\n')

    def run(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout

    def lives(name: str) -> bool:
        path = slurm.jobs / name
        found = path.exists() and path.read_text().strip()
        return bool(found) and psutil.pid_exists(int(found))

    for number in (1, 2):
        assert f"batch job {number}" in run(str(slurm.bin / "sbatch"), str(script))
        until(lambda n=number: lives(f"child-{n}"))  # type: ignore[misc]
    sleepers = {p for pid in slurm.pids().values() for p in psutil.Process(pid).children(True)}
    ours = [p for p in sleepers if p.name() == "sleep"]
    run(str(slurm.bin / "scancel"), "1")
    until(lambda: set(slurm.pids()) == {2})
    slurm.close()
    until(lambda: not slurm.pids() and not any(map(_runs, ours)))
    assert len(ours) >= 2


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
