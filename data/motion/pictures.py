"""Pictures of motion features: how far each ROI moved, over the time of a video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.motion.features import NO_FACE
from data.motion.rois import ROI_SETS
from data.pictures.drawing import MUTED, class_colour, figure
from data.pictures.stages import Drawn, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F32 = npt.NDArray[np.float32]


def stitched(features: F32) -> F32:
    """Windows (W,C,k) as one series (C, (W+1)·k/2): the first whole, of each other its last half.

    Every column is a displacement since its own window's first frame, so the series jumps where
    windows meet.
    """
    if features.ndim != 3 or features.shape[2] % 2 or not len(features):
        raise InputError("stitched", expected="(W,C,k) with even k", got=str(features.shape))
    half = features.shape[2] // 2
    return np.concatenate([features[0], *(window[:, half:] for window in features[1:])], axis=1)


def motion_figure(
    features: F32,
    status: npt.NDArray[np.uint8],
    roi_set: str,
    *,
    spans: list[tuple[int, int, str]] | None = None,
    title: str = "",
) -> Figure:
    """Length of every ROI's vector over view time, darker = further, with annotated spans above.

    `spans`: (first, last, type) in view frames. Windows without a face are hatched out in grey.
    """
    series = stitched(features)
    names = ROI_SETS[roi_set]
    if series.shape[0] != 2 * len(names):
        raise InputError(
            "motion_figure", expected=f"{2 * len(names)} channels", got=str(series.shape[0])
        )
    length = np.hypot(series[0::2], series[1::2])
    fig, (above, below) = figure(
        860, 90 + 15 * len(names), rows=2, sharex=True, gridspec_kw={"height_ratios": [1, 5]}
    )
    shown = below.imshow(
        length,
        aspect="auto",
        cmap="magma_r",
        interpolation="nearest",
        vmin=0,
        vmax=max(float(np.quantile(length, 0.995)), 1e-6),
    )
    scale = fig.colorbar(shown, ax=[above, below], fraction=0.02, pad=0.01, aspect=30)
    scale.set_label("moved, px", fontsize=8, color=MUTED)
    scale.outline.set_visible(False)
    scale.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    half = features.shape[2] // 2
    for window in np.flatnonzero(np.asarray(status) == NO_FACE):
        first = 0 if window == 0 else (window + 1) * half
        below.axvspan(first - 0.5, (window + 2) * half - 0.5, color=MUTED, alpha=0.4)
    below.grid(False)
    below.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    below.set_xlabel("frame of ME-TST's time base")
    _draw_spans(above, spans or [], title)
    return fig


def _draw_spans(axis: Any, spans: list[tuple[int, int, str]], title: str) -> None:
    kinds = sorted({kind for *_, kind in spans})
    for first, last, kind in spans:
        colour = class_colour(kind, kinds.index(kind))
        axis.axvspan(first - 0.5, last + 0.5, color=colour, alpha=0.8)
        axis.text((first + last) / 2, 0.5, kind, ha="center", va="center", fontsize=7)
    axis.set_yticks([])
    axis.set_title(title, loc="left", fontsize=9)


def stage_pictures(shown: Shown) -> Iterator[Drawn]:
    """Motion series of a few videos with what is annotated."""
    from data.motion.view import position_in_view

    store, events = shown.store("motion"), shown.table("events")
    for video in shown.chosen_videos(store):
        own = events[(events.video == video) & events.onset.notna() & events.offset.notna()]
        with store.open(video) as group:
            view = group["view_index"][:]
            spans = [
                (
                    position_in_view(view, int(e.onset)),
                    position_in_view(view, int(e.offset)),
                    e.type,
                )
                for e in own.itertuples(index=False)
            ]
            fig = motion_figure(
                group["features"][:], group["status"][:], str(group.attrs["roi_set"]), spans=spans
            )
        text = "how far each region moved; micro- and macro-expressions as annotated above"
        yield Drawn(fig, f"{shown.dataset} · {video}: {text}")
    store.close()
