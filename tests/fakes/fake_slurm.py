"""Programs that stand in for Slurm's: batch jobs are processes of this machine."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

import psutil

SBATCH = """#!/bin/sh
# `sbatch SCRIPT`: keep a copy, start it as a session of its own, say its number.
for script; do :; done
cd "{folder}" || exit 1
number=$(( $(ls | grep -c '[.]sh$') + 1 ))
cp "$script" "$number.sh"
SLURM_JOB_ID=$number setsid sh "$number.sh" > "$number.log" 2>&1 < /dev/null &
echo $! > "$number.pid"
echo "Submitted batch job $number"
"""
SCANCEL = """#!/bin/sh
for number; do kill -TERM "-$(cat "{folder}/$number.pid")" 2>/dev/null; done
exit 0
"""
SQUEUE = """#!/bin/sh
cd "{folder}" || exit 1
for file in *.pid; do kill -0 "$(cat "$file")" 2>/dev/null && echo "${{file%.pid}} RUNNING"; done
exit 0
"""


class FakeSlurm:
    """`bin` goes first on the PATH; what ran is in `jobs`."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.jobs = folder / "bin", folder / "jobs"
        self.bin.mkdir(parents=True)
        self.jobs.mkdir()
        for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL), ("squeue", SQUEUE)):
            path = self.bin / name
            path.write_text(text.format(folder=self.jobs))
            path.chmod(path.stat().st_mode | stat.S_IEXEC)

    @property
    def path(self) -> str:
        """A PATH with these programs first."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    def pids(self) -> dict[int, int]:
        """Job → process, of the jobs that still run."""
        found = {int(p.stem): int(p.read_text()) for p in self.jobs.glob("*.pid") if p.read_text()}
        return {job: pid for job, pid in found.items() if _runs(pid)}

    def submitted(self) -> int:
        """How many jobs were submitted."""
        return len(list(self.jobs.glob("*.sh")))

    def close(self) -> None:
        """End what still runs: of each job its shell, and all that this has started."""
        sessions = {int(p.read_text()) for p in self.jobs.glob("*.pid") if p.read_text()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.getsid(process.pid) in sessions:
                    process.kill()


def count(job: str) -> tuple[str, int]:
    """A job that goes on from its resume point: a number in a file, until told to go on."""
    folder, name = Path(job).parent, Path(job).name
    point = folder / f"{name}.resume"
    number = int(point.read_text()) if point.exists() else 0
    (folder / f"{name}.try-{os.getpid()}-{os.getppid()}").write_text(str(number))
    while number < 5 or not (folder / "go").exists():
        number += 1
        point.with_suffix(".tmp").write_text(str(number))
        point.with_suffix(".tmp").replace(point)
        time.sleep(0.1)
    return name, number


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
