"""Planning at the size of large datasets: CPU seconds and memory against the number of clips.

    python -m tests.benchmarks.bench_scale [--clips 10000 100000] [--frames 100] [--folder DIR]
                                           [--profile PHASE] [--json PATH]

Ingest's tables are fabricated (a clip with one event, `--frames` image files each, a subject
every 40 clips, at most 500 of them), and so are the stores: parts of a few bytes, with all their
rows. What is measured is ours: ingest's key, keys and freshness of every stage, samples, split,
fold keys, jobs. The dataset's folder is not listed. Each phase runs in a process of its own,
imports not counted:

    plan        `plan` of the recipe, nothing made yet
    jobs        chunks of all stages, made ready for workers
    publish     half of flow's parts published one by one, as a run does
    again       `plan` when all is made, training and scores included
    run         `run` when all is made: nothing to do
    chunk       what a worker spends before its first frame: unpickling, the chunk's frames table

`frames` is written in pieces, so that fabricating needs no more memory than measuring.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.ingest import stage as ingest_stage
from data.ingest.tables import IngestTables
from data.schema import FRAMES, conform, empty
from data.stages import planning
from data.stages.files import ROW_GROUP, write_table
from data.stages.inputs import ChunkInputs
from data.stages.parts import ChunkResult, settings_json
from data.stages.registry import find_stage
from data.stages.stores import MANIFEST
from data.stages.workspace import Workspace
from data.stages.writing import StoreWriter, file_row
from flows.runs import planner
from models.contract import FOLD_FILES
from models.runs.packs import PackResult
from models.runs.scoring import FILES
from models.runs.scoring import VERSION as SCORES_VERSION
from models.steps import find_step
from tasks.carriers import LocalCarrier
from tasks.context import PlainExecutor, open_context, resolve_recipe, scopes
from tasks.request import RunRequest
from tasks.steps import run_steps

RECIPE, DATASET = "demo_hsta", "casme2"
CLIPS_A_SUBJECT, MOST_SUBJECTS = 40, 500
EMOTIONS = {"happiness": "positive", "disgust": "negative", "surprise": "surprise"}
PIECE = 100_000  # videos whose frames are written at once
PHASES = ("plan", "jobs", "publish", "again", "run", "chunk")


def fabricate_tables(folder: Path, clips: int, frames: int) -> None:
    """Ingest's tables of `clips` clips, as published, in the workspace `folder`."""
    place = Workspace(folder).stage(DATASET, "ingest")
    people = max(2, min(clips // CLIPS_A_SUBJECT, MOST_SUBJECTS))
    subject = np.sort(np.arange(clips) % people)
    subjects = [f"sub{s:03d}" for s in subject]
    videos = [f"{s}/EP{i:07d}" for i, s in enumerate(subjects)]
    emotions = np.array(list(EMOTIONS))[np.arange(clips) % len(EMOTIONS)]
    common = {
        "dataset": DATASET,
        "subject": subjects,
        "person": [f"{DATASET}:{s}" for s in subjects],
    }
    table = {
        **common,
        "video": videos,
        "fps": 200.0,
        "num_frames": frames,
        "width": 640,
        "height": 480,
        "kind": "clip",
        "source": "frames",
        "folder": videos,
        "identity": [f"{i:032x}" for i in range(clips)],
        "provided_crop": False,
        "show_faces": False,
        "synthetic": True,
    }
    write_table(conform(pd.DataFrame(table), "videos"), place / "videos.parquet")
    events = {
        **common,
        "video": videos,
        "event": videos,
        "onset": 0,
        "apex": frames // 2,
        "offset": frames - 1,
        "type": "micro",
        "emotion": emotions,
        "label_3": [EMOTIONS[e] for e in emotions],
    }
    write_table(conform(pd.DataFrame(events), "events"), place / "events.parquet")
    _write_frames(place / "frames.parquet", videos, frames)


def _write_frames(path: Path, videos: list[str], frames: int) -> None:
    """The frames table in the form of `save_parquet`, a piece at a time."""
    schema = pa.Table.from_pandas(empty("frames"), preserve_index=False).schema
    names = np.array([f"/img{i:05d}.jpg" for i in range(1, frames + 1)], object)
    options: dict[str, Any] = {"compression": "zstd", "version": "2.6", "write_page_checksum": True}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for start in range(0, len(videos), max(1, 10_000_000 // frames)):
            some = videos[start : start + max(1, 10_000_000 // frames)]
            columns = {
                "video": pa.array(np.repeat(np.array(some, object), frames), pa.string()),
                "index": pa.array(np.tile(np.arange(frames, dtype=np.int32), len(some))),
                "number": pa.array(np.tile(np.arange(1, frames + 1), len(some))),
                "path": pa.array(np.add.outer(np.array(some, object), names).ravel(), pa.string()),
                "time_s": pa.nulls(frames * len(some), pa.float64()),
            }
            arrays = [columns[name].cast(schema.field(name).type) for name in FRAMES]
            writer.write_table(
                pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROW_GROUP
            )


class Listed:
    """Stands for the frames table where only its length is asked for."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


def stand_in_for_listing(folder: Path) -> None:
    """Ingest finds what is fabricated instead of listing a folder."""
    from data.ingest.tables import _key

    place = Workspace(folder).stage(DATASET, "ingest")

    def ingest(root: Path, layout: str) -> IngestTables:
        videos, events = (
            conform(pd.read_parquet(place / f"{n}.parquet"), n) for n in ("videos", "events")
        )
        rows: Any = Listed(pq.read_metadata(place / "frames.parquet").num_rows)
        ledger, raw = empty("ledger"), ingest_stage.blank_raw()
        key = _key(layout, videos, events, ledger)
        findings = pd.DataFrame({"who": pd.Series(dtype="string")})
        return IngestTables(layout, videos, rows, events, ledger, findings, raw, key, {}, {}, False)

    ingest_stage.ingest = ingest


def request_of(folder: Path) -> RunRequest:
    """The run that is planned."""
    return RunRequest(recipe=RECIPE, workspace=str(folder), data={DATASET: str(folder)}, workers=1)


@contextmanager
def held(folder: Path) -> Iterator[tuple[Any, Any]]:
    """The recipe and a scope maker, the workspace locked."""
    request = request_of(folder)
    recipe, workspace = resolve_recipe(request), Workspace(folder)
    with workspace.lock() as token:
        yield recipe, lambda step: scopes(request, recipe, workspace, step, token=token)[0]


def fabricate_ingest(folder: Path) -> None:
    """Enter the tables in ingest's manifest, as a run would."""
    stand_in_for_listing(folder)
    step = find_step("ingest")
    with held(folder) as (_, scope_of):
        scope = scope_of(step)
        plan = step.plan(scope)
        place = scope.workspace.stage(DATASET, "ingest")
        rows, times = [], []
        write_table(plan.work.findings, place / "findings.parquet")
        write_table(plan.work.raw, place / "raw.parquet")
        for name in ingest_stage.NAMES:
            path = place / f"{name}.parquet"
            rows.append(file_row(DATASET, plan.work.key, path.name, path, ingest_stage.VERSION))
            times.append(_timing(path))
        writer = StoreWriter(scope.workspace, place, "t")
        writer.enter(rows, timings=times)
        writer.times = {t["part"]: t for t in times}
        writer.enter(rows)


def _timing(path: Path, units: int = 1) -> dict[str, Any]:
    facts = {"seconds": float(units), "units": units, "host": "h", "versions": "{}"}
    return {"part": path.name, "mtime_ns": path.stat().st_mtime_ns, **facts}


def fabricate_stores(folder: Path) -> None:
    """Every stage's manifest with all its units; the parts are a few bytes."""
    with held(folder) as (recipe, scope_of):
        for name in recipe.stages[1:]:
            step, stage = find_step(name), find_stage(name)
            scope = scope_of(step)
            plan = step.plan(scope)
            place = scope.workspace.stage(DATASET, name)
            jobs = step.jobs(scope, plan)
            settings = settings_json(recipe.stage_config(name))
            tables, times = [], []
            for job in jobs:
                path = place / job.part
                path.write_text(job.part)
                table = pd.DataFrame(
                    {"unit": [u.id for u in job.units], "key": [u.key for u in job.units]}
                )
                tables.append(
                    table.assign(
                        part=job.part,
                        status="ok",
                        bytes=path.stat().st_size,
                        digest=planning.file_digest(path),
                        content="0" * 32,
                        version=stage.version,
                        settings=settings,
                        counts='{"frames": 100}',
                    )
                )
                times.append(_timing(path, len(job.units)))
            rows = pd.concat(tables)[list(MANIFEST)].to_dict("records")
            plan.work.writer.enter(rows, timings=times)
            for found in times:
                plan.work.writer.times[found["part"]] = found
            plan.work.writer.enter(())


def fabricate_run(folder: Path) -> None:
    """Folds and scores as if trained, a few bytes each."""
    from models.runs import training

    training.twins_of = lambda run: ""  # reads every event's picture: there are none
    train, evaluate = find_step("train"), find_step("evaluate")
    with held(folder) as (_, scope_of):
        scope = scope_of(train)
        plan = train.plan(scope)
        for pack in train.jobs(scope, plan):
            for job in pack.folds:
                job.out.mkdir(parents=True)
                for name in FOLD_FILES:
                    (job.out / name).write_text(job.fold)
            train.publish(scope, plan, PackResult(pack.folds, 1.0, "h", "{}"))
        plan = evaluate.plan(scope)
        writer = StoreWriter(scope.workspace, plan.work.folder, "t")
        for unit, names in FILES.items():
            rows, times = [], []
            for name in names:
                path = plan.work.folder / name
                path.write_text(unit)
                rows.append(
                    {
                        "unit": unit,
                        "key": plan.detail["keys"][unit],
                        "part": name,
                        "status": "ok",
                        "bytes": path.stat().st_size,
                        "digest": planning.file_digest(path),
                        "content": "",
                        "version": SCORES_VERSION,
                        "settings": "{}",
                        "counts": "{}",
                    }
                )
                times.append(_timing(path))
            writer.enter(rows, timings=times)


# ------------------------------------------------------------------------- what is timed


def phase_plan(folder: Path) -> str:
    """`plan`, nothing made."""
    rows = planner.plan(request_of(folder))
    return f"{sum(r.get('missing', 0) for r in rows)} units missing"


def phase_jobs(folder: Path) -> str:
    """Chunks of every stage."""
    made, largest = 0, 0
    with held(folder) as (recipe, scope_of):
        for name in recipe.stages[1:]:
            step = find_step(name)
            scope = scope_of(step)
            plan = step.plan(scope, force=True)
            jobs = step.jobs(scope, plan)
            made += len(jobs)
            largest = max(largest, max(len(ForkingPickler.dumps(job)) for job in jobs[:3]))
    return f"{made} chunks, {largest / 1e6:.1f} MB each to send"


def phase_publish(folder: Path) -> str:
    """Parts published one by one."""
    step = find_step("flow")
    with held(folder) as (_, scope_of):
        scope = scope_of(step)
        plan = step.plan(scope, force=True)
        jobs = list(step.jobs(scope, plan))[:32]
        place = scope.workspace.stage(DATASET, "flow")
        start = time.process_time()
        for job in jobs:
            temporary = place / f".{job.part}.t.tmp"
            temporary.write_text(job.part)
            common = {"status": "ok", "content": "0" * 32, "version": 3, "settings": "{}"}
            rows = [{**common, "unit": u.id, "key": u.key, "counts": "{}"} for u in job.units]
            digest = planning.file_digest(temporary)
            result = ChunkResult(
                job.label, job.part, temporary, rows, [], len(job.part), digest, 1.0, "h", "{}"
            )
            step.publish(scope, plan, result)
        step.finish(scope, plan)
        spent = time.process_time() - start
    return f"{len(jobs)} parts, {spent / len(jobs):.2f} s each"


def phase_again(folder: Path) -> str:
    """`plan`, all made."""
    rows = planner.plan(request_of(folder))
    todo = {r["stage"]: r.get("unknown") or r["reasons"] for r in rows}
    left = {k: v for k, v in todo.items() if v}
    return f"left to do: {left or 'nothing'}"[:200]


def phase_run(folder: Path) -> str:
    """`run`, all made."""
    with open_context(request_of(folder), PlainExecutor(LocalCarrier(0))) as context:
        records = run_steps(context)
    return f"{sum(r.redone for r in records)} redone"


def phase_chunk(folder: Path) -> str:
    """One chunk's frames, video after video."""
    with held(folder) as (_, scope_of):
        step = find_step("align")
        scope = scope_of(step)
        plan = step.plan(scope, force=True)
        job = ForkingPickler.dumps(step.jobs(scope, plan)[0])
        del plan
    here, there = multiprocessing.Pipe()
    threading.Thread(target=here.send_bytes, args=(job,), daemon=True).start()
    start = time.process_time()
    chunk = there.recv()  # as a worker gets it
    inputs: ChunkInputs = chunk.inputs
    units = chunk.units[:200]
    for unit in units:
        inputs.of(unit).frames()
    spent = time.process_time() - start
    return f"{len(units)} of {len(chunk.units)} units, {1000 * spent / len(units):.2f} ms each"


def measure(phase: str, folder: Path, profile: bool, results: Any) -> None:
    """One phase, in this process."""
    stand_in_for_listing(folder)
    warm(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, wall = time.process_time(), time.perf_counter()
    do = globals()[f"phase_{phase}"]
    if profile:
        import cProfile

        run = cProfile.Profile()
        said = run.runcall(do, folder)
        run.create_stats()
        import pstats

        pstats.Stats(run).sort_stats("cumulative").print_stats(45)
    else:
        said = do(folder)
    results.put(
        {
            "cpu_s": time.process_time() - start,
            "wall_s": time.perf_counter() - wall,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "before_mb": before / 1024,
            "said": said,
        }
    )


def warm(folder: Path) -> None:
    """Import what the phases import."""
    recipe = resolve_recipe(request_of(folder))
    for name in recipe.steps:
        find_step(name).needs(recipe)


def in_child(target: Any, *arguments: Any) -> None:
    """Run and wait; an error ends the benchmark."""
    child = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(f"{target.__name__} failed")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=PHASES)
    parser.add_argument("--folder", type=Path, help="keep the fabricated workspaces here")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    base = options.folder or Path(tempfile.mkdtemp(prefix="bench-scale-"))
    found = []
    print(f"{'clips':>9} {'phase':8} {'cpu s':>8} {'wall s':>8} {'peak MB':>8} {'ms/clip':>8}")
    for clips in options.clips:
        folder = base / f"clips-{clips}"
        for phase in options.phases:
            _prepare(folder, phase, clips, options.frames)
            results: Any = multiprocessing.get_context("spawn").SimpleQueue()
            in_child(measure, phase, folder, options.profile, results)
            row = {"clips": clips, "frames": options.frames, "phase": phase, **results.get()}
            found.append(row)
            print(
                f"{clips:9d} {phase:8} {row['cpu_s']:8.2f} {row['wall_s']:8.2f} "
                f"{row['peak_mb']:8.0f} {1000 * row['cpu_s'] / clips:8.3f}  {row['said']}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if not options.folder:
        shutil.rmtree(base)


def _prepare(folder: Path, phase: str, clips: int, frames: int) -> None:
    """What a phase finds, made once; a mark says how far it is."""
    steps = [
        (fabricate_tables, (folder, clips, frames)),
        (fabricate_ingest, (folder,)),
        (fabricate_stores, (folder,)),
        (fabricate_run, (folder,)),
    ]
    needed = {"plan": 2, "chunk": 2, "again": 4, "run": 4}.get(phase, 3)
    for step, arguments in steps[:needed]:
        mark = folder / f".{step.__name__}"
        if not mark.exists():
            in_child(_with_stand_in, step, folder, arguments)
            mark.touch()


def _with_stand_in(step: Any, folder: Path, arguments: tuple[Any, ...]) -> None:
    if step is not fabricate_tables:
        stand_in_for_listing(folder)
    step(*arguments)


if __name__ == "__main__":
    main()
