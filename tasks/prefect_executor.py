"""The executor that shows a run in the Prefect UI: a task run per job, artifacts per stage.

Prefect sees names, states, logs and artifacts; freshness stays with our manifests (its task cache
does not know whether a part still exists), and the jobs run where the run's carrier has them done.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from data.pictures.drawing import markdown_text
from tasks.carriers import NO_GPU, Carrier, Share
from tasks.context import watcher
from tasks.recorder import Recorder

GPU_LIMIT = "apexflow-gpu"  # global concurrency limit made by `python -m flows up`
Job = TypeVar("Job")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class PrefectExecutor:
    """Runs jobs as task runs of the recorder's current flow run. See tasks.context.Executor."""

    def __init__(
        self, carrier: Carrier, recorder: Recorder, place: str = "", recipe: str = ""
    ) -> None:
        """`place` begins every artifact's key: workspace and recipe, so that no two mix."""
        self.carrier, self._recorder = carrier, recorder
        self._place, self._recipe = place, recipe
        self._artifacts: dict[str, str] = {}

    def _key(self, name: str, kind: str) -> str:
        own = name.removesuffix(f"-{self._recipe}") if self._recipe else name
        return artifact_key(f"{self._place}-{own}-{kind}")

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        label: Callable[[Job], str],
        share: Share = NO_GPU,
    ) -> Iterator[Result]:
        """See Executor."""
        running: dict[int, str] = {}

        def started(job: Job) -> None:
            running[id(job)] = self._recorder.begin_task(label(job))
            if view := watcher.get():
                view.begin(label(job))

        def ended(job: Job, error: BaseException | None) -> None:
            self._recorder.end_task(running.pop(id(job)), error)
            if view := watcher.get():
                view.end(label(job))

        try:
            yield from self.carrier.carry(
                function, jobs, label=label, share=share, started=started, ended=ended
            )
        finally:
            for task in running.values():  # left early
                self._recorder.end_task(task, KeyboardInterrupt())

    def progress(self, name: str, done: int, total: int, text: str) -> None:
        """See Executor: one progress artifact per stage, and the terminal's bar if there is one."""
        if show := watcher.get():
            show(name, done, total, text)
        percent = 100.0 * done / max(1, total)
        description = markdown_text(f"{name}: {done} of {total}. {text}")
        if name in self._artifacts:
            self._recorder.change_artifact(self._artifacts[name], percent, description)
        else:
            key = self._key(name, "progress")
            self._artifacts[name] = self._recorder.artifact(key, "progress", percent, description)

    def page(self, name: str, markdown: str, rows: list[dict[str, Any]]) -> None:
        """See Executor: a markdown artifact with pictures, a table artifact with numbers."""
        said = markdown_text(name)
        if markdown:
            self._recorder.artifact(self._key(name, "pictures"), "markdown", markdown, said)
        if rows:
            self._table(self._key(name, "table"), said, rows)

    def table(self, key: str, said: str, rows: list[dict[str, Any]]) -> None:
        """A table of the workspace's own, under a key that every run of it shares."""
        if rows:
            self._table(artifact_key(key), markdown_text(said), rows)

    def _table(self, key: str, said: str, rows: list[dict[str, Any]]) -> None:
        safe = [{k: _defused(v) for k, v in row.items()} for row in rows]
        text = json.dumps(safe, default=str)  # Prefect keeps a table as text
        self._recorder.artifact(key, "table", text, said)

    @contextmanager
    def gpu(self, count: int) -> Iterator[int]:
        """Hold a slot per GPU, so that runs on one machine take turns; without a server, none.

        Where Prefect's limit is below `count`, so many GPUs are used.
        """
        with ExitStack() as stack:
            if count:
                from prefect.concurrency.sync import concurrency

                try:
                    count = max(1, min(count, _limit()))
                    slots = concurrency(
                        GPU_LIMIT, occupy=count, raise_on_lease_renewal_failure=False
                    )
                    slots.__enter__()
                except Exception as error:
                    logger.warning("no GPU slot from Prefect (%s): going on without one", error)
                else:
                    stack.callback(_leave, slots)
            yield count


def _limit() -> int:
    """How many GPUs the server lets be used at once."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit


def _leave(slot: Any) -> None:
    try:
        slot.__exit__(None, None, None)
    except Exception as error:  # the server has gone; the slot's lease ends by itself
        logger.debug("GPU slot not given back: %s", error)


def _defused(value: Any) -> Any:
    """A table's cell; the UI makes links of some texts."""
    return markdown_text(value) if isinstance(value, str) and set(value) & set("<[") else value


def artifact_key(text: str) -> str:
    """Prefect's artifact keys: lower-case letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
