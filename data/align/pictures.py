"""Pictures of alignment: before and after, what was tracked, what is left, and a clip to look at.

"Before" is the reference frame's crop square cut from every raw frame: what a first-frame crop
would give. A shaking face shows best in a slice: one column of pixels over time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt

from data.align.geometry import IDENTITY, CropMaker, place
from data.align.modes import STATUS
from data.align.store import StoredPoses, open_crops
from data.errors import InputError
from data.frames import FrameSource
from data.pictures.drawing import BLUE, MUTED, ORANGE, evenly, figure, legend, thumbnail, title
from data.pictures.stages import (
    STRIP_FRAMES,
    STRIP_SIDE,
    Drawn,
    Shown,
    event_caption,
    strip_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = npt.NDArray[np.uint8]

SIDE = 120  # px of a picture in a filmstrip
GAP = 4  # px between the halves of a clip
GIF_COLOURS = 128


def before_after(
    group: h5py.Group, source: FrameSource, frames: Sequence[int] | None = None
) -> Iterator[tuple[Image, Image]]:
    """(unaligned, aligned) crops of an align unit, frame by frame.

    Raises InputError `unreadable_frame` for a frame that cannot be read.
    """
    stored, crops = StoredPoses(group), open_crops(group, source)
    maker = CropMaker(stored.geometry(0))
    colour = bool(group.attrs["colour"])
    for index in range(len(crops)) if frames is None else frames:
        yield maker(source.read(index, colour=colour), IDENTITY), np.asarray(crops[index])


def filmstrip(
    group: h5py.Group, source: FrameSource, span: tuple[int, int] | None = None, most: int = 7
) -> Figure:
    """Crops before and after alignment over frames `span` (inclusive), and a slice of each.

    The slice is the column through the nose of every frame, time to the right.
    """
    first, last = span or (0, len(group["status"]) - 1)
    every = list(range(first, last + 1))
    pairs = dict(zip(every, before_after(group, source, every), strict=True))
    shown = evenly(every, most)
    fig, axes = figure(
        SIDE * (len(shown) + 2), 2 * SIDE + 30, rows=2, cols=len(shown) + 1,
        gridspec_kw={"width_ratios": [1.0] * len(shown) + [2.0]},
    )  # fmt: skip
    column = int(np.clip(group["landmarks_crop"][30, 0], 0, int(group.attrs["size"]) - 1))
    for row, name in enumerate(("before", "after")):
        line = axes[row * (len(shown) + 1) : (row + 1) * (len(shown) + 1)]
        for axis, index in zip(line, shown, strict=False):
            axis.imshow(thumbnail(pairs[index][row], SIDE), cmap="gray", vmin=0, vmax=255)
            axis.set_axis_off()
            axis.set_title(f"{name}, frame {index}", fontsize=7, color=MUTED, pad=3)
        slice_ = np.stack([pairs[i][row][:, column] for i in every], axis=1)
        line[-1].imshow(slice_, cmap="gray", vmin=0, vmax=255, aspect="auto")
        line[-1].set(xticks=[], yticks=[])
        line[-1].set_title(f"{name}: column {column} over time", fontsize=7, color=MUTED, pad=3)
    return fig


def points_figure(group: h5py.Group) -> Figure:
    """Tracked points: where the head carried them farthest, and how far each strays by itself.

    Draws landmarks and points, never a face. Raises InputError when nothing was tracked.
    """
    if "points" not in group:
        raise InputError(
            f"points_figure({group.name})",
            expected="a video aligned by tracked points",
            got=f"mode {group.attrs['mode']}",
        )
    points, strays = group["points"][:].astype(np.float64), group["point_rms"][:]
    stored, landmarks = StoredPoses(group), group["landmarks"][:]
    block = np.flatnonzero(stored.depth_of == 0)
    there = [place(stored.geometry(0), stored.poses[i], points) for i in block]
    far = int(np.argmax([np.hypot(*(p - points).T).mean() for p in there]))
    moved = there[far] - points
    fig, (carried, left) = figure(620, 330, cols=2)
    for axis in (carried, left):
        axis.scatter(landmarks[:, 0], landmarks[:, 1], s=3, color=MUTED)
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.grid(False)
    length = max(float(np.hypot(*moved.T).max()), 1e-6)
    grow = 0.12 * float(np.ptp(landmarks[:, 0])) / length
    carried.quiver(*points.T, *(grow * moved).T, angles="xy", scale_units="xy", scale=1,
                   color=BLUE, width=0.004)  # fmt: skip
    title(carried, f"head motion at frame {block[far]}: {length:.1f} px at most")
    dots = left.scatter(points[:, 0], points[:, 1], s=14, c=strays, cmap="viridis", vmin=0)
    fig.colorbar(dots, ax=left, shrink=0.7, label="px")
    title(left, f"what each point does by itself, median {np.median(strays):.2f} px")
    for axis in (carried, left):
        axis.invert_yaxis()
    return fig


def residual_figure(
    videos: Sequence[tuple[str, Any, Any]], words: Sequence[str] = STATUS
) -> Figure:
    """Videos or events as (name, residual_px (T,), status (T,)): residuals, frames per status."""
    residuals = np.concatenate([np.asarray(r, np.float64) for _, r, _ in videos])
    residuals = residuals[np.isfinite(residuals)]
    codes = np.concatenate([np.asarray(s) for *_, s in videos])
    fig, (left, states) = figure(720, 200, cols=2)
    if len(residuals):
        left.hist(residuals, bins=40, color=BLUE)
        left.axvline(float(np.median(residuals)), color=ORANGE, label="median")
        legend(left, loc="upper left")
    title(left, "points' residual after alignment, px")
    counts = [(name, int((codes == code).sum())) for code, name in enumerate(words)]
    present = [(name, count) for name, count in counts if count]
    states.barh([n for n, _ in present], [c for _, c in present], 0.6, color=BLUE)
    states.set_ylim(max(len(present), 3) - 0.5, -0.5)  # one status makes no fat bar
    title(states, f"frames by status, {len(codes)} in all")
    return fig


def export_clip(
    group: h5py.Group,
    source: FrameSource,
    path: Path,
    *,
    span: tuple[int, int] | None = None,
    fps: float = 25.0,
) -> Path:
    """Write unaligned and aligned crops side by side as .mp4 or .gif, played at `fps`.

    `span` are the first and last frame; those that could not be read when the video was aligned
    are left out. Raises InputError for another suffix, where no encoder for it is built into
    OpenCV, and `unreadable_frame` where nothing is left to show.
    """
    first, last = span or (0, len(group["status"]) - 1)
    broken = group["status"][first : last + 1] == STATUS.index("unreadable")
    frames = [first + int(i) for i in np.flatnonzero(~broken)]
    if not frames:
        raise InputError("export_clip(span)", expected="a readable frame", got="none",
                         code="unreadable_frame")  # fmt: skip
    pairs = before_after(group, source, frames)
    pictures = (_labelled(before, after) for before, after in pairs)
    if path.suffix == ".gif":
        return _write_gif(pictures, path, fps)
    if path.suffix != ".mp4":
        raise InputError(
            "export_clip(path)", expected="a name ending in .mp4 or .gif", got=path.name
        )
    size = int(group.attrs["size"])
    code = cv2.VideoWriter.fourcc(*"mp4v")
    film = cv2.VideoWriter(str(path), code, fps, (2 * size + GAP, size))
    if not film.isOpened():
        raise InputError(
            "export_clip(path)", expected="an OpenCV with an mp4 encoder", got="none",
            todo="Write a .gif instead.",
        )  # fmt: skip
    for picture in pictures:
        film.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    film.release()
    return path


def _labelled(before: Image, after: Image) -> Image:
    """Both halves as RGB on white, named."""
    halves = []
    for name, half in (("before", before), ("after", after)):
        rgb = cv2.cvtColor(half, cv2.COLOR_GRAY2RGB) if half.ndim == 2 else half.copy()
        for thickness, shade in ((3, 0), (1, 255)):
            cv2.putText(rgb, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (shade,) * 3,
                        thickness, cv2.LINE_AA)  # fmt: skip
        halves.append(rgb)
    gap = np.full((before.shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def _write_gif(pictures: Iterator[Image], path: Path, fps: float) -> Path:
    from PIL import Image as Pillow

    frames = [
        Pillow.fromarray(p).quantize(GIF_COLOURS, dither=Pillow.Dither.NONE) for p in pictures
    ]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0
    )
    return path


def stage_pictures(shown: Shown) -> Iterator[Drawn]:
    """What is left after alignment, and a filmstrip or landmarks of a few videos."""
    store, faces, facts = shown.store("align"), shown.faces(), []
    videos = shown.chosen_videos(store)
    for video in videos:
        with store.open(video) as group:
            facts.append((video, group["residual_px"][:], group["status"][:]))
    if facts:
        yield Drawn(residual_figure(facts), f"{shown.dataset}: what is left after alignment")
    for number, video in enumerate(videos):
        with store.open(video) as group:
            hidden = video not in faces
            if "points" in group and (hidden or number == 0):
                yield Drawn(points_figure(group), f"{shown.dataset} · {video}: tracked points")
            elif hidden:
                yield Drawn(landmark_figure(group), f"{shown.dataset} · {video}: landmarks")
            if not hidden:
                yield from _strip(shown, video, group)
    store.close()


def _strip(shown: Shown, video: str, group: h5py.Group) -> Iterator[Drawn]:
    """A filmstrip over the video's first event: before and after where the raw frames are known."""
    events = shown.table("events")
    own = events[(events.video == video) & events.onset.notna() & events.offset.notna()]
    if own.empty:
        return
    event = next(own.itertuples(index=False))
    first, last = int(event.onset), int(event.offset)
    if shown.root is not None:
        fig = filmstrip(group, shown.recordings.frames(video), (first, last), STRIP_FRAMES)
        yield Drawn(fig, event_caption(shown, event))
    elif "crops" in group:
        frames = evenly(range(first, last + 1), STRIP_FRAMES)
        fig = strip_figure([group["crops"][i] for i in frames], frames)
        yield Drawn(fig, event_caption(shown, event))


def landmark_figure(group: h5py.Group) -> Figure:
    """The 68 landmarks in the crop: where the face lies, without the face."""
    fig, (axis,) = figure(STRIP_SIDE + 20, STRIP_SIDE + 20)
    points, size = group["landmarks_crop"][:], float(group.attrs["size"])
    axis.scatter(points[:, 0], points[:, 1], s=4, color=BLUE)
    axis.set(xlim=(0, size), ylim=(size, 0), xticks=[], yticks=[], aspect="equal")
    axis.grid(False)
    return fig
