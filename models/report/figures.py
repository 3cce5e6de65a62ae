"""Figures of a run: spotting timeline, training curves, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.pictures.drawing import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    RED,
    SKY,
    class_colour,
    figure,
    legend,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from models.report.scores import TITLES, Confusion

MOST_POINTS = 900  # of a drawn curve: about one per pixel


@dataclass(frozen=True)
class TimelineSpan:
    """An interval on a timeline, frame indices inclusive.

    `kind`: "micro" or "macro" for what is annotated; "hit" or "false" for what is predicted.
    """

    start: float
    end: float
    label: str
    kind: str


def thin(curve: npt.ArrayLike, most: int = MOST_POINTS) -> tuple[Any, Any]:
    """Positions and values of a curve with at most `most` points that keeps every peak and dip."""
    values = np.asarray(curve, dtype=np.float64)
    if len(values) <= most:
        return np.arange(len(values)), values
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    places: list[int] = []
    for start, end in pairwise(edges):
        part = values[start:end]
        places += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return np.array(places), values[places]


def timeline_figure(
    score: npt.ArrayLike,
    threshold: float | None,
    predicted: Sequence[TimelineSpan],
    annotated: Sequence[TimelineSpan],
    *,
    seconds_per_frame: float,
    width: int = 860,
) -> Figure:
    """One video: score and threshold above, annotated and predicted intervals below.

    score (T,): the smoothed score per frame; intervals in the same frames. A hit is filled, a
    false alarm hatched; an annotated micro-expression is filled in its class colour, a
    macro-expression is a grey outline.
    """
    fig, (above, below) = figure(
        width, 190, rows=2, sharex=True, gridspec_kw={"height_ratios": [3, 1.5]}
    )
    at, values = thin(score)
    time = at * seconds_per_frame
    above.plot(time, values, color=INK, linewidth=1.0)
    if threshold is not None:
        above.axhline(threshold, color=RED, linewidth=0.9, linestyle=(0, (4, 3)))
        above.fill_between(
            time, values, threshold, where=values > threshold, color=SKY, alpha=0.35, linewidth=0
        )
    above.set_ylabel("score")
    above.locator_params(axis="y", nbins=3)
    _lane(below, annotated, 1.0, seconds_per_frame)
    _lane(below, predicted, 0.0, seconds_per_frame)
    below.set_yticks([0.0, 1.0], ["predicted", "annotated"])
    below.set_ylim(-0.6, 1.6)
    below.grid(False)
    for side in ("left", "bottom"):
        below.spines[side].set_visible(False)
    below.set_xlabel("seconds")
    below.set_xlim(0, max(1, len(np.asarray(score))) * seconds_per_frame)
    return fig


def _lane(axis: Axes, intervals: Sequence[TimelineSpan], y: float, scale: float) -> None:
    styles: dict[str, dict[str, Any]] = {
        "macro": {"facecolor": "none", "edgecolor": MUTED, "linewidth": 0.8},
        "hit": {"linewidth": 0},
        "micro": {"linewidth": 0},
        "false": {"facecolor": "white", "edgecolor": RED, "hatch": "////", "linewidth": 0.8},
    }
    axis.axhline(y, color=GRID, linewidth=0.8, zorder=0)
    for number, item in enumerate(intervals):
        style = {"facecolor": class_colour(item.label, number), **styles[item.kind]}
        start, length = item.start * scale, (item.end - item.start + 1) * scale
        axis.broken_barh([(start, length)], (y - 0.34, 0.68), **style)


def training_figure(histories: dict[str, pd.DataFrame], width: int = 860) -> Figure | None:
    """Loss and training score per epoch: a thin line a fold, a thick one for their median.

    None when no fold recorded a loss.
    """
    panels = []
    for heading, wanted in (("loss", ("loss",)), ("on the training samples", _TRAIN_SCORES)):
        names = [n for n in wanted if any(n in h for h in histories.values())]
        if names:
            panels.append((heading, names))
    if not panels or panels[0][0] != "loss":
        return None
    fig, axes = figure(width, 210, cols=len(panels))
    for axis, (heading, names) in zip(axes, panels, strict=True):
        for number, name in enumerate(names):
            lines = [h.set_index("epoch")[name] for h in histories.values() if name in h]
            colour = (BLUE, ORANGE)[number % 2]
            for line in lines:
                axis.plot(line.index, line, color=colour, linewidth=0.6, alpha=0.3)
            middle = pd.concat(lines, axis=1).median(axis=1)
            label = TITLES[name.removeprefix("train_")][0] if len(names) > 1 else None
            axis.plot(middle.index, middle, color=colour, linewidth=1.8, label=label)
        title(axis, heading)
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        legend(axis, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(names), borderpad=0)
    return fig


_TRAIN_SCORES = ("train_uf1", "train_accuracy")


def confusion_figure(matrix: Confusion, side: int = 300) -> Figure:
    """The matrix as a heat table: colour is the share of the true class, text the count."""
    fig, (axis,) = figure(side + 60, side)
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("quiet", ["#ffffff", BLUE])
    axis.imshow(matrix.shares, cmap=colours, vmin=0, vmax=1)
    places = range(len(matrix.labels))
    axis.set_xticks(places, matrix.labels, rotation=30 if len(matrix.labels) > 3 else 0)
    axis.set_yticks(places, matrix.labels)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for i, row in enumerate(matrix.counts):
        for j, count in enumerate(row):
            colour = "white" if matrix.shares[i][j] > 0.55 else INK
            axis.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=10)
    return fig
