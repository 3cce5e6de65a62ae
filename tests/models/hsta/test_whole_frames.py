"""Whole frames squashed to a square, as HSTA's authors read them: geometry and store."""

from __future__ import annotations

import cv2
import h5py
import numpy as np
import pytest

from data.align.geometry import IDENTITY, CropMaker, apply, whole_geometry
from data.align.modes import grey_of
from data.align.settings import AlignConfig
from data.align.store import open_crops
from models.hsta.input import resize_crops
from tests.fakes.align_scenes import align

FACE = np.random.default_rng(1).uniform(20, 60, (68, 2))
STILL = IDENTITY


def smooth(height, width, seed=0):
    """A picture without detail finer than a few pixels, over the full range of grey."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("shape", [(480, 640), (1024, 1280), (150, 600), (100, 80)])
def test_a_squashed_frame_is_an_image_resize(shape):
    image = smooth(*shape)
    crop = CropMaker(whole_geometry(FACE, shape, 224))(image, STILL)
    kind = cv2.INTER_AREA if min(shape) > 224 else cv2.INTER_LINEAR
    truth = cv2.resize(image, (224, 224), interpolation=kind)
    assert crop.shape == (224, 224) and np.abs(crop.astype(int) - truth).mean() < 2.5


def test_corners_of_the_frame_are_corners_of_the_crop():
    geometry = whole_geometry(FACE, (480, 640), 224)
    edges = np.array([[-0.5, -0.5], [639.5, -0.5], [-0.5, 479.5], [639.5, 479.5]])
    expected = [[-0.5, -0.5], [223.5, -0.5], [-0.5, 223.5], [223.5, 223.5]]
    assert apply(geometry.to_crop, edges) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("colour", [False, True])
def test_the_store_holds_the_frame_from_edge_to_edge(tmp_path, colour):
    frames = [smooth(120, 320, seed) for seed in range(3)]
    for frame in frames:
        frame[:, :8] = 255  # what the largest centred square would cut off
    results = {}
    for mode in ("none", "whole"):
        result, out, _ = align(
            tmp_path, {"a": frames}, mode=mode, size=128, colour=colour, part=f"{mode}.h5"
        )
        assert result.status == {"a": "ok"}
        with h5py.File(out) as part:
            results[mode] = part["a/crops"][:]
    whole = results["whole"]
    assert whole.shape == (3, 128, 128, 3)[: 4 if colour else 3]
    assert grey_of(whole[0])[:, 0].min() > 240 and grey_of(results["none"][0])[:, 0].mean() < 240
    clip = resize_crops(whole, 64, 3)
    assert clip.shape == (3, 64, 64, 3)


def test_crops_made_on_reading_are_the_stored_ones(tmp_path):
    frames = [smooth(120, 320, seed) for seed in range(3)]
    _, stored, _ = align(tmp_path, {"a": frames}, mode="whole", size=128, part="stored.h5")
    _, poses, inputs = align(
        tmp_path, {"a": frames}, mode="whole", size=128, store="transforms", part="poses.h5"
    )
    with h5py.File(stored) as a, h5py.File(poses) as b:
        assert "crops" not in b["a"]
        made = open_crops(b["a"], inputs.recordings.frames("a"))
        assert np.array_equal(made[0:3], a["a/crops"][:])


def test_the_setting_is_known_by_name():
    assert AlignConfig(mode="whole").mode == "whole"
    assert AlignConfig().mode == "track"
