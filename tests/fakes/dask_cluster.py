"""A real Dask scheduler and real workers, as a person starts them, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


class DaskCluster:
    """Processes of one test; `close` ends them all."""

    def __init__(self, folder: Path, **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / "scheduler.json"
        self._env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(
            "scheduler",
            *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"),
            *("--scheduler-file", str(self.file), "--no-dashboard"),
        )
        self.wait(self.file.exists)

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def add_worker(self, *words: str) -> subprocess.Popen[bytes]:
        """`python -m flows worker`; does not wait for it."""
        name = f"worker-{len(self.workers)}"
        process = self._start(
            name, "flows", "worker", "--scheduler", str(self.file), "--workers", "1", *words
        )
        self.workers.append(process)
        return process

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait(self, ready: Any, seconds: float = 120.0) -> None:
        """Until `ready()`; fails with all logs."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = {p.name: p.read_text()[-2000:] for p in self.folder.glob("*.log")}
                raise AssertionError(logs)
            time.sleep(0.1)

    def close(self) -> None:
        """End everything at once."""
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.wait()
