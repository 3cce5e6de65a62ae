"""Spawned children, each with a pipe of its own, and an eye on each of them.

A child says which unit it is at. One that died, was stopped by somebody, hangs, or takes more
memory than there is for all is ended, and known by its job, its unit and what it had taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from data.errors import ApexflowError
from data.stages import limits, signs
from data.stages.limits import (
    OutOfMemoryError,
    TimedOutError,
    WorkerDiedError,
    WorkerStoppedError,
)

LOOK_S = 1.0  # how often to look at the children
STOPPED_S = 20.0  # a child that somebody stopped is given so long to be let go on
END_S = 5.0  # wait so long for a killed child: the kernel may hold it for longer
IDLE_SHARE = 0.002  # of one core: what threads that only wait take at most
TICK_S = 0.02  # processor time is counted in ticks of 0.01 s: one is no work
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """A process, its pipe, and what is known of the job it has."""

    process: Any
    pipe: Connection
    job: Any = None
    unit: str = ""
    begun: bool = False  # its job has arrived: all imports are done
    since: float = 0.0  # begin of the unit, or of the job
    limit_s: float = 0.0
    used: float = -1.0  # processor seconds at `busy_at`
    busy_at: float = 0.0  # when it last used any
    stopped_at: float | None = None
    bytes: int = 0  # of memory of its own, when last looked at
    peak: int = 0
    trouble: ApexflowError | None = None  # why it was ended


@dataclass
class Answer:
    """How a job ended: a result, an error it raised, or trouble that befell its process."""

    job: Any
    result: Any = None
    error: BaseException | None = None
    trouble: ApexflowError | None = None
    unit: str = ""


@dataclass
class Crew:
    """Children that compute; one that died is replaced when needed. Used by one thread."""

    label: Callable[[Any], str] = str
    memory_bytes: int = 0  # ceiling for all children and this process together; 0: none
    watch: Callable[[], None] | None = None  # asked now and then; may raise, which ends all
    crowded: bool = False  # one was ended because all together took too much
    idle: list[Child] = field(default_factory=list)
    busy: list[Child] = field(default_factory=list)
    _looked: float = field(default_factory=time.monotonic)
    _kills: int = field(default_factory=limits.kernel_kills)

    def give(self, function: Callable[[Any], Any], job: Any, owner: Any = None) -> None:
        """Hand a job to a child that waits, or to a new one; answers name `owner`, if given."""
        while True:
            child = self.idle.pop() if self.idle else self._start()
            try:
                child.pipe.send((function, job))
            except (BrokenPipeError, ConnectionResetError):  # died while it waited
                child.pipe.close()
                continue
            now = time.monotonic()
            child.job = job if owner is None else owner
            child.unit, child.begun, child.since = "", False, now
            child.used, child.busy_at, child.stopped_at = -1.0, now, None
            child.limit_s = float(getattr(job, "limit_s", 0.0))
            child.peak, child.trouble = 0, None
            self.busy.append(child)
            return

    def _start(self) -> Child:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=False)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:  # a child inherits this: ^C while it starts is for its parent alone
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that its death closes the pipe
        return Child(process, ours)

    def answers(self, patience_s: float | None = None) -> list[Answer]:
        """Wait for at least one answer, or as long as `patience_s`."""
        found: list[Answer] = []
        begun = time.monotonic()
        while not found:
            by_pipe = {child.pipe: child for child in self.busy}
            for pipe in wait(list(by_pipe), timeout=LOOK_S):
                assert isinstance(pipe, Connection)
                if (answer := self._hear(by_pipe[pipe])) is not None:
                    found.append(answer)
            self._look()
            if patience_s is not None and time.monotonic() - begun >= patience_s:
                break
        return found

    def _hear(self, child: Child) -> Answer | None:
        """What a child said: a sign of life, an answer, or its end."""
        try:
            message = child.pipe.recv_bytes()
        except (EOFError, ConnectionResetError, OSError):
            self.busy.remove(child)
            child.process.join(END_S)
            child.pipe.close()
            trouble = child.trouble or self._death(child)
            return Answer(child.job, trouble=trouble, unit=child.unit)
        try:
            kind, *said = ForkingPickler.loads(message)  # multiprocessing's own, as `recv` does
        except Exception as why:  # a result whose class cannot be made again from its parts
            kind, said = "end", [None, RuntimeError(f"result not understood: {why!r}"), ""]
        if kind == "at":
            child.begun, child.unit, child.since = True, said[0], time.monotonic()
            return None
        self.busy.remove(child)
        result, error, text = said
        if error is not None and text:
            error.add_note(text)
        self.idle.append(child)
        return Answer(child.job, result, error, unit=child.unit)

    def _death(self, child: Child) -> WorkerDiedError:
        code = child.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        now = limits.kernel_kills()
        kernel, self._kills = now > self._kills, now
        by = "; the kernel has just killed for want of memory" if kernel else ""
        return WorkerDiedError(
            self._who(child),
            expected="its worker process to answer",
            got=f"a process that died ({how}) with {_mb(child.peak)} in use{by}",
            todo="Most often the machine ran out of memory: run again with --workers 1 or a "
            "--memory ceiling, close other programs or use a machine with more memory. Finished "
            "parts are kept.",
        )

    def _who(self, child: Child) -> str:
        name = self.label(child.job)
        return f"{name}, {child.unit}" if child.unit else name

    # ------------------------------------------------------------------------------ looking

    def _look(self) -> None:
        """Once in a while: memory, processor time and state of each; who must end is ended."""
        now = time.monotonic()
        gap = now - self._looked
        if gap < LOOK_S:
            return
        self._looked = now
        if self.watch is not None:
            self.watch()
        late = max(0.0, gap - 10 * LOOK_S)  # we were stopped, or the machine slept: so were they
        for child in self.busy:
            child.since += late
            child.busy_at += late
            if child.stopped_at is not None:
                child.stopped_at += late
            self._examine(child, now)
            if child.trouble is not None:
                child.process.kill()
        self._keep_ceiling()

    def _examine(self, child: Child, now: float) -> None:
        import psutil

        if child.trouble is not None:
            return
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(child.process.pid)
            child.bytes = _own_bytes(process)
            child.peak = max(child.peak, child.bytes)
            used = sum(process.cpu_times()[:2])
            idle = max(TICK_S, IDLE_SHARE * (now - child.busy_at))
            if child.used < 0 or used - child.used > idle or wants_to_run(child.process.pid):
                child.used, child.busy_at = used, now
            stopped = process.status() == psutil.STATUS_STOPPED
            child.stopped_at = (child.stopped_at or now) if stopped else None
        child.trouble = self._overdue(child, now)

    def _overdue(self, child: Child, now: float) -> ApexflowError | None:
        """The error of a child that is stopped, silent or over its time."""
        patience = STOPPED_S if not child.limit_s else min(STOPPED_S, child.limit_s)
        if child.stopped_at is not None:
            if now - child.stopped_at < patience:
                return None
            return WorkerStoppedError(
                self._who(child),
                expected="its worker process to go on",
                got=f"a process that somebody had stopped for {now - child.stopped_at:.0f} s",
                todo="It was ended.",
            )
        spent, silent = now - child.since, now - child.busy_at
        limit = child.limit_s if child.begun else max(child.limit_s, limits.START_S)
        if child.limit_s and spent > limit:
            return TimedOutError(
                self._who(child),
                expected=f"an end within {limit:.0f} s",
                got=f"none after {spent:.0f} s",
                todo="Its process was ended. A slow machine may need a longer --time-limit.",
            )
        if silent > max(limits.SILENT_S, LOOK_S):
            return TimedOutError(
                self._who(child),
                expected="a process that computes",
                got=f"one that used no processor time for {silent:.0f} s",
                todo="Its process was ended: it waited for something that never came, such as a "
                "decoder or a disk that does not answer.",
            )
        return None

    def _keep_ceiling(self) -> None:
        """When all together take more memory than they may, end who waits, then the largest."""
        live = [child for child in self.busy if child.trouble is None]
        if not self.memory_bytes or not live:
            return
        import psutil

        total = sum(child.bytes for child in live) + _own_bytes(psutil.Process())
        if self.idle and total + sum(map(_bytes_of, self.idle)) > self.memory_bytes:
            self.dismiss()
        if total <= self.memory_bytes:
            return
        child = max(live, key=lambda c: c.bytes)
        self.crowded = True
        child.trouble = OutOfMemoryError(
            self._who(child),
            expected=f"at most {_mb(self.memory_bytes)} for {len(live)} worker(s) and the run",
            got=f"{_mb(total)}, {_mb(child.bytes)} of it here",
            todo="Its process was ended. Raise --memory, or use smaller sizes.",
        )
        child.process.kill()

    def dismiss(self) -> None:
        """End those that wait: they keep the memory that their last job took."""
        _end(self.idle)
        self.idle.clear()

    def kill(self) -> list[Any]:
        """End all children now (SIGKILL reaches a stopped one); returns the jobs they had."""
        jobs = [child.job for child in self.busy]
        _end([*self.idle, *self.busy])
        self.idle.clear()
        self.busy.clear()
        return jobs


def _end(children: list[Child]) -> None:
    for child in children:
        child.process.kill()
    end = time.monotonic() + END_S
    for child in children:  # one that waits in the kernel for a disk is left to it
        child.process.join(max(0.0, end - time.monotonic()))
        child.pipe.close()


def _own_bytes(process: Any) -> int:
    """Memory of a process's own, by psutil."""
    memory = process.memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _bytes_of(child: Child) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return _own_bytes(psutil.Process(child.process.pid))
    return 0


def wants_to_run(pid: int) -> bool:
    """Whether a thread of the process runs, or would if others left it a core."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError, IndexError):  # a thread that has just ended
            if stat.read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB" if size else "an unknown amount of memory"


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


def _serve(pipe: Connection, parent: int) -> None:
    """A child's life: jobs in, signs of life and (result, error, traceback's text) out."""
    start_child(parent)
    signs.listen(lambda unit: pipe.send(("at", unit)))
    while True:
        answer: tuple[Any, BaseException | None, str]
        try:
            function, job = pipe.recv()
            pipe.send(("at", ""))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # it cannot be read here: a function that no module has
            pipe.send(("end", None, RuntimeError(f"job not understood: {error!r}"), ""))
            continue
        try:
            answer = (function(job), None, "")
        except Exception as error:
            answer = (None, _portable(error), traceback.format_exc())
        try:
            pipe.send(("end", *answer))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # what it returned or raised does not pickle
            pipe.send(("end", None, RuntimeError(f"{answer[1] or error!r}"), answer[2]))


def _portable(error: Exception) -> Exception:
    """The error, or its words where it cannot be made again on the other side of a pipe."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # multiprocessing's own, as `send` does
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
