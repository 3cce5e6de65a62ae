"""What a stage may read: ingest's tables when it lists its units, declared inputs when it works.

`StageInputs` is the planner's view: it keys units by everything they declare. `UnitInputs` is the
worker's view of one unit: what the unit did not declare, it cannot read, so that nothing a result
depends on is missing from its key.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py

from data.errors import StoreError
from data.frames import FrameSource
from data.recordings import Recordings, Video
from data.settings import Settings
from data.stages.contract import Stage, Unit
from data.stages.files import read_table
from data.stages.identity import KEY_LENGTH, plain_json, stable_hash
from data.stages.registry import find_stage
from data.stages.stores import Entry, OpenParts, StageStore, check_part, no_data
from data.stages.workspace import Workspace


class StageInputs:
    """One dataset's tables and the planned units of every stage, under given settings."""

    def __init__(
        self,
        workspace: Workspace | Path | str,
        dataset: str,
        root: Path | None,
        configs: Mapping[str, Settings],
    ) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
        self.dataset, self.root, self.configs = dataset, root, configs
        self.recordings = Recordings(self.workspace, dataset, root)
        self._cache: dict[Any, dict[str, str]] = {}  # keys, by stage

    def units(self, name: str) -> list[Unit]:
        """Units of a stage with their keys, whether or not they are computed yet; not kept."""
        stage, config = find_stage(name), self.configs[name]
        place = _place(stage)
        known = self._cache.get(place)
        key = self._key_maker(stage, config) if known is None else lambda unit: known[unit.id]
        units = [replace(unit, key=key(unit)) for unit in stage.list_units(self, config)]
        self._cache[place] = known or {unit.id: unit.key for unit in units}
        return units

    def keys(self, name: str) -> dict[str, str]:
        """Unit → key of a stage; the units themselves are not kept."""
        stage, config = find_stage(name), self.configs[name]
        place = _place(stage)
        if place not in self._cache:
            key = self._key_maker(stage, config)
            self._cache[place] = {u.id: key(u) for u in stage.list_units(self, config)}
        found: dict[str, str] = self._cache[place]
        return found

    def store(self, name: str) -> StageStore:
        """A stage's store, showing the results that these settings ask for."""
        return StageStore(self.workspace, self.dataset, name, self.keys(name))

    def states(self, name: str, *, expect: bool = False) -> dict[str, tuple[str, str]]:
        """Unit → (status, key) of a stage under these settings, of units that have a result.

        `expect`: units that have none are taken as if they were made and well.
        """
        store = self.store(name)
        found = {unit: (store.status(unit), key) for unit, key in store.keys().items()}
        return (
            {unit: ("ok", key) for unit, key in self.keys(name).items()} | found
            if expect
            else found
        )

    def _key_maker(self, stage: Stage, config: Settings) -> Callable[[Unit], str]:
        """Unit → its key: stage, version, settings, its own rows, its inputs' keys, its frames'."""
        needs = set(stage.needs)
        start = plain_json(stage.name, stage.version, config.identity())[:-1] + ","
        above = functools.cache(self.keys)
        videos = functools.cache(lambda: self.recordings.videos)

        def key(unit: Unit) -> str:
            if not {name for name, _ in unit.reads} <= needs:
                undeclared = {name for name, _ in unit.reads} - needs
                raise StoreError(
                    f"stage {stage.name}",
                    expected=f"units that read what it needs ({', '.join(stage.needs)})",
                    got=f"{unit.id} reading {', '.join(sorted(undeclared))}",
                    code="undeclared_input",
                )
            upstream = [[name, of, above(name).get(of)] for name, of in unit.reads]
            frames = videos()[unit.video].identity if unit.frames else None
            text = start + plain_json(unit.facts, upstream, frames)[1:]  # of one list: stable_hash
            return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

        return key


def _place(stage: Stage) -> Any:
    return stage.name, stage.version, stage.list_units


_shared: OrderedDict[str, tuple[dict[Any, dict[str, str]], dict[str, Any]]] = OrderedDict()
SHARED = 4  # datasets whose tables and keys are kept between the steps of a run


def shared_inputs(
    workspace: Workspace | Path | str,
    dataset: str,
    root: Path | None,
    configs: Mapping[str, Settings],
) -> StageInputs:
    """As `StageInputs`; what steps before have read and keyed is taken, as long as it is true.

    True as long as ingest's tables are the same files, and every setting is as it was.
    """
    inputs = StageInputs(workspace, dataset, root, configs)
    stats = []
    for name in ("videos", "events", "frames"):
        path = inputs.recordings.path(name)
        stat = path.stat() if path.exists() else None
        stats.append([stat.st_ino, stat.st_size, stat.st_mtime_ns] if stat else None)
    settings = {name: [config.identity(), config] for name, config in configs.items()}
    stamp = stable_hash(inputs.workspace.path, dataset, stats, settings)
    _shared.setdefault(stamp, (inputs._cache, inputs.recordings._cache))
    inputs._cache, inputs.recordings._cache = _shared[stamp]
    _shared.move_to_end(stamp)
    while len(_shared) > SHARED:
        _shared.popitem(last=False)
    return inputs


@dataclass
class ChunkInputs:
    """What the units of one chunk declared, found: where their inputs lie. Picklable."""

    workspace: Path
    dataset: str
    root: Path | None
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)  # (stage, unit) → its row
    videos: dict[str, Video] = field(default_factory=dict)  # the chunk's

    def __post_init__(self) -> None:
        self.recordings = Recordings(self.workspace, self.dataset, self.root, self.videos)
        self._parts: dict[str, OpenParts] = {}
        self._tables: dict[str, dict[str, dict[str, Any]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}, "_tables": {}}

    def folder(self, stage: str) -> Path:
        """Folder of an upstream store."""
        return Workspace(self.workspace).stage(self.dataset, stage)

    def parts(self, stage: str) -> OpenParts:
        """Open HDF5 parts of an upstream store."""
        if stage not in self._parts:
            self._parts[stage] = OpenParts(self.folder(stage))
        return self._parts[stage]

    def rows(self, stage: str, entry: Entry) -> dict[str, dict[str, Any]]:
        """Rows of the upstream Parquet part of `entry`, by unit."""
        if entry.part not in self._tables:
            path = check_part(self.folder(stage), entry.part, entry.bytes, entry.digest)
            table = read_table(path).to_dict("records")
            self._tables[entry.part] = {str(row["unit"]): row for row in table}
        return self._tables[entry.part]

    def of(self, unit: Unit) -> UnitInputs:
        """The view of one unit."""
        return UnitInputs(self, unit)

    def close(self) -> None:
        """Close all parts."""
        for parts in self._parts.values():
            parts.close()


class UnitInputs:
    """What one unit may read: exactly what it declared."""

    def __init__(self, chunk: ChunkInputs, unit: Unit) -> None:
        self._chunk, self._unit = chunk, unit
        self.dataset = chunk.dataset
        self.opened: list[FrameSource] = []

    @contextmanager
    def open(self, stage: str, unit: str) -> Iterator[h5py.Group]:
        """The upstream unit's read-only HDF5 group.

        Raises StoreError: `no_data` when it was dropped, `undeclared_input` when the unit did not
        say that it reads it, `damaged_part`.
        """
        entry = self._entry(stage, unit)
        if entry is None or entry.status != "ok":
            raise no_data(self.dataset, stage, unit, entry.status if entry else "missing")
        yield self._chunk.parts(stage).group(entry)

    def status(self, stage: str, unit: str) -> str:
        """'ok' or why the upstream unit has no data."""
        entry = self._entry(stage, unit)
        return entry.status if entry else "missing"

    def row(self, stage: str, unit: str) -> dict[str, Any]:
        """The upstream unit's row of a Parquet stage with one row per unit. Raises as `open`."""
        entry = self._entry(stage, unit)
        if entry is None or entry.status != "ok":
            raise no_data(self.dataset, stage, unit, entry.status if entry else "missing")
        return self._chunk.rows(stage, entry)[unit]

    def frames(self) -> FrameSource:
        """The raw frames of the unit's video, by index."""
        if not self._unit.frames:
            raise self._undeclared("raw frames", "frames=True")
        self.opened.append(self._chunk.recordings.frames(self._unit.video))
        return self.opened[-1]

    def raw_bytes(self) -> dict[str, Any] | None:
        """Whose files were read from first to last: video, identity, digest and size; else None."""
        for source in self.opened:
            if found := source.raw_bytes():
                video = self._chunk.recordings.video(self._unit.video)
                digest, size = found
                own = {"video": video.id, "listed": video.identity}
                return {**own, "digest": digest, "bytes": size}
        return None

    def _entry(self, stage: str, unit: str) -> Entry | None:
        if (stage, unit) not in self._unit.reads:
            raise self._undeclared(f"{stage}/{unit}", f"reads=(({stage!r}, {unit!r}), …)")
        return self._chunk.entries.get((stage, unit))

    def _undeclared(self, what: str, how: str) -> StoreError:
        return StoreError(
            f"{self.dataset}/{self._unit.id}",
            expected="only inputs that the unit declared",
            got=f"{what}, which is not in its key",
            todo=f"Declare it where units are listed: Unit({how}).",
            code="undeclared_input",
        )
