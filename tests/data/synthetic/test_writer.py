"""Synthetic datasets: written whole, deterministic, true to their truth file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import ConfigError, DatasetError
from data.synthetic import load_truth, write_dataset, writer
from data.synthetic.render import Renderer

TINY_CLIPS = {"preset": "smoke", "size": (160, 120), "clips": 1, "workers": 1}


def tree(root: Path) -> dict[str, str]:
    """Relative path -> digest of every file."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_dataset("casme2", tmp_path_factory.mktemp("clips"), preset="smoke", workers=1)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("long")
    return write_dataset("samm_lv", out, preset="smoke", subjects=2, size=(240, 180), workers=1)


@pytest.mark.parametrize("name", ["clips", "long"])
def test_frames_on_disk_are_those_of_the_truth(name, request):
    root = request.getfixturevalue(name)
    truth = load_truth(root)
    assert len(truth.videos) == {"clips": 4, "long": 2}[name]
    for video in truth.record["videos"]:
        files = sorted((root / video["folder"]).iterdir(), key=lambda p: p.stat().st_ino)
        assert len(files) == video["frames"]
        assert video["first_file"] in {f.name for f in files}
        image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
        assert image.shape[:2] == (video["size"][1], video["size"][0])
        assert (image.ndim == 3) == video["colour"]
        for event in video["events"]:
            assert 0 <= event["onset"] <= event["apex"] <= event["offset"] < video["frames"]
    assert not (root / "_synthetic.partial").exists()


def test_same_call_again_renders_nothing(clips):
    before = tree(clips)
    calls = []
    write_dataset("casme2", clips, preset="smoke", progress=lambda *a: calls.append(a))
    assert calls == []
    assert tree(clips) == before


def test_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path):
    made = {}
    for name, seed, workers in (("one", 3, 1), ("two", 3, 2), ("other", 4, 1)):
        options = TINY_CLIPS | {"workers": workers}
        made[name] = tree(write_dataset("casme2", tmp_path / name, seed=seed, **options))
    assert made["one"] == made["two"]
    assert made["one"] != made["other"]


def test_progress_counts_all_frames(tmp_path):
    calls = []
    root = write_dataset("casme2", tmp_path, progress=lambda *a: calls.append(a), **TINY_CLIPS)
    frames = sum(v["frames"] for v in load_truth(root).record["videos"])
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert calls[-1][:2] == (frames, frames)


def test_failure_leaves_no_truth_and_the_next_call_repairs(tmp_path, monkeypatch):
    whole = tree(write_dataset("casme2", tmp_path / "whole", **TINY_CLIPS))
    render, done = writer._render, []

    def fail_second(job):
        if done:
            raise OSError("disk full")
        done.append(job)
        return render(job)

    monkeypatch.setattr(writer, "_render", fail_second)
    with pytest.raises(DatasetError, match="disk full"):
        write_dataset("casme2", tmp_path / "broken", **TINY_CLIPS)
    with pytest.raises(DatasetError, match=r"truth\.json"):
        load_truth(tmp_path / "broken")
    monkeypatch.undo()
    assert tree(write_dataset("casme2", tmp_path / "broken", **TINY_CLIPS)) == whole


def test_interrupted_rewrite_is_not_taken_for_whole(tmp_path):
    root = write_dataset("casme2", tmp_path, **TINY_CLIPS)
    whole = tree(root)
    (root / "_synthetic.partial").write_text("")
    next(root.rglob("img1.jpg")).unlink()
    assert tree(write_dataset("casme2", tmp_path, **TINY_CLIPS)) == whole


def test_other_parameters_rewrite_our_folder(tmp_path):
    write_dataset("casme2", tmp_path, seed=1, **TINY_CLIPS)
    write_dataset("samm_lv", tmp_path, preset="smoke", size=(160, 120), subjects=1, seconds=2.0,
                  micros=(1, 1), macros=(0, 0), workers=1)  # fmt: skip
    assert load_truth(tmp_path).record["parameters"]["layout"] == "samm_lv"
    assert not (tmp_path / "CASME2-RAW").exists()


def test_foreign_folder_is_refused_and_untouched(tmp_path):
    precious = tmp_path / "sub01" / "img1.jpg"
    precious.parent.mkdir()
    precious.write_bytes(b"licensed")
    (tmp_path / "truth.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(DatasetError, match="empty folder or a synthetic dataset"):
        write_dataset("casme2", tmp_path, **TINY_CLIPS)
    assert precious.read_bytes() == b"licensed"
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(DatasetError, match="a file"):
        write_dataset("casme2", file, **TINY_CLIPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "casme9"}, "casme2"),
        ({"preset": "huge"}, "smoke"),
        ({"amplitud": 1.0}, "amplitude"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"size": (64, 48)}, "size"),
        ({"subjects": 0}, "subjects"),
        ({"noise": -1.0}, "noise"),
        ({"fps": 1.0}, "fps"),
    ],
)
def test_bad_arguments_are_named(tmp_path, options, message):
    arguments = {"layout": "casme2"} | options
    with pytest.raises(ConfigError, match=message):
        write_dataset(arguments.pop("layout"), tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_overrides_reach_the_truth(tmp_path):
    options = TINY_CLIPS | {"subjects": 1, "amplitude": 0.0, "head": 0.0, "fps": 100.0}
    root = write_dataset("casme2", tmp_path, **options)
    video = load_truth(root).video(load_truth(root).videos[0])
    assert video.record["fps"] == 100.0
    assert not video.pose.any()
    assert not video.flow(0, video.expressions[0]["apex"]).any()


def test_unknown_video_is_named(clips):
    with pytest.raises(DatasetError, match="nobody"):
        load_truth(clips).video("nobody")


@pytest.mark.parametrize("name", ["clips", "long"])
def test_true_flow_explains_the_pixels(name, request):
    """Reading the later frame where the flow points gives back the onset frame."""
    root = request.getfixturevalue(name)
    truth = load_truth(root)
    video = truth.video(truth.videos[0])
    event = max(video.expressions, key=lambda e: max(u["left"] for u in e["units"]))
    folder = root / video.record["folder"]
    first = int("".join(c for c in video.record["first_file"].split("_")[-1] if c.isdigit()))
    files = {int("".join(c for c in p.stem.split("_")[-1] if c.isdigit())): p
             for p in folder.iterdir()}  # fmt: skip
    onset, apex = (
        cv2.imread(str(files[first + event[k]]), cv2.IMREAD_GRAYSCALE).astype(np.float32)
        for k in ("onset", "apex")
    )
    flow = video.flow(event["onset"], event["apex"])
    height, width = onset.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)
    warped = cv2.remap(apex, grid + flow, None, cv2.INTER_CUBIC)
    low, high = video.landmarks.min(0).astype(int), video.landmarks.max(0).astype(int)
    face = np.s_[low[1] : high[1], low[0] : high[0]]
    left = np.sqrt(np.mean((warped - onset)[face] ** 2))
    raw = np.sqrt(np.mean((apex - onset)[face] ** 2))
    assert raw > 4.0
    assert left < 0.6 * raw
    assert left < 3.2  # two frames of sensor noise 1.5, JPEG, shading


def test_projection_inverts_itself(long):
    truth = load_truth(long)
    video = truth.video(truth.videos[1])
    macro = next(e for e in video.expressions if e["type"] == "macro")
    seen = video.project(video.landmarks, macro["apex"])
    assert np.abs(seen - video.landmarks).max() > 0.5
    np.testing.assert_allclose(
        video.unproject(seen, macro["apex"]), video.landmarks, rtol=0, atol=0.02
    )


def test_renderer_agrees_with_the_truth(long):
    """The maps that made the picture invert the truth's forward projection within 0.04 px."""
    truth = load_truth(long)
    video = truth.video(truth.videos[0])
    script, subject = _replan(truth)
    renderer = Renderer(subject, script, colour=False, noise=0.0, shading=0.0)
    frame = next(e["apex"] for e in video.expressions if e["type"] == "macro")
    at = renderer._maps.undo(script.track.pose[frame]).copy()
    for field, s in zip(renderer._fields, script.track.curves[:, frame], strict=True):
        renderer._undo_expression(at, field, float(s))
    back = video.project(at.astype(np.float64), frame) - renderer._maps.grid
    assert np.abs(back).max() < 0.04


def _replan(truth):
    from data.synthetic.layouts import get_layout
    from data.synthetic.presets import Preset
    from data.synthetic.script import write_scripts
    from data.synthetic.subjects import make_subject

    values = dict(truth.record["parameters"])
    layout = get_layout(values.pop("layout"))
    seed, people = values.pop("seed"), values.pop("people")
    for name in ("version", "defects"):
        values.pop(name)
    preset = Preset(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    crew = [make_subject(people, i, preset.size, preset.expressivity)
            for i in range(preset.subjects)]  # fmt: skip
    return write_scripts(layout, preset, seed, crew)[0], crew[0]


def test_exactly_one_face_is_found(clips, long):
    dlib = pytest.importorskip("dlib")
    detector = dlib.get_frontal_face_detector()
    counts = []
    for root, step in ((clips, 12), (long, 60)):
        for video in load_truth(root).record["videos"]:
            for path in sorted((root / video["folder"]).iterdir())[::step]:
                image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                counts.append(len(detector(image, 1)))
    assert len(counts) > 50
    assert np.mean(np.array(counts) == 1) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "preset"), [("casme2", "hard"), ("samm_lv", "hard")])
def test_exactly_one_face_is_found_in_the_hard_presets(tmp_path, layout, preset):
    dlib = pytest.importorskip("dlib")
    detector = dlib.get_frontal_face_detector()
    root = write_dataset(layout, tmp_path, preset=preset, subjects=5, clips=2, seconds=4.0)
    counts = []
    for video in load_truth(root).record["videos"]:
        for path in sorted((root / video["folder"]).iterdir())[::40]:
            counts.append(len(detector(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), 0)))
    assert np.mean(np.array(counts) == 1) >= 0.99


def test_import_needs_neither_dlib_nor_torch_nor_excel():
    code = (
        "import sys, data.synthetic; "
        "bad = {'dlib', 'torch', 'prefect', 'openpyxl', 'matplotlib', 'numba'} & set(sys.modules); "
        "print(*bad); sys.exit(len(bad))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="file/inside"):
        write_dataset("casme2", tmp_path / "file" / "inside", preset="smoke")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.synthetic.writer._render_all", full)
    with pytest.raises(DatasetError, match="No space left") as error:
        write_dataset("casme2", tmp_path / "full", preset="smoke")
    assert error.value.code == "not_writable"
