"""Processes that compute: they never outlive their parent, use one core each, and may be killed.

`map_jobs` is the one way to run many jobs. Each child has a pipe of its own, so that the death of
one (out of memory, most often) is known by the job it had, costs nobody else anything, and so that
stopping never waits for a child: not even for one that is itself stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from data.errors import ApexflowError

Job = TypeVar("Job")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PR_SET_PDEATHSIG = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_LOOK_S = 5.0  # how often to look for children that somebody stopped


class WorkerDiedError(ApexflowError):
    """A worker process ended without an answer, twice, the second time with nothing beside it."""

    code = "worker_died"


def cpu_count() -> int:
    """Cores this process may use (affinity-aware)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_child(parent: int) -> None:
    """Run in every child at its start: die with the parent, stay on one core, leave ^C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(ctypes, "CDLL") and os.name == "posix":
        # not Linux: only the parent renames parts, so the store is safe without it
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the line above took effect
        os._exit(1)
    import cv2

    cv2.setNumThreads(1)


def map_jobs(
    function: Callable[[Job], Result],
    jobs: list[Job],
    *,
    workers: int,
    label: Callable[[Job], str] = str,
    started: Callable[[Job], None] | None = None,
    ended: Callable[[Job, BaseException | None], None] | None = None,
    discard: Callable[[Job], None] | None = None,
) -> Iterator[Result]:
    """Run `function` on every job in at most `workers` spawned processes; results as they come.

    A job that raises does not stop the others; the first error is raised after all ended. A full
    disk does stop them: nothing more is begun. A job whose process dies is repeated once with
    nothing beside it; if it dies again that is a WorkerDiedError with the job's label. `started`
    and `ended` (its error or None) are called in this process; `discard` for a job that will not
    give a result, to remove what it left. `workers` 0 runs the jobs here, one after the other.
    Leaving the iteration early, ^C included, kills the children and waits for none of them.
    """
    events = _Events(label, started, ended, discard)
    if workers == 0 or not jobs:
        yield from _map_here(function, jobs, events)
        return
    with _one_thread_each():
        crew = _Crew(function)
        try:
            yield from _map_in_crew(crew, deque(jobs), workers, events)
        finally:
            for job in crew.kill():
                events.drop(job)
    if events.error is not None:
        raise events.error


class _Events:
    """Calls the caller's hooks and keeps the first error."""

    def __init__(self, label: Any, started: Any, ended: Any, discard: Any) -> None:
        self.label, self._started, self._ended, self._discard = label, started, ended, discard
        self.error: BaseException | None = None
        self.full = False

    def start(self, job: Any) -> None:
        if self._started:
            self._started(job)

    def end(self, job: Any, error: BaseException | None) -> None:
        if error is not None:
            self.error = self.error or error
            self.full |= _disk_is_full(error)
            self.drop(job)
        if self._ended:
            self._ended(job, error)

    def drop(self, job: Any) -> None:
        if self._discard:
            self._discard(job)


def _disk_is_full(error: BaseException) -> bool:
    """HDF5 says it in its own words, sometimes without the number."""
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)


def _map_here(
    function: Callable[[Job], Result], jobs: list[Job], events: _Events
) -> Iterator[Result]:
    for job in jobs:
        events.start(job)
        try:
            result = function(job)
        except Exception as error:
            events.end(job, error)
            if events.full:
                break
            continue
        events.end(job, None)
        yield result
    if events.error is not None:
        raise events.error


def _map_in_crew(crew: _Crew, waiting: deque[Any], workers: int, events: _Events) -> Iterator[Any]:
    lonely: deque[Any] = deque()  # jobs whose process died: repeated with nothing beside them
    died: set[int] = set()
    while True:
        while waiting and not events.full and len(crew.busy) < workers:
            job = waiting.popleft()
            crew.give(job)
            events.start(job)
        if not crew.busy and lonely and not events.full:
            crew.give(lonely.popleft())
        if not crew.busy:
            return  # all done, or the disk is full
        for job, answer in crew.answers():
            if answer is None and id(job) not in died:
                died.add(id(job))
                logger.warning(
                    "%s: its worker process died (out of memory?); it is repeated alone",
                    events.label(job),
                )
                events.drop(job)
                lonely.append(job)
            elif answer is None:
                events.end(job, _died_error(events.label(job)))
            elif isinstance(answer[1], BaseException):
                events.end(job, answer[1])
            else:
                events.end(job, None)
                yield answer[0]


def _died_error(label: str) -> WorkerDiedError:
    return WorkerDiedError(
        label,
        expected="its worker process to answer",
        got="a process that was killed twice, the second time alone",
        todo="Most often the machine ran out of memory: run again with --workers 1, close other "
        "programs or use a machine with more memory. Finished parts are kept.",
    )


class _Crew:
    """Spawned children, each with a pipe of its own; one that died is replaced when needed."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[tuple[Any, Connection]] = []
        self.busy: dict[Connection, tuple[Any, Any]] = {}  # pipe → (process, job)
        self._looked, self._named = time.monotonic(), set[int]()

    def give(self, job: Any) -> None:
        """Hand a job to a child that waits, or to a new one."""
        while True:
            process, pipe = self._idle.pop() if self._idle else self._start()
            try:
                pipe.send(job)
            except (BrokenPipeError, ConnectionResetError):  # died while it waited
                pipe.close()
                continue
            self.busy[pipe] = (process, job)
            return

    def _start(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._function, os.getpid()), daemon=False
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:  # a child inherits this: ^C while it starts is for its parent alone
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that its death closes the pipe
        return process, ours

    def answers(self) -> list[tuple[Any, tuple[Any, BaseException | None] | None]]:
        """Wait for at least one answer: (job, (result, error)); (job, None) when a child died."""
        found: list[tuple[Any, Any]] = []
        while not found:
            for pipe in wait(list(self.busy), timeout=_LOOK_S):
                assert isinstance(pipe, Connection)
                process, job = self.busy.pop(pipe)
                try:
                    result, error, text = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    pipe.close()
                    found.append((job, None))
                    continue
                if error is not None and text:
                    error.add_note(text)
                self._idle.append((process, pipe))
                found.append((job, (result, error)))
            self._name_stopped()
        return found

    def _name_stopped(self) -> None:
        """Say once which children somebody stopped: the run would wait for them in silence."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        import psutil

        for process, _ in self.busy.values():
            with contextlib.suppress(psutil.Error):
                stopped = psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
                if stopped and process.pid not in self._named:
                    self._named.add(process.pid)
                    logger.warning(
                        "worker process %d is stopped and the run waits for it; let it go on with "
                        "`kill -CONT %d`, or end the run with ^C",
                        process.pid,
                        process.pid,
                    )

    def kill(self) -> list[Any]:
        """End all children now (SIGKILL reaches a stopped one); returns the jobs they had."""
        jobs = [job for _, job in self.busy.values()]
        children = [*self._idle, *((process, pipe) for pipe, (process, _) in self.busy.items())]
        for process, _ in children:
            process.kill()
        for process, pipe in children:
            process.join()
            pipe.close()
        self._idle.clear()
        self.busy.clear()
        return jobs


def _serve(pipe: Connection, function: Callable[[Any], Any], parent: int) -> None:
    """A child's life: jobs in, (result, error, traceback's text) out, until the pipe closes."""
    start_child(parent)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        answer: tuple[Any, BaseException | None, str]
        try:
            answer = (function(job), None, "")
        except Exception as error:
            answer = (None, error, traceback.format_exc())
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # what it returned or raised does not pickle
            pipe.send((None, RuntimeError(f"{answer[1] or error!r}"), answer[2]))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children read these as they start."""
    saved = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(_THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
