"""How still alignment holds a head, what it does to expressions, how fast it is, what it stores.

Synthetic clips with truth (amplitude 1.5 px, noise 1.5, JPEG 92, 640×480), one table of accuracy
per mode and head motion, one of speed with its split, one of storage. Accuracy, all in px of the
reference frame, over a grid inside the face's landmark hull:

    residual   RMS of the true head motion that is left in the aligned face, against the reference
    step       the same from one frame to the next
    gain       displacement of the true expression field at the apex after alignment, over truth
    corr       correlation of that displacement with the true activation curve

`rigid` repeats the residual with the stored 2×3 transforms alone, without the parallax. The mode
`registration` is what later stages read: every event on its own onset, from `track`'s poses; its
residual is against the onset.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU time per core: no helper threads

import cv2
import h5py
import numpy as np
import pandas as pd

from data.align.geometry import CropMaker, apply, hull_points, unplace
from data.align.modes import Options
from data.align.run import align_frames
from data.align.settings import AlignConfig
from data.align.store import FILTERS, StoredPoses, open_crops
from data.faces import examine, face_finder
from data.registration.settings import RegistrationConfig
from data.registration.store import event_geometry_of
from data.stages.inputs import StageInputs
from data.stages.planning import run_stage as run_stages
from data.stages.workspace import Workspace
from data.synthetic import load_truth, write_dataset
from data.synthetic.subjects import make_subject
from tests.fakes.steps import ingest, one_part, write_tables

MODES = ("first_crop", "landmarks", "landmarks_smooth", "ecc", "track", "registration")
LAYOUT, TOKEN = "casme2", "bench"


def make_inputs(root: Path, config: AlignConfig, folder: Path) -> StageInputs:
    """Stage inputs of a dataset folder, ingested into a workspace in `folder`."""
    ingest(folder / "ws", LAYOUT, root)
    return StageInputs(folder / "ws", LAYOUT, root, {"align": config})


def run_stage(root: Path, config: AlignConfig, out: Path) -> tuple[float, int, Any]:
    """Align a dataset into one part: CPU seconds, frames, the chunk's result."""
    inputs = make_inputs(root, config, out.parent)
    face_finder(None)
    started = time.process_time()
    result = one_part(inputs, "align", out)
    seconds = time.process_time() - started
    return seconds, sum(int(c["frames"]) for c in result.counts.values()), result


def score_video(group: h5py.Group, truth: Any) -> dict[str, float]:
    """Accuracy figures of one aligned clip."""
    stored = StoredPoses(group)
    transforms, reference = group["transforms"][:], int(group.attrs["reference_index"])
    landmarks = np.asarray(truth.landmarks)
    face = hull_points(landmarks, step=max(2, round(truth.ipd / 18)))
    head = truth._head
    curve = truth.curve(0)
    apex = int(truth.expressions[0]["apex"])
    full = truth._read(truth.displacement(apex), face) / curve[apex]
    scale = float(group.attrs["size"]) / (2.3 * float(group.attrs["ipd_px"]))

    def seen(points: np.ndarray, frame: int) -> np.ndarray:
        return points + head.shift(points, truth.pose[frame])

    def aligned(points: np.ndarray, frame: int) -> np.ndarray:
        return unplace(stored.geometry(frame), stored.poses[frame], points)

    rest = aligned(seen(face, reference), reference)
    moved_rest = aligned(seen(face + curve[reference] * full, reference), reference)
    crop_rest = apply(transforms[reference], seen(face, reference))
    left, rigid, shown = [], [], []
    for frame in range(len(transforms)):
        left.append(aligned(seen(face, frame), frame) - rest)
        rigid.append((apply(transforms[frame], seen(face, frame)) - crop_rest) / scale)
        moved = aligned(seen(face + curve[frame] * full, frame), frame) - moved_rest
        shown.append(float((moved * full).sum() / (full**2).sum()))
    left_, rigid_ = np.array(left), np.array(rigid)
    span = curve[apex] - curve[reference]
    return {
        "residual": float(np.sqrt((left_**2).sum(-1).mean())),
        "step": float(np.sqrt((np.diff(left_, axis=0) ** 2).sum(-1).mean())),
        "rigid": float(np.sqrt((rigid_**2).sum(-1).mean())),
        "gain": shown[apex] / span,
        "corr": float(np.corrcoef(shown, curve)[0, 1]),
    }


def score_event(group: h5py.Group, truth: Any) -> dict[str, float]:
    """Accuracy figures of one registered event."""
    geometry, poses = event_geometry_of(group), group["poses"][:]
    first, onset = int(group.attrs["first"]), int(group.attrs["reference"])
    landmarks = np.asarray(truth.landmarks)
    face = hull_points(landmarks, step=max(2, round(truth.ipd / 18)))
    head = truth._head
    curve = truth.curve(0)
    apex = int(truth.expressions[0]["apex"])
    full = truth._read(truth.displacement(apex), face) / curve[apex]

    def registered(points: np.ndarray, frame: int) -> np.ndarray:
        seen = points + head.shift(points, truth.pose[frame])
        return unplace(geometry, poses[frame - first], seen)

    frames = range(first, first + len(poses))
    left = np.array([registered(face, f) - registered(face, onset) for f in frames])
    shown = []
    for frame in frames:
        rest = registered(face + curve[onset] * full, onset)
        moved = registered(face + curve[frame] * full, frame) - rest
        shown.append(float((moved * full).sum() / (full**2).sum()))
    return {
        "residual": float(np.sqrt((left**2).sum(-1).mean())),
        "step": float(np.sqrt((np.diff(left, axis=0) ** 2).sum(-1).mean())),
        "rigid": float("nan"),
        "gain": shown[apex - first] / (curve[apex] - curve[onset]),
        "corr": float(np.corrcoef(shown, curve[list(frames)])[0, 1]),
    }


def registration_accuracy(root: Path, folder: Path) -> dict[str, Any]:
    """The row of `registration`; its ms are per event frame, without alignment's."""
    workspace = Workspace(folder / f"registered-{root.name}")
    configs = {
        "align": AlignConfig(size=128, compression="none"),
        "registration": RegistrationConfig(compression="none"),
    }
    ingest(workspace, LAYOUT, root)
    inputs = StageInputs(workspace, LAYOUT, root, configs)
    run_stages(inputs, "align", TOKEN)
    started = time.process_time()
    run_stages(inputs, "registration", TOKEN)
    seconds = time.process_time() - started
    truth, store = load_truth(root), inputs.store("registration")
    video = inputs.recordings.table("events").set_index("event").video
    rows, frames = [], 0
    for event in video.index:
        with store.open(event) as group:
            frames += len(group["poses"])
            rows.append(score_event(group, truth.video(video[event])))
    store.close()
    return {"mode": "registration", **summary(rows), "ms_per_frame": 1e3 * seconds / frames}


def accuracy(root: Path, mode: str, folder: Path, **settings: Any) -> dict[str, Any]:
    """One row of the accuracy table."""
    if mode == "registration":
        return registration_accuracy(root, folder)
    out = folder / f"{mode}.h5"
    config = AlignConfig(mode=mode, size=128, compression="none", **settings)  # type: ignore[arg-type]
    seconds, frames, result = run_stage(root, config, out)
    truth = load_truth(root)
    with h5py.File(out) as part:
        rows = [
            score_video(part[v], truth.video(v))
            for v in truth.videos
            if result.status.get(v) == "ok"
        ]
    out.unlink()
    return {
        "mode": mode,
        **summary(rows),
        "ms_per_frame": 1e3 * seconds / frames,
        "digest": result.digest,
    }


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of all clips: RMS over them, or mean with spread."""
    table = {name: np.array([r[name] for r in rows]) for name in rows[0]}
    rms = {
        name: float(np.sqrt((table[name] ** 2).mean())) for name in ("residual", "step", "rigid")
    }
    return {
        "clips": len(rows),
        **rms,
        "gain": float(table["gain"].mean()),
        "gain_sd": float(table["gain"].std()),
        "corr": float(table["corr"].mean()),
        "corr_min": float(table["corr"].min()),
    }


def speed(root: Path, folder: Path) -> dict[str, Any]:
    """CPU ms per frame of the whole default stage, its split, and of the per-frame pipeline."""
    config = AlignConfig()
    seconds, frames, _ = run_stage(root, config, folder / "speed.h5")
    inputs = make_inputs(root, config, folder)
    split = dict.fromkeys(("decode", "find reference", "track", "warp", "write"), 0.0)
    baseline = 0.0
    finder = face_finder(None)
    some = list(inputs.recordings.table("videos").itertuples(index=False))[:4]
    count = 0
    with h5py.File(folder / "split.h5", "w") as file:
        for row in some:
            source = inputs.recordings.frames(str(row.video))
            images, spent = timed(lambda s=source: [s.read(i) for i in range(len(s))])
            split["decode"] += spent
            (reference, _), spent = timed(lambda g=images[0]: examine(finder, g, 0))
            split["find reference"] += spent
            options = Options(fps=float(row.fps), size=config.size)
            blocks, spent = timed(
                lambda g=images, r=reference, o=options: list(
                    align_frames(enumerate(g), g[0], r, finder, o)
                )
            )
            split["track"] += spent
            crops, spent = timed(lambda b=blocks: make_crops(b))
            split["warp"] += spent
            shape = (len(crops), config.size, config.size)
            data = file.create_dataset(
                str(row.video), shape, np.uint8, chunks=(1, *shape[1:]), **FILTERS["gzip"]
            )
            split["write"] += timed(lambda d=data, c=crops: fill(d, c))[1]
            some_images = images[:: max(1, len(images) // 10)]
            spent = timed(lambda g=some_images: per_frame(finder, g, config.size))[1]
            baseline += spent * len(images) / len(some_images)
            count += len(images)
    per = {name: 1e3 * value / count for name, value in split.items()}
    whole, old = 1e3 * seconds / frames, 1e3 * baseline / count + per["decode"] + per["write"]
    return {
        "frames": frames,
        "ms_per_frame": whole,
        "frames_per_second": 1e3 / whole,
        "split_ms": per,
        "per_frame_pipeline_ms": old,
        "ratio": old / whole,
    }


def fill(data: h5py.Dataset, crops: Sequence[np.ndarray]) -> None:
    """Write crops one by one and push them through the filter."""
    for i, crop in enumerate(crops):
        data[i] = crop
    data.file.flush()


def timed(work: Any) -> tuple[Any, float]:
    """Result and CPU seconds of a call."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def make_crops(blocks: Sequence[Any]) -> list[np.ndarray]:
    """All crops of some blocks."""
    crops = []
    for block in blocks:
        maker = CropMaker(block.geometry)
        crops += [maker(f.patch, f.pose, f.origin, f.shape) for f in block.frames]
    return crops


def per_frame(finder: Any, images: list[np.ndarray], size: int) -> None:
    """The usual pipeline: full-size detection, 68 landmarks, one warp, in every frame."""
    from data.align.geometry import face_geometry

    for image in images:
        faces = finder.detect(image)
        if faces:
            matrix = face_geometry(finder.landmarks(image, faces[0].box), size).to_crop
            cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC)


def storage(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Bytes per frame and read speed of every choice of crop."""
    inputs = make_inputs(root, AlignConfig(), folder)
    finder = face_finder(None)
    row = next(inputs.recordings.table("videos").itertuples(index=False))
    rows: list[dict[str, Any]] = []
    for colour in (False, True):
        source = inputs.recordings.frames(str(row.video))
        images = [source.read(i, colour=colour) for i in range(min(len(source), 60))]
        grey = images[0] if not colour else cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY)
        reference, _ = examine(finder, grey, 0)
        for size in (128, 224, 320):
            options = Options(fps=float(row.fps), size=size)
            crops = make_crops(
                list(align_frames(enumerate(images), images[0], reference, finder, options))
            )  # type: ignore[arg-type]
            for name, shuffle in (("none", 0), ("lzf", 0), ("gzip", 0), ("gzip", 1)):
                rows.append(one_store(folder / "store.h5", np.stack(crops), name, bool(shuffle)))
    rows.append(transforms_only(root, folder))
    return rows


def transforms_only(root: Path, folder: Path) -> dict[str, Any]:
    """Bytes of poses alone, per video and frame, and what a 224 px crop costs when it is read."""
    config, out = AlignConfig(store="transforms"), folder / "poses.h5"
    _, frames, result = run_stage(root, config, out)
    inputs, videos = make_inputs(root, config, folder), len(result.counts)
    with h5py.File(out) as part:
        video = next(v for v, s in result.status.items() if s == "ok")
        crops = open_crops(part[video], inputs.recordings.frames(video))
        spent = timed(lambda: [crops[i] for i in range(len(crops))])[1]
        count = len(crops)
        each = sum(d.id.get_storage_size() for d in part[video].values() if len(d) == count)
    per_frame = each / count
    per_video = (out.stat().st_size - per_frame * frames) / videos
    return {
        "size": 224,
        "colour": False,
        "compression": "transforms",
        "bytes": per_frame,
        "bytes_per_video": per_video,
        "million_frames_gb": (1.3e6 * per_frame + 1.3e6 / 60 * per_video) / 1e9,
        "write_ms": 0.0,
        "read_ms": 1e3 * spent / count,
    }


def one_store(path: Path, crops: np.ndarray, name: str, shuffle: bool) -> dict[str, Any]:
    """Write and read crops with one filter."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "crops", crops.shape, np.uint8, chunks=(1, *crops.shape[1:]), shuffle=shuffle,
            **FILTERS[name],
        )  # fmt: skip
        written = timed(lambda: fill(data, crops))[1]
        size = data.id.get_storage_size()
    with h5py.File(path) as file:
        read = timed(lambda: [file["crops"][i] for i in range(len(crops))])[1]
    count = len(crops)
    return {
        "size": crops.shape[1],
        "colour": crops.ndim == 4,
        "compression": name + (" + shuffle" if shuffle else ""),
        "bytes": size / count,
        "million_frames_gb": 1.3e6 * size / count / 1e9,
        "write_ms": 1e3 * written / count,
        "read_ms": 1e3 * read / count,
    }


def memory(folder: Path, frames: int) -> dict[str, Any]:
    """Peak memory and speed over one long 2040×1088 video (24 JPEG files shown back and forth)."""
    size, count = (2040, 1088), 24
    face = make_subject("casme2", 0, size).image
    root = folder / "long"
    root.mkdir()
    for i in range(count):
        turn = cv2.getRotationMatrix2D((1020.0, 544.0), 0.05 * i, 1.0)
        turn[:, 2] += (0.4 * i, 0.2 * i)
        image = cv2.warpAffine(face, turn, size, borderMode=cv2.BORDER_REPLICATE)
        cv2.imwrite(str(root / f"{i:03d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    there_and_back = [*range(count), *range(count - 2, 0, -1)]
    names = [f"{there_and_back[i % len(there_and_back)]:03d}.jpg" for i in range(frames)]
    row = {"video": "v", "identity": "x", "num_frames": frames, "fps": 200.0,
           "provided_crop": False, "source": "frames", "folder": "."}  # fmt: skip
    config = AlignConfig()
    workspace = folder / "long-ws"
    inputs = StageInputs(workspace, LAYOUT, root, {"align": config})
    listed = pd.DataFrame({"video": "v", "index": range(frames), "path": names})
    write_tables(workspace, LAYOUT, videos=pd.DataFrame([row]), frames=listed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result, seconds = timed(lambda: one_part(inputs, "align", folder / "long.h5"))
    return {
        "frames": frames,
        "status": result.status["v"],
        "ok": result.counts["v"]["ok"],
        "ms_per_frame": 1e3 * seconds / frames,
        "start_mb": before / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--fps", type=float, default=60.0)
    parser.add_argument(
        "--turn",
        type=float,
        default=0.0,
        help="heads that turn in three dimensions: sd of yaw, degrees (0.5 as head 1, 1.5 as 3)",
    )
    parser.add_argument("--heads", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--only", choices=("accuracy", "speed", "storage", "memory"))
    parser.add_argument("--frames", type=int, default=10_000, help="of --only memory's video")
    parser.add_argument("--data", type=Path, help="keep the synthetic clips here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    report: dict[str, Any] = {"versions": {"cv2": cv2.__version__, "numpy": np.__version__}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.only == "memory":
            report["memory"] = row = memory(folder, args.frames)
            print(f"{row['frames']} frames of 2040×1088: {row['status']}, {row['ok']} ok, "
                  f"{row['ms_per_frame']:.2f} ms/frame CPU, peak {row['peak_mb']:.0f} MB "
                  f"({row['start_mb']:.0f} MB before)")  # fmt: skip
        roots = {}
        for head in args.heads if args.only != "memory" else ():
            roots[head] = write_dataset(
                LAYOUT, (args.data or folder) / f"head{head:g}-turn{args.turn:g}-{args.seed}",
                preset="default", seed=args.seed, workers=1, subjects=args.subjects,
                clips=args.clips, amplitude=1.5, noise=1.5, confounder=0.3, head=head,
                fps=args.fps, turn=args.turn,
            )  # fmt: skip
        if args.only in (None, "accuracy"):
            report["accuracy"] = table_of_accuracy(roots, args.modes, folder)
        if args.only in (None, "speed"):
            report["speed"] = table_of_speed(roots[args.heads[0]], folder)
        if args.only in (None, "storage"):
            report["storage"] = table_of_storage(roots[args.heads[0]], folder)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


def table_of_accuracy(roots: dict[float, Path], modes: list[str], folder: Path) -> list[Any]:
    """Print and return accuracy rows."""
    print(f"{'head':>4} {'mode':<17}{'clips':>5}{'residual':>10}{'step':>8}{'rigid':>8}"
          f"{'gain':>8}{'±':>6}{'corr':>8}{'min':>7}{'ms/f':>8}")  # fmt: skip
    rows = []
    for head, root in roots.items():
        for mode in modes:
            row = {"head": head, **accuracy(root, mode, folder)}
            rows.append(row)
            print(f"{head:>4g} {mode:<17}{row['clips']:>5}{row['residual']:>10.3f}"
                  f"{row['step']:>8.3f}{row['rigid']:>8.3f}{row['gain']:>8.3f}{row['gain_sd']:>6.2f}"
                  f"{row['corr']:>8.4f}{row['corr_min']:>7.3f}{row['ms_per_frame']:>8.2f}",
                  flush=True)  # fmt: skip
    return rows


def table_of_speed(root: Path, folder: Path) -> dict[str, Any]:
    """Print and return the speed figures."""
    row = speed(root, folder)
    print(f"\nwhole stage {row['ms_per_frame']:.2f} ms/frame CPU = "
          f"{row['frames_per_second']:.0f} frames/s/core over {row['frames']} frames;")  # fmt: skip
    print(f"  per-frame pipeline {row['per_frame_pipeline_ms']:.1f} ms, {row['ratio']:.1f} ×")
    print("  " + ", ".join(f"{k} {v:.2f}" for k, v in row["split_ms"].items()) + " ms/frame")
    return row


def table_of_storage(root: Path, folder: Path) -> list[Any]:
    """Print and return the storage rows."""
    names = ("crop", "compression", "kB/frame", "GB/1.3M", "write ms", "read ms")
    print("\n{:<12}{:<18}{:>9}{:>9}{:>9}{:>9}".format(*names))
    rows = storage(root, folder)
    for row in rows[:-1]:
        kind = f"{row['size']} {'RGB' if row['colour'] else 'grey'}"
        figures = [row["bytes"] / 1e3]
        figures += [row[k] for k in ("million_frames_gb", "write_ms", "read_ms")]
        print(f"{kind:<12}{row['compression']:<18}" + "".join(f"{v:>9.2f}" for v in figures))
    poses = rows[-1]
    print(f"poses alone: {poses['bytes']:.0f} bytes a frame, {poses['bytes_per_video']:.0f} a "
          f"video, {poses['million_frames_gb']:.2f} GB for 1.3 million frames in videos of 60; a "
          f"224 grey crop is made in {poses['read_ms']:.2f} ms")  # fmt: skip
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
