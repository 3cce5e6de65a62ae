"""Detection and landmarks: traps, failure words, the predictor file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import faces
from data.errors import ConfigError, InputError, MissingExtraError
from tests.fakes.align_scenes import grey_face, moved, noisy, person

pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def finder() -> faces.FaceFinder:
    return faces.face_finder(None)


def test_finds_the_face_and_its_landmarks_where_they_are(finder):
    grey, truth = grey_face(), person().landmarks
    (face,) = finder.detect(grey)
    x0, y0, x1, y1 = face.box
    assert x0 < truth[30, 0] < x1 and y0 < truth[30, 1] < y1
    found = finder.steady_landmarks(grey, face.box)
    inner = np.r_[17:68]  # the jaw line is vague
    assert np.median(np.hypot(*(found - truth)[inner].T)) < 0.06 * person().ipd


def test_steady_landmarks_jitter_less(finder):
    grey = grey_face(size=(640, 480))
    box = finder.detect(grey)[0].box
    once = [finder.landmarks(noisy(grey, i), box) for i in range(12)]
    nine = [finder.steady_landmarks(noisy(grey, i), box) for i in range(12)]
    assert np.std(nine, axis=0).mean() < 0.6 * np.std(once, axis=0).mean()


@pytest.mark.parametrize("view", ["strided", "mirrored", "fortran", "cropped"])
def test_arrays_that_dlib_would_silently_find_nothing_on(finder, view):
    grey = grey_face(size=(640, 480))
    image = {
        "strided": grey[::2, ::2],
        "mirrored": grey[:, ::-1],
        "fortran": np.asfortranarray(grey),
        "cropped": grey[20:460, 60:580],
    }[view]
    assert len(finder.detect(image)) == 1
    assert finder.look(image) is not None


def test_colour_orders_give_the_same_grey():
    bgr = person().image
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)])
    grey = faces.to_grey8(rgb)
    assert np.array_equal(grey, faces.to_grey8(bgr, order="bgr"))
    assert np.array_equal(grey, faces.to_grey8(alpha))
    assert not np.array_equal(grey, faces.to_grey8(bgr))
    assert grey.flags.c_contiguous and grey.dtype == np.uint8


def test_sixteen_bit_and_float_images_are_seen(finder):
    deep = grey_face().astype(np.uint16) * 16
    assert len(finder.detect(faces.to_grey8(deep))) == 1
    assert len(finder.detect(faces.to_grey8(deep / 4096.0))) == 1


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 2)), np.zeros(5), np.zeros((0, 3)), np.full((9, 9), np.nan)]
)
def test_images_that_are_none_are_refused(image):
    with pytest.raises(InputError):
        faces.to_grey8(image)


def test_unknown_colour_order_is_refused():
    with pytest.raises(InputError, match="rgb or bgr"):
        faces.to_grey8(np.zeros((8, 8, 3), np.uint8), order="grb")


def test_dark_face_is_found_on_an_equalised_copy_and_flagged(finder):
    dark = np.round(grey_face() * 0.04).astype(np.uint8)
    before = dark.copy()
    reference, reason = faces.examine(finder, dark, 0)
    assert reason == "" and reference is not None and reference.flags == ("dark",)
    assert np.array_equal(dark, before)


def test_small_face_is_found_by_doubling(finder):
    small = cv2.resize(grey_face(size=(640, 480)), (140, 105), interpolation=cv2.INTER_AREA)
    assert finder.detect(small) == []
    assert finder.look(small) is not None


def test_several_faces_give_the_largest_and_a_flag(finder):
    large = grey_face(0, (320, 240))
    other = cv2.resize(grey_face(1, (320, 240)), (272, 204), interpolation=cv2.INTER_AREA)
    both = np.full((240, 600), 128, np.uint8)
    both[:, :320], both[20:224, 324:596] = large, other
    reference, _ = faces.examine(finder, both, 3)
    assert reference is not None and reference.flags == ("multi_face",)
    assert reference.landmarks[:, 0].max() < 320 and reference.index == 3


def test_turned_heads_are_bad_poses():
    landmarks = person().landmarks
    tilted = cv2.transform(landmarks[None], cv2.getRotationMatrix2D((160, 120), 40, 1))[0]
    assert "roll" in faces.pose_problem(tilted, 1.0)
    profile = landmarks.copy()
    profile[30, 0] = landmarks[36, 0] + 0.1 * (landmarks[45, 0] - landmarks[36, 0])
    assert "asymmetry" in faces.pose_problem(profile, 1.0)
    assert "score" in faces.pose_problem(landmarks, 0.1)
    assert faces.pose_problem(landmarks, 1.0) == ""


def reference(finder, images, provided_crop=False):
    return faces.find_reference(
        finder, lambda i: images[i], range(len(images)), provided_crop=provided_crop, who="v"
    )


def test_reference_search_goes_on_past_useless_frames(finder):
    flat = np.full((240, 320), 90, np.uint8)
    assert reference(finder, [None, flat, grey_face()]).index == 2


@pytest.mark.parametrize(
    ("images", "code"),
    [
        ([np.full((240, 320), 90, np.uint8)] * 2, "no_face"),
        ([np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8)], "no_face"),
        ([None, None], "unreadable_video"),
        ([moved(grey_face(size=(640, 480)), 0, 0, roll=38)[0]], "bad_pose"),
    ],
)
def test_videos_without_a_usable_face_say_why(finder, images, code):
    with pytest.raises(InputError) as caught:
        reference(finder, images)
    assert caught.value.code == code


def test_provided_crops_are_taken_for_faces(finder):
    truth = person(size=(640, 480))
    x0, y0 = (truth.landmarks[30] - 1.0 * truth.ipd).astype(int)
    side = int(2.0 * truth.ipd)
    tight = grey_face(size=(640, 480))[y0 : y0 + side, x0 : x0 + side]
    tight = cv2.GaussianBlur(cv2.resize(tight, (60, 60)), (0, 0), 2.5)  # beyond the detector
    found = reference(finder, [tight], provided_crop=True)
    assert found.flags == ("assumed_crop",) and found.face.count == 0
    expected = (truth.landmarks[36:48].mean(axis=0) - (x0, y0)) * 60 / side
    assert np.hypot(*(found.landmarks[36:48].mean(axis=0) - expected)) < 4


def test_search_order_is_near_first_then_spread():
    order = faces.search_order(500, 200.0)
    assert order[:21] == list(range(21)) and order[-1] == 499 and len(order) == 26
    assert faces.search_order(4, 25.0) == [0, 1, 2, 3]


def test_template_is_a_symmetric_face_of_unit_pupil_distance():
    assert faces.interpupil(faces.TEMPLATE) == pytest.approx(1.0, abs=0.01)
    flipped = faces.TEMPLATE[:17][::-1] * (-1, 1)
    assert np.allclose(flipped, faces.TEMPLATE[:17])


def test_predictor_is_found_without_importing_its_package():
    path = faces.find_predictor()
    assert path.name == faces.PREDICTOR_FILE
    assert "face_recognition_models" not in sys.modules
    assert faces.predictor_identity() == faces.PREDICTOR_SHA256[:16]


def test_predictor_errors_name_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="landmark_model"):
        faces.find_predictor(tmp_path / "none.dat")
    junk = tmp_path / "junk.dat"
    junk.write_bytes(b"no model")
    with pytest.raises(ConfigError, match="shape predictor"):
        faces.FaceFinder(junk)
    assert faces.predictor_identity(junk) != faces.predictor_identity()
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\.\[faces\]"):
        faces.find_predictor()


def test_a_changed_packaged_predictor_is_refused(tmp_path, monkeypatch):
    models = tmp_path / "models"
    models.mkdir()
    (models / faces.PREDICTOR_FILE).write_bytes(b"tampered")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(InputError, match="sha256"):
        faces.find_predictor()


def test_everything_imports_without_dlib_and_says_what_is_missing():
    code = (
        "import sys; sys.modules['dlib'] = None\n"
        "import data.faces, data.align.tracking, data.align.stage, data.align.pictures\n"
        "from data.errors import MissingExtraError\n"
        "try: data.faces.FaceFinder()\n"
        "except MissingExtraError as e: print(e)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert "dlib" in done.stdout and "faces" in done.stdout
