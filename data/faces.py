"""Face detection and 68 landmarks with dlib, and what to do when they fail.

Detector: dlib's HOG frontal face detector. Landmarks: the regression-tree predictor trained on
iBUG 300-W (Kazemi & Sullivan 2014). That training set excludes commercial use, whatever the licence
of the package that carries the file; another predictor can be given by path.

dlib is optional and imported when first needed. Everything the detector sees is made by `to_grey8`
(it silently finds nothing on non-contiguous arrays and refuses 16-bit ones). Points are 300-W
numbered, x right and y down, in pixels of the image, integer coordinates at pixel centres.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import ConfigError, InputError, MissingExtraError

Array = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]

PREDICTOR_FILE = "shape_predictor_68_face_landmarks.dat"
PREDICTOR_SHA256 = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"

JAW = slice(0, 17)
BROWS = (slice(17, 22), slice(22, 27))
NOSE = slice(27, 36)
EYES = (slice(36, 42), slice(42, 48))
MOUTH = slice(48, 60)

SEARCH_SIDE = 400  # the first look is at the image reduced to this longer side
COMPANY_PX = 160.0  # size of a known face at which one of half its size is still found
MIN_SCORE = 0.2  # below: hardly a frontal face
MAX_ASYMMETRY = 1.8  # nose tip to outer eye corners, larger over smaller
MAX_ROLL_DEG = 30.0
DARK_MEAN, DARK_SD = 12.0, 8.0
PARTIAL, EXCLUDED = 0.10, 0.25  # share of the crop outside the image
ASSUMED_INSET = 0.08  # a provided crop shows this much around dlib's face box

# Mean frontal shape in units of the inter-pupil distance, origin between the pupils; used only
# where a face is assumed and no landmark model may look (mode `none`).
# fmt: off
TEMPLATE = np.array([
    (-1.11, .02), (-1.09, .34), (-1.05, .65), (-.98, .95), (-.86, 1.24), (-.68, 1.48), (-.46, 1.68),
    (-.22, 1.84), (0, 1.88), (.22, 1.84), (.46, 1.68), (.68, 1.48), (.86, 1.24), (.98, .95),
    (1.05, .65), (1.09, .34), (1.11, .02), (-.92, -.32), (-.77, -.46), (-.57, -.50), (-.37, -.46),
    (-.18, -.37), (.18, -.37), (.37, -.46), (.57, -.50), (.77, -.46), (.92, -.32), (0, -.02),
    (0, .20), (0, .41), (0, .63), (-.23, .77), (-.12, .81), (0, .85), (.12, .81), (.23, .77),
    (-.71, .02), (-.58, -.07), (-.42, -.07), (-.29, .03), (-.43, .07), (-.58, .07), (.29, .03),
    (.42, -.07), (.58, -.07), (.71, .02), (.58, .07), (.43, .07), (-.43, 1.20), (-.27, 1.11),
    (-.11, 1.06), (0, 1.09), (.11, 1.06), (.27, 1.11), (.43, 1.20), (.27, 1.34), (.11, 1.40),
    (0, 1.42), (-.11, 1.40), (-.27, 1.34), (-.37, 1.20), (-.11, 1.16), (0, 1.17), (.11, 1.16),
    (.37, 1.20), (.11, 1.26), (0, 1.28), (-.11, 1.26),
])
# fmt: on


@dataclass(frozen=True)
class Face:
    """A detected face: `box` (x0, y0, x1, y1) px, HOG `score`, how many faces were in the image."""

    box: Array
    score: float
    count: int = 1

    @property
    def area(self) -> float:
        """Box area, px²."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass(frozen=True)
class Reference:
    """A usable face: frame `index`, its `landmarks` (68,2) px, `face`, and status `flags`."""

    index: int
    landmarks: Array
    face: Face
    flags: tuple[str, ...]


def to_grey8(image: npt.NDArray[Any], *, order: str = "rgb") -> Grey:
    """C-contiguous uint8 (H,W) copy of any image, for detection only.

    Accepts (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16 or float; `order` "rgb" or "bgr"
    names the colour channels. 16-bit and float images are stretched between their 0.5 and 99.5
    percentiles: never feed the result to flow. Raises InputError for other shapes or non-finite
    values.
    """
    if order not in ("rgb", "bgr"):
        raise InputError("to_grey8: order", expected="rgb or bgr", got=order)
    good = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not good or image.size == 0:
        raise InputError("to_grey8", expected="(H,W) or (H,W,1|3|4)", got=str(image.shape))
    if image.dtype != np.uint8:
        values = image.astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError("to_grey8", expected="finite values", got="NaN or infinity")
        low, high = np.percentile(values, (0.5, 99.5))
        image = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    image = np.ascontiguousarray(image)
    if image.ndim == 3:
        alpha = "A" if image.shape[2] == 4 else ""
        name = f"COLOR_{order.upper()}{alpha}2GRAY"
        image = cv2.cvtColor(image, getattr(cv2, name))
    return np.ascontiguousarray(image, dtype=np.uint8)


def equalise(grey: Grey) -> Grey:
    """Contrast-limited equalised copy: recovers faces at 2 % brightness, for detection only."""
    return np.asarray(cv2.createCLAHE(3.0, (8, 8)).apply(grey), dtype=np.uint8)


def is_dark(grey: Grey, box: Array | None = None) -> bool:
    """Whether the face box (or the image) is too dark or too flat to trust."""
    if box is not None:
        x0, y0, x1, y1 = np.maximum(box, 0).astype(int)
        inside = grey[y0:y1, x0:x1]
        grey = inside if inside.size else grey
    return bool(grey.mean() < DARK_MEAN or grey.std() < DARK_SD)


def interpupil(landmarks: Array) -> float:
    """Inter-pupil distance, px: between the means of each eye's six points."""
    left, right = (landmarks[eye].mean(axis=0) for eye in EYES)
    return float(np.hypot(*(right - left)))


def pose_problem(landmarks: Array, score: float) -> str:
    """Why a face is not frontal enough, in words with the number; '' when it is."""
    corners = landmarks[[36, 45]]
    reach = np.hypot(*(corners - landmarks[30]).T)
    ratio = float(reach.max() / max(reach.min(), 1e-6))
    roll = float(np.degrees(np.arctan2(*(corners[1] - corners[0])[::-1])))
    if score < MIN_SCORE:
        return f"detector score {score:.2f} < {MIN_SCORE}"
    if ratio > MAX_ASYMMETRY:
        return f"eye-nose asymmetry {ratio:.2f} > {MAX_ASYMMETRY}"
    if abs(roll) > MAX_ROLL_DEG:
        return f"roll {roll:.0f}° beyond {MAX_ROLL_DEG:.0f}°"
    return ""


def find_predictor(path: Path | None = None) -> Path:
    """The 68-point predictor file: `path`, or the one inside `face_recognition_models`.

    The package is located, never imported (its import needs `pkg_resources`). Raises ConfigError
    for a path that is no file, MissingExtraError when nothing is installed, InputError when the
    packaged file is not the known one.
    """
    if path is not None:
        if not path.is_file():
            raise ConfigError("landmark_model", expected="a dlib 68-point file", got=str(path))
        return path
    spec = importlib.util.find_spec("face_recognition_models")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [p for f in folders if (p := Path(f) / "models" / PREDICTOR_FILE).is_file()]
    if not found:
        raise MissingExtraError(
            "face landmarks",
            expected="the package face_recognition_models or a `landmark_model` path",
            got="neither",
            todo="In the checkout: pip install '.[faces]'.",
        )
    digest = _sha256(found[0])
    if digest != PREDICTOR_SHA256:
        raise InputError(
            str(found[0]), expected=f"sha256 {PREDICTOR_SHA256[:16]}…", got=f"{digest[:16]}…"
        )
    return found[0]


@functools.lru_cache(maxsize=4)
def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def predictor_identity(path: Path | None = None) -> str:
    """What a unit's key says of the predictor: contents of the file, not where it lies."""
    return PREDICTOR_SHA256[:16] if path is None else _sha256(find_predictor(path))[:16]


class FaceFinder:
    """dlib's detector and predictor, loaded once; see `face_finder`."""

    def __init__(self, predictor: Path | None = None) -> None:
        try:
            import dlib
        except ImportError as error:
            raise MissingExtraError(
                "face detection",
                expected="dlib",
                got="no such package",
                todo="In the checkout: pip install '.[faces]' (the wheel is dlib-bin).",
            ) from error
        self._dlib: Any = dlib
        self._detector = dlib.get_frontal_face_detector()
        path = find_predictor(predictor)
        try:
            self._predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise ConfigError(
                "landmark_model", expected="a dlib shape predictor", got=f"{path}: {error}"
            ) from error

    def detect(self, grey: Grey, *, scale: float = 1.0, upsample: int = 0) -> list[Face]:
        """Faces in a uint8 (H,W) image, best first (area × score); boxes in its own pixels.

        The image is resized by `scale` ≤ 1 first (speed), then doubled `upsample` times (small
        faces: the detector's window is 80 px).
        """
        small = grey
        if scale < 1.0:
            small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found, scores, _ = self._detector.run(to_grey8(small), upsample, 0.0)
        ratio = np.array(grey.shape[::-1]) / np.array(small.shape[::-1])
        boxes = [np.array([b.left(), b.top(), b.right(), b.bottom()], np.float64) for b in found]
        grown = [(b + 0.5) * np.tile(ratio, 2) - 0.5 for b in boxes]
        faces = [Face(b, float(s), len(grown)) for b, s in zip(grown, scores, strict=True)]
        return sorted(faces, key=lambda f: (-f.area * max(f.score, 0.01), *f.box))

    def landmarks(self, grey: Grey, box: Array) -> Array:
        """One run of the predictor: (68,2) px. Jitters by about 0.6 px from image to image."""
        rectangle = self._dlib.rectangle(*(int(v) for v in np.round(box)))
        parts = self._predictor(to_grey8(grey), rectangle).parts()
        points = np.array([(p.x, p.y) for p in parts], np.float64)
        if points.shape != (68, 2):
            raise ConfigError(
                "landmark_model", expected="a 68-point predictor", got=f"{len(points)} points"
            )
        return points

    def steady_landmarks(self, grey: Grey, box: Array) -> Array:
        """Mean of nine runs from boxes shifted by ±3 % of their width: a fifth of the jitter."""
        step = max(2.0, 0.03 * (box[2] - box[0]))
        shifts = [np.tile((dx, dy), 2) * step for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        image = to_grey8(grey)
        found = [self.landmarks(image, box + shift) for shift in shifts]
        return np.asarray(np.mean(found, axis=0), np.float64)

    def looks(
        self, grey: Grey, *, dark: bool = True, small: bool = True
    ) -> Iterator[tuple[str, Grey, list[Face]]]:
        """Ever more patient looks at one image: (how, image looked at, faces).

        The last two are for faces in the dark and for small ones; they cost most.
        """
        scale = min(1.0, SEARCH_SIDE / max(grey.shape))
        faces = self.detect(grey, scale=scale)
        if faces:  # look once more, at a size that shows faces half as large too
            closer = min(1.0, COMPANY_PX / float(faces[0].box[2] - faces[0].box[0]))
            if closer > 1.3 * scale:
                faces = self.detect(grey, scale=closer) or faces
        yield "reduced", grey, faces
        if scale < 1.0:
            yield "full", grey, self.detect(grey)
        if dark:
            bright = equalise(grey)
            yield "equalised", bright, self.detect(bright)
        if small and max(grey.shape) <= 4 * SEARCH_SIDE:  # in a huge image it costs seconds
            yield "doubled", grey, self.detect(grey, upsample=1)

    def look(
        self, grey: Grey, *, dark: bool = True, small: bool = True
    ) -> tuple[Grey, Face] | None:
        """First of the `looks` that finds a face: the image it was found on, and the best face."""
        looks = self.looks(grey, dark=dark, small=small)
        return next(((image, faces[0]) for _, image, faces in looks if faces), None)


@functools.lru_cache(maxsize=2)
def face_finder(predictor: Path | None = None) -> FaceFinder:
    """The process's finder (loading takes half a second). Raises as `FaceFinder` does."""
    return FaceFinder(predictor)


def examine(
    finder: FaceFinder, grey: Grey, index: int, *, dark: bool = True, small: bool = True
) -> tuple[Reference | None, str]:
    """Look for a usable face in one frame: (reference, '') or (None, reason with detail).

    `dark`, `small`: whether the face may be either, see `FaceFinder.looks`.
    """
    found = finder.look(grey, dark=dark, small=small)
    if found is None:
        return None, "no_face"
    image, face = found
    dark = is_dark(grey, face.box)
    if dark:
        image = equalise(grey)
    landmarks = finder.steady_landmarks(image, face.box)
    problem = pose_problem(landmarks, face.score)
    if problem:
        return None, f"bad_pose: {problem}"
    flags = (("multi_face",) if face.count > 1 else ()) + (("dark",) if dark else ())
    return Reference(index, landmarks, face, flags), ""


def search_order(frames: int, fps: float) -> list[int]:
    """Frames worth a look for the reference: the first 0.1 s (at least ten), then five later."""
    near = range(min(frames, 1 + max(10, round(0.1 * fps))))
    later = np.linspace(len(near), frames - 1, 6).round()[1:] if frames > len(near) else np.zeros(0)
    return sorted({*near, *(int(i) for i in later)})


def find_reference(
    finder: FaceFinder,
    read: Callable[[int], Grey | None],
    order: Iterable[int],
    *,
    provided_crop: bool,
    who: str,
) -> Reference:
    """The first usable face among the frames `order`; `read` gives None for an unreadable frame.

    A video whose faces fail only by pose raises InputError `bad_pose`; one without any face raises
    `no_face`, unless its images are crops provided by the dataset: then the whole frame is taken
    for the face, flag `assumed_crop`. Nothing readable raises `unreadable_video`.
    """
    reasons: list[str] = []
    first: tuple[int, Grey] | None = None
    for index in order:
        grey = read(index)
        if grey is None:
            continue
        first = first or (index, grey)
        reference, reason = examine(finder, grey, index)
        if reference is not None:
            return reference
        reasons.append(reason)
    if first is None:
        raise InputError(who, expected="readable frames", got="none", code="unreadable_video")
    poses = [r for r in reasons if r.startswith("bad_pose")]
    if poses and not provided_crop:
        raise InputError(who, expected="a frontal face", got=poses[0], code="bad_pose")
    if provided_crop:
        return assumed_reference(first[1], first[0], finder)
    looked = f"none in {len(reasons)} frames looked at"
    dark = is_dark(first[1])
    raise InputError(
        who, expected="a face", got=looked + (" (dark or flat)" if dark else ""), code="no_face"
    )


def assumed_reference(grey: Grey, index: int, finder: FaceFinder | None) -> Reference:
    """The whole frame taken for the face: landmarks by the predictor if they make sense there."""
    height, width = grey.shape
    side = min(height, width)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    ipd = side / 2.3
    template = TEMPLATE * ipd + centre - (0, 0.57 * ipd)
    inset = side * (0.5 - ASSUMED_INSET)
    box = np.array([*(centre - inset), *(centre + inset)])
    landmarks = template
    if finder is not None:
        image = equalise(grey) if is_dark(grey) else grey
        seen = finder.steady_landmarks(image, box)
        inside = bool((seen > -0.1 * side).all() and (seen < 1.1 * np.array([width, height])).all())
        if 0.25 < interpupil(seen) / side < 0.65 and inside and not pose_problem(seen, 1.0):
            landmarks = seen
    return Reference(index, landmarks, Face(box, 0.0, 0), ("assumed_crop",))
