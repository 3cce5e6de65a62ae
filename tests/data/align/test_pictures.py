"""Pictures of alignment: drawn from a store, and clips that a player opens."""

from __future__ import annotations

import cv2
import h5py
import numpy as np
import pytest

from data.align import pictures as align_pictures
from data.errors import InputError
from data.pictures import drawing as pictures
from tests.fakes.align_scenes import align, grey_face, moved, noisy

pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    frames = [noisy(moved(grey_face(), 0.8 * i, 0.4 * i)[0], i) for i in range(12)]
    _, out, inputs = align(tmp_path_factory.mktemp("a"), {"a": frames}, size=128)
    with h5py.File(out) as part:
        yield part["a"], inputs.recordings.frames("a")


def test_before_moves_and_after_does_not(aligned):
    pairs = list(align_pictures.before_after(*aligned))
    change = [np.abs(np.subtract(pairs[-1][k], pairs[0][k], dtype=float)).mean() for k in (0, 1)]
    assert len(pairs) == 12 and change[1] < 0.5 * change[0]


def test_filmstrip_has_two_rows_and_their_slices(aligned):
    fig = align_pictures.filmstrip(*aligned, span=(2, 9), most=4)
    images = [axis.images[0].get_array() for axis in fig.axes]
    assert len(images) == 2 * (4 + 1)
    assert images[4].shape == images[9].shape == (128, 8)
    titles = [axis.get_title() for axis in fig.axes]
    assert "before, frame 2" in titles and "after, frame 9" in titles
    assert pictures.png_bytes(fig).startswith(b"\x89PNG")


def test_points_are_drawn_without_a_face(aligned):
    group, _ = aligned
    fig = align_pictures.points_figure(group)
    carried = fig.axes[0]
    assert not any(axis.images for axis in fig.axes[:2])
    arrows = next(c for c in carried.collections if hasattr(c, "U"))
    assert len(arrows.U) == len(group["points"]) and (np.asarray(arrows.U) > 0).mean() > 0.9
    assert "frame 11" in carried.get_title(loc="left")


def test_points_of_a_mode_without_points_are_refused(tmp_path):
    _, out, _ = align(tmp_path, {"a": [grey_face()] * 2}, size=128, mode="first_crop")
    with h5py.File(out) as part, pytest.raises(InputError, match="first_crop"):
        align_pictures.points_figure(part["a"])


def test_residuals_and_statuses_are_counted():
    residual = np.array([0.1, 0.2, np.nan], np.float32)
    fig = align_pictures.residual_figure([("a", residual, np.array([0, 0, 2]))])
    left, states = fig.axes
    assert sum(bar.get_height() for bar in left.patches) == 2
    widths = {t.get_text(): bar.get_width()
              for t, bar in zip(states.get_yticklabels(), states.patches, strict=True)}  # fmt: skip
    assert widths == {"ok": 2, "align_held": 1}


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_clip_plays_with_both_halves(aligned, tmp_path, suffix):
    path = align_pictures.export_clip(*aligned, tmp_path / f"clip{suffix}", span=(0, 7), fps=10)
    if suffix == ".mp4":
        film = cv2.VideoCapture(str(path))
        frames = []
        while (got := film.read())[0]:
            frames.append(got[1])
    else:
        from PIL import Image, ImageSequence

        frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(path))]
    assert len(frames) == 8 and frames[0].shape == (128, 260, 3)
    halves = (
        [frames[0][30:, :128], frames[7][30:, :128]],
        [frames[0][30:, 132:], frames[7][30:, 132:]],
    )
    before, after = (np.abs(np.subtract(*h, dtype=float)).mean() for h in halves)
    assert after < 0.6 * before


def test_other_endings_are_refused(aligned, tmp_path):
    with pytest.raises(InputError, match=r"\.mp4 or \.gif"):
        align_pictures.export_clip(*aligned, tmp_path / "clip.webm")
