"""What is fresh, what must be redone and why; and the steps that preprocessing stages are.

A store's manifest says under which key each result was made. A unit whose planned key is not there,
or whose part is not there as recorded, is redone; results of other settings stay beside. Units are
grouped into chunks by a stable hash of their video and one chunk writes one part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import ConfigError, StoreError, StrictError
from data.recordings import note_root
from data.settings import Settings
from data.stages.buckets import MINUTES, buckets_of
from data.stages.contract import Page, RecipeLike, Scope, Stage, StepPlan, Unit
from data.stages.identity import bucket_of, file_digest, stable_hash
from data.stages.inputs import ChunkInputs, StageInputs, shared_inputs
from data.stages.limits import unit_limit
from data.stages.parts import ChunkJob, ChunkResult, compute_chunk, settings_json
from data.stages.rates import Rate, rate_key, remember, work_of
from data.stages.registry import STAGES, find_stage
from data.stages.stores import (
    BUCKETS,
    Entry,
    entries,
    plain_columns,
    read_records,
    read_timings,
)
from data.stages.writing import StoreWriter


def why_not_fresh(
    folder: Path,
    manifest: pd.DataFrame,
    wanted: Mapping[str, str],
    version: int,
    settings: Settings | None = None,
    *,
    verify: bool = False,
    always_read: int = 0,
) -> tuple[dict[str, str], dict[str, str]]:
    """The one rule of freshness: (unit → why it must be made, unit → reason it has no data).

    wanted: unit → planned key. A unit in neither is fresh. `verify` reads every part's bytes;
    otherwise sizes and times are compared, and bytes where the time is not the recorded one or the
    file is no larger than `always_read`.
    """
    rows: dict[tuple[str, str], list[tuple[str, str]]] = {}  # result → part and status, by file
    others: dict[str, int] = {}  # unit → a row of it
    columns = plain_columns(manifest, ("unit", "key", "part", "status"))
    for number, (unit, key, part, status) in enumerate(zip(*columns, strict=True)):
        rows.setdefault((unit, key), []).append((part, status))
        others[unit] = number
    needed = {part for place in wanted.items() for part, _ in rows.get(place, ())}
    own = manifest if others.keys() <= wanted.keys() else manifest[manifest.part.isin(needed)]
    bad = _bad_parts(folder, own, needed, verify, always_read)
    reasons: dict[str, str] = {}
    failed: dict[str, str] = {}
    for unit, key in wanted.items():
        found = rows.get((unit, key))
        if found is None:
            other = manifest.iloc[others[unit]] if unit in others else None
            reasons[unit] = _what_changed(other, version, settings, folder.name)
            continue
        trouble = next((bad[part] for part, _ in found if part in bad), "") if bad else ""
        if trouble:
            reasons[unit] = trouble
        elif found[0][1] != "ok":
            failed[unit] = str(found[0][1])
    return reasons, failed


def _what_changed(row: Any, version: int, settings: Settings | None, name: str) -> str:
    """Why there is no result of the planned key, in words; `row` is another result of the unit."""
    if row is None:
        return "missing"
    if row.version != version:
        return f"stage version {row.version} → {version}"
    if settings is not None:
        old, new = json.loads(row.settings), settings.model_dump(mode="json")
        changed = [f"{k} {old[k]} → {new[k]}" for k in sorted(old) if k in new and old[k] != new[k]]
        if changed:
            return f"{name}: " + ", ".join(changed)
    return "inputs changed"


def _bad_parts(
    folder: Path, rows: pd.DataFrame, needed: set[str], verify: bool, always_read: int
) -> dict[str, str]:
    """Needed part → what is wrong with its file; sound parts are absent."""
    times = {t.part: t.mtime_ns for t in read_timings(folder).itertuples(index=False)}
    bad: dict[str, str] = {}
    for part, size, digest in rows[["part", "bytes", "digest"]].drop_duplicates().to_numpy():
        if part not in needed:
            continue
        try:
            stat = (folder / part).stat()
        except OSError:
            bad[part] = "part missing"
            continue
        if stat.st_size != size:
            bad[part] = "part size differs"
        elif (verify or size <= always_read or times.get(part) != stat.st_mtime_ns) and (
            file_digest(folder / part) != digest
        ):
            bad[part] = "digest differs"
    return bad


@dataclass
class StageWork:
    """What a stage's plan keeps for its jobs."""

    inputs: StageInputs
    units: dict[str, Unit]
    trouble: str = ""  # with the store's tables, in words
    stored: tuple[int, int] = (0, 0)  # results in the store, and bytes of their parts
    writer: StoreWriter | None = None
    made: list[tuple[str, ...]] = field(default_factory=list)  # units of published chunks
    taken: Rate = field(default_factory=Rate)


class StageStep:
    """A preprocessing stage as a step of a run."""

    per_dataset, in_parent = True, False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def title(self) -> str:
        """Heading of its pictures."""
        return find_stage(self.name).title or self.name.capitalize()

    def needs(self, recipe: RecipeLike) -> tuple[str, ...]:
        """Stages it reads."""
        return find_stage(self.name).needs

    def plan(self, scope: Scope, *, force: bool = False, verify: bool = False) -> StepPlan:
        """See `data.stages.contract.Step`."""
        configs = {name: scope.recipe.stage_config(name) for name in STAGES}
        assert scope.dataset is not None
        inputs = shared_inputs(scope.workspace, scope.dataset, scope.root, configs)
        plan = plan_stage(inputs, self.name, force=force, verify=verify)
        _narrow(plan, scope)
        return plan

    def jobs(self, scope: Scope, plan: StepPlan) -> list[ChunkJob]:
        """The plan's work as chunks; a part is named after its bucket and exactly its units."""
        return stage_jobs(plan, scope.token, scope.time_limit_s, scope.chunk_minutes)

    def make(self, job: ChunkJob) -> ChunkResult:
        """Compute a chunk."""
        return compute_chunk(job)

    def publish(self, scope: Scope, plan: StepPlan, result: ChunkResult) -> dict[str, str]:
        """Give the chunk's part its name and enter it in the manifest."""
        return publish_chunk(plan, result)

    def finish(self, scope: Scope, plan: StepPlan) -> None:
        """Write the store's tables."""
        write_what_is_published(plan)

    def progress(self, scope: Scope, result: ChunkResult) -> str:
        """'sub01, sub04: 4 videos in 1.2 s'."""
        name, _, who = result.label.partition(" ")
        kind, count = find_stage(self.name).unit_kind, len(result.rows)
        return f"{who or name}: {count} {kind}{'s' * (count != 1)} in {result.seconds:.1f} s"

    def gpu(self, scope: Scope, plan: StepPlan) -> int:
        """GPU flow has a GPU for itself; other stages compute on the CPU."""
        batching, config = find_stage(self.name).batching, scope.recipe.stage_config(self.name)
        if batching is None:
            return 0
        if scope.machines is None:
            return int(batching.when(config))
        return int(scope.machines.ask(batching.when, config, gpu=True))

    def warm_up(self, scope: Scope) -> float:
        """Compile the stage's kernels, kept on disk."""
        stage = find_stage(self.name)
        return stage.warm_up(scope.recipe.stage_config(self.name)) if stage.warm_up else 0.0

    @property
    def shows_faces(self) -> bool:
        """Whether its pictures are of faces."""
        return find_stage(self.name).shows_faces

    def pictures(self, shown: Any) -> Iterable[Any]:
        """What the stage draws."""
        draw = find_stage(self.name).pictures
        return draw(shown) if draw is not None else ()

    def pages(self, scope: Scope, plan: StepPlan) -> Iterator[Page]:
        """One page of counts, ledger and pictures."""
        from data.pictures.pages import stage_page

        yield stage_page(
            scope.workspace,
            plan.dataset,
            self,
            with_faces=scope.recipe.with_faces,
            root=scope.root,
            keys=lambda stage: None if stage == "ingest" else plan.work.inputs.keys(stage),
        )


def plan_stage(
    inputs: StageInputs, name: str, *, force: bool = False, verify: bool = False
) -> StepPlan:
    """Compare planned keys with the manifest and parts with the disk; nothing is changed."""
    stage = find_stage(name)
    config = inputs.configs[name]
    units = {u.id: u for u in inputs.units(name)}
    folder = inputs.workspace.stage(inputs.dataset, name)
    records = read_records(folder)
    wanted = {u.id: u.key for u in units.values()}
    plan = StepPlan(
        name, inputs.dataset, list(units), work=StageWork(inputs, units, records.trouble)
    )
    if force:
        plan.reasons = dict.fromkeys(units, "forced")
    else:
        plan.reasons, plan.failed = why_not_fresh(
            folder, records.manifest, wanted, stage.version, config, verify=verify
        )
    if records.trouble == "made by an earlier version":
        plan.notes.append(
            "this store was made by an apexflow before 0.2: its results are made anew beside the "
            "old files, which `prune` lists"
        )
    elif records.trouble not in ("", "parts not in the manifest"):
        plan.notes.append(f"{records.trouble}: read from the parts again")
    _say_what_is_gone(plan, records.manifest, inputs)
    plan.detail = {"settings": config.model_dump(mode="json")}
    return plan


def _narrow(plan: StepPlan, scope: Scope) -> None:
    """Keep of a plan what was asked for. Raises ConfigError for a subject or video there is not."""
    work: StageWork = plan.work
    videos = work.inputs.recordings.videos
    for option, asked, known in (
        ("--subjects", scope.subjects, {v.subject for v in videos.values()}),
        ("--videos", scope.videos, set(videos)),
    ):
        if unknown := sorted(set(asked) - known):
            some = ", ".join(sorted(known)[:8])
            raise ConfigError(
                option, expected=f"those of {plan.dataset} ({some} …)", got=", ".join(unknown)
            )
    if scope.only_failed:
        plan.reasons = {u: f"had no data ({why})" for u, why in plan.failed.items()}
        plan.units, plan.failed = list(plan.reasons), {}
    if scope.subjects or scope.videos:
        subject = {v.id: v.subject for v in videos.values()}

        def asked_for(unit: str) -> bool:
            video = work.units[unit].video
            return (not scope.subjects or subject[video] in scope.subjects) and (
                not scope.videos or video in scope.videos
            )

        plan.units = [u for u in plan.units if asked_for(u)]
        plan.reasons = {u: why for u, why in plan.reasons.items() if asked_for(u)}
        plan.failed = {u: why for u, why in plan.failed.items() if asked_for(u)}


def _say_what_is_gone(plan: StepPlan, manifest: pd.DataFrame, inputs: StageInputs) -> None:
    """Results whose unit is no longer among the dataset's are kept, and named."""
    made = manifest.unit[manifest.status == "ok"].to_numpy(object).tolist()
    gone = sorted(set(made) - set(plan.units))
    by_subject: dict[str, list[str]] = {}
    for unit in gone:
        by_subject.setdefault(unit.split("/")[0], []).append(unit)
    for subject, units in by_subject.items():
        words = f"{subject}: source not there, {len(units)} results kept"
        plan.gone[words] = units


def stage_jobs(
    plan: StepPlan, token: str, time_limit_s: float = 0.0, chunk_minutes: float = MINUTES
) -> list[ChunkJob]:
    """The plan's work as chunks. Call while holding the workspace lock.

    `time_limit_s`: what one unit may take; 0: many times what the slowest chunk of these settings
    took so far, by the work in it: a long video may take longer than a short clip.
    """
    work: StageWork = plan.work
    inputs, stage = work.inputs, find_stage(plan.step)
    folder = inputs.workspace.stage(plan.dataset, plan.step)
    folder.mkdir(parents=True, exist_ok=True)
    number = BUCKETS
    if plan.todo or work.trouble:
        number = buckets_of(
            folder, stage, work.units.values(), inputs.configs, inputs.recordings, chunk_minutes
        )
        work.writer = StoreWriter(inputs.workspace, folder, token, number)
    if inputs.root is not None:
        note_root(inputs.workspace, plan.dataset, inputs.root)
    buckets: dict[int, list[Unit]] = {}
    for name in sorted(plan.todo):
        unit = work.units[name]
        buckets.setdefault(bucket_of(unit.video, number), []).append(unit)
    upstream = {
        name: {e.unit: e for e in entries(inputs.store(name).manifest)}
        for name in stage.needs
        if name != "ingest" and buckets
    }
    past = read_timings(folder)
    past = past[past.units > 0]
    weights = _weights(plan, stage) if buckets else {}
    paces = _paces(folder, past, stage, inputs.configs[plan.step], weights) if buckets else []
    need_mb = float(past.peak_mb.max()) if past.peak_mb.notna().any() else 0.0
    jobs = []
    for bucket, units in sorted(buckets.items()):
        digest = stable_hash([[u.id, u.key] for u in units])[:10]
        found: dict[tuple[str, str], Entry] = {}
        for unit in units:
            for name, of in unit.reads:
                if entry := upstream[name].get(of):
                    found[name, of] = entry
        videos = inputs.recordings.videos if any(u.frames for u in units) else {}
        own = {u.video: videos[u.video] for u in units if u.video in videos}
        sources = ChunkInputs(inputs.workspace.path, plan.dataset, inputs.root, found, own)
        part = f"part-{bucket:0{len(str(number - 1))}d}-{digest}{stage.suffix}"
        config = inputs.configs[plan.step]
        heaviest = max(weights[unit.id] for unit in units)
        limit_s = unit_limit(time_limit_s, [pace * heaviest for pace in paces])
        jobs.append(
            ChunkJob(
                sources,
                plan.step,
                config,
                bucket,
                tuple(units),
                part,
                token,
                limit_s,
                need_mb,
                buckets=number,
            )
        )
    return jobs


def _weights(plan: StepPlan, stage: Stage) -> dict[str, float]:
    """Unit → its share of work: nominal seconds where the stage can tell them, else 1."""
    units, inputs = plan.work.units, plan.work.inputs
    if stage.weigh is None:
        return dict.fromkeys(units, 1.0)
    frames = {name: video.num_frames for name, video in inputs.recordings.videos.items()}
    return {
        name: max(stage.weigh(unit, frames[unit.video], inputs.configs)[0], 1e-6)
        for name, unit in units.items()
    }


def _paces(
    folder: Path,
    past: pd.DataFrame,
    stage: Stage,
    config: Settings,
    weights: Mapping[str, float],
) -> list[float]:
    """Seconds that a share of work took in each part made so far under these settings."""
    rows = read_records(folder).manifest
    rows = rows[(rows.version == stage.version) & (rows.settings == settings_json(config))]
    rows = rows[(rows.status == "ok") & rows.unit.isin(weights.keys())]
    done = rows.unit.map(weights).astype(float).groupby(rows.part.astype(str)).sum()
    seconds = dict(zip(past.part, past.seconds, strict=True))
    return [float(seconds[part]) / work for part, work in done.items() if part in seconds]


def publish_chunk(plan: StepPlan, result: ChunkResult) -> dict[str, str]:
    """Publish a chunk's part, and with it the tables that point at it."""
    work: StageWork = plan.work
    assert work.writer is not None
    common = {"part": result.part, "bytes": result.bytes, "digest": result.digest}
    timing = {
        "part": result.part,
        "seconds": result.seconds,
        "units": len(result.rows),
        "host": result.host,
        "versions": result.versions,
        "peak_mb": result.peak_mb,
    }
    rows = [{**row, **common} for row in result.rows]
    work.writer.add_part(result.temporary, rows, result.ledger, timing)
    work.made.append(tuple(result.status))
    work.taken = work.taken.plus(Rate(result.seconds, 0, result.bytes, result.peak_mb))
    return result.status


def write_what_is_published(plan: StepPlan) -> None:
    """Write the store's tables, where the last parts are not in them yet."""
    work: StageWork = plan.work
    if work.writer is not None:
        work.writer.flush()
    if work.made:
        units = [work.units[name] for chunk in work.made for name in chunk]
        amount = work_of(units, work.inputs.recordings)
        remember(rate_key_of(plan), replace(work.taken, work=amount))
        work.made.clear()


def rate_key_of(plan: StepPlan) -> str:
    """Under which key this machine's rate of a stage's plan is kept."""
    return rate_key(plan.step, find_stage(plan.step).version, plan.work.inputs.configs[plan.step])


Mapper = Callable[[list[ChunkJob]], Iterable[ChunkResult]]


def run_in_order(jobs: list[ChunkJob]) -> Iterator[ChunkResult]:
    """The plainest mapper: one chunk after another in this process."""
    return map(compute_chunk, jobs)


def run_stage(
    inputs: StageInputs,
    name: str,
    token: str,
    *,
    mapper: Mapper = run_in_order,
    force: bool = False,
    strict: bool = False,
) -> StepPlan:
    """Bring one stage up to date without a recipe; returns what the plan was."""
    plan = plan_stage(inputs, name, force=force)
    jobs = stage_jobs(plan, token)
    try:
        for result in mapper(jobs) if jobs else ():
            refuse_failures(plan, publish_chunk(plan, result), strict)
    finally:
        write_what_is_published(plan)
    return plan


def refuse_failures(plan: StepPlan, status: Mapping[str, str], strict: bool) -> None:
    """Raises StrictError for the first unit without data when `strict`."""
    dropped = {u: s for u, s in status.items() if s != "ok"}
    if strict and dropped:
        unit, reason = next(iter(dropped.items()))
        raise StrictError(
            f"{plan.dataset}/{plan.step}/{unit}",
            expected="every unit to succeed (strict: true)",
            got=reason,
            todo="See the ledger; fix the input or run without strict.",
        )


@contextmanager
def quarantining() -> Iterator[None]:
    """Move a damaged upstream part aside, so that the next run redoes it, and pass the error on."""
    try:
        yield
    except StoreError as error:
        path = Path(error.who)
        if error.code == "damaged_part" and path.is_file():
            path.rename(path.with_name(f"damaged-{path.name}"))
        raise
