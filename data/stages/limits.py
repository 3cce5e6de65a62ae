"""What a job may take, and the errors of one that took more: time, memory, its process's life.

The limits stand outside of every key: a result that came within them is the same as without.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

from data.errors import ApexflowError, ConfigError

LEAST_S = 600.0  # no unit is given less, whatever its stage's history says
FACTOR = 20.0  # times what the slowest chunk would have taken for it
UNKNOWN_S = 6 * 3600.0  # for a unit of a stage that has no history of these settings yet
SILENT_S = 120.0  # without any processor time: stopped, or waiting for what never comes
START_S = 300.0  # for a process to start and import what its job needs
FAKE_GPUS = "APEXFLOW_FAKE_GPUS"  # so many GPUs that are none, to try how work is spread
NEED_MB = 1000.0  # a worker's memory, as long as a stage has no history
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class WorkerDiedError(ApexflowError):
    """A worker process ended without an answer, twice, the second time with nothing beside it."""

    code = "worker_died"


class TimedOutError(ApexflowError):
    """Work on one unit went on past its time limit, or used no processor time at all."""

    code = "timed_out"


class WorkerStoppedError(ApexflowError):
    """Somebody stopped a worker process (SIGSTOP), and nobody let it go on."""

    code = "worker_stopped"


class OutOfMemoryError(ApexflowError):
    """One job alone took more memory than the ceiling allows."""

    code = "out_of_memory"


def unit_limit(asked_s: float, expected_s: list[float]) -> float:
    """Seconds one unit may take: as asked, else by what each chunk so far says it would take."""
    if asked_s > 0:
        return asked_s
    return max(LEAST_S, FACTOR * max(expected_s)) if expected_s else UNKNOWN_S


def parse_memory(text: str) -> int:
    """Bytes of "8G", "512M" or a plain number; 0 for "". Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if not text:
        return 0
    if found is None or float(found[1]) == 0:
        raise ConfigError("--memory", expected="such as 8G or 512M", got=repr(text[:40]))
    return int(float(found[1]) * _UNITS[found[2]])


def workers_within(memory_bytes: int, workers: int, need_mb: float) -> int:
    """How many workers a memory ceiling allows, each needing `need_mb`; at least one."""
    if not memory_bytes:
        return workers
    return max(1, min(workers, int(memory_bytes / (max(need_mb, 1.0) * 2**20))))


def peak_mb() -> float:
    """Most memory this process has had so far, MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def kernel_kills() -> int:
    """How often the kernel has killed for want of memory so far, here or in our container."""
    total = 0
    for path, name in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = (line.split() for line in Path(path).read_text().splitlines())
            total = max(total, next(int(words[1]) for words in lines if words[0] == name))
    return total
