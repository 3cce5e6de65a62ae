"""Samples in tar files as WebDataset reads them, one person a shard.

    OUT/PERSON-000000.tar      KEY.flow.npy, KEY.json, KEY.frames.npy (with faces only)
    OUT/shards.json            shard → person, dataset and samples: folds are lists of shards

`flow.npy` is float32 (H, W, 3): u, v in px of the crop and strain, onset→apex. `frames.npy` is
uint8 (length, S, S) or (length, S, S, 3): the aligned clip brought to one length (see `tim`). A key
has no dot. The same stores give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.align.crops import CropReader
from data.export.names import safe_name
from data.export.reading import open_store, refuse_hidden_faces
from data.export.samples import Sample, free_folder, labelled, with_flow
from data.export.tim import interpolated
from data.recordings import LABELS
from data.stages.files import replacing
from data.stages.workspace import Workspace

MARKS = ("onset", "apex", "offset")


def export_shards(
    workspace: Workspace,
    datasets: Sequence[str],
    out: Path,
    *,
    label: str = "label_3",
    length: int = 10,
    with_frames: bool = False,
    with_faces: bool = False,
) -> int:
    """Write a shard a person; returns how many samples.

    `with_frames` adds the clips: raises ConfigError `faces_not_shown` where they may not leave.
    Raises StoreError `no_data` without flow or label.
    """
    free_folder(out)
    samples = labelled(workspace, datasets, label)
    if with_frames:
        for dataset in datasets:
            videos = {s.row.video for s in samples if s.dataset == dataset}
            refuse_hidden_faces(workspace, dataset, videos, with_faces)
    people: dict[str, list[tuple[Sample, npt.NDArray[np.float32]]]] = {}
    for sample, field in with_flow(workspace, samples):
        people.setdefault(sample.person, []).append((sample, field))
    index: dict[str, Any] = {}
    out.mkdir(parents=True, exist_ok=True)
    for number, (person, members) in enumerate(sorted(people.items())):
        name = f"{safe_name(person.replace(':', '-').replace('.', '_'))}-{number:06d}.tar"
        with replacing(out / name, "export") as temporary, tarfile.open(temporary, "w") as tar:
            for sample, field in members:
                _add(tar, workspace, sample, field, length, with_frames)
        index[name] = {
            "person": person,
            "datasets": sorted({s.dataset for s, _ in members}),
            "samples": len(members),
        }
    with replacing(out / "shards.json", "export") as temporary:
        temporary.write_text(json.dumps(index, indent=1), encoding="utf-8")
    return sum(shard["samples"] for shard in index.values())


def _add(
    tar: tarfile.TarFile,
    workspace: Workspace,
    sample: Sample,
    field: npt.NDArray[np.float32],
    length: int,
    with_frames: bool,
) -> None:
    key = safe_name(f"{sample.dataset}_{sample.name}").replace(".", "_")
    row = sample.row
    facts = {
        "dataset": sample.dataset, "event": sample.event, "person": sample.person,
        "label": sample.label, **{m: _plain(getattr(row, m)) for m in MARKS},
        "aus": _plain(row.aus), "emotion": _plain(row.emotion),
        **{name: _plain(getattr(row, name)) for name in LABELS},
    }  # fmt: skip
    _put(tar, f"{key}.flow.npy", _npy(field))
    if with_frames:
        store = open_store(workspace, sample.dataset, "registration")
        with store.open(sample.event) as group:
            crops = CropReader(workspace, sample.dataset).event(row.video, group)
            used = [f for f in range(int(row.onset), int(row.offset) + 1) if crops.usable(f)]
            clip = crops.take(used or [crops.nearest(int(row.onset))])
        store.close()
        _put(tar, f"{key}.frames.npy", _npy(interpolated(clip, length)))
    _put(tar, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())


def _npy(values: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)  # no time, owner or mode of this machine
    tar.addfile(info, io.BytesIO(content))


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value if isinstance(value, str) else int(value)
