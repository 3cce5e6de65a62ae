"""Folds on their way to being trained: packed for devices, each attempt in a folder of its own.

A worker that was believed lost may still train while another has taken its folds over. So an
attempt writes nowhere but in its own folder, and the run publishes the folder of the one attempt
whose answer it accepted. What went before is gone on from: its resume point is linked, never
written into.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import StoreError
from data.stages.limits import peak_mb
from data.stages.parts import versions_json
from models.contract import FOLD_FILES
from models.devices import device_name, real_device, resolve_device
from models.epoch_record import NOTES
from models.family import family_of
from models.progress import ProgressFile, read_progress
from models.runs.files import INNER, FoldJob
from models.stacked.choice import Packing

RESUME = "resume/state.safetensors"


@dataclass(frozen=True)
class PackJob:
    """Folds that are trained by one call: one, or several as one program."""

    folds: tuple[FoldJob, ...]

    @property
    def label(self) -> str:
        """Name people see."""
        first = self.folds[0].label
        return first if len(self.folds) == 1 else f"{first}-and-{len(self.folds) - 1}-more"

    @property
    def count(self) -> int:
        """Units it makes."""
        return len(self.folds)

    def news(self) -> tuple[float, str] | None:
        """Share of its epochs done and what its folds said last; None before their first word."""
        found = [read_progress(news_of(job.out)) for job in self.folds]
        said = [one for one in found if one is not None]
        if not said:
            return None
        share = sum(share for share, _ in said) / len(self.folds)
        job, text = self.folds[0], min(said)[1]
        return share, text if job.unit in text else f"{self.label} {text}"

    def on(self, device: str) -> PackJob:
        """The same folds on a device."""
        return PackJob(tuple(replace(job, device=device) for job in self.folds))


@dataclass
class PackResult:
    """Trained folds in the hidden folders of one attempt; seconds of one, evenly shared."""

    folds: tuple[FoldJob, ...]
    seconds: float
    host: str
    versions: str
    peak_mb: float = float("nan")  # most memory its process had
    device: str = "cpu"  # with its maker's name


def fit_pack(pack: PackJob) -> PackResult:
    """Train and predict a pack's folds, each in a folder of this attempt. Runs in a worker."""
    started = time.perf_counter()
    jobs = [attempt(replace(job, device=resolve_device(job.device))) for job in pack.folds]
    family_of(jobs[0].recipe).fit([replace(job, device=real_device(job.device)) for job in jobs])
    for job in jobs:
        missing = [name for name in FOLD_FILES if not (job.out / name).exists()]
        if missing:
            raise StoreError(job.unit, expected=f"files {FOLD_FILES}", got=f"without {missing}")
        if job.fold.startswith(INNER):
            (job.out / "weights.safetensors").unlink()  # it was trained to choose an epoch
    seconds = (time.perf_counter() - started) / len(jobs)
    where = device_name(jobs[0].device)
    return PackResult(tuple(jobs), seconds, platform.node(), versions_json(), peak_mb(), where)


def news_of(out: Path) -> Path:
    """Where a fold's attempts leave how far they are; gone when the fold is published."""
    return out.with_name(f"{out.name}.news")


def telling(job: FoldJob) -> FoldJob:
    """The job, telling of its epochs where `PackJob.news` reads it."""
    return replace(job, progress=ProgressFile(news_of(job.out)))


def attempt(job: FoldJob) -> FoldJob:
    """The job in a new folder beside its `out`, going on from the newest resume point there is."""
    out = job.out.with_name(f"{job.out.name}.{secrets.token_hex(4)}")
    earlier = attempts(job.out)
    points = sorted((p / RESUME for p in earlier if (p / RESUME).is_file()), key=_age)
    point = out / RESUME
    point.parent.mkdir(parents=True)
    if points:
        with contextlib.suppress(OSError):  # it may go at this moment: then from the start
            # The point first: an attempt that still runs may note an epoch and put a newer point
            # meanwhile, and a point without a note of before it could not be gone on from.
            held = point.with_name(f"{point.name}.part")
            link(points[-1], held)
            for note in sorted(points[-1].parent.glob(NOTES)):
                link(note, point.with_name(note.name))
            held.rename(point)
    for folder in earlier:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(job, out=out)


def attempts(out: Path) -> list[Path]:
    """Folders that attempts at a fold have left."""
    own = re.compile(re.escape(out.name) + r"(\.[0-9a-f]{8})?")
    return sorted(p for p in out.parent.glob(".*") if own.fullmatch(p.name) and p.is_dir())


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where there are no links."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def plan_packs(
    jobs: Sequence[FoldJob], max_memory_mb: float | None
) -> tuple[list[list[FoldJob]], Packing]:
    """`Family.plan_packs` of these jobs; tries steps on their device, so it runs where that is."""
    real = [replace(job, device=real_device(job.device)) for job in jobs]
    packs, choice = family_of(jobs[0].recipe).plan_packs(real, max_memory_mb)
    faked = real[0].device != jobs[0].device
    return packs, replace(choice, side_by_side=1) if faked else choice


def spread(packs: list[list[FoldJob]], devices: int) -> list[list[FoldJob]]:
    """The packs, the largest halved until every device has one, as far as there are folds."""
    packs = list(packs)
    while len(packs) < devices and max(map(len, packs)) > 1:
        large = max(packs, key=len)
        where = packs.index(large)
        packs[where : where + 1] = [large[: len(large) // 2], large[len(large) // 2 :]]
    return packs
