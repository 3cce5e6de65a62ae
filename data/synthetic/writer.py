"""Write one synthetic dataset: plan, render in parallel, file sheets, record the truth.

The truth file is written last, so its presence means the folder is whole; until then a marker file
says that the folder is ours and may be rewritten. Every video is rendered from its own seeds, so
the number of workers changes nothing in the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError, DatasetError
from data.stages.limits import WorkerDiedError
from data.stages.pool import cpu_count, map_jobs
from data.synthetic.codec import compressed
from data.synthetic.layouts import get_layout
from data.synthetic.layouts.base import PlacedVideo, Planted, SyntheticLayout
from data.synthetic.presets import Preset, resolve
from data.synthetic.render import Renderer
from data.synthetic.rng import generator
from data.synthetic.script import Script, write_scripts
from data.synthetic.subjects import Subject, make_subject
from data.synthetic.truth import TRUTH_FILE, truth_record

GENERATOR_VERSION = 5
_MARKER = "_synthetic.partial"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Job:
    """Everything a worker needs for one video."""

    out: Path
    seed: int
    layout: str
    people: str
    preset: Preset
    script: Script
    video: PlacedVideo


def write_dataset(
    layout: str,
    out: Path | str,
    *,
    preset: str = "default",
    seed: int = 0,
    defects: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Path:
    """Write a synthetic dataset in a real dataset's layout and return its root.

    `layout` is one of `layout_names()` or `variant_names()`; `preset` "smoke" | "tiny" | "default"
    | "hard" | "low"; `overrides` are fields of `presets.Preset` (amplitude, head, noise, subjects,
    clips, fps, size, seconds, ...). `defects` plants the dataset's known defects and records them
    in `truth.json`. `workers` processes render (None = the usable CPU cores); the bytes do not
    depend on it. `progress(done frames, all frames, video)` is called after every video.

    The same call into the same folder returns at once. A folder begun by this function is
    rewritten; any other folder with content is refused with `DatasetError`. Unknown layout,
    preset or override: `ConfigError`.
    """
    chosen = get_layout(layout)
    values = resolve(chosen.kind, preset, {**chosen.defaults(), **overrides})
    chosen.check(values)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError("seed", expected="an integer of at least 0", got=repr(seed))
    parameters = json.loads(json.dumps({
        "version": GENERATOR_VERSION, "layout": layout, "seed": seed, "defects": defects,
        "people": chosen.population(seed),
        **values.stated(),
    }))  # fmt: skip
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    root = Path(out)
    with _writable(root):
        if _is_fresh(root, key):
            return root
        _claim(root)
        people, scripts, videos = _plan(chosen, values, seed)
        crew = chosen.population(seed)
        jobs = [_Job(root, seed, chosen.name, crew, values, s, v)
                for s, v in zip(scripts, videos, strict=True)]  # fmt: skip
        _render_all(jobs, workers, progress)
        tables = chosen.tables(videos, generator(seed, chosen.name, "tables"))
        planted: list[Planted] = []
        if defects:
            planted = chosen.plant(tables, videos, root, generator(seed, chosen.name, "defects"))
        chosen.write_sheets(root, tables)
        record = truth_record(key, preset, parameters, people, scripts, videos, planted)
        _finish(root, record)
    return root


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    """What the disk refuses becomes a `DatasetError` that names the folder."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            str(root), expected="a folder that can be written", got=str(error),
            todo="Choose another folder, or make room.", code="not_writable",
        ) from error  # fmt: skip


def _plan(
    layout: SyntheticLayout, preset: Preset, seed: int
) -> tuple[list[Subject], list[Script], list[PlacedVideo]]:
    """Who, what happens, and under which names; variants of a layout show one performance."""
    people = [make_subject(layout.population(seed), i, preset.size, preset.expressivity)
              for i in range(preset.subjects)]  # fmt: skip
    scripts = write_scripts(layout, preset, seed, people)
    places = layout.place([s.plan for s in scripts], generator(seed, layout.name, "place"))
    videos = [PlacedVideo(s.plan, p) for s, p in zip(scripts, places, strict=True)]
    _check_places(layout, videos)
    return people, scripts, videos


def _is_fresh(root: Path, key: str) -> bool:
    if (root / _MARKER).exists():  # a rewrite was interrupted; an old truth file may linger
        return False
    try:
        record = json.loads((root / TRUTH_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return isinstance(record, dict) and record.get("key") == key


def _claim(root: Path) -> None:
    """Make `root` an empty folder of ours, never deleting what this module did not write."""
    if root.exists() and not root.is_dir():
        raise DatasetError(str(root), expected="a folder", got="a file")
    content = list(root.iterdir()) if root.exists() else []
    if content and not _is_ours(root):
        raise DatasetError(
            str(root), expected="an empty folder or a synthetic dataset",
            got=f"a folder with {len(content)} entries", todo="Choose another folder.",
        )  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / _MARKER).write_text("synthetic dataset being written\n", encoding="utf-8")
    for path in content:
        if path.name == _MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_ours(root: Path) -> bool:
    if (root / _MARKER).exists():
        return True
    try:
        record = json.loads((root / TRUTH_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return isinstance(record, dict) and "key" in record and "parameters" in record


def _finish(root: Path, record: dict[str, Any]) -> None:
    partial = root / f"{TRUTH_FILE}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(record, file, separators=(",", ":"), ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(root / TRUTH_FILE)
    (root / _MARKER).unlink()


def _check_places(layout: SyntheticLayout, videos: Sequence[PlacedVideo]) -> None:
    for field in ("video", "folder"):
        names = [getattr(v.place, field) for v in videos]
        if len(set(names)) != len(names):
            raise DatasetError(layout.name, expected=f"unique {field} names", got="a repetition")


def _render_all(jobs: list[_Job], workers: int | None, progress: Progress | None) -> None:
    total = sum(len(job.video.released) for job in jobs)
    done = 0
    for video, frames in _run(jobs, min(workers or cpu_count(), len(jobs))):
        done += frames
        if progress is not None:
            progress(done, total, video)


def _run(jobs: list[_Job], workers: int) -> Iterator[tuple[str, int]]:
    try:
        yield from map_jobs(_render, jobs, workers=workers if workers > 1 else 0)
    except WorkerDiedError as error:
        raise DatasetError(
            str(jobs[0].out), expected="worker processes that live", got="one that ended",
            todo="A script must call this under `if __name__ == '__main__'`, or pass workers=1.",
        ) from error  # fmt: skip


@lru_cache(maxsize=2)
def _cached_subject(population: str, ordinal: int, size: tuple[int, int], spread: float) -> Subject:
    return make_subject(population, ordinal, size, spread)


def _render(job: _Job) -> tuple[str, int]:
    """Render and write one video; returns its name and its number of frames."""
    plan, preset, video = job.script.plan, job.preset, job.video
    subject = _cached_subject(job.people, plan.subject, preset.size, preset.expressivity)
    renderer = Renderer(
        subject, job.script, colour=plan.camera.colour, noise=preset.noise,
        shading=preset.shading, solid=preset.turn > 0,
    )  # fmt: skip
    rng = generator(job.seed, job.layout, video.place.video, "noise", plan.camera.name)
    frames = renderer.frames(video.released, rng)
    if preset.compression:
        frames = compressed(frames, preset.compression)
    target = job.out / video.place.folder
    if plan.camera.suffix == "avi":
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_avi(target, frames, plan.fps, plan.size)
    else:
        target.mkdir(parents=True, exist_ok=True)
        for index, image in zip(video.released, frames, strict=True):
            name = video.file_name(index)
            (target / name).write_bytes(_encode(image, plan.camera.suffix, plan.camera.quality))
    return video.place.video, len(video.released)


def _encode(image: NDArray[np.uint8], suffix: str, quality: int) -> bytes:
    options = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], "png": [cv2.IMWRITE_PNG_COMPRESSION, 3]}
    ok, data = cv2.imencode(f".{suffix}", image, options.get(suffix, []))
    if not ok:
        raise DatasetError(suffix, expected="an image format OpenCV writes", got=suffix)
    return bytes(data)


def _write_avi(
    path: Path, frames: Iterator[NDArray[np.uint8]], fps: float, size: tuple[int, int]
) -> None:
    """Motion JPEG through OpenCV's own writer, which every wheel has."""
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, fps, size)
    if not writer.isOpened():
        raise DatasetError(str(path), expected="a writable AVI file", got="an unopened writer")
    for image in frames:
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image)
    writer.release()
