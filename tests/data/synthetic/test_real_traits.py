"""What recordings of people have: heads that turn, light that drifts, talk, compression, 40 px."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import ConfigError
from data.synthetic import load_truth, write_dataset
from data.synthetic.codec import compressed
from data.synthetic.dynamics import head_pose, slow_light, talk_curve
from data.synthetic.geometry import Head
from data.synthetic.presets import PRESETS, TRAITS, resolve
from data.synthetic.rng import generator
from data.synthetic.subjects import make_subject
from data.video_file import VideoFile


def head(solid: bool = True) -> Head:
    person = make_subject("traits", 0, (320, 240))
    return Head.of(person.landmarks, person.ipd, (320, 240), solid=solid)


def test_no_angle_moves_nothing_and_a_small_one_moves_as_parallax_does() -> None:
    points = make_subject("traits", 0, (320, 240)).landmarks[17:]
    still, pose = np.zeros(6), np.array([0, 0, 0, 0, 0.05, -0.04])
    np.testing.assert_allclose(head().shift(points, still), 0, atol=1e-12)
    flat, solid = head(False).shift(points, pose), head().shift(points, pose)
    spread = np.abs(solid - flat).max() / np.abs(flat).max()
    assert 0 < spread < 0.2  # perspective, and a turn shortens the face


def test_a_turn_is_rigid() -> None:
    """Distances between the points in space stay: the shift is undone by the opposite turn."""
    one, points = head(), make_subject("traits", 0, (320, 240)).landmarks[17:]
    rel, depth = points - one.centre, one.depth(points)
    away = 10.0 * one.ipd
    seen = one._turn(rel, depth, np.deg2rad(8.0), 0.0)
    space = np.column_stack([rel * (1 - depth / away)[:, None], depth])
    z = depth * np.cos(np.deg2rad(8)) - space[:, 0] * np.sin(np.deg2rad(8))
    turned = np.column_stack([seen * (1 - z / away)[:, None], z])
    gaps = [np.linalg.norm(p[:, None] - p[None, :], axis=2) for p in (space, turned)]
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-9)


def test_the_inverse_holds_for_large_turns() -> None:
    one, points = head(), make_subject("traits", 0, (320, 240)).landmarks[17:]
    pose = np.array([4.0, -3.0, 3.0, 0.02, 10.0, -7.0])
    seen = points + one.shift(points, pose)
    assert np.abs(one.undo(seen, pose) - points).max() < 0.02


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        "csv", tmp_path_factory.mktemp("turn") / "set", preset="smoke", subjects=1, clips=1,
        turn=5.0, talk=0.9, light=0.05, noise=0.0, amplitude=0.0, confounder=0.0, blink=0.0,
        fps=25.0, lead=(1.0, 1.0), workers=1, seed=3,
    )  # fmt: skip


def test_the_truth_says_where_every_point_of_a_turning_talking_face_is(turning: Path) -> None:
    truth = load_truth(turning)
    video = truth.video(truth.videos[0])
    assert np.abs(video.pose[:, 4]).max() > 2 and max(video.record["talk"]["curve"]) > 0.3
    film = VideoFile(next(turning.glob("videos/*/*.avi")), len(video.pose))
    grey = [cv2.cvtColor(film.read(i), cv2.COLOR_RGB2GRAY) for i in range(len(video.pose))]
    far = int(np.abs(video.pose[:, 4] - video.pose[0, 4]).argmax())
    y, x = np.mgrid[70:200:3, 110:210:3].astype(np.float64)
    neutral = np.stack([x, y], axis=-1)
    one, two = (video.project(neutral, i).astype(np.float32) for i in (0, far))
    first = cv2.remap(grey[0], one, None, cv2.INTER_CUBIC) / video.gain[0]
    there = cv2.remap(grey[far], two, None, cv2.INTER_CUBIC) / video.gain[far]
    stayed = cv2.remap(grey[far], one, None, cv2.INTER_CUBIC) / video.gain[far]
    assert np.abs(first - there).mean() < 0.35 * np.abs(first - stayed).mean()


def test_presets_without_the_traits_are_described_as_before() -> None:
    for kind in ("clip", "long"):
        for name in ("smoke", "tiny", "default"):
            assert not set(TRAITS) & set(resolve(kind, name, {}).stated())
        assert {"turn", "light", "compression"} <= set(resolve(kind, "hard", {}).stated())
    plain = head_pose(50, 25.0, 2.0, 1.0, [], generator("pose"))
    turned = head_pose(50, 25.0, 2.0, 1.0, [], generator("pose"), 3.0)
    assert (plain[:, :4] == turned[:, :4]).all()
    np.testing.assert_allclose(turned[:, 4] / plain[:, 4], 3.0, rtol=1e-2)  # 0.5 degrees times 2


@pytest.mark.parametrize("trait", [{"turn": 40.0}, {"compression": 60}, {"talk": -0.1}])
def test_impossible_traits_are_refused(trait: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(trait))):
        resolve("clip", "tiny", trait)


def test_light_and_talk_have_the_size_asked_for() -> None:
    light = slow_light(3000, 25.0, 0.03, generator("light"))
    assert light.mean() == pytest.approx(1, abs=0.02) and 0.015 < light.std() < 0.06
    assert np.abs(np.diff(light)).max() < 0.005
    talk = talk_curve(3000, 25.0, 0.3, generator("talk"))
    assert 0.2 < (talk > 0.02).mean() < 0.45 and 0.8 < talk.max() <= 1
    assert (talk_curve(500, 25.0, 1.0, generator("all")) > 0.02).mean() > 0.7


@pytest.mark.parametrize("colour", [False, True])
def test_compression_keeps_count_order_and_size_and_takes_detail(colour: bool) -> None:
    rng = np.random.default_rng(0)
    shape = (126, 163, 3) if colour else (126, 163)
    frames = [np.clip(rng.normal(20 * i, 6, shape), 0, 255).astype(np.uint8) for i in range(12)]
    out = list(compressed(frames, 30))
    assert [f.shape for f in out] == [f.shape for f in frames]
    means = [float(f.mean()) for f in out]
    np.testing.assert_allclose(means, [f.mean() for f in frames], atol=4)
    assert out[5].std() < 0.6 * frames[5].std()
    again = list(compressed(frames, 30))
    assert all((a == b).all() for a, b in zip(out, again, strict=True))
    assert list(compressed([], 30)) == []


def test_a_low_face_has_forty_pixels_between_its_pupils() -> None:
    for kind in ("clip", "long"):
        person = make_subject("low", 0, PRESETS[kind]["low"].size)
        assert 35 < person.ipd < 46
