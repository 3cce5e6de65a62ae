"""Alignment and registration on recordings of real people, with truth planted into them.

Recordings are fetched by version and hash (`real_faces.PACKAGES`), some also reduced to a small
face. Half-second events are laid evenly over each where a frontal face is visible. Two tables, each
for `track` (alignment and registration to the onset) beside per-frame landmarks and plain ECC:

    placed    frames placed by the mode's own method, share of those with a visible frontal face
    reach     share of the events that reach flow; doubtful: of these, apex frames flagged so
    gain      displacement of a planted brow raise at its apex over what a perfectly still head
              gives (the same frame, warped), median (10-90 %); planted recording minus the same
              unplanted, so that what people do by themselves cancels; flow is the flow stage's
    flow      the same with the unplanted recording's registration, which knows of no plant: what
              TV-L1 alone makes of it in a second frame with its own noise
    taken     gain less flow, event by event: what registration takes away, median (10-90 %)
    corr      correlation over time of the planted displacement with its true course, median
    apex      mean error of the spotted apex, frames, and that of the middle of the event
    left      planted head motion: RMS that is left over the face, units of 0.01 inter-pupil
              distances, median over frames and (90 %); `none`: without any registration
    f/s       frames per second and core of alignment; ms per event frame of registration
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU time per core: no helper threads

import cv2
import numpy as np

from data.align.geometry import CropMaker, hull_points, unplace
from data.align.store import StoredPoses
from data.align.views import between
from data.faces import interpupil
from data.optical_flow import tvl1
from data.registration.store import EventCrops, event_geometry_of
from tests.benchmarks.real_faces import (
    CACHE,
    Clip,
    course,
    fetch,
    load,
    plant,
    planted_field,
    reference_of,
    still_frame,
    warp,
)
from tests.fakes.clip_stages import ClipStages
from tests.fakes.planted_head import PlantedHead

MODES = ("track", "ecc", "landmarks")
EVENT_SECONDS, PEAK = 0.5, 0.025
SMALL = {"WolfgangLanger_Pexels": (46.0,), "single_face": (30.0,)}  # also at these sizes, px
CURVE_SIDE = 112


def lay_events(clip: Clip) -> list[tuple[int, int]]:
    """Half-second events, one after the other, where nearly all frames show a frontal face."""
    length = max(8, round(EVENT_SECONDS * clip.fps))
    seen = np.isfinite(clip.landmarks[:, 0, 0])
    starts = range(2, len(seen) - length - 1, length)
    return [(s, s + length - 1) for s in starts if seen[s : s + length].mean() > 0.9 and seen[s]]


def planted_gain(
    planted: EventCrops, plain: EventCrops, unaware: np.ndarray, apex: int, what: str
) -> tuple[float, float]:
    """Displacement at the apex over a still head's, where that moves; and the same of `unaware`.

    `unaware` (2,S,S): the planted onset and apex frame, by the unplanted recording's registration.
    """
    still, field = _still(plain, what)
    onset = planted.reference
    rest = tvl1(*plain.take([onset, apex]))
    seen, alone = tvl1(*planted.take([onset, apex])), tvl1(*unaware)
    return _along(seen - rest, field, still), _along(alone - rest, field, still)


def crops_by(stages: ClipStages, event: str, frames: Sequence[Any], which: list[int]) -> np.ndarray:
    """Crops (n,S,S) of other `frames` of the video, placed as `stages` placed its own."""
    with stages.open("registration", event) as group:
        if "poses" in group:
            maker, first = CropMaker(event_geometry_of(group)), int(group.attrs["first"])
            return np.stack([maker(frames[i], group["poses"][i - first]) for i in which])
    with stages.open("align", "v") as group:
        stored = StoredPoses(group)
        return np.stack([CropMaker(stored.geometry(i))(frames[i], stored.poses[i]) for i in which])


def planted_curve(planted: EventCrops, plain: EventCrops, what: str) -> np.ndarray:
    """Displacement of every frame along the plant, planted minus plain, at a reduced size."""
    frames = range(planted.reference, planted.last + 1)
    still, field = _still(plain, what, CURVE_SIDE)
    flows = []
    for crops in (planted, plain):
        small = [_small(c, CURVE_SIDE) for c in crops.take(list(frames))]
        flows.append(tvl1(small[0], np.stack(small[1:]), preset="fast"))
    return np.array([0.0, *(_along(a - b, field, still) for a, b in zip(*flows, strict=True))])


def _small(crop: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))


def _still(plain: EventCrops, what: str, side: int | None = None) -> tuple[Any, Any]:
    """Flow of the onset crop under the plant alone, and the planted field, crop px."""
    onset, marks = plain.take([plain.reference])[0], plain.landmarks
    field = planted_field(onset.shape, marks, what, PEAK * interpupil(marks))
    moved = warp(onset, field)
    if side is not None:
        ratio = side / onset.shape[0]
        onset, moved = _small(onset, side), _small(moved, side)
        field = cv2.resize(field, (side, side), interpolation=cv2.INTER_AREA) * ratio
    return tvl1(onset, moved), field


def _along(flow: Any, field: Any, still: Any) -> float:
    """Projection on the plant where it moves, over the still head's."""
    size = np.hypot(field[..., 0], field[..., 1])
    where = size > 0.3 * size.max()
    return float((flow[where] * field[where]).sum() / (still[where] * field[where]).sum())


def one_mode(clip: Clip, mode: str, plants: Sequence[str]) -> dict[str, Any]:
    """A row of the first table."""
    spans = lay_events(clip)
    length = spans[0][1] - spans[0][0] + 1
    apex = length // 2
    row: dict[str, Any] = {"clip": clip.name, "mode": mode, "ipd": clip.ipd, "events": len(spans)}
    with tempfile.TemporaryDirectory() as folder:
        plain = ClipStages(clip.frames, spans, Path(folder), fps=clip.fps, align={"mode": mode})
        started = time.process_time()
        counts = plain.run("align").counts.get("v", {})
        row["frames_per_second"] = len(clip.frames) / (time.process_time() - started)
        with plain.open("align", "v") as group:
            names = list(group["status"].attrs["status_names"])
            words = np.array([names[code] for code in group["status"][:]])
        seen = np.isfinite(clip.landmarks[:, 0, 0])
        own = ("ok", "partial", "dark", "multi_face")
        row["placed"] = float(np.isin(words[seen], own).mean())
        row["status"] = dict(Counter(words.tolist()))
        row["segments"] = counts.get("segments")
        started = time.process_time()
        registered = plain.run("registration").status
        row["ms_per_event_frame"] = (
            1e3 * (time.process_time() - started) / sum(b - a + 1 for a, b in spans)
        )
        row["reach"] = sum(registered.get(n) == "ok" for n in plain.names) / len(spans)
        for what in plants:
            row |= _planted(clip, plain, spans, apex, what, mode)
    return row


def _planted(
    clip: Clip, plain: ClipStages, spans: list[tuple[int, int]], apex: int, what: str, mode: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        moved = plant(clip, spans, apex, what, PEAK)
        stages = ClipStages(moved.frames, spans, Path(folder), fps=clip.fps, align={"mode": mode})
        for stage in ("align", "registration", "apex"):
            stages.run(stage)
        reached, gains, curves, doubtful = 0, [], [], 0
        truth = course(spans[0][1] - spans[0][0] + 1, apex)
        for name, (first, _) in zip(stages.names, spans, strict=True):
            if any(s.parts["registration"].status.get(name) != "ok" for s in (plain, stages)):
                continue
            reached += 1
            with stages.open("registration", name) as a, plain.open("registration", name) as b:
                crops, rest = EventCrops(a), EventCrops(b)
                marks = [crops.reference, first + apex]
                unaware = crops_by(plain, name, moved.frames, marks)
                gains.append(planted_gain(crops, rest, unaware, first + apex, what))
                doubtful += crops.status(first + apex) != "ok"
                if what == "brow":
                    curve = planted_curve(crops, rest, what)
                    curves.append(float(np.corrcoef(curve, truth[-len(curve) :])[0, 1]))
        gain, flow = np.array(gains).T
        parts = {
            "gain": [float(q) for q in np.quantile(gain, (0.1, 0.5, 0.9))],
            "flow": float(np.median(flow)),
            "taken": [float(q) for q in np.quantile(gain - flow, (0.1, 0.5, 0.9))],
        }
        if what != "brow":
            return {what: parts}
        return parts | {
            "reach": reached / len(spans),
            "corr": float(np.median(curves)),
            "doubtful": doubtful / max(1, reached),
        }


def apex_errors(clip: Clip) -> dict[str, float]:
    """Spotted apexes of planted brow raises whose apex lies early or late, and the middle rule."""
    spans = lay_events(clip)
    length = spans[0][1] - spans[0][0] + 1
    places = [round(share * (length - 1)) for share in (0.25, 0.4, 0.6, 0.75)]
    found, middle = [], []
    marks = np.random.default_rng(0).permuted(np.resize(places, len(spans)))
    frames = clip
    for place_ in sorted(set(places)):
        chosen = [s for s, m in zip(spans, marks, strict=True) if m == place_]
        frames = plant(frames, chosen, place_, "brow", PEAK)
    with tempfile.TemporaryDirectory() as folder:
        stages = ClipStages(frames.frames, spans, Path(folder), fps=clip.fps)
        for stage in ("align", "registration", "apex"):
            stages.run(stage)
        rows = {r["unit"]: r for r in stages.parts["apex"]._rows}
        for name, (first, last), mark in zip(stages.names, spans, marks, strict=True):
            if name in rows:
                found.append(abs(rows[name]["apex"] - first - mark))
                middle.append(abs((first + last) // 2 - first - mark))
    return {"apex": float(np.mean(found)), "middle": float(np.mean(middle))}


def head_left(clip: Clip, mode: str, seeds: Sequence[int], strength: float) -> dict[str, Any]:
    """A row of the second table."""
    frame = still_frame(clip)
    marks = reference_of(clip.frames[frame])
    assert marks is not None, clip.name
    left: list[float] = []
    none: list[float] = []
    steps: list[float] = []
    count = 60
    for seed in seeds:
        head = PlantedHead(marks, seed)
        path = head.path(count, 25.0, strength)
        film = head.film(clip.frames[frame], path)
        spans = [(s, s + 11) for s in (16, 29, 42)]
        unit = head.ipd / 100
        face = hull_points(marks, max(1, round(head.ipd / 12)))
        with tempfile.TemporaryDirectory() as folder:
            stages = ClipStages(film, spans, Path(folder), fps=25.0, align={"mode": mode})
            for stage in ("align", "registration"):
                stages.run(stage)
            for name, (first, last) in zip(stages.names, spans, strict=True):
                rest = head.move(face, path[first])
                none += [_rms(head.move(face, path[t]) - rest) / unit for t in range(first, last)]
                if stages.parts["registration"].status.get(name) != "ok":
                    continue
                seen = [head.move(face, path[t]) for t in range(first, last + 1)]
                placed = _brought(stages, name, first, seen)
                left += [_rms(p - placed[0]) / unit for p in placed[1:]]
                steps += [_rms(b - a) / unit for a, b in pairwise(placed)]
    return {
        "clip": clip.name, "mode": mode, "none": float(np.median(none)),
        "left": [float(q) for q in np.quantile(left, (0.5, 0.9))],
        "step": float(np.median(steps)),
    }  # fmt: skip


def _brought(stages: ClipStages, event: str, first: int, seen: list[Any]) -> list[Any]:
    """Points seen in each frame of an event, brought onto its onset frame."""
    with stages.open("registration", event) as group:
        if "poses" in group:
            geometry, poses = event_geometry_of(group), group["poses"][:]
            return [unplace(geometry, q, p) for q, p in zip(poses, seen, strict=True)]
    with stages.open("align", "v") as group:
        stored = StoredPoses(group)
        out = []
        for index, points in enumerate(seen, start=first):
            here = stored.geometry(index)
            inner = unplace(here, stored.poses[index], points)
            home = between(here, stored.geometry(first), inner)
            out.append(inner if home is None else home)
        return out


def _rms(away: Any) -> float:
    return float(np.sqrt((away**2).sum(-1).mean()))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--clips", nargs="+", help="names of recordings; all by default")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--plants", nargs="*", default=["brow"], help="none: only followed")
    parser.add_argument("--frames", type=int, default=10_000, help="of each recording, at most")
    parser.add_argument("--only", choices=("planted", "head", "apex"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strength", type=float, default=1.8, help="of the planted head motion")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    clips = []
    for path in fetch(args.cache):
        if args.clips is None or path.stem in args.clips:
            clips.append(load(path, most=args.frames))
            clips += [load(path, ipd, args.frames) for ipd in SMALL.get(path.stem, ())]
    report: dict[str, list[Any]] = {"planted": [], "head": []}
    if args.only == "apex":
        for clip in clips:
            row = {"clip": clip.name, "events": len(lay_events(clip)), **apex_errors(clip)}
            report["planted"].append(row)
            text = "{clip:<28}{events:>4} events: apex {apex:.2f}, middle {middle:.2f}"
            print(text.format(**row), flush=True)
    if args.only in (None, "planted"):
        print(f"{'recording':<28}{'mode':<10}{'ipd':>5}{'events':>7}{'placed':>8}{'reach':>7}"
              f"{'gain (10-90 %)':>20}{'flow':>6}{'taken (10-90 %)':>22}"
              f"{'corr':>7}{'doubt':>7}{'segm':>6}{'f/s':>6}{'ms/ef':>7}"
              f"{'apex':>7}{'middle':>7}")  # fmt: skip
        for clip in clips:
            for mode in args.modes:
                row = one_mode(clip, mode, args.plants)
                if mode == "track" and "brow" in args.plants:
                    row |= apex_errors(clip)
                report["planted"].append(row)
                print(_line(row), flush=True)
    if args.only in (None, "head"):
        print(f"\n{'recording':<28}{'mode':<10}{'none':>7}{'left':>7}{'90 %':>7}{'step':>7}")
        for clip in clips:
            for mode in args.modes:
                row = head_left(clip, mode, args.seeds, args.strength)
                report["head"].append(row)
                print(f"{row['clip']:<28}{mode:<10}{row['none']:>7.2f}{row['left'][0]:>7.2f}"
                      f"{row['left'][1]:>7.2f}{row['step']:>7.2f}", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


def _line(row: dict[str, Any]) -> str:
    nan = float("nan")
    text = (f"{row['clip']:<28}{row['mode']:<10}{row['ipd']:>5.0f}{row['events']:>7}"
            f"{row['placed']:>8.1%}{row.get('reach', nan):>7.0%}{_gains(row)}"
            f"{row.get('corr', nan):>7.3f}{row.get('doubtful', nan):>7.0%}{row['segments'] or 0:>6}"
            f"{row['frames_per_second']:>6.0f}{row['ms_per_event_frame']:>7.1f}"
            f"{row.get('apex', nan):>7.2f}{row.get('middle', nan):>7.2f}")  # fmt: skip
    rest = [f"\n{k:>66}{_gains(row[k])}" for k in ("mouth", "cheek") if k in row]
    return text + "".join(rest)


def _gains(row: dict[str, Any]) -> str:
    low, middle, high = row.get("gain", [float("nan")] * 3)
    less, lost, more = row.get("taken", [float("nan")] * 3)
    return (f"{middle:>7.2f} ({low:.2f}-{high:.2f}){row.get('flow', float('nan')):>6.2f}"
            f"{lost:>+8.2f} ({less:+.2f}-{more:+.2f})")  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
