"""Video files: frame n is frame n in every order and through every decoder; what lies is named."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import decoders, video_file
from data.datasets import open_dataset
from data.errors import InputError
from data.frames import FrameSource
from data.ingest.check import check_dataset
from data.video_file import VideoFile, examine_video, seconds_of
from tests.fakes.films import (
    blank_media,
    number_of,
    numbered,
    turn,
    write_film,
    write_motion_jpeg,
)

COUNT = 160
CODECS = {
    "a.mp4": ("libx264", {"bf": "3", "g": "12"}),
    "open.mkv": ("libx264", {"bf": "2", "g": "10", "x264-params": "open-gop=1"}),
    "a.mov": ("libx265", {"x265-params": "keyint=12:log-level=none"}),
    "a.avi": ("mpeg4", {"g": "8"}),
    "a.mpg": ("mpeg2video", {"bf": "2", "g": "12"}),
    "a.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "a.mkv": ("ffv1", {}),
}
ORDER = (0, 31, 12, 11, 13, 159, 1, 24, 143, 38, 97, 96, 120, 61)


def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "open_reader", decoders.CvReader)


@pytest.mark.parametrize("name", CODECS)
def test_frame_n_is_frame_n_in_any_order_and_for_both_decoders(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, options = CODECS[name]
    path = write_film(tmp_path / name, COUNT, codec, options=options)
    facts = examine_video(path)
    assert (facts.num_frames, facts.size, facts.decoder) == (COUNT, (128, 64), "PyAV")
    assert facts.problems == [] and facts.rate == pytest.approx(25, rel=1e-3)
    np.testing.assert_allclose(facts.times, np.arange(COUNT) / 25, atol=2e-3)
    source = VideoFile(path, COUNT)
    forward = [source.read(i) for i in range(COUNT)]
    assert [number_of(image) for image in forward] == list(range(COUNT))
    jumping = VideoFile(path, COUNT)
    for index in ORDER:
        assert (jumping.read(index) == forward[index]).all(), index
    for index in (138, 131, 124):
        assert number_of(VideoFile(path, COUNT).read(index)) == index
    without_av(monkeypatch)
    other = VideoFile(path, COUNT)
    for index in (0, 5, 159, 20):
        assert (other.read(index) == forward[index]).all(), index
    assert examine_video(path).num_frames == COUNT


def test_random_access_starts_at_a_key_frame_not_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_film(tmp_path / "a.mp4", COUNT, "libx264", options={"bf": "3", "g": "12"})
    source, steps = VideoFile(path, COUNT), []
    step = decoders.AvReader._step
    monkeypatch.setattr(
        decoders.AvReader, "_step", lambda self: steps.append(1) or step(self)
    )  # fmt: skip
    assert number_of(source.read(158)) == 158
    assert len(steps) < 40


def test_timestamps_that_do_not_match_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_film(tmp_path / "a.mp4", COUNT, "libx264", options={"bf": "3", "g": "12"})
    table = decoders.AvReader._table

    def shifted(self: decoders.AvReader, num_frames: int) -> decoders.Timestamps | None:
        found = table(self, num_frames)
        assert found is not None
        return decoders.Timestamps(found.pts + 1, found.dts, found.keys)

    monkeypatch.setattr(decoders.AvReader, "_table", shifted)
    source = VideoFile(path, COUNT)
    assert [number_of(source.read(i)) for i in ORDER] == list(ORDER)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_a_phones_rotation_is_applied(tmp_path: Path, degrees: int, turns: int) -> None:
    path = turn(write_film(tmp_path / "a.mp4", 3, "mpeg4"), degrees)
    upright = np.rot90(numbered(1), turns)
    seen = VideoFile(path, 3).read(1)
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).mean() < 12
    assert examine_video(path).size == (seen.shape[1], seen.shape[0])
    good, plain = cv2.VideoCapture(str(path)).read()  # the fallback turns it the same way
    assert good and plain.shape == seen.shape
    first = VideoFile(path, 3).read(0)
    assert (plain[..., ::-1] == first).all()


def test_variable_rate_is_found_and_its_seconds_are_kept(tmp_path: Path) -> None:
    ticks = [0, 40, 80, 200, 240, 280, 500, 540, 580, 620]
    path = write_film(tmp_path / "phone.mp4", 10, "libx264", ticks=ticks)
    facts = examine_video(path)
    np.testing.assert_allclose(facts.times, np.array(ticks) / 1000, atol=1e-3)
    assert facts.variable == 2
    assert [reason for reason, _ in facts.problems] == ["variable_frame_rate"]
    (tmp_path / "manifest.csv").write_text(
        "subject,path,fps,onset,apex,offset\np,phone.mp4,25,2,3,5\n"
    )
    dataset = open_dataset("csv", tmp_path)
    np.testing.assert_allclose(dataset.frames.time_s, np.array(ticks) / 1000, atol=1e-3)
    found = set(dataset.ledger.reason)
    assert {"variable_frame_rate", "fps_differs"} <= found
    said = {defect["reason"] for defect in check_dataset("csv", tmp_path).defects}
    assert {"variable_frame_rate", "fps_differs"} <= said


def test_seconds_come_from_timestamps_unless_the_stated_rate_contradicts_them() -> None:
    own = np.array([0.0, 0.03, 0.08, 0.12])
    assert seconds_of(own, 25.0).tolist() == own.tolist()
    assert seconds_of(own, None).tolist() == own.tolist()
    assert seconds_of(own, 200.0).tolist() == [0.0, 0.005, 0.01, 0.015]
    assert seconds_of([np.nan] * 3, 2.0).tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(seconds_of([np.nan] * 3, None)).all()


def test_a_container_that_declares_more_is_named(tmp_path: Path) -> None:
    path = write_motion_jpeg(tmp_path / "a.avi", 12)
    assert examine_video(path).problems == []
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 4 // 5])
    facts = examine_video(path)
    assert facts.num_frames < 12
    assert [reason for reason, _ in facts.problems] == ["truncated_video"]


def test_a_damaged_packet_costs_its_frames_and_shifts_no_other(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", COUNT, "ffv1")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = os.urandom(40)
    path.write_bytes(content)
    count = examine_video(path).num_frames
    forward = VideoFile(path, count)
    seen = [forward.read(i) for i in range(count)]
    jumping = VideoFile(path, count)
    for index in (count - 1, 3, count // 2, count - 2):
        assert (jumping.read(index) == seen[index]).all()


def film_of_nothing(path: Path) -> Path:
    return blank_media(write_film(path, 5, "libx264"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path, "No such file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: os.mkfifo(path), "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.write_bytes(b""), "no decoder opens"),
        (lambda path: path.write_bytes(b"no film"), "no decoder opens"),
        (film_of_nothing, "no frame decodes"),
    ],
)
def test_what_is_no_film_is_named_and_never_waited_for(tmp_path: Path, make, said: str) -> None:
    path = tmp_path / "odd.mp4"
    make(path)
    with pytest.raises(InputError, match=said) as caught:
        examine_video(path)
    assert "odd.mp4" in str(caught.value)
    what = ("a folder", "a pipe", "a device")
    assert caught.value.code == ("not_a_file" if said in what else "unreadable_video")


def test_odd_films_end_themselves_and_not_the_dataset(tmp_path: Path) -> None:
    write_motion_jpeg(tmp_path / "good.avi", 10)
    film_of_nothing(tmp_path / "empty.mp4")
    os.mkfifo(tmp_path / "pipe.webm")
    rows = [f"p,{name},25,2,3,4" for name in ("good.avi", "empty.mp4", "pipe.webm")]
    (tmp_path / "manifest.csv").write_text(
        "\n".join(["subject,path,fps,onset,apex,offset", *rows]) + "\n"
    )
    dataset = open_dataset("csv", tmp_path)
    assert dataset.videos.video.tolist() == ["good.avi"]
    lost = dataset.ledger[dataset.ledger.kind == "video"]
    reasons = dict(zip(lost.unit, lost.reason, strict=True))
    assert reasons["empty.mp4"] == "unreadable_video" and reasons["pipe.webm"] == "not_a_file"
    assert set(lost.action) == {"dropped"}


def test_a_decoder_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_film(tmp_path / "a.mp4", 5, "libx264")
    never = threading.Event()
    monkeypatch.setattr(decoders.AvReader, "_step", lambda self: never.wait())
    monkeypatch.setattr(decoders, "PATIENCE_S", 0.1)
    with pytest.raises(InputError, match="a decoder that answers") as caught:
        FrameSource(path, 5).read(0)
    assert caught.value.code == "unreadable_video"
    never.set()
