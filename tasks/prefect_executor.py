"""The executor that shows a run in the Prefect UI: tasks per chunk or fold, artifacts per stage.

Prefect sees names, states, logs and artifacts; freshness stays with our manifests (its task cache
does not know whether a part still exists). Tasks are threads of the flow process; each hands its
job to a process pool and waits.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.futures import as_completed
from prefect.states import Crashed

from data.stages.identity import stable_hash
from data.stages.pool import worker_pool
from data.stages.workspace import Workspace
from tasks.context import watcher

GPU_LIMIT = "apexflow-gpu"  # global concurrency limit made by `python -m flows up`
Job = TypeVar("Job")
Result = TypeVar("Result")


@task(task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def work(label: str, call: Callable[[], Any]) -> Any:
    """Wait for one job in the pool. The label is the task run's name in the UI."""
    started = time.perf_counter()
    result = call()
    get_run_logger().info("%s: done in %.1f s", label, time.perf_counter() - started)
    return result


class PrefectExecutor:
    """Runs jobs as Prefect tasks of the current flow run. See tasks.context.Executor."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._artifacts: dict[str, UUID] = {}

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        label: Callable[[Job], str],
        *,
        most: int | None = None,
    ) -> Iterator[Result]:
        """See Executor."""
        if not jobs:
            return
        with worker_pool(min(self.workers, len(jobs), most or len(jobs))) as pool:

            def call(job: Job) -> Callable[[], Result]:
                return lambda: pool.submit(function, job).result()

            futures = [work.submit(label(job), call(job)) for job in jobs]
            error: BaseException | None = None
            for future in as_completed(futures):
                result = future.result(raise_on_failure=False)
                if isinstance(result, BaseException):
                    error = error or result
                else:
                    yield result
            if error is not None:
                raise error

    def progress(self, name: str, done: int, total: int, text: str) -> None:
        """See Executor: one progress artifact per stage, and the terminal's bar if there is one."""
        if show := watcher.get():
            show(name, done, total, text)
        percent = 100.0 * done / max(1, total)
        description = f"{name}: {done} of {total}. {text}"
        if name in self._artifacts:
            update_progress_artifact(self._artifacts[name], percent, description)
        else:
            key = artifact_key(f"{name}-progress")
            made: Any = create_progress_artifact(percent, key, description)
            self._artifacts[name] = made

    def page(self, name: str, markdown: str, rows: list[dict[str, Any]]) -> None:
        """See Executor: a markdown artifact with pictures, a table artifact with numbers."""
        if markdown:
            create_markdown_artifact(markdown, artifact_key(f"{name}-pictures"), name)
        if rows:
            create_table_artifact(rows, artifact_key(f"{name}-table"), name)

    @contextmanager
    def gpu(self, device: str) -> Iterator[None]:
        """Hold the GPU slot, so that runs on one machine take turns."""
        if not device.startswith("cuda"):
            yield
            return
        with concurrency(GPU_LIMIT, occupy=1):
            yield


def artifact_key(text: str) -> str:
    """Prefect's artifact keys: lower-case letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def close_ghosts(workspace: Workspace) -> int:
    """Mark as Crashed what earlier, dead holders of this workspace left as Running.

    Call while holding the workspace's lock: no other run can be at work here. A flow run carries
    its workspace, host and process in its tags; it is a ghost when that process is gone.
    Returns how many flow runs were closed.
    """
    here = f"workspace:{stable_hash(str(workspace.path))[:12]}"
    me = f"process:{socket.gethostname()}:{os.getpid()}"
    own = FlowRunContext.get()
    closed = 0
    with get_client(sync_client=True) as client:
        query = {"tags": {"all_": [here]}, "state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(query)):
            if me in run.tags or not _process_is_gone(run.tags):
                continue
            state: Any = Crashed(
                message="Its process is gone; closed by the next run on its workspace."
            )
            client.set_flow_run_state(run.id, state, force=True)
            _close_children(client, run.id)
            closed += 1
        if own and own.flow_run:
            tagged = sorted({*own.flow_run.tags, here, me})
            client.update_flow_run(own.flow_run.id, tags=tagged)
    return closed


def _process_is_gone(run_tags: list[str]) -> bool:
    prefix = f"process:{socket.gethostname()}:"
    numbers = [t.removeprefix(prefix) for t in run_tags if t.startswith(prefix)]
    if not numbers:
        return False
    try:
        os.kill(int(numbers[0]), 0)
    except (ProcessLookupError, ValueError):
        return True
    except PermissionError:
        return False
    return False


def _close_children(client: Any, flow_run: UUID) -> None:
    """Task runs and subflow runs of a dead flow run that still say Running."""
    running = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    state: Any = Crashed(message="Its flow run's process is gone.")
    parent = FlowRunFilter.model_validate({"id": {"any_": [flow_run]}})
    for child in client.read_task_runs(
        flow_run_filter=parent, task_run_filter=TaskRunFilter.model_validate(running)
    ):
        client.set_task_run_state(child.id, state, force=True)
    query = {"parent_flow_run_id": {"any_": [flow_run]}, **running}
    for child in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(query)):
        client.set_flow_run_state(child.id, state, force=True)
        _close_children(client, child.id)
