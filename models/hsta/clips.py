"""HSTA's clips out of the stores: decoded once per fold, drawn batch by batch.

Frames stay uint8, resized, in memory or in a memory-mapped file; a batch is normalised and
augmented on the training device. A batch costs a gather of a few megabytes, so one thread drawing
ahead keeps a GPU busy; no worker processes are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from data.align.crops import CropReader
from data.errors import StoreError
from data.registration.store import EventCrops
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.hsta.config import HstaConfig
from models.hsta.input import (
    BLACK,
    Indices,
    apply_changes,
    draw_changes,
    level_flow,
    motion_planes,
    normalise_frames,
    repair_interval,
    resize_crops,
    resize_planes,
    sample_frame_indices,
    span_indices,
)
from models.hsta.settings import HstaInputConfig, Pixels

Scale = tuple[float, float, float, float, float]  # u, v, strain, change, shift

# --------------------------------------------------------------------------------- clips of a store


@dataclass(frozen=True)
class ClipBank:
    """Decoded clips of many events, small enough to draw batches from at once.

    frames (N, S, S, C) uint8, in memory or memory-mapped: event e owns rows start[e] ..
    start[e] + count[e] - 1 (its span in time order), then its onset and its apex.
    special (E, 2, 3, S, S) float32 with `special: flow`, px and strain as stored, else None.
    """

    frames: npt.NDArray[np.uint8]
    start: Indices
    count: Indices
    special: npt.NDArray[np.float32] | None
    names: tuple[str, ...]
    labels: Indices

    def __len__(self) -> int:
        return len(self.names)

    def scale(self, positions: Sequence[int], pixels: Pixels = "image") -> Scale:
        """Root mean squares over these events, what inputs are divided by.

        u, v, strain of flow; change: a span's frames minus their onset frame, in 0 .. 1; shift, px,
        with `pixels` motion: see `motion_planes`. A channel of zeros, or not asked for, gets 1.
        """
        squares = np.zeros(5)
        for e in positions:
            if self.special is not None:
                squares[:3] += (self.special[e].astype(np.float64) ** 2).mean(axis=(0, 2, 3))
            first, last = int(self.start[e]), int(self.start[e] + self.count[e])
            change = self.frames[first:last].astype(np.float32) - self.frames[last]
            squares[3] += float(np.square(change / 255.0).mean())
            if pixels == "motion":
                clip = torch.from_numpy(self.frames[first : last + 2])[None] / 255.0
                squares[4] += float(motion_planes(clip)[:, :2, :-2].square().mean())
        rms = np.sqrt(squares / max(1, len(positions)))
        u, v, strain, change, shift = (float(x) if x > 0 else 1.0 for x in rms)
        return u, v, strain, change, shift


def read_clips(
    workspace: Workspace | Path,
    events: pd.DataFrame,
    labels: Sequence[int],
    model: HstaConfig,
    config: HstaInputConfig,
    scratch: Path | None = None,
    keys: Callable[[str, str], Mapping[str, str] | None] = lambda dataset, stage: None,
) -> ClipBank:
    """Decode the clips of `events` (dataset, event, video, onset, offset) from the stores.

    keys: (dataset, stage) → the results to read, None for those that were made last. Above
    `config.cache_mb` the frames go to a memory-mapped file in `scratch`. Raises StoreError,
    naming the event, when a store lacks what the clip needs.
    """
    rows: list[dict[Any, Any]] = events.to_dict("records")
    stores = {
        (dataset, stage): StageStore(workspace, dataset, stage, keys(dataset, stage))
        for dataset in events.dataset.unique()
        for stage in ("registration", "apex", *(("flow",) if model.special == "flow" else ()))
    }
    readers = {dataset: CropReader(workspace, dataset) for dataset in events.dataset.unique()}
    apexes = {d: s.table().set_index("event").apex for (d, k), s in stores.items() if k == "apex"}
    plans, first, channels = [], 0, 1
    for row in rows:
        if row["event"] not in apexes[row["dataset"]].index or pd.isna(row["onset"]):
            raise StoreError(
                f"{row['dataset']}/{row['event']}", expected="an onset and an apex", got="none"
            )
        apex = int(apexes[row["dataset"]][row["event"]])
        with stores[row["dataset"], "registration"].open(row["event"]) as group:
            wanted = clip_frames(EventCrops(group), row, apex, config.max_span)
            channels = max(channels, 3 if bool(group.attrs["colour"]) else 1)
        plans.append((first, wanted))
        first += len(wanted)
    side = model.image_size
    frames = _frame_array((first, side, side, channels), config, scratch)
    fields = np.zeros((len(events), 2, 3, side, side), np.float32)
    for number, row in enumerate(rows):
        start, wanted = plans[number]
        with stores[row["dataset"], "registration"].open(row["event"]) as group:
            crops = readers[row["dataset"]].event(row["video"], group).take(wanted)
        frames[start : start + len(wanted)] = resize_crops(crops, side, channels)
        if model.special == "flow":
            with stores[row["dataset"], "flow"].open(row["event"]) as group:
                fields[number] = read_special_flow(group, side)
    for store in stores.values():
        store.close()
    return ClipBank(
        frames=frames,
        start=np.array([start for start, _ in plans], np.int64),
        count=np.array([len(wanted) - 2 for _, wanted in plans], np.int64),
        special=fields if model.special == "flow" else None,
        names=tuple(f"{d}:{e}" for d, e in zip(events.dataset, events.event, strict=True)),
        labels=np.asarray(labels, np.int64),
    )


def read_special_flow(group: Any, side: int) -> npt.NDArray[np.float32]:
    """(2, 3, side, side) float32: (u, v, strain) onset→apex, then apex→offset, of a flow unit.

    u (right) and v (down) in px of the stored field; a pair the store lacks (same frame) is zero.
    """
    out = np.zeros((2, 3, side, side), np.float32)
    kinds = [k.decode() if isinstance(k, bytes) else str(k) for k in group["kind"][:]]
    for slot, kind in enumerate(("onset_apex", "apex_offset")):
        if kind in kinds:
            at = kinds.index(kind)
            unit = np.float32(group["flow"].attrs.get("scale", 1.0))
            field = group["flow"][at].astype(np.float32) * unit
            strain = group["strain"][at].astype(np.float32)
            planes = np.concatenate([field.transpose(2, 0, 1), strain[None]])
            out[slot] = resize_planes(torch.from_numpy(planes)[None], side)[0].numpy()
    return out


def clip_frames(crops: EventCrops, row: dict[Any, Any], apex: int, max_span: int) -> Indices:
    """The event's span, then its onset and its apex; frames without a face are left out, or
    replaced by the nearest with one."""
    offset = crops.last if pd.isna(row["offset"]) else int(row["offset"])
    onset, apex, offset = repair_interval(int(row["onset"]), apex, offset)
    span = span_indices(onset, offset, crops.last + 1, max_span)
    usable = np.array([crops.usable(int(f)) for f in span], bool)
    span = span[usable] if usable.any() else span
    marks = [f if crops.usable(f) else crops.nearest(f) for f in (onset, apex)]
    return np.concatenate([span, marks]).astype(np.int64)


def _frame_array(
    shape: tuple[int, ...], config: HstaInputConfig, scratch: Path | None
) -> npt.NDArray[np.uint8]:
    if scratch is None or np.prod(shape, dtype=np.int64) <= config.cache_mb * 2**20:
        return np.empty(shape, np.uint8)
    scratch.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(scratch / "clips.npy", "w+", np.uint8, shape)


# ------------------------------------------------------------------------------------------ batches


@dataclass
class Batch:
    """Raw clips of one step. `change` (B, 7) holds augmentation draws, None without."""

    frames: Tensor  # (B, F + 2, S, S, C) uint8; the last two are onset and apex
    special: Tensor | None  # (B, 2, 3, S, S) float32
    labels: Tensor  # (B,) int64
    names: tuple[str, ...]
    pixels: Pixels = "image"
    level: float = 0.0
    change: Tensor | None = None

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, for copies that overlap with computing."""
        tensors = (self.frames, self.special, self.labels, self.change)
        frames, special, labels, change = (None if t is None else t.pin_memory() for t in tensors)
        assert frames is not None and labels is not None
        return Batch(frames, special, labels, self.names, self.pixels, self.level, change)


def draw_rows(
    bank: ClipBank,
    positions: Sequence[int],
    num_frames: int,
    config: HstaInputConfig,
    rng: np.random.Generator | None,
) -> Indices:
    """Rows of `bank.frames` that make the clips, (B, num_frames + 2); BLACK is a black frame."""
    rows = np.empty((len(positions), num_frames + 2), np.int64)
    for i, e in enumerate(positions):
        start, count = int(bank.start[e]), int(bank.count[e])
        span = np.arange(start, start + count)
        rows[i, :-2] = sample_frame_indices(span, num_frames, rng=rng, padding=config.padding)
        rows[i, -2:] = start + count, start + count + 1
    return rows


def draw_batch(
    bank: ClipBank,
    positions: Sequence[int],
    num_frames: int,
    config: HstaInputConfig,
    rng: np.random.Generator | None,
    *,
    augment: bool = False,
) -> Batch:
    """Clips of the events at `positions`; frames at random with `rng`, else evenly spaced."""
    rows = draw_rows(bank, positions, num_frames, config, rng)
    frames = bank.frames[np.maximum(rows, 0)]
    frames[rows == BLACK] = 0
    change = None
    if augment and config.augment and rng is not None:
        change = torch.from_numpy(draw_changes(len(rows), config, rng))
    at = np.asarray(positions, np.int64)
    return Batch(
        frames=torch.from_numpy(frames),
        special=None if bank.special is None else torch.from_numpy(bank.special[at]),
        labels=torch.from_numpy(bank.labels[at]),
        names=tuple(bank.names[e] for e in positions),
        pixels=config.pixels,
        level=config.level,
        change=change,
    )


def to_clip(
    batch: Batch, device: torch.device, scale: Scale | Tensor, kind: torch.dtype = torch.float32
) -> Tensor:
    """The network input (B, 3, F+2, S, S) of `kind` on `device`, scaled by `ClipBank.scale`.

    `scale`: one for all clips, or a row per clip, (B, 5); as a tensor on `device` it costs no copy.
    """
    frames = batch.frames.to(device, non_blocking=True).to(kind) / 255.0
    units = torch.as_tensor(scale, dtype=torch.float32).to(device, kind)
    units = units[None] if units.ndim == 1 else units
    special = batch.special
    if special is not None:
        special = special.to(device, non_blocking=True).to(kind).transpose(1, 2)
        special = special / units[:, :3, None, None, None]
        special = level_flow(special, batch.level) if batch.level else special
    if batch.change is not None:
        change = batch.change.to(device, non_blocking=True).to(kind)
        frames, special = apply_changes(frames, special, change)
    clip = normalise_frames(frames)
    if batch.pixels == "change":
        onset = frames[:, -2:-1]
        unit = units[:, 3, None, None, None, None]
        change = ((frames - onset) / unit).permute(0, 4, 1, 2, 3).expand_as(clip)
        clip = torch.cat([change[:, :, :-2], clip[:, :, -2:-1], change[:, :, -1:]], dim=2)
    elif batch.pixels == "motion":
        shift, change = units[:, 4], units[:, 3]
        unit = torch.stack([shift, shift, change], dim=1)
        clip = motion_planes(frames) / unit[..., None, None, None]
        if batch.change is not None:  # a stronger expression shifts more, in frames as in flow
            clip = clip * batch.change[:, 6].to(clip).view(-1, 1, 1, 1, 1)
    return clip if special is None else torch.cat([clip[:, :, :-2], special], dim=2)
