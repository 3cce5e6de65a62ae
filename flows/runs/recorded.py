"""A run shown in Prefect: the same steps as without, with an account of them to the server.

Used by the command line and by the deployments. The computation never waits for the server; what
is told, and what happens when it is away, is in `tasks.recorder`.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data.pictures.drawing import markdown_text
from data.pictures.gallery import NAME as GALLERY
from data.pictures.gallery import galleries, write_gallery
from data.recordings import Recordings
from flows.runs import planner
from flows.server.pages import address
from models.runs.listing import score_history
from models.runs.names import short_name
from tasks.carrying import carrying
from tasks.context import RunContext, open_context, resolve_recipe
from tasks.ghosts import look_for_ghosts
from tasks.prefect_executor import PrefectExecutor, artifact_key
from tasks.recorder import Recorder, recording
from tasks.request import RunRequest
from tasks.steps import StepRecord, run_step, run_steps

logger = logging.getLogger(__name__)
DRAWN = 300  # videos whose gallery is drawn at a run's end: half a minute
GENERIC = ("workspace", "ws", "work", "out", "output", "runs", "stores", "data")


def run_recorded(
    request: RunRequest,
    *,
    home: Path | None = None,
    only: str | None = None,
    adopt: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """All stages of a request, or `only` one, refusing stale inputs; one record per stage.

    `adopt` is the id of the flow run Prefect's engine made for this, `name` what a person called
    it, `tags` those it has. Raises what the steps raise; KeyboardInterrupt when a person or Prefect
    stops the run.
    """
    if only is not None:
        request = request.model_copy(update={"stages": [only], "from_stage": None})
    recipe = resolve_recipe(request)
    place = workspace_name(Path(request.workspace))
    ours = [f"recipe:{recipe.name}", *(f"dataset:{d}" for d in recipe.data), f"workspace:{place}"]
    if only is not None:
        ours.append(f"stage:{only}")
    home = home or Path(os.environ.get("PREFECT_HOME", ".prefect")).absolute()
    if closed := look_for_ghosts(home):
        logger.warning("closed %d run(s) whose process had ended", closed)
    with (
        recording(home, str(Path(request.workspace).absolute())) as recorder,
        recorder.flow(
            "full-run" if only is None else only,
            name or f"{only or 'full'}-{recipe.name} · {'+'.join(recipe.data)} · {place}",
            sorted({*tags, *ours}),
            {"request": request.model_dump(mode="json")},
            adopt,
        ),
        carrying(request) as carrier,
    ):
        executor = PrefectExecutor(carrier, recorder, f"{place}-{recipe.name}", recipe.name)
        with open_context(request, executor) as context:
            if only is not None:
                records = [run_step(context, only)]
            else:
                executor.page(f"plan-{recipe.name}", "", planner.rows_for_people(context))
                records = run_steps(context, _subflow(recorder, ours))
                rows = score_history(context.workspace.path)
                executor.table(f"{place}-scores", f"Scores over time: workspace {place}", rows)
                _draw_galleries(context)
            key = artifact_key(f"{place}-{recipe.name}-open")
            said = f"Report and galleries of {place}"
            recorder.artifact(key, "markdown", links(context, records), markdown_text(said))
            return [vars(record) for record in records]


def _draw_galleries(context: RunContext) -> None:
    """Bring the galleries up to date; a dataset that takes minutes is left to the command."""
    for dataset in galleries(context.workspace, context.recipe.data):
        try:
            if len(Recordings(context.workspace, dataset).table("videos")) <= DRAWN:
                told = partial(context.executor.progress, f"gallery-{dataset}")
                faces = context.request.with_faces
                write_gallery(context.workspace, dataset, with_faces=faces, progress=told)
        except Exception as error:  # the run itself is done: nothing about pictures may fail it
            logger.warning("gallery of %s not drawn: %s", dataset, error)
            logger.debug("where it came from", exc_info=True)


def links(context: RunContext, records: Sequence[StepRecord]) -> str:
    """Markdown: the report and the galleries, to be opened in the browser the UI is open in.

    Without a password there is no server of ours that could show them: then where they lie.
    """
    secret = os.environ.get("PREFECT_API_AUTH_STRING", "")

    def link(words: str, file: Path) -> str:
        where = f"[open]({address(file, secret)}), " if secret else ""
        return f"- {markdown_text(words)}: {where}{markdown_text(str(file))}"

    lines = []
    for record in records:
        report = Path(str(record.detail.get("run", ""))) / "report.html"
        if record.stage == "evaluate" and report.is_file():
            lines.append(link(f"Report of {short_name(report.parent)}", report))
    for dataset in context.recipe.data:
        gallery = context.workspace.path.absolute() / dataset / GALLERY / "index.html"
        if gallery.is_file():
            lines.append(link(f"Gallery of {dataset}, every clip of every stage", gallery))
        else:
            lines.append(
                f"- Gallery of {markdown_text(dataset)}: not drawn yet; python -m flows gallery "
                f"{markdown_text(shlex.quote(str(context.workspace.path.absolute())))}"
            )
    return "\n".join(lines)


def workspace_name(path: Path) -> str:
    """A workspace's own name: its folder's, with the one above where that says little."""
    path = path.expanduser().absolute()
    return f"{path.parent.name}-{path.name}" if path.name.lower() in GENERIC else path.name


def _subflow(recorder: Recorder, tags: list[str]) -> Any:
    def step(context: RunContext, stage: str) -> StepRecord:
        name = f"{stage}-{context.recipe.name}"
        with recorder.flow(stage, name, [*tags, f"stage:{stage}"]):
            return run_step(context, stage)

    return step
