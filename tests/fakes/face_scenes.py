"""A face that moves as told, for tests of motion and apex: no detector, no rendering of people."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.synthetic.base_face import neutral_face

Grey = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

MOUTH_CORNERS = (48, 54)
INNER_BROWS = (20, 23)


@functools.cache
def still_face() -> tuple[Grey, Array]:
    """The synthetic generator's neutral face, grey (480,640), and its landmarks (68,2)."""
    image, landmarks = neutral_face()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    texture = np.random.default_rng(0).normal(0, 3, grey.shape)  # skin is not flat
    textured = grey + cv2.GaussianBlur(texture, (0, 0), 1.2) * 2
    return np.clip(textured, 0, 255).astype(np.uint8), np.asarray(landmarks, np.float64)


def moved_face(
    shift: tuple[float, float] = (0.0, 0.0),
    bumps: dict[int, tuple[float, float]] | None = None,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> Grey:
    """The face moved by `shift` px, and around given landmarks by (dx, dy) px; sensor noise."""
    face, landmarks = still_face()
    ys, xs = np.mgrid[: face.shape[0], : face.shape[1]].astype(np.float64)
    xs, ys = xs - shift[0], ys - shift[1]
    dx, dy = np.zeros_like(xs), np.zeros_like(ys)
    for point, (u, v) in (bumps or {}).items():
        x, y = landmarks[point]
        weight = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 18.0**2))
        dx, dy = dx + u * weight, dy + v * weight
    image = cv2.remap(
        face,
        (xs - dx).astype(np.float32),
        (ys - dy).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if noise:
        added = np.random.default_rng(seed).normal(0, noise, image.shape)
        return np.clip(np.rint(image + added), 0, 255).astype(np.uint8)
    return np.asarray(image, np.uint8)


def known_landmarks(grey: Grey) -> npt.NDArray[np.int64]:
    """A face finder that knows the scene: whole frames and 320 px faces cut from them."""
    _, landmarks = still_face()
    if grey.shape == (320, 320):
        (x0, y0), (x1, y1) = np.rint(landmarks[39]), np.rint(landmarks[42])
        g, cx, cy = int((x1 - x0) / 2), int((x0 + x1) / 2), int((y0 + y1) / 2)
        corner = np.array([cx - int(4.5 * g), cy - int(3.5 * g)])
        landmarks = (landmarks - corner) * 320 / (2 * int(4.5 * g))
    return np.rint(landmarks).astype(np.int64)


class ListSource:
    """Frames in memory with FrameSource's reading; None cannot be read. `reads` are counted."""

    def __init__(self, frames: list[Grey | None]) -> None:
        self.frames, self.reads = frames, list[int]()

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: int, *, colour: bool = False) -> Grey:
        self.reads.append(index)
        frame = self.frames[index]
        if frame is None:
            raise InputError(str(index), expected="a frame", got="none", code="unreadable_frame")
        return frame

    def iter(
        self, indices: Iterable[int] | None = None, *, colour: bool = False
    ) -> Iterator[tuple[int, Grey | None]]:
        for index in range(len(self)) if indices is None else indices:
            try:
                yield index, self.read(index, colour=colour)
            except InputError:
                yield index, None
