"""Making one part: a chunk's units computed into one file. Runs in a worker; renames nothing."""

from __future__ import annotations

import functools
import json
import platform
import secrets
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data.errors import ApexflowError, MissingExtraError, StoreError
from data.schema import SCHEMA_VERSION
from data.settings import Settings
from data.stages.contract import Batching, Stage, Unit
from data.stages.files import save_parquet, temporary_name
from data.stages.identity import file_digest
from data.stages.inputs import ChunkInputs, UnitInputs
from data.stages.limits import peak_mb
from data.stages.registry import find_stage
from data.stages.signs import SEVERAL, working_on
from data.stages.stores import BUCKETS, CHUNKS, RECORDS, group_digest

NAMED = 2  # subjects in a chunk's label
BATCH_BYTES = 1 << 28  # of results that units computed at once may have
NOT_A_UNITS_FAULT = ("damaged_part", "damaged_table", "undeclared_input", "no_raw_frames")


class PartWriter:
    """Collects what one chunk writes: HDF5 groups or Parquet rows, statuses, ledger rows."""

    def __init__(self, path: Path, stage: Stage, dataset: str, buckets: int = BUCKETS) -> None:
        self._stage, self._dataset, self._path = stage, dataset, path
        self._chunks = {} if buckets == BUCKETS else {CHUNKS: str(buckets)}
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

    def close(self, units: Iterable[Unit], config: Settings) -> list[dict[str, Any]]:
        """Write what the part says of itself and close it; returns its manifest rows.

        The part carries its own rows and ledger, so that a lost manifest costs nothing.
        """
        settings = settings_json(config)
        keys = {unit.id: unit.key for unit in units}
        rows = [
            {
                "unit": unit,
                "key": key,
                "status": self.status[unit],
                "content": self._content(unit),
                "version": self._stage.version,
                "settings": settings,
                "counts": json.dumps(self.counts.get(unit, {}), sort_keys=True, default=_number),
            }
            for unit, key in keys.items()
        ]
        self.ledger = [{**row, "key": keys[row["unit"]]} for row in self.ledger]
        facts = {
            "stage": self._stage.name,
            "stage_version": str(self._stage.version),
            "schema_version": str(SCHEMA_VERSION),
            "dataset": self._dataset,
            "settings": settings,
            "records": json.dumps({"units": rows, "ledger": self.ledger}, sort_keys=True),
            **self._chunks,
        }
        if self._file is not None:
            for name, text in facts.items():
                if len(text) < 60_000:  # an attribute's header holds 64 KiB
                    self._file.attrs[name] = text
            if "records" not in self._file.attrs:
                data = np.frombuffer(facts["records"].encode(), np.uint8)
                self._file.create_dataset(RECORDS, data=data, compression="gzip")
            self._file.close()
        else:
            found = sorted(self._rows, key=lambda r: str(r["unit"]))
            table = pd.DataFrame(found) if found else pd.DataFrame({"unit": pd.Series(dtype="str")})
            save_parquet(table, self._path, facts)
        return rows

    def abandon(self) -> None:
        """Close and remove an unfinished part."""
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _content(self, unit: str) -> str:
        if self._file is None or self.status[unit] != "ok":
            return ""
        self._file.flush()
        return group_digest(self._file[unit])


def whose(units: Iterable[Unit]) -> str:
    """'sub01, sub04 +2': the subjects that units belong to, as their ids begin."""
    subjects = sorted({unit.video.split("/")[0] for unit in units})
    more = f" +{len(subjects) - NAMED}" if len(subjects) > NAMED else ""
    return ", ".join(subjects[:NAMED]) + more


@dataclass(frozen=True)
class Trouble:
    """What befell the process that was at a unit; a unit given up is not tried again."""

    unit: str
    reason: str
    detail: str
    given_up: bool


@dataclass(frozen=True)
class ChunkJob:
    """One part to be made; picklable."""

    inputs: ChunkInputs
    stage: str
    config: Settings
    bucket: int
    units: tuple[Unit, ...]
    part: str
    token: str
    limit_s: float = 0.0  # one unit may take so many seconds; 0: any
    need_mb: float = 0.0  # memory that chunks of this stage took so far; 0: unknown
    troubles: tuple[Trouble, ...] = ()
    device: str = ""  # a GPU of its own, where its stage computes on one
    buckets: int = BUCKETS  # chunks that its store has
    one_by_one: bool = False  # never several units at once: whoever kills its process is known

    @property
    def label(self) -> str:
        """Name people see: stage-dataset-chunk, and whose recordings are in it."""
        return f"{self.stage}-{self.inputs.dataset}-{self.bucket:02d} {whose(self.units)}"

    @property
    def count(self) -> int:
        """Units it makes."""
        return len(self.units)

    def on(self, device: str) -> ChunkJob:
        """The same job on a device."""
        return replace(self, device=device)

    def troubled(self, unit: str, error: ApexflowError, *, given_up: bool) -> ChunkJob:
        """See `data.stages.pool.Divisible`."""
        one = Trouble(unit, error.code, str(error), given_up)
        return replace(self, troubles=(*self.troubles, one))

    def repeated(self) -> ChunkJob:
        """See `data.stages.pool.Divisible`."""
        return replace(self, one_by_one=True)

    def clear(self) -> None:
        """Remove what attempts at it left that were killed: it would keep a full disk full."""
        for path in self.inputs.folder(self.stage).glob(f".{self.part}.{self.token}-*"):
            path.unlink(missing_ok=True)


@dataclass
class ChunkResult:
    """What a worker hands back: facts about the part it wrote under a temporary name."""

    label: str
    part: str
    temporary: Path
    rows: list[dict[str, Any]]  # of the manifest, but for digest and size
    ledger: list[dict[str, str]]
    bytes: int
    digest: str
    seconds: float
    host: str
    versions: str
    peak_mb: float = float("nan")  # most memory its process had

    @property
    def status(self) -> dict[str, str]:
        """Unit → "ok" or why it has no data."""
        return {row["unit"]: row["status"] for row in self.rows}

    @property
    def counts(self) -> dict[str, dict[str, Any]]:
        """Unit → what the stage counted."""
        return {row["unit"]: json.loads(row["counts"]) for row in self.rows}


def compute_chunk(job: ChunkJob) -> ChunkResult:
    """Process a chunk's units into a temporary file of this attempt's own.

    A unit's own failure becomes a ledger row. Damage in an upstream store is not the unit's fault
    and is raised, so that it is repaired instead of recorded.
    """
    started = time.perf_counter()
    stage = find_stage(job.stage)
    folder = job.inputs.folder(job.stage)
    temporary = temporary_name(folder / job.part, f"{job.token}-{secrets.token_hex(4)}")
    writer = PartWriter(temporary, stage, job.inputs.dataset, job.buckets)
    try:
        units = _not_given_up(job, writer)
        if stage.batching is not None and stage.batching.when(job.config):
            if job.device and stage.batching.use is not None:
                stage.batching.use(job.device)
            _process_batches(job, units, stage.batching, writer)
        else:
            for unit in units:
                working_on(unit.id)
                view = job.inputs.of(unit)
                with _failures_recorded(unit, writer):
                    stage.process(unit, view, job.config, writer)
                _note_other_sizes(unit, view, writer)
                _note_raw_bytes(unit, view, writer)
        for unit in job.units:
            if unit.id not in writer.status:
                writer.drop(unit.id, "no_result", "the stage neither finished nor dropped it")
        rows = writer.close(job.units, job.config)
    except BaseException:
        writer.abandon()
        raise
    finally:
        job.inputs.close()
    return ChunkResult(
        label=job.label,
        part=job.part,
        temporary=temporary,
        rows=rows,
        ledger=writer.ledger,
        bytes=temporary.stat().st_size,
        digest=file_digest(temporary),
        seconds=time.perf_counter() - started,
        host=platform.node(),
        versions=versions_json(),
        peak_mb=peak_mb(),
    )


def _not_given_up(job: ChunkJob, writer: PartWriter) -> list[Unit]:
    """The units to process; a ledger row for each whose process was lost."""
    lost = {trouble.unit for trouble in job.troubles if trouble.given_up}
    for trouble in job.troubles:
        if trouble.given_up:
            writer.drop(trouble.unit, trouble.reason, trouble.detail)
        else:
            writer.note(trouble.unit, trouble.reason, trouble.detail)
    return [unit for unit in job.units if unit.id not in lost]


def _note_other_sizes(unit: Unit, view: UnitInputs, writer: PartWriter) -> None:
    """A ledger row about frames that have not their video's size: stages see them as unreadable."""
    odd = sorted({i for s in view.opened for i, why in s.reasons.items() if why == "size_differs"})
    if odd:
        shown = ", ".join(map(str, odd[:5])) + (", ..." if len(odd) > 5 else "")
        writer.note(unit.id, "size_differs", f"{len(odd)} frames are of another size: {shown}")


def _note_raw_bytes(unit: Unit, view: UnitInputs, writer: PartWriter) -> None:
    """Whoever read all of a video's files records their digest: `--verify=inputs` compares."""
    if found := view.raw_bytes():
        writer.counts[unit.id] = {**writer.counts.get(unit.id, {}), "raw": found}


@contextmanager
def _failures_recorded(unit: Unit, writer: PartWriter) -> Iterator[None]:
    """Make a unit's own failure a ledger row; raise what is not its fault."""
    try:
        yield
    except StoreError as error:
        if error.code in NOT_A_UNITS_FAULT:
            raise
        code = "no_upstream" if error.code == "no_data" else error.code
        writer.drop(unit.id, code, str(error))
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


def _process_batches(
    job: ChunkJob, units: Sequence[Unit], how: Batching, writer: PartWriter
) -> None:
    """Prepare units until enough wait, compute these at once, finish each; and so on.

    At a job that is repeated each is computed alone: nobody answers for another's loss.
    """
    waiting: list[tuple[Unit, Any]] = []

    def compute_and_finish() -> None:
        working_on(waiting[0][0].id if len(waiting) == 1 else SEVERAL)
        try:
            results = how.compute([prepared for _, prepared in waiting], job.config)
        except Exception:  # one of them spoils it for all: find out which
            results = [None] * len(waiting)
        for (unit, prepared), result in zip(waiting, results, strict=True):
            with _failures_recorded(unit, writer):
                if result is None:
                    working_on(unit.id)
                    [result] = how.compute([prepared], job.config)
                how.finish(unit, prepared, result, job.config, writer)
        waiting.clear()

    for unit in units:
        working_on(unit.id)
        with _failures_recorded(unit, writer):
            view: UnitInputs = job.inputs.of(unit)
            prepared = how.prepare(unit, view, job.config, writer)
            if prepared is not None:
                waiting.append((unit, prepared))
        size = sum(how.size(prepared) for _, prepared in waiting)
        if waiting and (job.one_by_one or size >= BATCH_BYTES):
            compute_and_finish()
    if waiting:
        compute_and_finish()


def settings_json(config: Settings) -> str:
    """Settings as sorted JSON, as stored in manifests and parts."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True)


def _number(value: Any) -> Any:
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
