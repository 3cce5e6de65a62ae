"""How many chunks a store has: chosen when it is first written, by the work and the bytes in it.

A chunk is a stable bucket of video ids, so that new videos never move old ones. Small stores have
64; a large one has so many that a chunk's work fits in `chunk_minutes` of one core and its part
stays near half of MOST_BYTES, by nominal costs: what a machine measured would make the parts of two
machines differ. The number is kept with the store; it is in no key, and no result depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.errors import StoreError
from data.recordings import Recordings
from data.stages.contract import Stage, Unit
from data.stages.stores import BUCKETS, CHUNKS, part_facts

MOST_BYTES = 2_000_000_000  # of one part
LIMIT = 1 << 16
MINUTES = 15.0  # of one core that a chunk may take: what a kill costs at most


def buckets_of(
    folder: Path,
    stage: Stage,
    units: Iterable[Unit],
    configs: Mapping[str, Any],
    recordings: Recordings,
    minutes: float = MINUTES,
) -> int:
    """The store's number of chunks: as it was written first, else chosen for all its units."""
    if (known := recorded_buckets(folder)) is not None:
        return known
    if stage.weigh is None:
        return BUCKETS
    seconds = size = 0.0
    for unit in units:
        frames = recordings.videos[unit.video].num_frames
        own_seconds, own_bytes = stage.weigh(unit, frames, configs)
        seconds += own_seconds
        size += own_bytes
    return choose(seconds, size, minutes)


def choose(seconds: float, size: float, minutes: float) -> int:
    """A power of two, so that chunks of a store take `minutes` and half of MOST_BYTES at most."""
    most = max(seconds / (60 * minutes), size / (MOST_BYTES / 2))
    number = BUCKETS
    while number < most and number < LIMIT:
        number *= 2
    return number


def span(unit: Unit, frames: int) -> int:
    """Frames of a unit: an event's, or its whole video's."""
    onset, offset = unit.facts.get("onset"), unit.facts.get("offset")
    if onset is None or offset is None:
        return frames
    return max(1, min(frames, int(offset) - int(onset) + 1))


def recorded_buckets(folder: Path) -> int | None:
    """Chunks of a store by its manifest, or by a part of it; None for a store not begun."""
    path = folder / "manifest.parquet"
    try:
        return int(_facts_of(path).get(CHUNKS, BUCKETS))
    except (OSError, StoreError, ValueError):
        pass  # none yet, or a damaged one: ask the parts
    for part in sorted(folder.glob("part-*")):
        try:
            return int(part_facts(part).get(CHUNKS, BUCKETS))
        except (OSError, StoreError, ValueError):
            continue
    return None


def _facts_of(path: Path) -> dict[str, str]:
    """A Parquet file's own metadata, without its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.read_schema(path).metadata or {}
    except pa.ArrowException as error:
        raise StoreError(str(path), expected="Parquet", got=str(error)) from error
    return {key.decode(): value.decode() for key, value in facts.items() if key != b"pandas"}
