"""The bytes of raw recordings: recorded once when asked for, compared every time after.

A video's identity costs no terabyte read: names, sizes, and the bytes of its first, middle and last
file (of a film, of its beginning, middle and end). A stage that reads all of a video's files anyway
(align) records their digest with its result.
`--verify=inputs` reads everything: it compares with what was recorded by a stage or by itself, and
records what was not. A video whose bytes have changed gets another identity, so that what was made
from it is made again; the other videos keep theirs. Results of one listing that read different
bytes say the same: it changed between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.frames import bytes_of_files
from data.stages.identity import stable_hash
from data.stages.pool import cpu_count
from data.stages.stores import read_records
from data.stages.workspace import Workspace

RAW = {
    "video": "string",
    "listed": "string",  # identity by names, sizes and three files, when it was read
    "first": "string",  # digest of all its bytes when it was read first
    "now": "string",  # … and when it was read last
    "bytes": "int64",
}


def blank_raw() -> pd.DataFrame:
    """Nothing was read yet."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in RAW.items()})


def with_raw_identity(videos: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    """The videos table; a video that was found changed has an identity that says so."""
    changed = raw[raw["first"] != raw["now"]]
    known = {(r.video, r.listed): r.now for r in changed.itertuples(index=False)}
    if not known:
        return videos
    identity = [
        stable_hash(own, known[video, own]) if (video, own) in known else own
        for video, own in zip(videos.video, videos.identity, strict=True)
    ]
    return videos.assign(identity=pd.array(identity, dtype="string"))


def raw_read_by_stages(workspace: Workspace, dataset: str) -> dict[tuple[str, str], set[str]]:
    """(video, identity of its listing) → digests of all its bytes, as stages read them."""
    found: dict[tuple[str, str], set[str]] = {}
    for folder in sorted(workspace.stage(dataset, "ingest").parent.glob("*/")):
        manifest = read_records(folder).manifest
        for text in manifest.counts:
            raw = json.loads(text).get("raw") if '"raw"' in text else None
            if raw:
                found.setdefault((raw["video"], raw["listed"]), set()).add(raw["digest"])
    return found


def read_raw(
    root: Path,
    videos: pd.DataFrame,
    frames: pd.DataFrame,
    before: pd.DataFrame,
    told: Mapping[tuple[str, str], set[str]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pd.DataFrame, list[str]]:
    """Read every byte of every video; the new table, and the videos that have changed.

    videos: with the identities of the listing. `before`: the table of the last reading. `told`: see
    `raw_read_by_stages`. A video has changed if any of these is not what is read now.
    """
    known = {(r.video, r.listed): r.first for r in before.itertuples(index=False)}
    rows: list[dict[str, Any]] = []
    found = []
    files = list(_files(root, videos, frames))
    with ThreadPoolExecutor(cpu_count()) as pool:
        digests = pool.map(bytes_of_files, (paths for _, paths in files))
        for number, ((row, _), (digest, size)) in enumerate(zip(files, digests, strict=True), 1):
            place = (row.video, row.identity)
            others = [known.get(place, digest), *sorted(told.get(place, ()))]
            first = next((other for other in others if other != digest), digest)
            rows.append(
                {
                    "video": row.video,
                    "listed": row.identity,
                    "first": first,
                    "now": digest,
                    "bytes": size,
                }
            )
            if digest != first:
                found.append(str(row.video))
            progress(number, len(files))
    return pd.DataFrame(rows, columns=list(RAW)).astype(RAW), found


def _files(
    root: Path, videos: pd.DataFrame, frames: pd.DataFrame
) -> Iterator[tuple[Any, list[Path]]]:
    places = frames.groupby("video").indices
    paths = frames["path"].to_numpy()
    for row in videos.itertuples(index=False):
        if row.source == "video_file":
            yield row, [root / str(row.folder)]
        else:
            own = paths[places.get(row.video, np.zeros(0, int))]
            yield row, [root / str(path) for path in own]
