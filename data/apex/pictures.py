"""Pictures of apex spotting: the motion curve with label and confidence, and the errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from data.apex.spotting import error_report
from data.errors import InputError
from data.pictures.drawing import BLUE, GREEN, MUTED, ORANGE, figure, legend
from data.pictures.stages import Drawn, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def apex_figure(rows: pd.DataFrame, *, most: int = 6, cols: int = 3) -> Figure:
    """Curves of up to `most` events of the apex stage's table, each with its label and apex.

    Raises InputError when no event has a curve.
    """
    shown = rows[[len(curve) > 0 for curve in rows["curve"]]].head(most)
    if shown.empty:
        raise InputError("apex_figure(rows)", expected="an event with a curve", got="none")
    cols = min(cols, len(shown))
    lines = -(-len(shown) // cols)
    fig, axes = figure(280 * cols + 20, 175 * lines, rows=lines, cols=cols)
    for axis, (_, row) in zip(axes, shown.iterrows(), strict=False):
        draw_curve(axis, row.to_dict())
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    legend(axes[0], loc="upper right")
    return fig


def draw_curve(axis: Axes, row: dict[str, Any]) -> None:
    """One event: motion along the found pattern, the apex in use, the label, the spotted frame."""
    curve, start = np.asarray(row["curve"], np.float64), int(row["curve_start"])
    frames = np.arange(start, start + len(curve))
    axis.plot(frames, curve, color=BLUE, linewidth=1.4)
    axis.axhline(0, color=MUTED, linewidth=0.5)
    label, error = row["label_apex"], row["error_frames"]
    if not pd.isna(label):
        axis.axvline(float(label), color=GREEN, linewidth=1.4, label="label")
    spotted = float(row["apex"]) if pd.isna(error) else float(label) + float(error)
    axis.axvline(spotted, color=ORANGE, linewidth=1.4, linestyle="--", label=str(_found(row)))
    said = "" if pd.isna(row["confidence"]) else f", confidence {row['confidence']:.1f}"
    off = "" if pd.isna(error) else f", {error:+.0f} frames off"
    axis.set_title(f"{row['event']}\n{row['source']}{said}{off}", loc="left", fontsize=8)
    axis.set_xlabel("frame")
    axis.set_ylabel("motion")


def _found(row: dict[str, Any]) -> str:
    return "middle" if row["source"] == "middle" else "spotted"


def error_figure(rows: pd.DataFrame) -> Figure:
    """Histogram of spotted − label beside middle − label, frames. Raises InputError without any."""
    report = error_report(rows)
    if not report["events"]:
        raise InputError("error_figure(rows)", expected="labelled, spotted events", got="none")
    both = rows[rows["error_frames"].notna() & rows["middle_error"].notna()]
    limit = max(5.0, float(both[["error_frames", "middle_error"]].abs().to_numpy().max()))
    step = max(1, round(limit / 20))  # whole frames to a bin
    reach = int(np.ceil(limit / step)) * step
    edges = (np.arange(-reach, reach + step + 1, step) - 0.5).tolist()
    fig, (axis,) = figure(420, 190)
    method = str(both["method"].iloc[0])
    axis.hist(both["error_frames"], edges, color=ORANGE, label=f"{method}: {report['mae']:.1f}")
    axis.hist(
        both["middle_error"],
        edges,
        histtype="step",
        color=MUTED,
        label=f"middle: {report['middle_mae']:.1f}",
    )
    axis.set_xlabel("frames after the labelled apex")
    axis.set_ylabel("events")
    axis.set_title(
        f"mean absolute error over {report['events']} labelled events", loc="left", fontsize=9
    )
    legend(axis, loc="upper right")
    return fig


def stage_pictures(shown: Shown) -> Iterator[Drawn]:
    """Motion curves of a few events, and the error where there are labels."""
    store = shown.store("apex")
    table = store.table()
    if "curve" not in table:
        return
    events = shown.chosen_events(store)
    rows = table[table.event.isin(events.event) & table.curve.map(len).gt(0)]
    if len(rows):
        yield Drawn(
            apex_figure(rows, most=shown.most), "Motion from onset to offset, label and apex found"
        )
    if (table.error_frames.notna() & table.middle_error.notna()).any():
        yield Drawn(error_figure(table), "Error against the labelled apex, where there is one")
