"""Where a run's jobs are carried out: in processes of this machine, or by workers elsewhere.

An executor decides how a run is shown; its carrier decides where the work is done. The steps know
neither. `tasks.cluster` has the carrier that hands jobs to Dask workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from data.stages.limits import NEED_MB, parse_memory, workers_within
from data.stages.pool import cpu_count, map_jobs
from tasks.request import RunRequest

Job = TypeVar("Job")
Result = TypeVar("Result")


class Carrier(Protocol):
    """Does jobs, somewhere."""

    def carry(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        *,
        label: Callable[[Job], str],
        most: int | None = None,
        started: Callable[[Job], None] | None = None,
        ended: Callable[[Job, BaseException | None], None] | None = None,
    ) -> Iterator[Result]:
        """Results in order of completion; hooks and errors as `data.stages.pool.map_jobs`."""
        ...


@dataclass(frozen=True)
class LocalCarrier:
    """Processes of this machine; with `workers` 0 this process itself, one job after the other."""

    workers: int
    memory_bytes: int = 0

    @classmethod
    def of(cls, request: RunRequest) -> LocalCarrier:
        """As many workers as asked for, else one per core. Raises ConfigError."""
        return cls(request.workers or cpu_count(), parse_memory(request.memory))

    def carry(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        *,
        label: Callable[[Job], str],
        most: int | None = None,
        started: Callable[[Job], None] | None = None,
        ended: Callable[[Job, BaseException | None], None] | None = None,
    ) -> Iterator[Result]:
        """See Carrier. A memory ceiling lets only so many work at once as fit below it."""
        need_mb = max((getattr(job, "need_mb", 0.0) for job in jobs), default=0.0) or NEED_MB
        workers = min(self.workers, most or self.workers)
        yield from map_jobs(
            function,
            jobs,
            workers=workers and workers_within(self.memory_bytes, workers, need_mb),
            label=label,
            started=started,
            ended=ended,
            discard=clear,
            memory_bytes=self.memory_bytes,
        )


def clear(job: Any) -> None:
    """Remove what a job that will give no result left on the disk, if it says how."""
    if hasattr(job, "clear"):
        job.clear()
