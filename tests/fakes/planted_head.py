"""A head that turns in space, rendered from one picture, with the truth of every point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from data.faces import interpupil


@dataclass(frozen=True)
class PlantedHead:
    """A head whose depth no aligner knows: where points of its frame go as it turns.

    Perspective rotation about an axis behind the face, camera at 8 inter-pupil distances.
    """

    landmarks: np.ndarray
    seed: int

    @property
    def ipd(self) -> float:
        """Inter-pupil distance, px."""
        return interpupil(self.landmarks)

    @cached_property
    def _shape(self) -> tuple[np.ndarray, ...]:
        random = np.random.default_rng(self.seed)
        centres = random.uniform(-1, 1, (14, 2)) * [0.9, 1.1]
        return centres, random.normal(0, 0.09, 14), random.uniform(0.2, 0.38, 1), \
            random.uniform(0.75, 1.25, 1)  # fmt: skip

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Towards the camera, inter-pupil distances."""
        middle = self.landmarks[27:36].mean(axis=0)
        at = (points - middle) / self.ipd
        jaw = (self.landmarks[:17] - middle) / self.ipd
        half = np.array([0.55 * np.ptp(jaw[:, 0]), 1.75])
        u, v = np.moveaxis((at - [jaw[[0, 16], 0].mean(), -0.1]) / half, -1, 0)
        centres, heights, nose, bulge = self._shape
        shell = 0.9 * bulge[0] * np.sqrt(np.maximum(0.02, 1 - np.minimum(1, u * u + v * v)))
        tip = (self.landmarks[30] - middle) / self.ipd
        bump = nose[0] * np.exp(-0.5 * (((at - tip) / [0.16, 0.2]) ** 2).sum(-1))
        hills = np.exp(-0.5 * ((at[..., None, :] - centres) ** 2).sum(-1) / 0.27**2) @ heights
        return shell + bump + hills - 0.5

    def move(self, points: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Where points of the head's own frame are seen under a pose: yaw, pitch, roll (rad),
        shift x, y (inter-pupil distances), log scale."""
        camera = 8.0
        middle = self.landmarks[27:36].mean(axis=0)
        h = self.depth(points)
        flat = (points - middle) / self.ipd * ((camera - h) / camera)[..., None]
        solid = np.concatenate([flat, h[..., None]], axis=-1) + [0, 0, 0.3]
        tx, ty, zoom = pose[3:]
        c, s = np.cos(pose[:3]), np.sin(pose[:3])
        about_y = np.array([[c[0], 0, s[0]], [0, 1, 0], [-s[0], 0, c[0]]])
        about_x = np.array([[1, 0, 0], [0, c[1], s[1]], [0, -s[1], c[1]]])
        about_z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
        turned = solid @ (about_z @ about_x @ about_y).T - [0, 0, 0.3]
        seen = turned[..., :2] * (camera / (camera - turned[..., 2]) * np.exp(zoom))[..., None]
        return middle + self.ipd * (seen + [tx, ty])

    def path(self, frames: int, fps: float, strength: float = 1.0) -> np.ndarray:
        """(T,6): a slow random turn, zero at frame 0."""
        random = np.random.default_rng(self.seed + 1)
        sds = strength * np.array([0.06, 0.05, 0.03, 0.08, 0.06, 0.02])
        pad = round(4 * fps)
        noise = gaussian_filter1d(random.normal(size=(frames + 2 * pad, 6)), fps / 3, axis=0)
        noise = noise[pad : pad + frames] / noise.std(axis=0)
        return np.asarray((noise - noise[0]) * sds)

    def film(self, image: np.ndarray, poses: np.ndarray, noise: float = 2.0) -> list[np.ndarray]:
        """The frame under each pose, with sensor noise, flicker and JPEG 90."""
        random = np.random.default_rng(self.seed + 2)
        height, width = image.shape
        step = 4
        grid = np.stack(
            np.meshgrid(np.arange(0, width + step, step), np.arange(0, height + step, step)), -1
        ).astype(float)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        out = []
        for pose in poses:
            back = grid.copy()
            for _ in range(8):
                back = back - (self.move(back, pose) - grid)
            away = (back - grid).astype(np.float32)
            fine = cv2.remap(away, x / step, y / step, cv2.INTER_LINEAR)
            seen = cv2.remap(image, x + fine[..., 0], y + fine[..., 1], cv2.INTER_CUBIC,
                             borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
            seen = seen * (1 + random.normal(0, 0.003)) + random.normal(0, noise, seen.shape)
            code = cv2.imencode(".jpg", np.clip(np.round(seen), 0, 255).astype(np.uint8),
                                [cv2.IMWRITE_JPEG_QUALITY, 90])[1]  # fmt: skip
            out.append(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))
        return out
