"""Where a run's jobs are carried out: in processes of this machine, or by workers elsewhere.

An executor decides how a run is shown; its carrier decides where the work is done. The steps know
neither. `tasks.cluster` has the carrier that hands jobs to Dask workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from data.stages.contract import Machines
from data.stages.limits import NEED_MB, parse_memory, workers_within
from data.stages.pool import cpu_count, map_jobs
from models.devices import gpus_for
from tasks.request import RunRequest

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """What jobs may have of GPUs: so many of them on each, on so many of this machine's."""

    per_gpu: int = 0
    gpus: int = 0


NO_GPU = Share()


class Carrier(Protocol):
    """Does jobs, somewhere."""

    @property
    def machines(self) -> Machines | None:
        """Where that is, for who must ask; None: this machine."""
        ...

    def own_gpus(self, device: str) -> tuple[str, ...]:
        """GPUs of this machine that it would use; none where jobs are done elsewhere."""
        ...

    def carry(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        *,
        label: Callable[[Job], str],
        share: Share = NO_GPU,
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
    device: str = "auto"
    machines: Machines | None = None

    @classmethod
    def of(cls, request: RunRequest) -> LocalCarrier:
        """As many workers as asked for, else one per core. Raises ConfigError."""
        workers = request.workers or cpu_count()
        return cls(workers, parse_memory(request.memory), request.device)

    def own_gpus(self, device: str) -> tuple[str, ...]:
        """See Carrier. GPU flow takes one whatever training was told: its backend was asked for."""
        return gpus_for(device)

    def carry(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        *,
        label: Callable[[Job], str],
        share: Share = NO_GPU,
        started: Callable[[Job], None] | None = None,
        ended: Callable[[Job, BaseException | None], None] | None = None,
    ) -> Iterator[Result]:
        """See Carrier. A memory ceiling lets only so many work at once as fit below it."""
        need_mb = max((getattr(job, "need_mb", 0.0) for job in jobs), default=0.0) or NEED_MB
        gpus = list(self.own_gpus(self.device))[: share.gpus]
        most = max(1, self.workers // max(1, len(gpus)))  # a process wants a core, too
        places = gpus * min(share.per_gpu, most)
        workers = len(places) if places and self.workers else self.workers  # no GPU idles
        yield from map_jobs(
            function,
            jobs,
            workers=workers and workers_within(self.memory_bytes, workers, need_mb),
            label=label,
            started=started,
            ended=ended,
            discard=clear,
            memory_bytes=self.memory_bytes,
            places=places,
        )


def clear(job: Any) -> None:
    """Remove what a job that will give no result left on the disk, if it says how."""
    if hasattr(job, "clear"):
        job.clear()
