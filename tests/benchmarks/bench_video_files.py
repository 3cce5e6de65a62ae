"""Video files read through PyAV and through OpenCV: are frames the right ones, how fast, how far.

    python -m tests.benchmarks.bench_video_files [FILE ...]

Without files, numbered films in seven codecs are made. Per file and decoder: milliseconds a frame
in order, milliseconds and wrong frames of random access by the decoder's own seeking (OpenCV) and
by ours, and the largest difference between the two decoders' pictures. One thread decodes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from data import decoders
from data.errors import InputError
from data.video_file import VideoFile, examine_video
from tests.data.test_video_file import CODECS
from tests.fakes.films import write_film

JUMPS, KEPT = 20, 400  # random reads; frames kept for comparison


def in_order(reader: decoders.Reader, most: int) -> tuple[list[np.ndarray], float]:
    """RGB frames and seconds a frame."""
    frames, started = [], time.perf_counter()
    while len(frames) < most and (frame := reader.step()) is not None:
        frames.append(reader.picture(frame))
    return frames, (time.perf_counter() - started) / max(1, len(frames))


def opencv_seeks(path: Path, frames: list[np.ndarray], jumps: list[int]) -> tuple[float, int]:
    """(seconds a jump, wrong frames) of CAP_PROP_POS_FRAMES."""
    capture, wrong = cv2.VideoCapture(str(path)), 0
    started = time.perf_counter()
    for index in jumps:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        good, image = capture.read()
        wrong += not good or bool((image[..., ::-1] != frames[index]).any())
    return (time.perf_counter() - started) / len(jumps), wrong


def measure(path: Path) -> str:
    """One line of the table."""
    facts = examine_video(path)
    ours, av_s = in_order(decoders.open_reader(path), KEPT)
    try:
        theirs, cv_s = in_order(decoders.CvReader(path), KEPT)
    except InputError:
        theirs, cv_s = [], float("nan")
    same = len(ours) == len(theirs)
    apart = max((int(np.abs(a.astype(int) - b).max()) for a, b in zip(ours, theirs, strict=False)),
                default=-1)  # fmt: skip
    jumps = [int(i) for i in np.random.default_rng(0).integers(0, len(ours), JUMPS)]
    source, started = VideoFile(path, facts.num_frames), time.perf_counter()
    wrong = sum(bool((source.read(i) != ours[i]).any()) for i in jumps)
    seek_s = (time.perf_counter() - started) / JUMPS
    cv_seek_s, cv_wrong = opencv_seeks(path, ours, jumps)
    return (
        f"{path.name:<28} {facts.num_frames:>6} {1e3 * av_s:>7.2f} {1e3 * cv_s:>7.2f} "
        f"{1e3 * seek_s:>8.1f} {wrong:>5} {1e3 * cv_seek_s:>8.1f} {cv_wrong:>5} "
        f"{'' if same else 'counts differ, '}{apart}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    files = parser.parse_args().files
    cv2.setNumThreads(1)
    print(f"{'file':<28} {'frames':>6} {'PyAV':>7} {'OpenCV':>7} {'ours':>8} {'wrong':>5} "
          f"{'cv seek':>8} {'wrong':>5} largest difference")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        for name, (codec, options) in ({} if files else CODECS).items():
            files.append(write_film(Path(scratch) / name, 200, codec, options=options))
        for path in files:
            print(measure(path), flush=True)


if __name__ == "__main__":
    main()
