"""Flow and strain as pictures: direction is hue, speed is saturation, with the wheel beside it.

White is no motion. The wheel is that of a clock seen by the reader: red points right, and since y
runs down in images, what moves down is coloured as the lower half of the wheel. A picture shows
flow only, never the face it came from. matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.pictures.drawing import INK, MUTED, evenly, figure, title
from data.pictures.stages import Drawn, Shown, event_caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = npt.NDArray[np.uint8]

TOP_SHARE = 99.5  # percentile of the speed that is fully coloured when no limit is given
MOST_PAIRS = 3  # flow fields of one event
PAIR_NAMES = {
    "onset_apex": "onset → apex",
    "apex_offset": "apex → offset",
    "sampled": "onset → frame",
    "consecutive": "frame → next",
}


def flow_colours(flow: npt.NDArray[Any], largest: float | None = None) -> Image:
    """A flow (H,W,2), dx right and dy down, as RGB (H,W,3) uint8.

    largest: the speed in px that is fully saturated; default, the 99.5th percentile of this field.
    Faster pixels are darkened. Raises InputError for other shapes or a limit that is not positive.
    """
    field = _check(flow, "flow_colours(flow)")
    if largest is not None and not largest > 0:
        raise InputError("flow_colours(largest)", expected="more than 0 px", got=repr(largest))
    dx, dy = np.nan_to_num(field[..., 0]), np.nan_to_num(field[..., 1])
    speed = np.hypot(dx, dy) / (largest or speed_limit(field))
    hue = np.degrees(np.arctan2(dy, dx)) % 360
    value = np.where(speed > 1, 0.75, 1.0)
    hsv = np.stack([hue, np.minimum(speed, 1), value], -1).astype(np.float32)
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def speed_limit(flow: npt.NDArray[Any]) -> float:
    """A saturating speed in px that suits these fields (…,2): nearly the largest, at least 0.05."""
    speed = np.hypot(flow[..., 0], flow[..., 1])
    return max(float(np.percentile(np.nan_to_num(speed), TOP_SHARE)) if speed.size else 0.0, 0.05)


def colour_wheel(side: int = 64) -> Image:
    """The key to `flow_colours`: (side,side,3), centre no motion, rim the largest speed."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    centre = (side - 1) / 2
    wheel = flow_colours(np.stack([x - centre, y - centre], -1), largest=centre)
    wheel[np.hypot(x - centre, y - centre) > centre] = 255
    return wheel


def flow_figure(
    fields: npt.NDArray[Any],
    strains: npt.NDArray[Any],
    kinds: Sequence[str],
    heading: str = "",
    largest: float | None = None,
) -> Figure:
    """Fields (P,H,W,2) px and strains (P,H,W) one above the other, with the wheel and its scale.

    One speed scale and one strain scale for the whole figure. Raises InputError without a pair or
    when shapes do not belong together.
    """
    flow, strain = np.asarray(fields, np.float32), np.asarray(strains, np.float32)
    if flow.ndim != 4 or not len(flow) or flow.shape[:3] != strain.shape or len(kinds) != len(flow):
        raise InputError(
            "flow_figure(fields, strains, kinds)",
            expected="(P,H,W,2), (P,H,W) and P names, P at least 1",
            got=f"{flow.shape}, {strain.shape} and {len(kinds)}",
        )
    limit = largest or speed_limit(flow)
    top = max(float(np.percentile(strain, TOP_SHARE)), 1e-3)
    count = len(flow)
    fig, axes = figure(
        150 * count + 110, 330, 2, count + 1, gridspec_kw={"width_ratios": [1] * count + [0.55]}
    )
    for axis in axes:
        axis.set_axis_off()
    for column, kind in enumerate(kinds):
        axis = axes[column]
        axis.imshow(flow_colours(flow[column], limit))
        title(axis, PAIR_NAMES.get(kind, kind))
        axes[count + 1 + column].imshow(strain[column], cmap="magma", vmin=0, vmax=top)
    wheel = axes[count]
    wheel.imshow(colour_wheel(96))
    wheel.text(
        0.5, -0.08, f"rim = {limit:.2g} px", transform=wheel.transAxes, ha="center", va="top",
        fontsize=8, color=MUTED,
    )  # fmt: skip
    key = axes[2 * count + 1]
    ramp = np.linspace(1, 0, 128)[:, None]
    key.imshow(np.repeat(ramp, 10, axis=1), cmap="magma", vmin=0, vmax=1)
    for height, text in ((1.0, f"{top:.2g}"), (0.0, "0")):
        key.text(1.4, height, text, transform=key.transAxes, va="center", fontsize=8, color=MUTED)
    key.text(
        0.5, 1.06, "strain", transform=key.transAxes, ha="center", va="bottom", fontsize=8,
        color=MUTED,
    )  # fmt: skip
    if heading:
        fig.suptitle(heading, fontsize=10, color=INK, x=0.01, ha="left")
    return fig


def _check(flow: npt.NDArray[Any], who: str) -> npt.NDArray[np.float32]:
    shape = np.shape(flow)
    if len(shape) != 3 or shape[-1] != 2 or 0 in shape:
        raise InputError(who, expected="one flow (H,W,2)", got=f"shape {shape}")
    return np.asarray(flow, np.float32)


def stage_pictures(shown: Shown) -> Iterator[Drawn]:
    """Flow and strain of a few events."""
    from data.flow.fields import read_flow

    store = shown.store("flow")
    for event in shown.chosen_events(store).itertuples(index=False):
        with store.open(str(event.event)) as group:
            kinds = [str(kind) for kind in group["kind"].asstr()[:]]
            # Main pairs first; of many sampled or consecutive ones a few, evenly spread.
            main = [i for i, kind in enumerate(kinds) if kind in ("onset_apex", "apex_offset")]
            rest = [i for i in range(len(kinds)) if i not in main]
            chosen = main + evenly(rest, max(0, MOST_PAIRS - len(main)))
            if not chosen:  # an event of one frame
                continue
            fields = np.stack([read_flow(group, i) for i in chosen])
            strains = np.stack([group["strain"][i] for i in chosen]).astype(np.float32)
        fig = flow_figure(fields, strains, [kinds[i] for i in chosen])
        yield Drawn(fig, event_caption(shown, event))
    store.close()
