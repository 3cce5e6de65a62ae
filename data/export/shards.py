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
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.align.crops import CropReader
from data.export.names import safe_name, unique_names
from data.export.reading import OpenStores, refuse_hidden_faces
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
    keys = unique_names(
        {
            (s.dataset, s.event): safe_name(f"{s.dataset}_{s.name}").replace(".", "_")
            for s in samples
        }
    )
    people: dict[str, list[Sample]] = {}
    for sample in samples:
        people.setdefault(sample.person, []).append(sample)
    index: dict[str, Any] = {}
    out.mkdir(parents=True, exist_ok=True)
    with OpenStores(workspace) as stores:
        for person, own in sorted(people.items()):
            members = with_flow(stores, own)
            first = next(members, None)
            if first is None:
                continue
            name = f"{safe_name(person.replace(':', '-').replace('.', '_'))}-{len(index):06d}.tar"
            datasets_of: list[str] = []
            with replacing(out / name) as temporary, tarfile.open(temporary, "w") as tar:
                for sample, field, _ in chain([first], members):
                    clip = _clip(stores, sample, length) if with_frames else None
                    _add(tar, keys[sample.dataset, sample.event], sample, field, clip)
                    datasets_of.append(sample.dataset)
            index[name] = {
                "person": person,
                "datasets": sorted(set(datasets_of)),
                "samples": len(datasets_of),
            }
    with replacing(out / "shards.json") as temporary:
        temporary.write_text(json.dumps(index, indent=1), encoding="utf-8")
    return sum(shard["samples"] for shard in index.values())


def _add(
    tar: tarfile.TarFile,
    key: str,
    sample: Sample,
    field: npt.NDArray[np.float32],
    clip: npt.NDArray[np.uint8] | None,
) -> None:
    row = sample.row
    facts = {
        "dataset": sample.dataset, "event": sample.event, "person": sample.person,
        "label": sample.label, **{m: _plain(getattr(row, m)) for m in MARKS},
        "aus": _plain(row.aus), "emotion": _plain(row.emotion),
        **{name: _plain(getattr(row, name)) for name in LABELS},
    }  # fmt: skip
    _put(tar, f"{key}.flow.npy", _npy(field))
    if clip is not None:
        _put(tar, f"{key}.frames.npy", _npy(clip))
    _put(tar, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())


def _clip(stores: OpenStores, sample: Sample, length: int) -> npt.NDArray[np.uint8]:
    """The sample's aligned frames, onset to offset, brought to one length."""
    row = sample.row
    with stores.of(sample.dataset, "registration").open(sample.event) as group:
        crops = CropReader(stores.workspace, sample.dataset).event(row.video, group)
        used = [f for f in range(int(row.onset), int(row.offset) + 1) if crops.usable(f)]
        return interpolated(crops.take(used or [crops.nearest(int(row.onset))]), length)


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
