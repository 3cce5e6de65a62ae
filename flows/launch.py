"""Start a run with or without Prefect, and show its progress on the terminal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from tasks.request import RunRequest

Show = Callable[[str, int, int, str], None]


def run(request: RunRequest, runner: str = "auto") -> list[dict[str, Any]]:
    """Do the request with `runner` prefect, none or auto; one record per stage.

    auto takes Prefect when this checkout's server is up; otherwise it runs without and says so. It
    never falls back to Prefect's temporary server, which loses records.
    """
    from flows import server

    if runner not in ("auto", "prefect", "none"):
        raise ConfigError("--runner", expected="prefect, none or auto", got=runner)
    if runner == "none":
        return run_plain(request)
    state = server.find_server()
    if state is None and runner == "auto":
        import typer

        typer.echo(
            "no Prefect server is up: this run will not show in its UI "
            "(start one with `python -m flows up`)",
            err=True,
        )
        return run_plain(request)
    server.use(state or server.start_server())
    return run_recorded(request)


def run_recorded(request: RunRequest) -> list[dict[str, Any]]:
    """All stages, shown on the Prefect server in use; the terminal shows bars, the UI the logs."""
    from flows import recorded
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
    from tasks.carriers import LocalCarrier
    from tasks.context import PlainExecutor, open_context
    from tasks.steps import run_steps

    with terminal_progress() as show, stopped_by_signals():
        executor = PlainExecutor(LocalCarrier.of(request), show)
        with open_context(request, executor) as context:
            return [vars(record) for record in run_steps(context)]


@contextmanager
def terminal_progress() -> Iterator[Show]:
    """A bar per name on a terminal's error output; a line per tenth when that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield LineByLine()
        return
    columns = (
        TextColumn("{task.fields[name]:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bars:
        known: dict[str, Any] = {}

        def show(name: str, done: int, total: int, text: str) -> None:
            if name not in known:
                known[name] = bars.add_task("", total=total, name=name)
            bars.update(known[name], completed=done, total=total, description=text)

        yield show


class LineByLine:
    """Progress where no bar can be drawn: a line a tenth, and one now and then from long jobs."""

    def __init__(self, every_s: float = 30.0) -> None:
        self.every_s = every_s
        self._last: dict[str, tuple[int, float]] = {}  # name → jobs done, time of its last line

    def __call__(self, name: str, done: int, total: int, text: str) -> None:
        """Print what is new."""
        import typer

        before, when = self._last.get(name, (-1, time.monotonic()))
        tenth = 10 * done // max(1, total) > 10 * (done - 1) // max(1, total)
        news = done != before and (done == total or tenth)
        if news or time.monotonic() - when >= self.every_s:
            typer.echo(f"{name}: {done} of {total}  {text}", err=True)
            self._last[name] = (done, time.monotonic())
        else:
            self._last.setdefault(name, (done, when))


def prove(request: RunRequest) -> Any:
    """Train one fold alone and beside the others, and compare; a `models.stacked.proof.Proof`."""
    from data.stages.workspace import Workspace
    from models.runs import training
    from tasks.context import resolve_recipe, scopes

    recipe, workspace = resolve_recipe(request), Workspace(request.workspace)
    [scope] = scopes(request, recipe, workspace, training.STEP)
    return training.prove(scope)


def summary(records: list[dict[str, Any]]) -> str:
    """What a run did, for people; ends with the report's path when there is one."""
    from tasks.steps import StepRecord

    steps = [StepRecord(**r) for r in records]
    lines = [s.sentence() for s in steps]
    if not any(s.redone for s in steps):
        lines.append("nothing to do: everything is up to date")
    folders = [Path(s.detail["run"]) for s in steps if "run" in s.detail]
    if folders and (folders[-1] / "report.html").exists():
        lines.append(f"report: {folders[-1] / 'report.html'}")
    return "\n".join(lines)


def export_files(what: str, source: Path, out: Path, dataset: str | None, with_faces: bool) -> str:
    """Write ordinary files from stores; returns one line saying what was written."""
    from data import export
    from data.stages.workspace import Workspace
    from models.runs.files import find_run

    if what == "spotting":
        from models.runs.pages import export_spotting

        return f"{export_spotting(find_run(str(source)), out)} intervals to {out}"
    writers: dict[str, Callable[..., int]] = {
        "crops": export.export_crops,
        "flow": export.export_flow,
        "tables": export.export_tables,
    }
    if what not in writers:
        raise ConfigError("export", expected="crops, flow, tables or spotting", got=what)
    workspace = Workspace(source)
    datasets = [dataset] if dataset else workspace.datasets()
    if not datasets:
        raise ConfigError(f"workspace {source}", expected="a dataset in it", got="none")
    counts = []
    for name in datasets:
        more = {"with_faces": with_faces} if what == "crops" else {}
        counts.append(f"{writers[what](workspace, name, out / name, **more)} from {name}")
    return f"{what}: {', '.join(counts)} to {out}"


def export_before_after(workspace: Path, out: Path, dataset: str | None, **choice: Any) -> str:
    """`data.export.export_before_after` of a workspace; `dataset` None for the only one."""
    from data import export
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
