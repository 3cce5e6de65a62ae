"""A worker: does jobs for runs elsewhere, each in a child of its own, as a local run would.

So a job that dies, hangs or eats memory costs this worker nothing, and is known by its unit here,
where it happened. A job is given up when its run no longer beats in its workspace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from data.stages.crew import Crew
from data.stages.limits import NEED_MB, workers_within
from data.stages.pool import THREAD_SETTINGS, cpu_count, map_jobs
from models.devices import local_devices
from tasks.carriers import clear
from tasks.cluster.site import Pulse, Site, SiteError, processor, scheduler_address

logger = logging.getLogger(__name__)
STARTED = "apexflow-started"  # topic: a job has begun, on which worker
EXPECTED = ("apexflow", "site")  # the scheduler's note of what the last run expects
PATIENCE_S = 60.0  # for a scheduler to answer


@dataclass(frozen=True)
class Envelope:
    """A job on its way to a worker."""

    site: Site
    function: Callable[..., Any]
    job: Any
    label: str
    key: str
    gpu: bool = False
    pooled: bool = True  # in a child; else a question, answered at once


@dataclass
class Reply:
    """What came of it. An error travels as a value: Dask would repeat a job that raises."""

    result: Any = None
    error: BaseException | None = None
    warnings: list[str] = field(default_factory=list)
    who: str = ""
    lost: int = 0  # workers that were lost with it, where that is why there is no result


class _Leaving(Exception):
    """This worker ends before its job does."""


@dataclass
class _State:
    """What the threads of this worker process share."""

    devices: tuple[str, ...] = ()
    memory_bytes: int = 0  # of one child
    leaving: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_use: Counter[str] = field(default_factory=Counter)
    fits: set[bytes] = field(default_factory=set)  # runs that this worker has been checked for
    crews: list[Crew] = field(default_factory=list)  # children that wait for a job


_state = _State()


def dumps(value: Any) -> bytes:
    """Bytes that `loads` makes the value of again: between our own processes, never to disk."""
    return bytes(ForkingPickler.dumps(value))


def loads(text: bytes) -> Any:
    """The value of `dumps`."""
    return ForkingPickler.loads(text)


def carry_out(envelope: bytes) -> bytes:
    """Do the job and answer. Called by Dask, in a thread of the worker."""
    from distributed import Reschedule

    who = f"{platform.node()} (process {os.getpid()})"
    try:
        order: Envelope = loads(envelope)
    except Exception as error:  # other code: the job's classes are not the run's
        wrong = SiteError(f"worker on {who}", expected="the code of the run", got=repr(error))
        return dumps(Reply(error=wrong, who=who))
    answer = Reply(who=who)
    with _warnings_of_this_thread(answer.warnings):
        try:
            _check(order.site)
            _tell_started(order)
            answer.result = _do(order) if order.pooled else order.function(*order.job)
        except _Leaving:
            raise Reschedule from None
        except Exception as error:
            answer.error = error
    try:
        return dumps(answer)
    except Exception:  # what it raised or returned does not travel
        answer.result, answer.error = None, RuntimeError(f"{answer.error or answer.result!r}")
        return dumps(answer)


def _check(site: Site) -> None:
    key = dumps(site)
    if key not in _state.fits:
        site.check()
        _state.fits.add(key)


def _tell_started(order: Envelope) -> None:
    from distributed import get_worker

    with contextlib.suppress(ValueError):
        get_worker().log_event(STARTED, {"key": order.key, "host": platform.node()})


def _do(order: Envelope) -> Any:
    """The job in a child that waits, else a new one; it is kept for the next."""
    with _state.lock:
        crew = _state.crews.pop() if _state.crews else Crew()
    try:
        return _do_with(crew, order)
    finally:
        with _state.lock:
            _state.crews.append(crew)


def _do_with(crew: Crew, order: Envelope) -> Any:
    pulse = Pulse(order.site)

    def watch() -> None:
        if _state.leaving.is_set():
            raise _Leaving
        pulse.check()

    crew.watch, crew.memory_bytes = watch, _state.memory_bytes
    with _device(order.gpu) as place:
        [result] = map_jobs(
            order.function,
            [order.job],
            workers=1,
            label=lambda job: order.label,
            discard=clear,
            places=[place] if place else (),
            crew=crew,
        )
    return result


@contextlib.contextmanager
def _device(wanted: bool) -> Any:
    """The GPU of this worker with the fewest jobs; "" without GPUs."""
    if not wanted or not _state.devices:
        yield ""
        return
    with _state.lock:
        place = min(_state.devices, key=lambda d: _state.in_use[d])
        _state.in_use[place] += 1
    try:
        yield place
    finally:
        with _state.lock:
            _state.in_use[place] -= 1


@contextlib.contextmanager
def _warnings_of_this_thread(into: list[str]) -> Any:
    """Collect what our own modules warn of in this thread, for the run to say."""
    thread = threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                into.append(record.getMessage())

    handler, ours = Collect(logging.WARNING), logging.getLogger("data")
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


def describe() -> dict[str, Any]:
    """What a run asks of each worker: its GPUs and its processor."""
    gpus = [d for d in _state.devices if d != "cpu"]
    return {"gpus": gpus, "processor": processor(), "host": platform.node()}


def serve(
    scheduler: str,
    *,
    workers: int = 0,
    memory_bytes: int = 0,
    device: str = "auto",
    name: str | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Work for a scheduler (address or file) until it ends or a signal comes.

    At SIGTERM, ^C, and SIGUSR1 or SIGUSR2 (a batch system's warning of the wall time) it takes no
    more jobs, ends its children, and what they were at goes to others, who go on from the last
    resume point. Raises SiteError if a run that waits there would refuse this worker, ConfigError
    if no scheduler answers.
    """
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))  # children start in several threads
    count = workers_within(memory_bytes, workers or cpu_count(), NEED_MB)
    _state.memory_bytes = memory_bytes // count
    _state.devices = tuple(d for d in local_devices(device) if d != "cpu")
    asyncio.run(_serve(scheduler, count, name, patience_s))


async def _serve(scheduler: str, threads: int, name: str | None, patience_s: float) -> None:
    from distributed import Worker

    scheduler = scheduler_address(scheduler)
    if "://" not in scheduler:
        await _wait_for_file(scheduler, patience_s)
    where: dict[str, Any] = (
        {"scheduler_ip": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
    )
    worker = Worker(
        **where,
        nthreads=max(threads, len(_state.devices)),
        name=name,
        resources={"GPU": float(len(_state.devices)), "CPU": float(threads)},
        memory_limit=0,  # children are watched, not Dask's own store of small answers
        death_timeout=patience_s,
        dashboard=False,
    )
    try:
        await worker
    except Exception as error:
        raise ConfigError(
            f"--scheduler {scheduler}",
            expected="a Dask scheduler that answers",
            got=f"{type(error).__name__}: {error}"[:300],
        ) from error
    loop = asyncio.get_running_loop()
    ending: set[asyncio.Task[None]] = set()

    def leave() -> None:
        ending.add(loop.create_task(_leave(worker)))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, leave)
    logger.warning(
        "worker %s: %d job(s) at once, GPUs: %s", worker.address, threads, _state.devices or "none"
    )
    await _refuse_early(worker)
    await worker.finished()
    _state.leaving.set()


async def _wait_for_file(name: str, patience_s: float) -> None:
    """The scheduler may be starting. Raises ConfigError."""
    end = time.monotonic() + (patience_s if Path(name).parent.is_dir() else 0)
    while not Path(name).is_file():
        if time.monotonic() > end:
            raise ConfigError(
                "--scheduler",
                expected="tcp://HOST:PORT, or the file that a scheduler writes",
                got=f"{name[:200]!r}, which is no file",
            )
        await asyncio.sleep(0.2)


async def _refuse_early(worker: Any) -> None:
    """Compare with what the last run at this scheduler expects, if it still runs."""
    told = await worker.scheduler.get_metadata(keys=list(EXPECTED), default=None)
    if not told:
        return
    try:
        site = Site(**told)
    except TypeError:  # of another version, and perhaps long over: each job is checked anyhow
        return
    try:
        await asyncio.get_running_loop().run_in_executor(None, site.check)
    except SiteError as error:
        if "in which the run beats" in error.got:  # that run is over: the next may fit
            return
        await worker.close(reason="worker_refused")
        raise


async def _leave(worker: Any) -> None:
    """End this worker; what it was at goes to others."""
    with contextlib.suppress(Exception):  # no new jobs from here on
        await asyncio.wait_for(
            worker.scheduler.retire_workers(
                workers=[worker.address], close_workers=False, remove=False
            ),
            5,
        )
    _state.leaving.set()  # children are ended within a second, their jobs rescheduled
    await asyncio.sleep(2.5)
    await worker.close(reason="a signal")
