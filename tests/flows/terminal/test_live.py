"""What a person sees of work in progress: each event once, bars where they can be drawn."""

from __future__ import annotations

import io
import logging
from datetime import datetime

import pytest
from rich.console import Console

from flows.terminal.live import LogLines, Terminal


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def view(terminal: bool) -> tuple[Terminal, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    today = datetime(2026, 1, 2, 3, 4, 5)
    return Terminal(console, clock, lambda: today), out, clock


def test_lines_come_once_a_tenth_with_rate_and_time_left() -> None:
    show, out, clock = view(False)
    with show:
        show("align-x", 0, 100, "starting")
        for done in range(1, 101):
            clock.now += 2.0
            show("align-x", done, 100, f"{done % 3} without data so far")
    lines = out.getvalue().splitlines()
    assert len(lines) == 9, "the end is told by the stage's own line"
    assert lines[0] == ("03:04:05 align-x: 10 of 100, 2 s each, 3 min left, 1 without data so far")


def test_a_long_job_tells_every_minute_how_far_it_is() -> None:
    show, out, clock = view(False)
    with show:
        for second in range(0, 200, 5):
            clock.now = float(second)
            show("train-x", 0, 3, f"epoch {second}")
    lines = out.getvalue().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["65", "130", "195"]


def test_a_line_of_the_log_that_a_bar_shows_is_not_told_again() -> None:
    show, out, _ = view(False)
    with show:
        handler = LogLines()
        for text, extra in (("align: 4 to do", {}), ("sub01: 1 video", {"progress": True})):
            record = logging.makeLogRecord({"msg": text, "levelno": logging.INFO, **extra})
            handler.emit(record)
    assert out.getvalue() == "03:04:05 align: 4 to do\n"


def test_the_live_view_names_stage_count_rate_and_what_runs() -> None:
    show, _, clock = view(True)
    show("align-x", 0, 8, "starting")
    for number in range(8):
        show.begin(f"align-x-{number:02d} sub{number:02d}")
    show.begin("align-x-00 sub00")
    clock.now = 1.0
    show("align-x", 4, 8, "2 without data so far")
    show.end("align-x-00 sub00")
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(show.drawn())
    text = out.getvalue()
    for said in ("align-x", "4/8", "4.0/s, 1 s left", "2 without data so far", "sub01 · sub02"):
        assert said in text
    assert "sub00" not in text and "and 1 more" in text


def test_what_is_done_leaves_the_view() -> None:
    show, _, _ = view(True)
    show("flow-x", 1, 2, "")
    show("flow-x", 2, 2, "")
    assert show.bars == {}


@pytest.mark.parametrize("text", ["[bold]x[/]", "{'a': 1}", "50 %"])
def test_words_are_shown_as_they_are(text: str) -> None:
    show, out, _ = view(True)
    show.say(text)
    assert out.getvalue().strip() == text
