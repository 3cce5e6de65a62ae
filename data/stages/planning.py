"""What is fresh, what must be redone and why, and how parts and manifests come to be.

A stage's manifest says which key each unit was made under; a unit whose planned key differs, or
whose part is not there as recorded, is redone. Units are grouped into chunks by a stable hash of
their video and one chunk writes one part. Only the process that holds the workspace renames parts
and writes manifests: a worker that outlives it can leave a temporary file, never a part.
"""

from __future__ import annotations

import functools
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.align.crops import note_root
from data.errors import StoreError, StrictError
from data.schema import LEDGER, conform
from data.settings import Settings
from data.stages import stores
from data.stages.engine import (
    ChunkJob,
    ChunkResult,
    Stage,
    StageInputs,
    Unit,
    compute_chunk,
    get_stage,
    settings_json,
)
from data.stages.identity import bucket_of, file_digest, stable_hash
from data.stages.workspace import TEMP_SUFFIX, Workspace

BUCKETS = 64  # chunks per stage and dataset, fixed so that new videos never move old ones


@dataclass
class StagePlan:
    """What a stage would do: every unit's state, and the words for why."""

    stage: str
    dataset: str
    units: list[Unit]
    reasons: dict[str, str]  # unit id → why it must be (re)done; absent = fresh
    failed: dict[str, str]  # fresh units that were dropped, with the reason

    @property
    def todo(self) -> list[Unit]:
        """Units to compute."""
        return [u for u in self.units if u.id in self.reasons]

    def summary(self) -> dict[str, Any]:
        """Counts and reasons for people and JSON."""
        missing = sum(r == "missing" for r in self.reasons.values())
        return {
            "stage": self.stage,
            "dataset": self.dataset,
            "units": len(self.units),
            "fresh": len(self.units) - len(self.reasons) - len(self.failed),
            "stale": len(self.reasons) - missing,
            "missing": missing,
            "failed": len(self.failed),
            "reasons": dict(Counter(self.reasons.values()).most_common()),
        }


def plan_stage(
    inputs: StageInputs, name: str, *, force: bool = False, verify: bool = False
) -> StagePlan:
    """Compare planned keys with the manifest and parts with the disk; nothing is changed.

    `verify` also reads every part's bytes; otherwise sizes and times are compared.
    """
    stage = get_stage(name)
    config = inputs.configs[name]
    units = stage.list_units(inputs, config)
    folder = Workspace(inputs.workspace).stage(inputs.dataset, name)
    manifest, _, trouble = stores.read_books(folder)
    rows = {r.unit: r for r in manifest.itertuples(index=False)}
    bad = _bad_parts(folder, rows.values(), verify)
    plan = StagePlan(name, inputs.dataset, units, {}, {})
    for unit in units:
        row = rows.get(unit.id)
        reason = "forced" if force else trouble or _why(unit, row, stage, config, bad)
        if reason:
            plan.reasons[unit.id] = reason
        elif row is not None and row.status != "ok":
            plan.failed[unit.id] = str(row.status)
    return plan


def _why(unit: Unit, row: Any, stage: Stage, config: Settings, bad: dict[str, str]) -> str:
    """Why a unit must be redone, in words; '' when it is fresh."""
    if row is None:
        return "missing"
    if row.key != unit.key:
        if row.version != stage.version:
            return f"stage version {row.version} → {stage.version}"
        changed = _changed(json.loads(row.settings), config.model_dump(mode="json"))
        return f"{stage.name}: " + ", ".join(changed) if changed else "inputs changed"
    return bad.get(row.part, "")


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"{k} {old.get(k)} → {new.get(k)}" for k in sorted(old | new) if old.get(k) != new.get(k)
    ]


def _bad_parts(folder: Path, rows: Iterable[Any], verify: bool) -> dict[str, str]:
    """Part name → what is wrong with its file; sound parts are absent."""
    times = {t.part: t.mtime_ns for t in stores.read_timings(folder).itertuples(index=False)}
    bad: dict[str, str] = {}
    for part, size, digest in sorted({(r.part, r.bytes, r.digest) for r in rows}):
        try:
            stat = (folder / part).stat()
        except OSError:
            bad[part] = "part missing"
            continue
        if stat.st_size != size:
            bad[part] = "part size differs"
        elif (verify or times.get(part) != stat.st_mtime_ns) and (
            file_digest(folder / part) != digest
        ):
            bad[part] = "digest differs"
    return bad


def chunk_jobs(inputs: StageInputs, plan: StagePlan, token: str) -> list[ChunkJob]:
    """The plan's work as chunks; a part is named after its bucket and exactly the units in it."""
    stage = get_stage(plan.stage)
    folder = Workspace(inputs.workspace).stage(plan.dataset, plan.stage)
    buckets: dict[int, list[Unit]] = {}
    for unit in sorted(plan.todo, key=lambda u: u.id):
        buckets.setdefault(bucket_of(unit.video, BUCKETS), []).append(unit)
    jobs = []
    for bucket, units in sorted(buckets.items()):
        name = stable_hash([[u.id, u.key] for u in units])[:10]
        part = f"part-{bucket:02d}-{name}{stage.suffix}"
        temporary = folder / f".{part}.{token}{TEMP_SUFFIX}"
        jobs.append(ChunkJob(inputs, plan.stage, bucket, tuple(units), part, temporary))
    return jobs


Mapper = Callable[[list[ChunkJob]], Iterator[ChunkResult]]


def run_in_order(jobs: list[ChunkJob]) -> Iterator[ChunkResult]:
    """The plainest mapper: one chunk after another in this process."""
    return map(compute_chunk, jobs)


def run_stage(
    inputs: StageInputs,
    name: str,
    token: str,
    *,
    mapper: Mapper = run_in_order,
    force: bool = False,
    strict: bool = False,
    on_chunk: Callable[[ChunkResult, int, int], None] | None = None,
) -> StagePlan:
    """Bring a stage up to date; returns what the plan was. Call while holding the workspace lock.

    After each chunk its part is renamed into place and the manifest rewritten, so a kill costs at
    most the chunks in flight. Raises StrictError at the first dropped unit when `strict`.
    """
    plan = plan_stage(inputs, name, force=force)
    folder = Workspace(inputs.workspace).stage(plan.dataset, name)
    book = _Book(folder, plan, inputs.configs[name], get_stage(name).version, token)
    jobs = chunk_jobs(inputs, plan, token)
    folder.mkdir(parents=True, exist_ok=True)
    note_root(inputs.workspace, plan.dataset, inputs.root)
    for number, result in enumerate(mapper(jobs) if jobs else (), start=1):
        book.enter(result)
        if on_chunk:
            on_chunk(result, number, len(jobs))
        dropped = {u: s for u, s in result.status.items() if s != "ok"}
        if strict and dropped:
            unit, status = next(iter(dropped.items()))
            raise StrictError(
                f"{plan.dataset}/{name}/{unit}",
                expected="every unit to succeed (strict: true)",
                got=status,
                todo="See the ledger; fix the input or run without strict.",
            )
    book.finish(changed=bool(jobs))
    return plan


class _Book:
    """Manifest, timings and ledger of one stage while it runs; the only one who renames parts."""

    def __init__(
        self, folder: Path, plan: StagePlan, config: Settings, version: int, token: str
    ) -> None:
        self.folder, self.token, self.version = folder, token, version
        self.settings = settings_json(config)
        self.keys = {u.id: u.key for u in plan.units}
        manifest, ledger, _ = stores.read_books(folder)
        self.had = len(manifest)
        self.rows = {r["unit"]: r for r in manifest.to_dict("records") if r["unit"] in self.keys}
        self.ledger: list[Any] = ledger.to_dict("records")
        self.times = {r["part"]: r for r in stores.read_timings(folder).to_dict("records")}

    def enter(self, result: ChunkResult) -> None:
        """Publish a chunk's part, then the tables that point at it."""
        job = result.job
        final = self.folder / job.part
        stores.publish(job.temporary, final)
        done = {u.id for u in job.units}
        for unit in job.units:
            self.rows[unit.id] = {
                "unit": unit.id,
                "key": unit.key,
                "part": job.part,
                "status": result.status[unit.id],
                "bytes": result.size,
                "digest": result.digest,
                "version": self.version,
                "settings": self.settings,
                "counts": json.dumps(result.counts.get(unit.id, {}), sort_keys=True, default=_num),
            }
        self.ledger = [r for r in self.ledger if r["unit"] not in done] + result.ledger
        self.times[job.part] = {
            "part": job.part,
            "mtime_ns": final.stat().st_mtime_ns,
            "seconds": result.seconds,
            "units": len(job.units),
            "host": platform.node(),
            "versions": versions_json(),
        }
        self._write()

    def finish(self, *, changed: bool) -> None:
        """Drop rows of units that are gone, then parts no row points at."""
        if changed or self.had != len(self.rows) or not (self.folder / "manifest.parquet").exists():
            self._write()
        live = {row["part"] for row in self.rows.values()}
        for path in sorted(self.folder.glob("part-*")):
            if path.name not in live:
                path.unlink()

    def _write(self) -> None:
        live = {row["part"] for row in self.rows.values()}
        times = [t for p, t in self.times.items() if p in live]
        ledger = pd.DataFrame(
            [r for r in self.ledger if r["unit"] in self.keys], columns=list(LEDGER)
        ).sort_values(["unit", "reason", "detail"])
        stores.write_table(conform(ledger, "ledger"), self.folder / "ledger.parquet", self.token)
        stores.write_table(
            pd.DataFrame(times, columns=list(stores.TIMINGS)).sort_values("part"),
            self.folder / "timings.parquet",
            self.token,
        )
        manifest = pd.DataFrame(list(self.rows.values()), columns=list(stores.MANIFEST))
        stores.write_table(
            manifest.astype(stores.MANIFEST).sort_values(["key", "unit"]),
            self.folder / "manifest.parquet",
            self.token,
        )


def _num(value: Any) -> Any:
    """JSON twin of a numpy number."""
    return value.item() if isinstance(value, np.generic) else str(value)


@functools.cache
def versions_json() -> str:
    """Versions of what results depend on, as JSON."""
    from importlib.metadata import version

    names = ("numpy", "opencv-contrib-python-headless", "dlib-bin", "h5py", "pyarrow", "numba")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ImportError:  # an extra that is not installed
            continue
    return json.dumps(found)


@contextmanager
def quarantining(inputs: StageInputs) -> Iterator[None]:
    """Move a damaged upstream part aside, so that the next run redoes it, and pass the error on."""
    try:
        yield
    except StoreError as error:
        path = Path(error.who)
        if error.code == "damaged_part" and path.is_file():
            path.rename(path.with_name(f"damaged-{path.name}"))
        raise
