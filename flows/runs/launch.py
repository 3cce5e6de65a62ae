"""Start a run with or without Prefect, and show its progress on the terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from flows.terminal.live import terminal_progress
from tasks.request import RunRequest

RUNNERS = ("auto", "prefect", "none", "local", "dask")


def run(request: RunRequest, runner: str = "auto") -> list[dict[str, Any]]:
    """Do the request with `runner` prefect, none, auto, local or dask; one record per stage.

    local and dask say where jobs are done and are else as auto; dask needs `request.scheduler`.
    auto takes Prefect when this checkout's server is up; otherwise it runs without and says so. It
    never falls back to Prefect's temporary server, which loses records.
    """
    from flows.server import local_server

    if runner not in RUNNERS:
        raise ConfigError("--runner", expected=f"one of {', '.join(RUNNERS)}", got=runner)
    if runner in ("local", "dask"):
        if (runner == "dask") != bool(request.scheduler):
            raise ConfigError(
                f"--runner {runner}",
                expected="--scheduler with dask, and none with local",
                got=request.scheduler or "no --scheduler",
            )
        runner = "auto"
    if runner == "none":
        return run_plain(request)
    state = local_server.find_server()
    if state is None and runner == "auto":
        import typer

        typer.echo(
            "no Prefect server is up: this run will not show in its UI "
            "(start one with `python -m flows up`)",
            err=True,
        )
        return run_plain(request)
    local_server.use(state or local_server.start_server())
    return run_recorded(request)


def run_recorded(request: RunRequest) -> list[dict[str, Any]]:
    """All stages, shown on the Prefect server in use; the terminal shows bars, the UI the logs."""
    from flows.runs import recorded
    from tasks.context import watcher

    with terminal_progress() as show, stopped_by_signals():
        mark = watcher.set(show)
        try:
            return recorded.run_recorded(request)
        finally:
            watcher.reset(mark)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """`kill` and a closed terminal stop a run as ^C does: in order, and said to Prefect."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)  # ignored under nohup: that stays
    kept = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    saved = {n: signal.signal(n, stop) for n in kept}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def run_plain(request: RunRequest) -> list[dict[str, Any]]:
    """All stages without Prefect: the same steps, a process pool, a progress bar."""
    from tasks.carrying import carrying
    from tasks.context import PlainExecutor, open_context
    from tasks.steps import run_steps

    with (
        terminal_progress() as show,
        stopped_by_signals(),
        carrying(request) as carrier,
        open_context(request, PlainExecutor(carrier, show)) as context,
    ):
        return [vars(record) for record in run_steps(context)]


def prove(request: RunRequest) -> Any:
    """Train one fold alone and beside the others, and compare; a `models.stacked.proof.Proof`."""
    from data.stages.workspace import Workspace
    from models.runs import training
    from tasks.context import resolve_recipe, scopes

    recipe, workspace = resolve_recipe(request), Workspace(request.workspace)
    [scope] = scopes(request, recipe, workspace, training.STEP)
    return training.prove(scope)


def require_tracking() -> None:
    """Raises MissingExtraError without MLflow: before hours of work."""
    from models.runs.tracking import require

    require()


def write_tracking(records: list[dict[str, Any]], store: str) -> int:
    """The scored runs of these records into an MLflow store; how many there were."""
    from models.runs.files import RunFiles
    from models.runs.tracking import write_run

    scored = [
        RunFiles(Path(record["detail"]["run"]))
        for record in records
        if record["stage"] == "evaluate" and "run" in record["detail"]
    ]
    for run in scored:
        write_run(run, store)
    return len(scored)


def summary(records: list[dict[str, Any]]) -> str:
    """What came of a run: how much was made, the scores with chance and interval, what is next.

    What each stage did was told when it ended.
    """
    from models.progress import in_words
    from models.runs.files import RunFiles
    from models.runs.names import short_name
    from models.runs.pages import scoreboard
    from tasks.steps import StepRecord

    steps = [StepRecord(**r) for r in records]
    made, lost = sum(s.redone for s in steps), sum(s.failed for s in steps)
    spent = in_words(sum(s.seconds for s in steps))
    without = f", {lost} without data (the report and the ledger say why)" if lost else ""
    if made:
        lines = [f"{made} units made in {len(steps)} stages{without}, {spent}"]
    else:
        lines = [f"nothing to do: everything is up to date{without}"]
    scored = [Path(s.detail["run"]) for s in steps if s.stage == "evaluate" and "run" in s.detail]
    if not scored or not (scored[-1] / "metrics.parquet").exists():
        return lines[0]
    run = RunFiles(scored[-1])
    name, workspace = short_name(run.folder), run.workspace.path
    lines += ["", f"{run.recipe.name} {name}", scoreboard(run), ""]
    lines += [f"report: {run.folder / 'report.html'}"]
    lines += [f"other runs: python -m flows runs {workspace}"]
    return "\n".join(lines)


def export_before_after(workspace: Path, out: Path, dataset: str | None, **choice: Any) -> str:
    """`data.export.export_before_after` of a workspace; `dataset` None for the only one."""
    from data.export import ordinary as export
    from data.stages.workspace import Workspace

    store = Workspace(workspace)
    known = store.datasets()
    if dataset is None and len(known) == 1:
        dataset = known[0]
    if dataset not in known:
        raise ConfigError(
            f"workspace {workspace}",
            expected="the dataset to film (--dataset)",
            got=dataset or "none",
            todo=f"It holds {', '.join(known) or 'none'}.",
        )
    return export.export_before_after(store, dataset, out, **choice)
