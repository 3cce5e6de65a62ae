"""Motion of videos in, score curves of test videos out: the files around an ME-TST fold.

`curves.h5` of a fold holds one group per test video, named <dataset>/<video>:

    spot (W, k), logits (W, k, 5)   the network's windows as they came
    score (T,), classes (T, 5)      stitched cleanly, T = (W + 1) * k/2 view frames
    magnitude (T,)                  the flow-magnitude baseline's score
    view_index (T',)                view frame -> the video's own frame index
    events (n, 3), emotions (n,), event_ids (n,)    true micro-expressions, view frames
    others (m, 2)                   true macro-expressions, view frames
    attributes: dataset video subject person fold k k_p k_p_global seconds_per_frame
                dropped flagged (JSON)

`epochs.h5`, where epochs are recorded, has earlier ones' windows (models/me_tst/epochs.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import ConfigError, StoreError
from data.stages.files import replacing
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.me_tst.labels import SpottingTruth, cut_windows, frame_labels, read_truth, view_frames
from models.recipe import Recipe
from models.runs.files import Sample, read_tables
from models.scores.baselines import flow_magnitude
from models.scores.spotting import VideoCurves
from models.spotting import stitch


@dataclass(frozen=True)
class VideoMotion:
    """One video as the network sees it: motion (W, C, k) and what is true on its view."""

    dataset: str
    video: str
    subject: str
    person: str
    k: int
    motion: npt.NDArray[np.float32]
    truth: SpottingTruth
    others: npt.NDArray[np.int64]
    view_index: npt.NDArray[np.int32]
    seconds_per_frame: float

    def labels(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Spot targets (W, k) and class ids (W, k)."""
        windows = len(self.motion)
        spot, classes = frame_labels(self.truth, windows, self.k)
        return cut_windows(spot, windows, self.k), cut_windows(classes, windows, self.k)


def read_videos(
    workspace: Workspace,
    recipe: Recipe,
    wanted: Sequence[Sample],
    keys: Callable[[str, str], Mapping[str, str] | None] = lambda dataset, stage: None,
) -> list[VideoMotion]:
    """Motion and truth of the wanted (dataset, video) pairs, in natural order of their names.

    keys: (dataset, stage) → the results to read, None for those that were made last.

    Raises `StoreError` for a video without motion, `ConfigError` when the network's channels are
    not those of the stored ROI set.
    """
    videos = read_tables(workspace, recipe.data, "videos")
    events = read_tables(workspace, recipe.data, "events")
    rows = {(row.dataset, row.video): row for row in videos.itertuples(index=False)}
    by_video = dict(iter(events.groupby(["dataset", "video"])))
    motions = {d: StageStore(workspace, d, "motion", keys(d, "motion")) for d in recipe.data}
    found = []
    for sample in sorted(wanted, key=_natural):
        if sample not in rows:
            raise StoreError(
                ":".join(sample), expected="a video of the ingest store", got="no such video"
            )
        own = by_video.get(sample, events.iloc[:0])
        with motions[sample[0]].open(sample[1]) as group:
            found.append(_read_video(group, rows[sample], own, recipe))
    for store in motions.values():
        store.close()
    return found


def _read_video(group: h5py.Group, row: Any, events: pd.DataFrame, recipe: Recipe) -> VideoMotion:
    motion = group["features"][:].astype(np.float32)
    view, k = group["view_index"][:], int(group.attrs["k"])
    channels = recipe.model_dump()["model"]["in_channels"]
    if motion.shape[1] != channels:
        raise ConfigError(
            f"recipe {recipe.name}, model.in_channels",
            expected=f"{motion.shape[1]}, as motion.roi_set {group.attrs['roi_set']} gives",
            got=str(channels),
        )
    step = float(np.diff(view).mean()) if len(view) > 1 else 1.0
    return VideoMotion(
        dataset=str(row.dataset),
        video=str(row.video),
        subject=str(row.subject),
        person=str(row.person),
        k=k,
        motion=motion,
        truth=read_truth(events, view, len(motion), k, recipe.labels),
        others=_macro(events, view),
        view_index=view,
        seconds_per_frame=step / float(row.fps) if row.fps > 0 else step,
    )


def _macro(events: pd.DataFrame, view: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    spans = events[(events["type"] == "macro") & events.onset.notna() & events.offset.notna()]
    spans = spans[spans.onset <= spans.offset]
    return view_frames(spans[["onset", "offset"]].to_numpy(np.int64), view).reshape(-1, 2)


def _natural(sample: Sample) -> tuple[Any, ...]:
    """Numbers inside names compare as numbers: 9 before 10."""
    parts = re.split(r"(\d+)", f"{sample[0]}/{sample[1]}")
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts)


def curves_of(
    video: VideoMotion,
    spot: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    fold: str,
    k_p: int,
    k_p_global: int | None = None,
) -> VideoCurves:
    """A test video's windows (W, k) and (W, k, 5) with everything scoring needs."""
    return VideoCurves(
        dataset=video.dataset,
        video=video.video,
        subject=video.subject,
        person=video.person,
        fold=fold,
        k=video.k,
        k_p=k_p,
        k_p_global=k_p if k_p_global is None else k_p_global,
        spot=spot,
        logits=logits,
        magnitude=flow_magnitude(video.motion, k_p),
        truth=video.truth,
        others=video.others,
        view_index=video.view_index,
        seconds_per_frame=video.seconds_per_frame,
    )


def write_curves(curves: Sequence[VideoCurves], path: Path) -> None:
    """Write a fold's curves, whole or not at all; the same curves give the same bytes."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for one in curves:
            group = file.create_group(f"{one.dataset}/{one.video}")
            windows = {"spot": one.spot, "logits": one.logits}
            arrays: dict[str, npt.NDArray[Any]] = {
                **windows,
                "score": stitch(one.spot, [len(one.spot)], one.k)[0],
                "classes": stitch(one.logits, [len(one.spot)], one.k)[0],
                "magnitude": one.magnitude,
                "view_index": one.view_index,
                "events": one.truth.intervals,
                "emotions": one.truth.emotions,
                "others": one.others,
            }
            for name, array in arrays.items():
                packed = {"compression": "lzf", "shuffle": True} if array.size > 64 else {}
                group.create_dataset(name, data=array, track_times=False, **packed)
            ids = np.array(one.truth.events, dtype=object)
            group.create_dataset("event_ids", data=ids, dtype=h5py.string_dtype())
            for name in ("dataset", "video", "subject", "person", "fold"):
                group.attrs[name] = getattr(one, name)
            for name in ("k", "k_p", "k_p_global"):
                group.attrs[name] = getattr(one, name)
            group.attrs["seconds_per_frame"] = one.seconds_per_frame
            group.attrs["dropped"] = json.dumps(one.truth.dropped)
            group.attrs["flagged"] = json.dumps(one.truth.flagged)


def read_curves(path: Path) -> list[VideoCurves]:
    """A fold's curves, in the order of their names. Raises `StoreError` for a damaged file."""
    try:
        with h5py.File(path, "r") as file:
            found: list[VideoCurves] = []
            file.visititems(lambda _, item: _collect(item, found))
    except (OSError, KeyError) as error:
        raise StoreError(
            str(path), expected="a fold's curves", got=str(error), todo="Train the fold again."
        ) from error
    return sorted(found, key=lambda c: _natural((c.dataset, c.video)))


def _collect(item: Any, found: list[VideoCurves]) -> None:
    if not isinstance(item, h5py.Group) or "score" not in item:
        return
    a = item.attrs
    truth = SpottingTruth(
        item["events"][:].reshape(-1, 3),
        item["emotions"][:],
        tuple(item["event_ids"].asstr()[:]),
        tuple((e, r) for e, r in json.loads(a["dropped"])),
        tuple((e, r) for e, r in json.loads(a["flagged"])),
    )
    values: dict[str, Any] = {n: item[n][:] for n in ("spot", "logits", "magnitude", "view_index")}
    values |= {n: str(a[n]) for n in ("dataset", "video", "subject", "person", "fold")}
    values |= {n: int(a[n]) for n in ("k", "k_p", "k_p_global")}
    found.append(
        VideoCurves(
            **values,
            truth=truth,
            others=item["others"][:].reshape(-1, 2),
            seconds_per_frame=float(a["seconds_per_frame"]),
        )
    )
