"""Pictures with known faces in them, and one video folder run through stage align."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd

from data.align.settings import AlignConfig
from data.stages.inputs import StageInputs
from data.stages.parts import ChunkResult
from data.synthetic.subjects import Subject, make_subject
from tests.fakes.steps import one_part, write_tables


@lru_cache(maxsize=4)
def person(ordinal: int = 0, size: tuple[int, int] = (320, 240)) -> Subject:
    """One synthetic person, made once."""
    return make_subject(7, ordinal, size)


def grey_face(ordinal: int = 0, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """(H,W) uint8 picture with one face."""
    return cv2.cvtColor(person(ordinal, size).image, cv2.COLOR_BGR2GRAY)


def moved(image: np.ndarray, dx: float, dy: float, roll: float = 0.0, scale: float = 1.0) -> Any:
    """The picture under a similarity about its centre, and the affine (2,3)."""
    centre = (np.array(image.shape[1::-1]) - 1) / 2
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), -roll, scale)
    matrix[:, 2] += (dx, dy)
    out = cv2.warpAffine(
        image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return out, matrix


def noisy(image: np.ndarray, seed: int, sigma: float = 1.5) -> np.ndarray:
    """The picture with sensor noise."""
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def write_video(folder: Path, images: Sequence[np.ndarray | None]) -> Path:
    """Frames as PNG files; None writes a broken file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        path = folder / f"{number:05d}.png"
        if image is None:
            path.write_bytes(b"\x89PNG but no more")
        else:
            cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return folder


def align(
    tmp_path: Path,
    videos: dict[str, Sequence[np.ndarray | None]],
    *,
    fps: float = 100.0,
    provided_crop: bool = False,
    part: str = "part.h5",
    **settings: Any,
) -> tuple[ChunkResult, Path, StageInputs]:
    """Run stage align over videos given as frames: result, part file, inputs."""
    rows, frames = [], []
    for name, images in videos.items():
        write_video(tmp_path / "root" / name, images)
        rows.append(
            {"video": name, "identity": "x", "num_frames": len(images), "fps": fps,
             "provided_crop": provided_crop, "source": "frames", "folder": name}
        )  # fmt: skip
        frames += [
            {"video": name, "index": i, "path": f"{name}/{i:05d}.png"} for i in range(len(images))
        ]
    config = AlignConfig(**settings)
    inputs = StageInputs(tmp_path, "made", tmp_path / "root", {"align": config})
    write_tables(tmp_path, "made", videos=pd.DataFrame(rows), frames=pd.DataFrame(frames))
    out = tmp_path / part
    return one_part(inputs, "align", out), out, inputs


def words(group: h5py.Group) -> list[str]:
    """The status word of every frame."""
    names = group["status"].attrs["status_names"]
    return [str(names[code]) for code in group["status"][:]]
