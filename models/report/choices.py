"""What choosing an epoch is worth: the scores of every epoch, and the gap that a choice opens.

The headline is the last epoch's. A choice on inner people of the training side stands beside it;
the best epoch on the tested people is drawn hollow and in another colour, because it is no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.pictures.drawing import BLUE, GREEN, INK, MUTED, PAPER, RED, figure, title
from models.report.scores import Score, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIMISTIC, NESTED = "optimistic", "nested"
NOTE = (
    "The headline is the last epoch's score: nothing was chosen. A nested choice looks only at "
    "inner people of each fold's training side. Optimistic scores choose on the very people who "
    "are tested, as many published codes do: they say how much such a choice flatters this run, "
    "and are no results."
)


def is_optimistic(score: Score) -> bool:
    """Whether a score was chosen on the people it is measured on."""
    return score.scope.startswith(f"choice:{OPTIMISTIC}")


def choice_rows(found: Sequence[Score], name: str) -> list[Score]:
    """A score under every way of choosing the epoch, the headline first; [] where none is known."""
    return [s for s in found if s.name == name and s.scope.startswith("choice:")]


def main_name(found: Sequence[Score]) -> str:
    """The score that choices went by; '' where no epochs are recorded."""
    return next((s.name for s in found if s.scope.startswith("choice:")), "")


def nested_sentence(found: Sequence[Score]) -> str:
    """The score of the nested choice; '' where there is none."""
    for row in choice_rows(found, main_name(found)):
        if NESTED in row.scope:
            reach = f" ({row.interval})" if row.interval else ""
            value = number(row.value, 3)
            return f"Epochs chosen on inner people (nested): {row.title} {value}{reach}."
    return ""


def gap_sentence(found: Sequence[Score]) -> str:
    """How much the best epoch on the tested people flatters; '' where it is not known."""
    rows = choice_rows(found, main_name(found))
    flattered = [s for s in rows if is_optimistic(s) and s.value is not None]
    if not flattered or rows[0].value is None:
        return ""
    best = max(flattered, key=lambda s: s.value or 0.0)
    assert best.value is not None
    return (
        f"Choosing the epoch on the tested people would show {best.title} {number(best.value, 3)} "
        f"(optimistic, no result) instead of {number(rows[0].value, 3)}: "
        f"{best.value - rows[0].value:+.3f}."
    )


def gap_figure(found: Sequence[Score], width: int = 860) -> Figure | None:
    """The score of every recorded epoch, and beside it every choice with its interval.

    None where no epochs are recorded.
    """
    name = main_name(found)
    rows = [s for s in choice_rows(found, name) if s.value is not None]
    epochs = sorted(
        (int(s.scope.removeprefix("epoch:")), s.value)
        for s in found
        if s.name == name and s.scope.startswith("epoch:") and s.value is not None
    )
    if not rows or not epochs:
        return None
    fig, (left, right) = figure(width, 250, cols=2, gridspec_kw={"width_ratios": [1.1, 1]})
    _epochs(left, epochs, rows)
    _choices(right, rows)
    low, high = _reach([v for _, v in epochs], rows)
    left.set_ylim(low, high)
    return fig


def _epochs(axis: Axes, epochs: Sequence[tuple[int, float]], rows: Sequence[Score]) -> None:
    at, values = zip(*epochs, strict=True)
    axis.plot(at, values, color=MUTED, linewidth=1.2, marker=".", markersize=4)
    axis.plot(at[-1], values[-1], "o", color=BLUE, markersize=7)
    for row in rows[1:]:
        dash = (0, (4, 3)) if is_optimistic(row) else (0, (1, 1.5))
        axis.axhline(row.value or 0.0, color=_colour(row), linewidth=0.9, linestyle=dash)
    title(axis, f"{rows[0].title} on the tested people after each epoch")
    axis.set_xlabel("epochs done")


def _choices(axis: Axes, rows: Sequence[Score]) -> None:
    """A line a choice, the headline on top: value, interval, and what it gains on the headline."""
    first = rows[0].value or 0.0
    for place, row in enumerate(reversed(rows)):
        colour, value = _colour(row), row.value or 0.0
        if row.low is not None and row.high is not None:
            axis.plot([row.low, row.high], [place, place], color=colour, linewidth=5, alpha=0.25)
        face = "white" if is_optimistic(row) else colour
        axis.plot(value, place, "o", color=colour, markerfacecolor=face, markersize=7)
        gained = "" if row is rows[0] else f" ({value - first:+.3f})"
        words = _short(row)
        axis.annotate(
            f"{words}: {value:.3f}{gained}",
            (0, place),
            xycoords=("axes fraction", "data"),
            xytext=(0, 11),
            textcoords="offset points",
            fontsize=8,
            color=INK if not is_optimistic(row) else RED,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )
    axis.axvline(first, color=BLUE, linewidth=0.8, linestyle=(0, (1, 2)))
    axis.set_yticks([])
    axis.set_ylim(-0.5, len(rows) - 0.1)
    axis.grid(False)
    axis.spines["left"].set_visible(False)
    title(axis, f"{rows[0].title} and its 95 % interval, by the choice of the epoch")


def _colour(row: Score) -> str:
    if is_optimistic(row):
        return RED
    return BLUE if "headline" in row.scope else GREEN


def _short(row: Score) -> str:
    name = row.scope.removeprefix("choice:")
    return name.replace("its tested people", "its test").replace("the tested people", "test")


def _reach(values: Sequence[float], rows: Sequence[Score]) -> tuple[float, float]:
    """Limits of an axis that shows values and choices with some room."""
    every = [*values, *(s.value for s in rows if s.value is not None)]
    room = 0.15 * max(0.02, max(every) - min(every))
    return max(0.0, min(every) - room), max(every) + room
