"""What recordings show, beside what the generator draws: heads, light, noise, blinks, mouths.

    python -m tests.benchmarks.bench_traits [RECORDING ...] [--preset hard]

Without recordings, a few synthetic ones of the preset are made and measured in the same way. Motion
is of landmarks smoothed by 0.1 s, sd within two seconds (median over such windows); yaw and pitch
are from the nose tip against the eyes, at an assumed depth of 0.45 inter-pupil distances.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from data.faces import EYES, face_finder, interpupil
from data.own_video import open_own
from data.synthetic import write_dataset

NOSE_DEPTH = 0.45
SHUT = 0.65  # of the usual opening: a blink
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float)  # Immerkaer's noise operator
Array = np.ndarray


def see(path: Path, fps: float | None) -> tuple[list[Array], Array, float]:
    """Grey frames, landmarks (T, 68, 2) with NaN where no face is, frames per second."""
    own, finder = open_own(path, fps), face_finder()
    images, points = [], []
    for _, image in own.source.iter():
        if image is None:
            continue
        images.append(image)
        faces = finder.detect(image, scale=min(1.0, 400 / max(image.shape)))
        found = finder.landmarks(image, faces[0].box) if faces else np.full((68, 2), np.nan)
        points.append(found)
    return images, np.array(points), own.fps or 25.0


def sway(values: Array, fps: float) -> float:
    """Median over two-second windows of the sd of a smoothed course."""
    smooth, width = gaussian_filter1d(values, 0.1 * fps), int(2 * fps)
    starts = range(0, max(1, len(smooth) - width + 1), max(1, width // 2))
    return float(np.median([smooth[i : i + width].std() for i in starts]))


def head(points: Array, fps: float) -> dict[str, float]:
    """Motion of the head, in inter-pupil distances, per cent and degrees."""
    ipd = np.array([interpupil(p) for p in points])
    unit = float(np.median(ipd))
    left, right = (points[:, eye].mean(axis=1) for eye in EYES)
    across, middle = right - left, (left + right) / 2
    along = across / np.linalg.norm(across, axis=1, keepdims=True)
    down = np.stack([-along[:, 1], along[:, 0]], axis=1)
    nose = (points[:, 30] - middle) / unit
    roll = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    turns = [np.degrees((nose * axis).sum(axis=1) / NOSE_DEPTH) for axis in (along, down)]
    return {
        "ipd px": unit,
        "shift x ipd": sway(middle[:, 0] / unit, fps),
        "shift y ipd": sway(middle[:, 1] / unit, fps),
        "roll deg": sway(roll, fps),
        "scale %": 100 * sway(ipd / unit, fps),
        "yaw deg": sway(turns[0], fps),
        "pitch deg": sway(turns[1], fps),
        "lips' gap ipd": sway(np.linalg.norm(points[:, 62] - points[:, 66], axis=1) / unit, fps),
    }


def blinks(points: Array, fps: float) -> float:
    """Seconds from one blink to the next; NaN without any."""
    up = np.linalg.norm(points[:, [37, 38, 43, 44]] - points[:, [41, 40, 47, 46]], axis=2).mean(1)
    shut = up < SHUT * np.median(up)
    count = int((np.diff(shut.astype(int)) == 1).sum())
    return len(points) / fps / count if count else float("nan")


def picture(images: list[Array], points: Array) -> dict[str, float]:
    """Noise in grey levels, blocks, light."""
    unit = float(np.nanmedian([interpupil(p) for p in points]))
    side, temporal, spatial, blocks = max(4, int(0.16 * unit)), [], [], []
    for t in range(1, len(images) - 1):
        if np.isnan(points[t - 1 : t + 2]).any():
            continue
        for corner, aside in ((31, -0.35), (35, 0.35)):
            x, y = (points[t, corner] + np.array([aside, -0.1]) * unit).astype(int)
            if min(x, y) < side:
                continue
            cut = (slice(y - side, y + side), slice(x - side, x + side))
            three = [images[k][cut].astype(float) for k in (t - 1, t, t + 1)]
            change = three[0] - 2 * three[1] + three[2]
            spread = np.median(np.abs(change - np.median(change)))
            temporal.append(spread / 0.6745 / np.sqrt(6))
        if t % 10 == 0:
            low, high = points[t].min(axis=0).astype(int), points[t].max(axis=0).astype(int)
            face = images[t][max(low[1], 0) : high[1], max(low[0], 0) : high[0]].astype(float)
            spatial.append(np.median(np.abs(cv2.filter2D(face, -1, LAPLACIAN))) / 0.6745 / 6)
            steps = np.abs(np.diff(images[t].astype(float), axis=1)).mean(axis=0)
            edges = np.arange(7, len(steps), 8)
            blocks.append(steps[edges].mean() / np.delete(steps, edges).mean())
    light = np.array([image.mean() for image in images])
    return {
        "temporal noise 10%": float(np.percentile(temporal, 10)),
        "temporal noise": float(np.median(temporal)),
        "spatial noise": float(np.median(spatial)),
        "block edges": float(np.median(blocks)),
        "light sd %": 100 * float(light.std() / light.mean()),
    }


def measure(path: Path, fps: float | None) -> str:
    """The figures of one recording as text."""
    images, points, rate = see(path, fps)
    seen = points[np.isfinite(points[:, 0, 0])]
    if len(seen) < 10:
        return f"{path.name}: a face in {len(seen)} of {len(points)} frames"
    found = head(seen, rate) | {"blink every s": blinks(seen, rate)} | picture(images, points)
    figures = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    return f"{path.name} ({len(seen)} of {len(points)} frames): {figures}"


def main() -> None:
    """Print a line a recording."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--preset", default="hard")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for path in options.recordings:
        print(measure(path, None), flush=True)
    if options.recordings:
        return
    with tempfile.TemporaryDirectory() as scratch:
        few = {"subjects": 2, "clips": 1, "seconds": 6.0, "micros": (1, 1), "macros": (1, 1)}
        root = write_dataset("cas_me2", Path(scratch) / "set", preset=options.preset, **few)
        for folder in sorted({p.parent for p in root.rglob("*.jpg")}):
            print(measure(folder, 30.0), flush=True)


if __name__ == "__main__":
    main()
