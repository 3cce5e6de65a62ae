"""What a stage is, what it may read, what it writes, and how one chunk of its units is computed.

A stage turns units (videos or events) into parts. `data.stages.planning` decides which units to
redo and publishes the parts; this module is what runs inside a worker, and renames nothing.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
from pydantic import BaseModel

from data.errors import ApexflowError, ConfigError, MissingExtraError, StoreError
from data.frames import FrameSource
from data.schema import SCHEMA_VERSION
from data.settings import Settings
from data.stages import stores
from data.stages.identity import file_digest, stable_hash
from data.stages.registry import StageSettings
from data.stages.workspace import Workspace

UNIT_STAGES = tuple(StageSettings.model_fields)
TOGETHER_BYTES = 1 << 28  # of results that units computed together may have


@dataclass(frozen=True)
class Unit:
    """One piece of work: `video` decides its chunk, `key` its freshness; `id` is unique."""

    id: str
    video: str
    key: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Together:
    """How to compute several units at once, where that is faster (a GPU wants many image pairs).

    prepare gives what a unit needs, or None if it has dropped the unit; size, the bytes of its
    result; compute, the results of several, each the same as alone; finish writes one. `when` says
    whether to do so at all with these settings.
    """

    when: Callable[[Any], bool]
    prepare: Callable[[Unit, StageInputs, Any, PartWriter], Any | None]
    size: Callable[[Any], int]
    compute: Callable[[list[Any], Any], list[Any]]
    finish: Callable[[Unit, Any, Any, Any, PartWriter], None]


@dataclass(frozen=True)
class Stage:
    """A preprocessing stage: how to list its units and how to process one, or many together."""

    name: str
    version: int  # bumped by hand when results change
    upstream: tuple[str, ...]
    suffix: str  # .h5 or .parquet
    unit_kind: str  # video or event
    list_units: Callable[[StageInputs, Any], list[Unit]]
    process: Callable[[Unit, StageInputs, Any, PartWriter], None]
    together: Together | None = None


def get_stage(name: str) -> Stage:
    """The stage called `name`, imported when asked for. Raises ConfigError for an unknown name."""
    if name not in UNIT_STAGES:
        raise ConfigError("stage", expected=f"one of {', '.join(UNIT_STAGES)}", got=name)
    stage: Stage = import_module(f"data.{name}.stage").STAGE
    return stage


def with_upstream(names: Iterable[str]) -> tuple[str, ...]:
    """The stages and all they depend on, in running order, ingest first."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name != "ingest" and name not in found:
            found.add(name)
            waiting.extend(get_stage(name).upstream)
    return ("ingest", *(name for name in UNIT_STAGES if name in found))


class StageInputs:
    """What a stage may read: ingest's tables, upstream stores, the raw frames. Picklable."""

    def __init__(
        self, workspace: Path, dataset: str, root: Path, configs: dict[str, Settings]
    ) -> None:
        self.workspace, self.dataset, self.root, self.configs = workspace, dataset, root, configs
        self._cache: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def _table(self, name: str) -> pd.DataFrame:
        path = Workspace(self.workspace).stage(self.dataset, "ingest") / f"{name}.parquet"
        table: pd.DataFrame = self._cached(name, lambda: stores.read_table(path))
        return table

    @property
    def videos(self) -> pd.DataFrame:
        """Ingest's videos table."""
        return self._table("videos")

    @property
    def events(self) -> pd.DataFrame:
        """Ingest's events table."""
        return self._table("events")

    @property
    def frames(self) -> pd.DataFrame:
        """Ingest's frames table, sorted by video and index."""
        return self._table("frames")

    def video(self, video: str) -> pd.Series:
        """The row of one video."""
        indexed = self._cached("by_video", lambda: self.videos.set_index("video", drop=False))
        return indexed.loc[video]

    def frame_source(self, video: str) -> FrameSource:
        """Frames of one video by index."""
        row = self.video(video)
        if row.source == "video_file":
            return FrameSource(self.root / str(row.folder), int(row.num_frames))
        groups = self._cached("groups", lambda: self.frames.groupby("video").indices)
        paths = self.frames["path"].to_numpy()[groups[video]]
        return FrameSource([self.root / str(p) for p in paths])

    def key(self, stage: str, version: int, config: Any, *identities: Any) -> str:
        """Content key of a unit from stage, version, settings and the identity of its inputs."""
        return stable_hash(stage, version, config, *identities)

    def keys(self, stage: str) -> dict[str, str]:
        """Planned key of every unit of an upstream stage, whether or not it is computed yet."""
        found: dict[str, str] = self._cached(f"keys:{stage}", lambda: self._plan_keys(stage))
        return found

    def _plan_keys(self, stage: str) -> dict[str, str]:
        return {u.id: u.key for u in get_stage(stage).list_units(self, self.configs[stage])}

    def store(self, stage: str) -> stores.StageStore:
        """The upstream store."""
        store: stores.StageStore = self._cached(
            f"store:{stage}", lambda: stores.StageStore(self.workspace, self.dataset, stage)
        )
        return store

    def open(self, stage: str, unit: str) -> Any:
        """Context manager giving the upstream unit's read-only HDF5 group."""
        return self.store(stage).open(unit)

    def status(self, stage: str, unit: str) -> str:
        """'ok' or why the upstream unit has no data."""
        return self.store(stage).status(unit)

    def row(self, stage: str, unit: str) -> dict[str, Any]:
        """The upstream unit's row of a Parquet stage with one row per unit."""
        rows = self._cached(
            f"rows:{stage}",
            lambda: {r["unit"]: r for r in self.store(stage).table().to_dict("records")},
        )
        if unit not in rows:
            raise ApexflowError(
                f"{self.dataset}/{stage}/{unit}",
                expected="a row",
                got=f"status {self.status(stage, unit)}",
                code=f"no_{stage}",
            )
        found: dict[str, Any] = rows[unit]
        return found


class PartWriter:
    """Collects what one chunk writes: HDF5 groups or Parquet rows, statuses, ledger rows."""

    def __init__(self, path: Path, stage: Stage, dataset: str) -> None:
        self._stage, self._dataset, self._path = stage, dataset, path
        # the default file format: newer ones store creation times in group headers
        self._file = h5py.File(path, "w") if stage.suffix == ".h5" else None
        self._rows: list[dict[str, Any]] = []
        self.status: dict[str, str] = {}
        self.counts: dict[str, dict[str, Any]] = {}
        self.ledger: list[dict[str, str]] = []

    def group(self, unit: str) -> h5py.Group:
        """The unit's HDF5 group, to be filled by the caller."""
        assert self._file is not None, f"stage {self._stage.name} writes rows"
        group = self._file.require_group(unit)
        group.attrs["unit"] = unit
        return group

    def rows(self, unit: str, rows: list[dict[str, Any]]) -> None:
        """Add the unit's rows to the part's table."""
        assert self._file is None, f"stage {self._stage.name} writes groups"
        self._rows.extend({"unit": unit, **row} for row in rows)

    def done(self, unit: str, **counts: Any) -> None:
        """The unit has data; `counts` go to the manifest."""
        self.status[unit] = "ok"
        self.counts[unit] = counts

    def drop(self, unit: str, reason: str, detail: str) -> None:
        """The unit has no data: remove what was written, keep the reason."""
        if self._file is not None and unit in self._file:
            del self._file[unit]
        self._rows = [row for row in self._rows if row["unit"] != unit]
        self.status[unit] = reason
        self.note(unit, reason, detail, action="dropped")

    def note(
        self, unit: str, reason: str, detail: str, action: str = "flagged", kind: str | None = None
    ) -> None:
        """A ledger row about the unit."""
        self.ledger.append(
            {
                "stage": self._stage.name,
                "dataset": self._dataset,
                "unit": unit,
                "kind": kind or self._stage.unit_kind,
                "reason": reason,
                "detail": detail,
                "action": action,
            }
        )

    def close(self, attrs: dict[str, Any]) -> None:
        """Write attributes or rows and close the file."""
        if self._file is not None:
            self._file.attrs.update(attrs)
            self._file.close()
        else:
            rows = sorted(self._rows, key=lambda r: str(r["unit"]))
            table = pd.DataFrame(rows) if rows else pd.DataFrame({"unit": pd.Series(dtype="str")})
            stores.save_parquet(table, self._path)


@dataclass(frozen=True)
class ChunkJob:
    """One part to be made; picklable."""

    inputs: StageInputs
    stage: str
    bucket: int
    units: tuple[Unit, ...]
    part: str
    temporary: Path

    @property
    def label(self) -> str:
        """Name people see: stage-dataset-chunk."""
        return f"{self.stage}-{self.inputs.dataset}-{self.bucket:02d}"


@dataclass
class ChunkResult:
    """What a worker hands back: facts about the part it wrote under a temporary name."""

    job: ChunkJob
    size: int
    digest: str
    status: dict[str, str]
    counts: dict[str, dict[str, Any]]
    ledger: list[dict[str, str]]
    seconds: float


@contextmanager
def _failures_recorded(unit: Unit, writer: PartWriter) -> Iterator[None]:
    """Make a unit's own failure a ledger row; raise what is not its fault."""
    try:
        yield
    except StoreError as error:
        if error.code != "no_data":
            raise
        writer.drop(unit.id, "no_upstream", str(error))
    except MissingExtraError:  # true of every unit: say it once
        raise
    except ApexflowError as error:
        writer.drop(unit.id, error.code, str(error))
    except (OSError, MemoryError):  # disk full, store gone: not this unit's fault
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        writer.drop(unit.id, "unexpected_error", detail)


def _process_together(
    units: Iterable[Unit], how: Together, inputs: StageInputs, config: Any, writer: PartWriter
) -> None:
    """Prepare units until enough wait, compute these at once, finish each; and so on."""
    waiting: list[tuple[Unit, Any]] = []

    def compute_and_finish() -> None:
        try:
            results = how.compute([prepared for _, prepared in waiting], config)
        except Exception:  # one of them spoils it for all: find out which
            results = [None] * len(waiting)
        for (unit, prepared), result in zip(waiting, results, strict=True):
            with _failures_recorded(unit, writer):
                if result is None:
                    [result] = how.compute([prepared], config)
                how.finish(unit, prepared, result, config, writer)
        waiting.clear()

    for unit in units:
        with _failures_recorded(unit, writer):
            prepared = how.prepare(unit, inputs, config, writer)
            if prepared is not None:
                waiting.append((unit, prepared))
        if sum(how.size(prepared) for _, prepared in waiting) >= TOGETHER_BYTES:
            compute_and_finish()
    if waiting:
        compute_and_finish()


def compute_chunk(job: ChunkJob) -> ChunkResult:
    """Process a chunk's units into `job.temporary`. Runs in a worker; renames nothing.

    A unit's own failure becomes a ledger row. Damage in an upstream store is not the unit's fault
    and is raised, so that it is repaired instead of recorded.
    """
    started = time.perf_counter()
    stage, inputs = get_stage(job.stage), job.inputs
    config = inputs.configs[job.stage]
    writer = PartWriter(job.temporary, stage, inputs.dataset)
    if stage.together is not None and stage.together.when(config):
        _process_together(job.units, stage.together, inputs, config, writer)
    else:
        for unit in job.units:
            with _failures_recorded(unit, writer):
                stage.process(unit, inputs, config, writer)
    for unit in job.units:
        if unit.id not in writer.status:
            writer.drop(unit.id, "no_result", "the stage neither finished nor dropped it")
    writer.close(
        {
            "stage": stage.name,
            "stage_version": stage.version,
            "schema_version": SCHEMA_VERSION,
            "dataset": inputs.dataset,
            "settings": settings_json(config),
        }
    )
    return ChunkResult(
        job,
        job.temporary.stat().st_size,
        file_digest(job.temporary),
        writer.status,
        writer.counts,
        writer.ledger,
        time.perf_counter() - started,
    )


def settings_json(config: BaseModel) -> str:
    """Settings as sorted JSON, as stored in manifests and parts."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True)
