"""Processes that compute: they never outlive their parent, use one core each, and may be killed.

`map_jobs` is the one way to run many jobs. The death of a child (out of memory, most often), or a
child that hangs or is stopped, is known by the job it had and the unit it was at, costs nobody else
anything, and stopping never waits for a child: not even for one that is itself stopped.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from data.errors import ApexflowError
from data.stages.crew import Crew
from data.stages.limits import OutOfMemoryError, WorkerDiedError

Job = TypeVar("Job")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
MOST_GIVEN_UP = 16  # units of one job; beyond, it is the job that is wrong


@runtime_checkable
class Divisible(Protocol):
    """A job made of units, each of which can be given up while the others are done."""

    def troubled(self, unit: str, error: ApexflowError, *, given_up: bool) -> Any:
        """The same job with a ledger row about `unit`, which is not tried again if given up."""
        ...

    def repeated(self) -> Any:
        """The same job for another try, in which one unit at a time is computed: see who it is."""
        ...


def cpu_count() -> int:
    """Cores this process may use (affinity-aware)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_jobs(
    function: Callable[[Job], Result],
    jobs: list[Job],
    *,
    workers: int,
    label: Callable[[Job], str] = str,
    started: Callable[[Job], None] | None = None,
    ended: Callable[[Job, BaseException | None], None] | None = None,
    discard: Callable[[Job], None] | None = None,
    memory_bytes: int = 0,
    places: Sequence[str] = (),
    crew: Crew | None = None,
) -> Iterator[Result]:
    """Run `function` on every job in at most `workers` spawned processes; results as they come.

    A job that raises does not stop the others; the first error is raised after all ended. A full
    disk does stop them: nothing more is begun. A job whose process dies, hangs, is stopped or grows
    past `memory_bytes` (of all together; 0: no ceiling) is repeated once with nothing beside it. At
    the second time a `Divisible` job goes on without the unit it was at; another's error names it.
    `places`: names of devices, one for each job at a time: it is run as `job.on(place)`. `started`
    and `ended` (its error or None) are called in this process; `discard` for a job that will not
    give a result, to remove what it left. `workers` 0 runs the jobs here, one after the other, and
    watches nothing. Leaving the iteration early, ^C included, kills the children and waits for none
    of them; a `crew` that is given is kept alive otherwise.
    """
    events = Events(label, started, ended, discard)
    if workers == 0 or not jobs:
        yield from _map_here(function, jobs, events, places)
        return
    own = crew or Crew(memory_bytes=memory_bytes)
    own.label = lambda task: label(task.job)
    waiting = deque(_Task(job, job) for job in jobs)
    with _one_thread_each():
        whole = False
        try:
            yield from _map_in_crew(own, function, waiting, workers, events, deque(places))
            whole = True
        finally:
            if crew is None or not whole:
                for task in own.kill():
                    events.drop(task.job)
    if events.error is not None:
        raise events.error


@dataclass
class _Task:
    """A job as it was asked for, and as it is now: without what was given up."""

    job: Any
    now: Any
    place: str = ""
    strikes: Counter[str] = field(default_factory=Counter)  # unit → times its process was lost
    given_up: int = 0

    def struck(self, unit: str, error: ApexflowError) -> bool:
        """Its process was lost while at `unit`: change what is left; False if nothing helps."""
        self.strikes[unit] += 1
        final = self.strikes[unit] > 1
        if not final:
            told = isinstance(error, WorkerDiedError | OutOfMemoryError)  # no news of the unit
            if isinstance(self.now, Divisible):
                if unit and not told:
                    self.now = self.now.troubled(unit, error, given_up=False)
                self.now = self.now.repeated()
            return True
        self.given_up += 1
        if not unit or not isinstance(self.now, Divisible) or self.given_up > MOST_GIVEN_UP:
            return False
        self.now = self.now.troubled(unit, error, given_up=True)
        return True


class Events:
    """The hooks of a caller of `map_jobs`, and the first error."""

    def __init__(self, label: Any, started: Any, ended: Any, discard: Any) -> None:
        self.label, self._started, self._ended, self._discard = label, started, ended, discard
        self.error: BaseException | None = None
        self.full = False

    def start(self, job: Any) -> None:
        """A job has begun."""
        if self._started:
            self._started(job)

    def end(self, job: Any, error: BaseException | None) -> None:
        """A job has ended; what it left goes, if it failed."""
        if error is not None:
            self.error = self.error or error
            self.full |= _disk_is_full(error)
            self.drop(job)
        if self._ended:
            self._ended(job, error)

    def drop(self, job: Any) -> None:
        """Remove what an attempt left."""
        if self._discard:
            self._discard(job)


def _disk_is_full(error: BaseException) -> bool:
    """HDF5 says it in its own words, sometimes without the number."""
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)


def _map_here(
    function: Callable[[Job], Result], jobs: list[Job], events: Events, places: Sequence[str]
) -> Iterator[Result]:
    for job in jobs:
        events.start(job)
        try:
            result = function(job.on(places[0]) if places else job)  # type: ignore[attr-defined]
        except Exception as error:
            events.end(job, error)
            if events.full:
                break
            continue
        events.end(job, None)
        yield result
    if events.error is not None:
        raise events.error


def _map_in_crew(
    crew: Crew,
    function: Callable[[Any], Any],
    waiting: deque[_Task],
    workers: int,
    events: Events,
    places: deque[str],
) -> Iterator[Any]:
    lonely: deque[_Task] = deque()  # jobs whose process was lost: repeated with nothing beside them
    placed = bool(places)

    def give(task: _Task) -> None:
        task.place = places.popleft() if placed else ""
        crew.give(function, task.now.on(task.place) if placed else task.now, task)

    while True:
        while waiting and not events.full and len(crew.busy) < workers and (places or not placed):
            task = waiting.popleft()
            give(task)
            events.start(task.job)
        if not crew.busy and lonely and not events.full:
            crew.dismiss()  # with nothing beside it: those that wait keep memory too
            give(lonely.popleft())
        if not crew.busy:
            return  # all done, or the disk is full
        for answer in crew.answers():
            task = answer.job
            if placed:
                places.append(task.place)
            if answer.trouble is not None:
                if crew.crowded and workers > 1:
                    workers, crew.crowded = workers - 1, False
                    crew.dismiss()
                events.drop(task.job)
                before = task.given_up
                if task.struck(answer.unit, answer.trouble):
                    next_ = "goes on without that unit" if task.given_up > before else "is repeated"
                    logger.warning("%s The job %s, alone.", answer.trouble, next_)
                    lonely.append(task)
                else:
                    events.end(task.job, answer.trouble)
            elif answer.error is not None:
                events.end(task.job, answer.error)
            else:
                events.end(task.job, None)
                yield answer.result


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children read these as they start."""
    saved = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
