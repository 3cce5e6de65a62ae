"""Work in progress on a terminal: live bars where there is one, lines with the time elsewhere.

All of it goes to the error output; what a command found is on the standard output, so that
`> file` keeps results and nothing else. An event is told once: stages by the log's lines, what is
done of one by its bar, or where nothing can be redrawn by a line for every tenth.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from data.project import OUR_LOGGERS
from models.progress import in_words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MOST_RUNNING = 6  # jobs named in the live view
REFRESH_HZ = 4
SILENT_S = 60.0  # a line at least so often, where there is something new to say
QUIET_S = 1.0  # what takes no longer is told at its end only
_open: list[Terminal] = []  # the view in use is the last; logs go through it, above its bars


@dataclass
class Bar:
    """How far one piece of work is."""

    name: str
    done: int
    total: int
    text: str
    began: float
    from_done: int
    told: float  # when its last line was written

    def rate(self, now: float) -> float:
        """Units a second since the first word of it; NaN before anything is done."""
        spent, made = now - self.began, self.done - self.from_done
        return made / spent if made > 0 and spent > 0 else float("nan")

    def pace(self, now: float) -> str:
        """'3.1/s, 2 min left', or '12 s each, 1.5 h left'; '' before anything is done."""
        rate = self.rate(now)
        if rate != rate:
            return ""
        each = f"{rate:.1f}/s" if rate >= 1 else f"{in_words(1 / rate)} each"
        return f"{each}, {in_words((self.total - self.done) / rate)} left"


@dataclass
class Terminal:
    """The view of one command: call it with (name, done, total, text) as work goes on.

    `begin` and `end` name what is being worked on now. Use as a context manager.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    today: Callable[[], datetime] = datetime.now
    bars: dict[str, Bar] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    _live: Any = None

    def __enter__(self) -> Terminal:
        _open.append(self)
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(
                get_renderable=self.drawn,
                console=self.console,
                refresh_per_second=REFRESH_HZ,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *told: Any) -> None:
        _open.remove(self)
        if self._live is not None:
            self._live.stop()

    def __call__(self, name: str, done: int, total: int, text: str) -> None:
        """`done` of `total` units of the work `name`; `text` says what came last."""
        known, now = self.bars.get(name), self.clock()
        if known is None or known.total != total:
            known = self.bars[name] = Bar(name, done, total, "", now, done, now)
        before, known.done, known.text = known.done, done, text
        tenth = 10 * done // max(1, total) > 10 * before // max(1, total)
        long_ago = now - known.told > SILENT_S  # a fold of hours tells its epochs in between
        if done >= total:
            del self.bars[name]  # its end is told by whoever began it
        elif self._live is None and now - known.began > QUIET_S and (tenth or long_ago):
            known.told = now
            parts = [f"{done} of {total}", known.pace(now), text]
            self.say(f"{name}: {', '.join(filter(None, parts))}")

    def begin(self, label: str) -> None:
        """A job is being worked on; told again when a worker died and it is repeated."""
        if label not in self.running:
            self.running.append(label)

    def end(self, label: str) -> None:
        """It is not any more."""
        if label in self.running:
            self.running.remove(label)

    def say(self, text: str, style: str = "") -> None:
        """A line that stays; with the time where lines pile up in a file."""
        if self.console.is_terminal:
            self.console.print(text, style=style, markup=False, highlight=False)
            return
        stamp = f"{self.today():%H:%M:%S} "
        lines = text.splitlines() or [""]
        told = "\n".join(f"{stamp}{line}" for line in lines)
        self.console.print(told, markup=False, highlight=False, soft_wrap=True)

    def drawn(self) -> RenderableType:
        """The bars, and beneath them what is being worked on."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, table = self.clock(), Table.grid(padding=(0, 2))
        for column in ("left", "left", "right", "left", "left"):
            table.add_column(justify=column, no_wrap=True, overflow="ellipsis")
        for bar in list(self.bars.values()):
            table.add_row(
                Text(bar.name, style="bold"),
                ProgressBar(total=max(1, bar.total), completed=bar.done, width=24),
                f"{bar.done}/{bar.total}",
                Text(bar.pace(now)),
                Text(bar.text, style="dim"),
            )
        if not self.running:
            return table
        names = [label.partition(" ")[2] or label for label in self.running[:MOST_RUNNING]]
        more = len(self.running) - len(names)
        said = " · ".join(names) + (f" and {more} more" if more else "")
        return Group(table, Text(f"  now: {said}", style="dim", no_wrap=True, overflow="ellipsis"))


@contextmanager
def terminal_progress() -> Iterator[Terminal]:
    """A view on the error output for as long as a command works."""
    from rich.console import Console

    with Terminal(Console(stderr=True)) as view:
        yield view


class LogLines(logging.Handler):
    """Our modules' log as lines of the terminal, but for what its bars show already."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if getattr(record, "progress", False):
            return
        text = record.getMessage()
        style = "yellow" if record.levelno >= logging.WARNING else ""
        if _open:
            _open[-1].say(text, style)
            return
        from rich.console import Console

        Terminal(Console(stderr=True)).say(text, style)


def show_log(verbose: bool) -> None:
    """Our own modules' log on the terminal (verbose: also what goes well); others keep theirs."""
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        if not any(isinstance(handler, LogLines) for handler in logger.handlers):
            logger.addHandler(LogLines())
