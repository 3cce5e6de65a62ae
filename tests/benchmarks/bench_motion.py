"""ME-TST's motion features measured: speed against the plain transcription, and where time goes.

    python -m tests.benchmarks.bench_motion [--size 640x480] [--frames 180] [--k 30] [--json PATH]

A synthetic long video is written as JPEG files and measured three ways, one thread, CPU seconds,
decoding and face detection included: by `data.motion.features` (what the stage runs), by the plain
per-window transcription (`tests.references.motion`: Python lists sorted), and by the same
transcription with its only pixel loop replaced by argsort. Outputs are compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

from data.frames import FrameSource
from data.motion import farneback as motion_farneback
from data.motion import features as motion
from data.motion import kernels as motion_kernels
from data.synthetic import write_dataset
from tests.references import motion as motion_reference


def write_video(folder: Path, size: tuple[int, int], frames: int) -> FrameSource:
    """A rendered face video as JPEG files, quality 92."""
    root = write_dataset(
        "samm_lv", folder, preset="smoke", seed=1, workers=1,
        subjects=1, clips=1, fps=30.0, seconds=max(5.0, frames / 30.0), size=size,
    )  # fmt: skip
    files = sorted(root.rglob("*.jpg"))[:frames]
    return FrameSource(files)


def argsort_mean(flow: Any, q: float) -> tuple[float, float]:
    """The transcription's mean of the largest vectors, vectorised the obvious way."""
    x, y = flow[..., 0].ravel().astype(np.float64), flow[..., 1].ravel().astype(np.float64)
    kept = np.argsort(x * x + y * y, kind="stable")[int(x.size * (1 - q)) :]
    return (float(x[kept].mean()), float(y[kept].mean())) if kept.size else (0.0, 0.0)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """CPU seconds spent inside the parts of the fast path while the context lasts."""
    spent: dict[str, float] = {}
    parts = [
        ("decode", FrameSource, "read"),
        ("crop", motion.CropBox, "cut"),
        ("flow", motion_farneback.FarnebackReference, "to"),
        ("flow", motion_farneback.FarnebackReference, "__init__"),
        ("select", motion_kernels, "top_means"),
    ]
    saved = [(owner, name, getattr(owner, name)) for _, owner, name in parts]

    def wrap(label: str, function: Any) -> Any:
        def inner(*args: Any, **named: Any) -> Any:
            seconds, result = timed(lambda: function(*args, **named))
            spent[label] = spent.get(label, 0.0) + seconds
            return result

        return inner

    for (label, owner, name), (_, _, function) in zip(parts, saved, strict=True):
        setattr(owner, name, wrap(label, function))
    try:
        yield spent
    finally:
        for owner, name, function in saved:
            setattr(owner, name, function)


def measure(source: FrameSource, options: motion.MotionOptions) -> list[dict[str, Any]]:
    """One row per way of computing, with frames per second of the video and whether equal."""
    find, view = motion.dlib_face(), range(len(source))
    motion.warm_up()
    fast_s, fast = timed(lambda: motion.motion_features(source, view, options, find))
    rows = [
        {"roi_set": options.roi_set, "way": "data.motion.features", "cpu_s": fast_s, "equal": True}
    ]
    plain = motion_reference._mean
    for way, mean in (("transcription, argsort", argsort_mean), ("transcription", plain)):
        motion_reference._mean = mean
        try:
            run = motion_reference.motion_features
            seconds, slow = timed(lambda: run(source, view, options, find))  # noqa: B023
        finally:
            motion_reference._mean = plain
        equal = np.array_equal(slow.features, fast.features)
        rows.append({"roi_set": options.roi_set, "way": way, "cpu_s": seconds, "equal": equal})
    with watched() as spent:
        total, _ = timed(lambda: motion.motion_features(source, view, options, find))
    windows = len(fast.status)
    for row in rows:
        row["frames_per_s"] = round(len(source) / row["cpu_s"], 1)
        row["times_slower"] = round(row["cpu_s"] / fast_s, 2)
        row["cpu_s"] = round(row["cpu_s"], 2)
    spent["face"] = max(total - sum(spent.values()), 0.0)  # detection, landmarks and the rest
    rows[0]["split_%"] = {k: round(100 * v / total) for k, v in sorted(spent.items())}
    rows[0]["windows"] = windows
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 when outputs differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--roi-set", choices=["coarse10", "multi36", "both"], default="both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    width, height = (int(v) for v in options.size.split("x"))
    sets = ["coarse10", "multi36"] if options.roi_set == "both" else [options.roi_set]
    with tempfile.TemporaryDirectory() as folder:
        source = write_video(Path(folder) / "lv", (width, height), options.frames)
        rows = [
            row
            for name in sets
            for row in measure(source, motion.MotionOptions(k=options.k, roi_set=name))
        ]
    print(f"{options.size}, {options.frames} frames, k {options.k}, one thread")
    for row in rows:
        print(
            f"{row['roi_set']:9s} {row['way']:24s} {row['cpu_s']:7.2f} s {row['frames_per_s']:7.1f}"
            f" frames/s  x{row['times_slower']:<6} equal {row['equal']}  {row.get('split_%', '')}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
