"""Pictures people look at: one style, one palette, small files, the same bytes every time.

Figures are made without pyplot (no global state, no window) and leave as data URIs, because the
Prefect UI and the one-file report can show nothing else. Colours are Okabe and Ito's (2008), which
stay apart for colour-blind readers; what a colour says is always said by a label or a shape too.
matplotlib and OpenCV are imported when a picture is drawn.
"""

from __future__ import annotations

import base64
import html
import io
import re
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACTIVE = re.compile(r"([\\`\[\]|])")  # what makes Markdown do something
Image = npt.NDArray[np.uint8]  # (H, W) grey or (H, W, 3) RGB

INK, MUTED, GRID, PAPER = "#1f2933", "#6b7785", "#e4e7eb", "#ffffff"
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
SKY, PURPLE, YELLOW = "#56b4e9", "#cc79a7", "#f0e442"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)  # in this order for lines side by side
EMOTION_COLOURS = {
    "negative": BLUE,
    "positive": ORANGE,
    "surprise": GREEN,
    "others": PURPLE,
    "neutral": MUTED,
}
CLASS_COLOURS = {
    **EMOTION_COLOURS,
    "micro": ORANGE,
    "macro": "#b8c2cc",
    "blink": SKY,
    "unlabelled": "#dde3e8",
}

_DPI = 100.0  # one figure unit of 1/100 inch is one CSS pixel
_RENDER = threading.Lock()  # matplotlib's font and settings state is shared by threads


def class_colour(name: str, number: int = 0) -> str:
    """The colour of an emotion class, or the palette's `number`-th for a name it does not know."""
    return CLASS_COLOURS.get(name, PALETTE[number % len(PALETTE)])


def figure(
    width: int = 720, height: int = 180, rows: int = 1, cols: int = 1, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` × `height` CSS px with rows × cols quiet axes, row by row.

    `grid` goes to `Figure.subplots` (sharex, height_ratios as gridspec_kw and so on).
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    axes = list(np.atleast_1d(fig.subplots(rows, cols, **grid)).ravel())
    for axis in axes:
        quiet(axis)
    return fig, axes


def quiet(axis: Axes) -> Axes:
    """Take everything off an axis that carries no data; returns it."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(GRID)
    axis.tick_params(colors=MUTED, labelsize=8, length=0, pad=4)
    axis.grid(True, axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.xaxis.label.set(color=MUTED, fontsize=8)
    axis.yaxis.label.set(color=MUTED, fontsize=8)
    return axis


def title(axis: Axes, text: str) -> None:
    """A small heading above an axis, flush left."""
    axis.set_title(text, loc="left", fontsize=9, color=INK)


def legend(axis: Axes, **where: Any) -> None:
    """A frameless legend in small grey letters, if anything is labelled."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            **{"frameon": False, "fontsize": 8, "labelcolor": MUTED, "handlelength": 1.4, **where}
        )


def png_bytes(picture: Figure | npt.NDArray[Any], *, scale: float | None = None) -> bytes:
    """PNG of a figure (`scale` pixels per CSS px) or of a uint8 image (as it is).

    Without a scale, lines get 1.5 (sharp and small) and figures with images in them 1.

    Raises InputError for an array that is no uint8 image.
    """
    if isinstance(picture, np.ndarray):
        return _image_png(picture)
    from PIL import Image as Pillow

    inside = [image for axis in picture.axes for image in axis.images]
    dots = _DPI * (scale or (1.0 if inside else 1.5))
    drawn, packed = io.BytesIO(), io.BytesIO()
    with _RENDER:
        # Without the software's name the same figure gives the same bytes.
        picture.savefig(drawn, format="png", dpi=dots, metadata={"Software": None})
    image = Pillow.open(drawn).convert("RGB")
    # Few colours (lines, bars) or one (grey crops) make a picture three times smaller, unseen.
    if not inside:
        image = image.quantize(256, dither=Pillow.Dither.NONE)
    elif all(map(_is_grey, inside)):
        image = image.convert("L")
    image.save(packed, format="png", optimize=True)
    return packed.getvalue()


def _is_grey(image: Any) -> bool:
    """Whether an image on an axis is drawn in greys."""
    return np.ndim(image.get_array()) == 2 and image.get_cmap().name == "gray"


def _image_png(image: npt.NDArray[Any]) -> bytes:
    import cv2

    grey, colour = image.ndim == 2, image.ndim == 3 and image.shape[-1] == 3
    if image.dtype != np.uint8 or not (grey or colour) or not image.size:
        raise InputError(
            "png_bytes(picture)",
            expected="a uint8 image (H, W) or (H, W, 3) RGB, or a matplotlib figure",
            got=f"{image.dtype} {image.shape}",
        )
    ordered = image if grey else image[..., ::-1]
    done, data = cv2.imencode(
        ".png", np.ascontiguousarray(ordered), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    if not done:
        raise InputError("png_bytes(picture)", expected="an encodable image", got=str(image.shape))
    return data.tobytes()


def png_uri(picture: Figure | npt.NDArray[Any], *, scale: float | None = None) -> str:
    """The picture as a `data:image/png` URI; see `png_bytes`."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture, scale=scale)).decode()


def svg_uri(fig: Figure) -> str:
    """A figure of lines as a `data:image/svg+xml` URI: sharp at any size, the same every time."""
    import matplotlib

    buffer = io.BytesIO()
    with _RENDER, matplotlib.rc_context({"svg.hashsalt": "apexflow", "svg.fonttype": "none"}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def markdown_image(
    picture: Figure | npt.NDArray[Any], text: str, *, scale: float | None = None
) -> str:
    """The picture as a Markdown image with `text` for those who cannot see it."""
    return f"![{markdown_text(text)}]({png_uri(picture, scale=scale)})"


def markdown_text(text: str) -> str:
    """Text from a folder or a sheet as Markdown that shows it as it is: no tag, link or picture."""
    return _ACTIVE.sub(r"\\\1", html.escape(text, quote=False).replace("\n", " "))


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table with the first row's columns; '' without rows."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = (_cell(row.get(name)) for name in names)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or value is pd.NA:
        return ""
    return markdown_text(str(value))


def thumbnail(image: npt.NDArray[Any], size: int = 96) -> Image:
    """The image scaled down so that its longer side is at most `size`; never enlarged."""
    import cv2

    height, width = image.shape[:2]
    ratio = size / max(height, width)
    if ratio >= 1:
        return np.ascontiguousarray(image, dtype=np.uint8)
    target = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def side_by_side(images: Iterable[npt.NDArray[Any]], gap: int = 3) -> Image:
    """Images of one height next to each other on white; grey beside colour becomes colour.

    Raises InputError when there are none or their heights differ.
    """
    parts = [np.asarray(image, dtype=np.uint8) for image in images]
    if len({part.shape[0] for part in parts}) != 1:
        raise InputError(
            "side_by_side(images)",
            expected="at least one image, all of one height",
            got=str([part.shape for part in parts])[:120],
        )
    if any(part.ndim == 3 for part in parts):
        parts = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=-1) for p in parts]
    space = np.full((parts[0].shape[0], gap, *parts[0].shape[2:]), 255, np.uint8)
    spaced = [piece for part in parts for piece in (part, space)]
    return np.concatenate(spaced[:-1], axis=1)


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spread, first and last among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    places = np.rint(np.linspace(0, len(items) - 1, count)).astype(int)
    return [items[i] for i in places]


def faces_shown(videos: pd.DataFrame, with_faces: bool) -> set[str]:
    """Ids of the videos whose faces may be in a picture: all with `with_faces`, else the free."""
    allowed = videos if with_faces else videos[videos["show_faces"].astype(bool)]
    return set(allowed["video"].astype(str))


FACES_HIDDEN = (
    "Faces are not shown: this dataset's licence forbids passing them on. "
    "The option --with-faces shows them for your own eyes."
)
