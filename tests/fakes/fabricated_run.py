"""A small workspace with finished stores and runs, made up: what report, pages, compare and export
read, without computing anything. Not a test module."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd

from data.align.modes import STATUS
from data.folds import event_ids
from data.motion.features import STATUS_NAMES
from data.schema import EVENTS, FRAMES, VIDEOS, conform
from data.stages import stores
from data.stages.files import read_table, save_parquet, write_table
from data.stages.identity import file_digest, stable_hash
from data.stages.workspace import Workspace
from tests.fakes.registered import fill_event

SIZE = 48
LABELS = ("negative", "positive", "surprise")
VERSIONS = json.dumps({"python": "3.11.7", "numpy": "2.4.6"})
FACE_LEVEL = 211  # brightest grey of a made-up face: finds faces in pictures that must not have any


def face(size: int = SIZE, shift: float = 0.0, colour: bool = False) -> np.ndarray:
    """A disc with eyes and a mouth that moves by `shift` px."""
    y, x = np.mgrid[:size, :size] / size
    image = np.full((size, size), 60.0)
    image[(x - 0.5) ** 2 / 0.14 + (y - 0.5) ** 2 / 0.2 < 1] = FACE_LEVEL
    for cx in (0.35, 0.65):
        image[(x - cx) ** 2 + (y - 0.4) ** 2 < 0.003] = 30
    image[(abs(x - 0.5) < 0.16) & (abs(y - 0.7 - shift / size) < 0.03)] = 40
    grey = image.astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1) if colour else grey


def has_face(image: np.ndarray) -> bool:
    """Whether a made-up face is somewhere in a grey picture, upright or flipped, at any size."""
    for size in (48, 84, 96, 108, 112, 116, 120, 144):
        wanted = cv2.resize(face(), (size, size), interpolation=cv2.INTER_AREA)
        if min(image.shape) < size:
            return False
        for view in (image, image[::-1]):  # drawings keep their images upside down
            if np.nanmax(cv2.matchTemplate(view, wanted, cv2.TM_CCOEFF_NORMED)) > 0.85:
                return True
    return False


def write_store(
    workspace: Workspace,
    dataset: str,
    stage: str,
    units: dict[str, Callable[[h5py.Group], None] | list[dict[str, Any]]],
    dropped: dict[str, str] | None = None,
    counts: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    keys: Mapping[str, str] | None = None,
) -> None:
    """One part with all units (functions that fill a group, or rows), manifest, timings, ledger.

    keys: unit → key, where a recipe's own are wanted (see `planned_keys`).
    """
    key_of = keys or {u: stable_hash(stage, u) for u in (*units, *(dropped or {}))}
    folder = workspace.stage(dataset, stage)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".parquet" if any(isinstance(v, list) for v in units.values()) else ".h5"
    part = folder / f"part-00-{stable_hash(dataset, stage)[:10]}{suffix}"
    if suffix == ".h5":
        with h5py.File(part, "w", libver="v110") as file:
            for unit, fill in units.items():
                group = file.require_group(unit)
                group.attrs["unit"] = unit
                fill(group)
    else:
        rows = [{"unit": unit, **row} for unit, rows in units.items() for row in rows]
        save_parquet(pd.DataFrame(rows), part)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(h5py.File(part, "r")) if suffix == ".h5" else {}
        content = {u: stores.group_digest(file[u]) if u in file else "" for u in units}
    common = {
        "part": part.name,
        "bytes": part.stat().st_size,
        "digest": file_digest(part),
        "version": 1,
        "settings": json.dumps(settings or {}, sort_keys=True),
    }
    rows = [
        {**common, "unit": u, "key": key_of[u], "status": "ok", "content": content[u],
         "counts": json.dumps(counts or {})}
        for u in units
    ]  # fmt: skip
    rows += [
        {**common, "unit": u, "key": key_of[u], "status": reason, "content": "",
         "counts": "{}"}
        for u, reason in (dropped or {}).items()
    ]  # fmt: skip
    timing = {"part": part.name, "mtime_ns": part.stat().st_mtime_ns, "seconds": 3.25,
              "units": len(rows), "host": "here", "versions": VERSIONS}  # fmt: skip
    write_table(
        pd.DataFrame([timing], columns=list(stores.TIMINGS)).astype(stores.TIMINGS),
        folder / "timings.parquet",
    )
    kind = "event" if stage in ("registration", "apex", "flow") else "video"
    table = ledger([(stage, dataset, u, kind, r, f"made up: {r}", "dropped")
                    for u, r in (dropped or {}).items()])  # fmt: skip
    table["key"] = [key_of[u] for u in table.unit]
    write_tables(folder, rows, conform(table, "ledger"))


def write_tables(folder: Path, rows: list[dict[str, Any]], ledger: pd.DataFrame) -> None:
    """A store's ledger and manifest, as the project itself writes them."""
    write_table(ledger, folder / "ledger.parquet")
    manifest = pd.DataFrame(rows, columns=list(stores.MANIFEST))
    stores.save_manifest(manifest, folder / "manifest.parquet")
    tables = {name: folder / f"{name}.parquet" for name in ("ledger", "manifest")}
    stores.save_sums(folder / stores.SUMS, tables)


def ledger(rows: list[tuple[str, ...]]) -> pd.DataFrame:
    """Ledger rows from tuples in column order."""
    names = ["stage", "dataset", "unit", "kind", "reason", "detail", "action"]
    return conform(pd.DataFrame(rows, columns=names), "ledger")


def write_ingest(
    workspace: Workspace,
    dataset: str,
    *,
    subjects: int = 4,
    per_subject: int = 3,
    kind: str = "clip",
    show_faces: bool = True,
    frames: int = 24,
    prefix: str = "sub",
) -> pd.DataFrame:
    """Tables of a made-up dataset; returns its events. A long video has two micro, one macro."""
    videos, listing, events = [], [], []
    for s in range(subjects):
        for v in range(per_subject):
            subject, video = f"{prefix}{s + 1:02d}", f"{prefix}{s + 1:02d}/EP{v + 1:02d}"
            who = {"dataset": dataset, "subject": subject, "person": f"{dataset}:{subject}",
                   "video": video}  # fmt: skip
            videos.append({
                **who, "fps": 100.0, "num_frames": frames, "width": 640, "height": 480,
                "kind": kind, "source": "frames", "folder": video,
                "identity": stable_hash(video), "provided_crop": False, "show_faces": show_faces,
            })  # fmt: skip
            listing += [
                {"video": video, "index": i, "number": i + 1, "path": f"{video}/img{i + 1}.jpg"}
                for i in range(frames)
            ]
            spans = [(2, frames // 2, frames - 3, "micro")]
            if kind == "long":
                spans = [(40, 48, 56, "micro"), (120, 130, 138, "micro"), (170, 190, 215, "macro")]
            for n, (onset, apex, offset, type_) in enumerate(spans):
                label = LABELS[(s + v + n) % 3] if type_ == "micro" else None
                events.append({
                    **who, "event": f"{video}_{n + 1}" if kind == "long" else video,
                    "onset": onset, "apex": apex, "offset": offset, "onset_number": onset + 1,
                    "apex_number": apex + 1, "offset_number": offset + 1, "type": type_,
                    "aus": "4", "emotion": {"negative": "disgust", "positive": "happiness",
                                            "surprise": "surprise"}.get(str(label)),
                    "label_3": label, "label_4": label, "label_5": label, "label_7": label,
                })  # fmt: skip
    folder = workspace.stage(dataset, "ingest")
    tables = {
        "videos": conform(pd.DataFrame(videos, columns=list(VIDEOS)), "videos"),
        "frames": conform(pd.DataFrame(listing, columns=list(FRAMES)), "frames"),
        "events": conform(pd.DataFrame(events, columns=list(EVENTS)), "events"),
        "ledger": ledger([
            ("ingest", dataset, "sub09/EP01", "row", "offset_before_onset", "row 12", "dropped"),
            ("ingest", dataset, "sub01/EP01", "event", "apex_slash", "apex: / -> empty",
             "repaired"),
        ]),
    }  # fmt: skip
    rows = []
    for name in ("videos", "frames", "events"):
        path = folder / f"{name}.parquet"
        write_table(tables[name], path)
        rows.append({"unit": dataset, "key": stable_hash(dataset), "part": path.name,
                     "status": "ok", "bytes": path.stat().st_size, "digest": file_digest(path),
                     "content": "", "version": 1, "settings": "{}",
                     "counts": json.dumps({"rows": len(tables[name])})})  # fmt: skip
    write_tables(folder, rows, tables["ledger"])
    return tables["events"]


def write_clip_stores(
    workspace: Workspace,
    dataset: str,
    events: pd.DataFrame,
    frames: int = 24,
    recipe: Any = None,
) -> None:
    """align, registration, apex and flow stores; the last event has no flow.

    `recipe`: whose planned keys they get, so that a run of it finds them fresh.
    """
    rng = np.random.default_rng(0)

    def align(group: h5py.Group) -> None:
        shifts = 3 * np.exp(-(((np.arange(frames) - frames / 2) / 4) ** 2))
        group["crops"] = np.stack([face(shift=s) for s in shifts])
        group["transforms"] = np.tile(np.eye(2, 3), (frames, 1, 1))
        group["landmarks"] = np.zeros((68, 2), np.float32)
        group["landmarks_crop"] = rng.uniform(12, 36, (68, 2)).astype(np.float32)
        group["status"] = np.zeros(frames, np.uint8)
        group["status"].attrs["status_names"] = list(STATUS)
        group["inlier_ratio"] = np.full(frames, 0.9, np.float32)
        group["residual_px"] = rng.uniform(0.05, 0.25, frames).astype(np.float32)
        group["segment"] = np.zeros(frames, np.int16)
        group.attrs.update({"size": SIZE, "mode": "track", "ipd_px": 60.0, "reference_index": 0})

    def registered(event: Any) -> Callable[[h5py.Group], None]:
        def fill(group: h5py.Group) -> None:
            shifts = np.linspace(0, 3, int(event.offset - event.onset) + 1)
            fill_event(group, np.stack([face(shift=s) for s in shifts]), first=int(event.onset))

        return fill

    def flow(group: h5py.Group) -> None:
        y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
        field = np.stack([x, y], -1) * np.exp(-8 * (x**2 + y**2))[..., None] * 4
        group["pairs"] = np.array([[2, 12], [12, 21]], np.int32)
        group.create_dataset("kind", data=["onset_apex", "apex_offset"], dtype=h5py.string_dtype())
        group["flow"] = np.stack([field, -field]).astype(np.float32)
        group["flow"].attrs["scale"] = 1.0
        group["strain"] = np.abs(np.stack([field[..., 0], field[..., 1]])).astype(np.float32)

    def apex(event: Any) -> list[dict[str, Any]]:
        span = event.offset - event.onset + 1
        curve = np.exp(-(((np.arange(span) - (event.apex - event.onset)) / 4) ** 2))
        return [{
            "event": event.event, "video": event.video, "apex": int(event.apex) + 1,
            "source": "label", "confidence": 0.8, "label_apex": int(event.apex),
            "error_frames": 1, "middle_error": 2.0, "method": "flow_peak",
            "curve": curve.astype(np.float32), "curve_start": int(event.onset),
        }]  # fmt: skip

    clips = list(events.itertuples(index=False))
    videos = sorted({e.video for e in clips})

    def keys(stage: str) -> dict[str, str] | None:
        return None if recipe is None else planned_keys(workspace, dataset, stage, recipe)

    write_store(workspace, dataset, "align", dict.fromkeys(videos, align),
                counts={"frames": frames, "residual_px": 0.125}, keys=keys("align"))  # fmt: skip
    write_store(workspace, dataset, "registration", {e.event: registered(e) for e in clips},
                keys=keys("registration"))  # fmt: skip
    write_store(workspace, dataset, "apex", {e.event: apex(e) for e in clips}, keys=keys("apex"))
    write_store(workspace, dataset, "flow", {e.event: flow for e in clips[:-1]},
                {clips[-1].event: "crosses_cut"}, keys=keys("flow"))  # fmt: skip


def write_hsta_run(
    workspace: Workspace,
    datasets: tuple[str, ...] = ("casme2",),
    name: str = "made_up",
    skill: float = 0.7,
    seed: int = 0,
    **recipe: Any,
) -> Path:
    """A trained and scored leave-one-subject-out run of HSTA; returns its folder.

    `skill`: share of the clips whose predicted class is right.
    """
    from models.hsta.family import FAMILY
    from models.recipe import parse_recipe
    from models.runs.files import RunFiles

    model = {"name": "hsta", "special": "flow"}
    parsed = parse_recipe({"name": name, "about": "Made up for a test.", "data": list(datasets),
                           "model": model, "seed": seed, **recipe})  # fmt: skip
    events = pd.concat(
        [read_table(workspace.stage(d, "ingest") / "events.parquet") for d in datasets]
    )
    events = events[events.type == "micro"].reset_index(drop=True)
    ids = event_ids(events)
    folder = workspace.run(name, stable_hash(name, seed, skill, list(ids))[:12])
    rng = np.random.default_rng(seed)
    folds: dict[str, Any] = {}
    for number, person in enumerate(sorted(events.person.unique())):
        fold, held = f"fold-{number:02d}-{person.replace(':', '_')}", events.person == person
        folds[fold] = {"train": list(ids[~held]), "test": list(ids[held])}
        part = events[held]
        right = rng.random(len(part)) < skill
        guesses = [t if ok else LABELS[rng.integers(3)] for t, ok in zip(part.label_3, right,
                                                                         strict=True)]  # fmt: skip
        table = part[["dataset", "subject", "person", "event"]].assign(
            fold=fold, label=part.label_3, predicted=guesses,
            **{f"prob_{n}": [0.8 if g == n else 0.1 for g in guesses] for n in LABELS},
        )  # fmt: skip
        epochs = np.arange(20)
        history = pd.DataFrame({
            "epoch": epochs, "loss": 1.1 * np.exp(-epochs / 8) + 0.05 * rng.random(20),
            "train_accuracy": 1 - 0.6 * np.exp(-epochs / 6),
            "train_uf1": 1 - 0.7 * np.exp(-epochs / 6), "learning_rate": 1e-4,
        })  # fmt: skip
        _write_fold(folder / fold, table, history)
    _finish_run(folder, parsed.model_dump(mode="json"), folds)
    run = RunFiles(folder)
    finish_scores(folder, run.predictions(), FAMILY.score(run))
    return folder


def _write_fold(folder: Path, predictions: pd.DataFrame, history: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"")
    facts = {"parameters": 1234567, "versions": {"torch": "2.13.0"}}
    (folder / "model.json").write_text(json.dumps(facts))
    write_table(predictions.astype({"label": "string"}), folder / "predictions.parquet")
    write_table(history, folder / "history.parquet")


def _finish_run(folder: Path, recipe: dict[str, Any], folds: dict[str, Any]) -> None:
    (folder / "recipe.json").write_text(json.dumps(recipe))
    split = {"digest": stable_hash(folds), "people_shared": [], "folds": folds}
    (folder / "split.json").write_text(json.dumps(split))
    paths = {fold: sorted((folder / fold).iterdir()) for fold in folds}
    rows = [_run_row(fold, p, folder) for fold in folds for p in paths[fold]]
    stamp = {row["part"]: (folder / row["part"]).stat().st_mtime_ns for row in rows}
    timings = [{"part": part, "mtime_ns": time, "seconds": 12.5, "units": 1, "host": "here",
                "versions": VERSIONS} for part, time in stamp.items()]  # fmt: skip
    write_table(
        pd.DataFrame(timings, columns=list(stores.TIMINGS)).astype(stores.TIMINGS),
        folder / "timings.parquet",
    )
    dropped = ledger([("train", "casme2", "x", "event", "no_label_3", "", "dropped")])
    write_tables(folder, rows, dropped)


def finish_scores(folder: Path, predictions: pd.DataFrame, metrics: pd.DataFrame) -> None:
    """Write a run's scores and enter them in its manifest."""
    write_table(predictions, folder / "predictions.parquet")
    write_table(metrics, folder / "metrics.parquet")
    rows = stores.read_manifest(folder).to_dict("records")
    rows = [row for row in rows if row["unit"] != "scores"]
    names = ("predictions.parquet", "metrics.parquet")
    rows += [_run_row("scores", folder / name, folder) for name in names]
    write_tables(folder, rows, stores.read_ledger(folder))


def enter_again(folder: Path) -> None:
    """Make a run's manifest say what lies there now, after a test has changed its files."""
    rows = stores.read_manifest(folder).to_dict("records")
    for row in rows:
        path = folder / row["part"]
        row |= {"bytes": path.stat().st_size, "digest": file_digest(path)}
    write_tables(folder, rows, stores.read_ledger(folder))


def _run_row(unit: str, path: Path, folder: Path) -> dict[str, Any]:
    return {"unit": unit, "key": stable_hash(unit), "part": str(path.relative_to(folder)),
            "status": "ok", "bytes": path.stat().st_size, "digest": file_digest(path),
            "content": "", "version": 2, "settings": "{}", "counts": "{}"}  # fmt: skip


def planned_keys(workspace: Workspace, dataset: str, stage: str, recipe: Any) -> dict[str, str]:
    """Unit → key as a recipe plans them."""
    from data.stages.inputs import StageInputs
    from data.stages.registry import STAGES

    configs = {name: recipe.stage_config(name) for name in STAGES}
    return StageInputs(workspace, dataset, None, configs).keys(stage)


def write_motion_store(
    workspace: Workspace, dataset: str, videos: list[str], k: int = 20, recipe: Any = None
) -> None:
    """Motion features of long videos: noise."""
    rng = np.random.default_rng(0)

    def fill(group: h5py.Group) -> None:
        group["features"] = rng.normal(0, 0.2, (23, 10, k)).astype(np.float32)
        group["status"] = np.zeros(23, np.uint8)
        group["status"].attrs["status_names"] = list(STATUS_NAMES)
        group["view_index"] = np.arange(240, dtype=np.int32)
        group.attrs.update(k=k, stride=k // 2, frame_skip=1, gaps="list", roi_set="coarse10",
                           flow="farneback", clamp=True)  # fmt: skip

    keys = None if recipe is None else planned_keys(workspace, dataset, "motion", recipe)
    write_store(workspace, dataset, "motion", dict.fromkeys(videos, fill),
                counts={"windows": 23}, keys=keys)  # fmt: skip


def write_me_tst_run(
    workspace: Workspace,
    dataset: str = "samm_lv",
    name: str = "made_up_long",
    skill: float = 0.8,
    seed: int = 0,
    k: int = 20,
    **recipe: Any,
) -> Path:
    """A trained and scored run of ME-TST over long videos of 240 frames; returns its folder.

    `skill`: share of the events whose curve has a bump.
    """
    from models.me_tst.curves import curves_of, read_videos, write_curves
    from models.me_tst.fold import intervals_table, protocol_of, score
    from models.recipe import parse_recipe
    from models.runs.files import RunFiles
    from models.scores.spotting import evaluate

    parsed = parse_recipe({"name": name, "about": "Made up for a test.", "data": [dataset],
                           "model": {"name": "me_tst"}, "motion": {"k": k}, "seed": seed,
                           "decode": {"draws": 50}, **recipe})  # fmt: skip
    videos = read_table(workspace.stage(dataset, "ingest") / "videos.parquet")
    ids = event_ids(videos.assign(event=videos.video))
    folder = workspace.run(name, stable_hash(name, seed, skill)[:12])
    rng = np.random.default_rng(seed)
    folds: dict[str, Any] = {}
    for number, person in enumerate(sorted(videos.person.unique())):
        fold, held = f"fold-{number:02d}-{person.replace(':', '_')}", videos.person == person
        folds[fold] = {"train": list(ids[~held]), "test": list(ids[held])}
        wanted = [(dataset, str(v)) for v in videos.video[held]]
        tested = []
        for motion in read_videos(workspace, parsed, wanted):
            length = (len(motion.motion) + 1) * k // 2
            curve = 0.1 + 0.05 * rng.random(length)
            logits = rng.normal(0, 1, (length, 5))
            truth = motion.truth
            for (onset, apex, offset), emotion in zip(truth.intervals, truth.emotions, strict=True):
                logits[onset:offset, emotion] += 3
                if rng.random() < skill:
                    curve += np.exp(-(((np.arange(length) - apex) / 7) ** 2))
            starts = np.arange(len(motion.motion)) * k // 2
            spot = np.stack([curve[s : s + k] for s in starts]).astype(np.float32)
            classes = np.stack([logits[s : s + k] for s in starts]).astype(np.float32)
            tested.append(curves_of(motion, spot, classes, fold, 8))
        table = intervals_table(evaluate(tested, protocol_of(parsed.decode, parsed.train)))
        epochs = np.arange(10.0)
        history = pd.DataFrame({"epoch": epochs, "loss": 1 / (1 + epochs), "spot": 0.1,
                                "recog": 0.5, "lr": 1e-4})  # fmt: skip
        _write_fold(folder / fold, table, history)
        write_curves(tested, folder / fold / "curves.h5")
    _finish_run(folder, parsed.model_dump(mode="json"), folds)
    run = RunFiles(folder)
    finish_scores(folder, run.predictions(), score(run))
    return folder
