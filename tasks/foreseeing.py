"""Planning past what is not there yet: a workspace as it will be, and how long it will take.

`foreseen` gives a folder in which datasets are ingested as they are now, while stores and runs are
the workspace's own, linked: every stage can then be planned, on an empty workspace too, and after
one changed cell of a sheet. Nothing in it is kept, and nothing of the workspace is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from data.errors import ApexflowError
from data.stages.contract import Scope, Step, StepPlan
from data.stages.planning import rate_key_of
from data.stages.pool import map_jobs
from data.stages.rates import SAME, recall
from data.stages.workspace import Workspace
from models.steps import find_step

MOST_FRAMES = 1500  # of a video that is taken to measure a machine with
MEASURED = "measured just now on one video"


@contextmanager
def foreseen(
    workspace: Workspace, ingested: Mapping[str, tuple[Step, Scope, StepPlan]]
) -> Iterator[Workspace]:
    """A workspace whose `ingested` datasets have the tables that ingest would publish."""
    with tempfile.TemporaryDirectory(prefix="apexflow-plan-") as folder:
        shadow = Workspace(folder)
        for path in workspace.path.iterdir() if workspace.path.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                _link(
                    path, shadow.path / path.name, leave="ingest" if path.name in ingested else ""
                )
        for step, scope, plan in ingested.values():
            _ingest(step, replace(scope, workspace=shadow, allow_shrink=True), plan)
        yield shadow


def _link(path: Path, to: Path, leave: str) -> None:
    """A folder of links to what is in `path`, but for `leave`."""
    to.mkdir()
    for inside in path.iterdir():
        if inside.name != leave and not inside.name.startswith("."):
            (to / inside.name).symlink_to(inside)


def _ingest(step: Step, scope: Scope, plan: StepPlan) -> None:
    for job in step.jobs(scope, plan):
        step.publish(scope, plan, step.make(job))


def measure(
    scopes: Mapping[str, Scope], stages: list[str], say: Callable[[str], None]
) -> dict[tuple[str, str], str]:
    """Do stages whose rate nobody knows on one video of each dataset, in a folder thrown away.

    scopes: dataset → its scope in a foreseen workspace. What it took is remembered for this
    machine; returns (dataset, stage) → how, in words, or why not.
    """
    found: dict[tuple[str, str], str] = {}
    for dataset, scope in scopes.items():
        unknown = [s for s in stages if not _is_known(scope, s)]
        if not unknown:
            continue
        video = _short_video(scope)
        if video is None:
            why = f"no video of at most {MOST_FRAMES} frames to measure with"
            found |= {(dataset, stage): why for stage in unknown}
            continue
        say(
            f"measuring this machine on {dataset} {video}: {', '.join(unknown)}; thrown away after "
            "(--no-measure leaves it out)"
        )
        with tempfile.TemporaryDirectory(prefix="apexflow-measure-") as folder:
            own = Workspace(folder)
            shutil.copytree(scope.workspace.stage(dataset, "ingest"), own.stage(dataset, "ingest"))
            place = replace(scope, workspace=own, videos=(video,), token="measure")
            found |= {(dataset, s): said for s, said in _try_stages(place, stages).items()}
    return found


def _try_stages(scope: Scope, stages: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in stages:
        step = find_step(name)
        try:
            step.warm_up(scope)
            plan = step.plan(scope)
            jobs = list(step.jobs(scope, plan))
            try:
                for result in map_jobs(step.make, jobs, workers=1, label=lambda job: job.label):
                    step.publish(scope, plan, result)
            finally:
                step.finish(scope, plan)
        except ApexflowError as error:
            found[name] = f"not measured: {error}"
            break
        found[name] = MEASURED
    return found


def _is_known(scope: Scope, stage: str) -> bool:
    plan = find_step(stage).plan(replace(scope, expect=True))
    rate = recall(rate_key_of(plan))
    return not plan.todo or (rate is not None and rate.source == SAME)


def _short_video(scope: Scope) -> str | None:
    """The video of median length among those short enough, with an event where there is one."""
    from data.recordings import Recordings

    recordings = Recordings(scope.workspace, str(scope.dataset), scope.root)
    videos = recordings.table("videos")
    videos = videos[videos.num_frames <= MOST_FRAMES].sort_values(["num_frames", "video"])
    with_event = videos[videos.video.isin(set(recordings.table("events").video))]
    chosen = with_event if len(with_event) else videos
    return None if chosen.empty else str(chosen.video.iloc[(len(chosen) - 1) // 2])
