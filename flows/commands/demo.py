"""The demo: synthetic data → all stages → both networks → scoreboard, report, Prefect UI."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import ConfigError

LAYOUTS = ("casme2", "samm_lv")
PRESET = "tiny"
SUBJECTS, CLIPS = 6, 8  # a little more than the preset's 4 and 5
RECIPES = ("demo_hsta", "demo_me_tst")


def run_demo(folder: Path, *, port: int | None, seed: int, with_server: bool) -> str:
    """Do the whole path in `folder`; returns the text to print. Again, it reuses what is there."""
    started = time.perf_counter()
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--folder", expected="a folder", got=f"the file {folder}")
    state = None
    if with_server:
        from flows.server import local_server

        state = local_server.start_server(port)
        local_server.use(state)
        _say(f"Prefect UI: {state.url} (the run appears there as it goes)")
        _say(f"the browser asks once for: {local_server.auth()}")
    data = _synthesize(folder / "data", seed)
    records = _run_recipes(folder / "workspace", data, with_server)
    if state is not None:
        from flows.server import local_server

        state = local_server.start_worker(state)  # a stage can be run from its form at once
    return _closing_text(
        records, state, time.perf_counter() - started, (folder / "workspace").absolute(), data
    )


def _say(text: str) -> None:
    import typer

    typer.echo(text, err=True)


def _synthesize(folder: Path, seed: int) -> dict[str, str]:
    from data.stages.pool import cpu_count
    from data.synthetic import write_dataset
    from flows.terminal.live import terminal_progress

    roots = {}
    clips: dict[str, Any] = {"clips": CLIPS}
    for layout in LAYOUTS:
        _say(f"rendering a synthetic {layout} dataset (preset {PRESET}, seed {seed})")
        with terminal_progress() as show:
            path = write_dataset(
                layout,
                folder / layout,
                preset=PRESET,
                seed=seed,
                subjects=SUBJECTS,
                **(clips if layout == "casme2" else {}),
                workers=cpu_count(),
                progress=partial(show, layout),
            )
        roots[layout] = str(path)
    return roots


def _run_recipes(
    workspace: Path, data: dict[str, str], with_server: bool
) -> dict[str, list[dict[str, Any]]]:
    from flows.runs.launch import run_plain, run_recorded
    from tasks.request import RunRequest

    requests = [
        RunRequest(recipe=name, workspace=str(workspace), data=data, wait_s=5) for name in RECIPES
    ]
    start = run_recorded if with_server else run_plain
    found = {}
    for request in requests:
        _say(f"running recipe {request.recipe}")
        found[request.recipe] = start(request)
    return found


def _closing_text(
    records: dict[str, list[dict[str, Any]]],
    state: Any,
    seconds: float,
    workspace: Path,
    data: dict[str, str],
) -> str:
    from flows.runs.launch import summary

    lines = []
    for recipe, steps in records.items():
        lines += [f"\n== {recipe}", summary(steps)]
    lines += [
        "",
        f"The demo took {seconds:.0f} s. Its datasets are tiny: a few subjects, few events; the",
        "intervals say what that allows. For scores that mean more, synthesize preset default and",
        "take a full recipe (python -m flows recipes). ME-TST ran at a reduced width (its recipe).",
    ]
    if state is not None:
        lines += [
            f"Look at the run: {state.url}",
            "A worker is up: under Deployments, any stage runs again from its form, with",
            f"  recipe {RECIPES[0]}, workspace {workspace},",
            f"  data {', '.join(f'{n} = {Path(r).absolute()}' for n, r in data.items())}",
            "Stop both: python -m flows down",
        ]
    return "\n".join(lines)
