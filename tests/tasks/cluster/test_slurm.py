"""Workers as batch jobs, with stand-ins for Slurm's programs: adapt, wall time, requeue, end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("dask_jobqueue")

from data.stages.workspace import Workspace
from tasks.cluster.carrier import connected
from tasks.request import RunRequest
from tests.fakes.fake_slurm import FakeSlurm, count

pytestmark = pytest.mark.slow
PROFILE = """
cores: 1
memory: 2GB
walltime: "00:10:00"
minimum: 1
maximum: 2
host: 127.0.0.1
python: {python}
logs: {logs}
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    found = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", found.path)
    yield found
    found.close()


def until(ready: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def tries(folder: Path) -> list[Path]:
    return sorted(folder.glob("a.try-*"), key=lambda p: p.stat().st_mtime_ns)


def test_told_of_its_wall_time_a_job_hands_its_work_to_the_next(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text(PROFILE.format(python=sys.executable, logs=slurm.jobs))
    request = RunRequest(workspace=str(tmp_path / "ws"), scheduler=f"slurm:{profile}")
    told: list[int] = []

    def warn() -> None:  # what `--signal=B:USR1@120` does
        until(lambda: (tmp_path / "a.resume").exists())
        time.sleep(1)
        worker = int(tries(tmp_path)[0].name.split("-")[2])
        assert worker in slurm.pids().values(), "the worker is the job's own process"
        told.append(worker)
        os.kill(worker, signal.SIGUSR1)
        until(lambda: len(tries(tmp_path)) == 2)
        (tmp_path / "go").touch()

    threading.Thread(target=warn, daemon=True).start()
    with Workspace(tmp_path / "ws").lock(), connected(request) as carrier:
        jobs = [str(tmp_path / "a")]
        [(name, number)] = list(carrier.carry(count, jobs, label=lambda job: Path(job).name))
    first, second = tries(tmp_path)
    assert name == "a" and number >= 5 and int(second.read_text()) > 0, "it did not start again"
    assert first.name.split("-")[2] != second.name.split("-")[2] and slurm.submitted() >= 2
    script = (slurm.jobs / "1.sh").read_text()
    assert "#SBATCH --signal=B:USR1@120" in script and "#SBATCH -t 00:10:00" in script
    until(lambda: not slurm.pids(), 30)  # all jobs end with the run
    until(lambda: not psutil.pid_exists(told[0]), 30)
