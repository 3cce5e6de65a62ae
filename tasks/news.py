"""What long jobs say while they run: a fold of hours tells its epoch, its rate and the time left.

A job that can tell has `news()`: the share of it that is done and a few words, read from where its
worker leaves them. A thread reads them now and then and shows the newest beside the number of
finished units, with the time that all jobs together will still take.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from models.progress import in_words
from tasks.context import Executor

logger = logging.getLogger(__name__)
EVERY_S = 5.0  # between two looks
LOG_EVERY_S = 60.0  # between two lines of the log


@dataclass
class Teller:
    """Reads jobs' news and puts them into one line; `done`: units that are finished."""

    jobs: Sequence[Any]
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    first: float | None = None  # share of all the work that was done when first looked

    @property
    def total(self) -> int:
        """Units of all jobs."""
        return sum(job.count for job in self.jobs)

    def line(self) -> str:
        """The newest word, and when all will be done; '' when no job has news."""
        found = [(job.count, news) for job in self.jobs if (news := job.news()) is not None]
        running = [(count, share, text) for count, (share, text) in found if share < 1]
        if not running:
            return ""
        now = sum(count * share for count, share, _ in running)
        whole = min((self.done + now) / self.total, 1.0)
        if self.first is None:
            self.first, self.started = whole, time.monotonic()
        more = f" (and {len(running) - 1} more)" if len(running) > 1 else ""
        return f"{running[0][2]}{more}{self._left(whole)}"

    def _left(self, whole: float) -> str:
        gained, spent = whole - (self.first or 0.0), time.monotonic() - self.started
        if gained <= 0 or spent <= 0:
            return ""
        return f"; all in about {in_words((1 - whole) * spent / gained)}"


@contextmanager
def telling(
    executor: Executor, name: str, jobs: Sequence[Any], every_s: float = EVERY_S
) -> Iterator[Teller]:
    """Show the jobs' news while the block runs; the block counts finished units in `.done`."""
    teller, over = Teller(jobs), threading.Event()
    if not jobs or not hasattr(jobs[0], "news"):
        yield teller
        return

    def tell() -> None:
        logged = time.monotonic()
        while not over.wait(every_s):
            try:
                if line := teller.line():
                    executor.progress(name, teller.done, teller.total, line)
                    if time.monotonic() - logged > LOG_EVERY_S:
                        logger.info("%s: %s", name, line, extra={"progress": True})
                        logged = time.monotonic()
            except Exception as error:  # news are not worth a training
                logger.debug("no news of %s: %s", name, error)

    thread = threading.Thread(
        target=copy_context().run, args=(tell,), name=f"news-{name}", daemon=True
    )
    thread.start()
    try:
        yield teller
    finally:
        over.set()
        thread.join(timeout=2 * every_s)
