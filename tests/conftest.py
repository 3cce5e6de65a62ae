"""Shared fixtures: synthetic datasets made once, and the command line as a person calls it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores
os.environ.setdefault("APEXFLOW_RATES", "")  # tests say nothing of how fast a machine is

ROOT = Path(__file__).resolve().parent.parent


def run_cli(*words: str, ok: bool = True, timeout: float = 280, **env: str) -> Any:
    """Run `python -m flows WORDS` from the checkout; returns the finished process."""
    done = subprocess.run(
        [sys.executable, "-m", "flows", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if ok:
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="session")
def cli() -> Callable[..., Any]:
    """The command line; fails the test when the exit code is not 0, unless ok=False."""
    return run_cli


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Dataset name → root of a synthetic `smoke` set (seed 0), to be read only.

    It is rendered when first asked for, once for all test processes of a session.
    """
    from data.synthetic import write_dataset

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    shared.mkdir(exist_ok=True)

    class Rendered(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            with open(shared / f"{name}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self[name] = shared / name
                if not self[name].exists():
                    write_dataset(name, self[name], preset="smoke", seed=0, workers=1)
            return self[name]

    return Rendered()


@pytest.fixture
def as_json() -> Callable[[Any], Any]:
    """Parse a finished command's output."""
    return lambda done: json.loads(done.stdout)
