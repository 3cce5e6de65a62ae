"""A made-up folder of flow pictures in STSTNet's and HTNet's layout: classes that can be told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIDE = 28
SUBJECTS = ("sub01", "sub02", "sub03", "006", "011", "s01", "s03", "s13")


def picture(label: int, rng: np.random.Generator, noise: float = 40.0) -> np.ndarray:
    """(28, 28, 3) RGB of u, v, strain: a blob at the class's place, noise all over."""
    y, x = np.mgrid[:SIDE, :SIDE]
    at = ((7, 8), (21, 8), (7, 20))[label]
    blob = np.exp(-(((y - at[0]) ** 2 + (x - at[1]) ** 2) / 12))
    planes = 128 + np.stack([90 * blob, -70 * blob, 60 * blob], -1)
    return np.clip(planes + rng.normal(0, noise, planes.shape), 0, 255).astype(np.uint8)


def write_folder(root: Path, subjects: tuple[str, ...] = SUBJECTS, each: int = 6) -> Path:
    """SUBJECT/u_test/CLASS/SUBJECT_CLIP .png, and everybody else's in u_train; names as theirs."""
    rng = np.random.default_rng(0)
    made = []
    for subject in subjects:
        for number in range(each):
            label = number % 3
            made.append((subject, label, f"{subject}_EP{number:02d}_01f .png", picture(label, rng)))
    for subject in subjects:
        for owner, label, name, image in made:
            side = "u_test" if owner == subject else "u_train"
            folder = root / subject / side / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), image[..., ::-1])
    return root
