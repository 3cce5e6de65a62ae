"""The command line. Imports what a command needs when it runs: `--help` answers at once.

What a command ends with is in `flows.terminal.exit_codes`.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from data.datasets import ADAPTERS
from flows.commands.asking import Faces, asks, with_plain_verify
from flows.commands.completing import VARIABLE, completion
from flows.commands.decode import decode
from flows.commands.evaluate import evaluate
from flows.commands.export import export
from flows.commands.gallery import gallery
from flows.commands.inject import inject
from flows.commands.looking import RUN_HELP, WorkspaceOfRuns, complete_run, recipes, runs
from flows.commands.pictures import import_pictures
from flows.commands.predict import predict
from flows.commands.track import track
from flows.commands.up import up
from flows.commands.worker import worker
from flows.terminal.exit_codes import Exit
from flows.terminal.live import show_log, terminal_progress

app = typer.Typer(
    name="apexflow",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Micro-expression datasets, from raw video to scores one can trust.\n\n"
    "Begin with [bold]demo[/], or with [bold]check LAYOUT ROOT[/] on a dataset you have, then "
    "[bold]plan RECIPE[/] and [bold]run RECIPE[/].",
)
LAYOUTS = " ".join(ADAPTERS)
LONGEST = 4000  # characters of an error: a person may have given a megabyte as a name
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Layout = typer.Argument(
    metavar="LAYOUT",
    help=f"One of: {LAYOUTS}",
    autocompletion=lambda incomplete: [n for n in ADAPTERS if n.startswith(incomplete)],
)


def _version(asked: bool) -> None:
    if asked:
        from data.project import project_commit, project_version

        commit = project_commit()
        typer.echo(f"apexflow {project_version()}{f' (commit {commit})' if commit else ''}")
        raise typer.Exit(Exit.GOOD)


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    pass


def _guard(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can cause end in one clear line and the right exit code, not a traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        from data.errors import ApexflowError, ConfigError

        try:
            return command(*args, **kwargs)
        except ApexflowError as error:
            said = str(error) if len(str(error)) <= LONGEST else f"{str(error)[:LONGEST]}..."
            if error.who.replace("-", "_") in kwargs:  # what a function below calls its argument
                said = f"--{error.who.replace('_', '-')}{said[len(error.who) :]}"
            typer.secho(f"error: {said}", fg="red", err=True)
            wrong_usage = isinstance(error, ConfigError) or error.code == "unknown_layout"
            raise typer.Exit(Exit.WRONG_USAGE if wrong_usage else Exit.FAILED) from error
        except BrokenPipeError:  # whoever read our output has gone
            raise
        except OSError as error:  # a full disk, a folder gone
            logging.getLogger(__name__).debug("where it came from", exc_info=True)
            typer.secho(
                f"error: {type(error).__name__}: {error}. What was finished is whole and kept: put "
                "this right and run again to go on.",
                fg="red",
                err=True,
            )
            raise typer.Exit(Exit.FAILED) from error
        except KeyboardInterrupt:
            typer.secho("stopped; finished parts are kept, run again to go on", err=True)
            raise typer.Exit(Exit.STOPPED) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            from flows.terminal.last_resort import sentence

            typer.secho(sentence(error, command.__name__), fg="red", err=True)
            raise typer.Exit(Exit.FAILED) from error

    return guarded


@app.command()
@_guard
@asks
def run(
    request: Any,
    runner: Annotated[
        str,
        typer.Option(
            help="prefect, none, or auto: prefect when its server is up; local or dask (with "
            "--scheduler): as auto, and where the jobs are done."
        ),
    ] = "auto",
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Train nothing for good: train a fold alone and beside all others for 100 steps, "
            "and say whether losses and outputs are the same.",
        ),
    ] = False,
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Also write the scored run to MLflow; see `track`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Do what a recipe needs and is not up to date; say so in seconds when nothing is."""
    from flows.runs import launch

    show_log(verbose=not as_json)
    if mlflow is not None:
        launch.require_tracking()
    if prove:
        proof = launch.prove(request)
        typer.echo(json.dumps(proof.facts()) if as_json else proof.sentence())
        raise typer.Exit(Exit.GOOD if proof.holds else Exit.FAILED)
    records = launch.run(request, runner)
    told = json.dumps(records, indent=1, default=str) if as_json else launch.summary(records)
    typer.echo(told)
    if mlflow is not None and not launch.write_tracking(records, mlflow):
        typer.echo("nothing written to MLflow: no run was scored", err=True)


@app.command()
@_guard
@asks
def plan(
    request: Any,
    measure: Annotated[
        bool,
        typer.Option(help="Do stages of unknown speed on one video, thrown away, to tell hours."),
    ] = True,
    runner: Annotated[str, typer.Option(help="As for run; a plan is the same.")] = "auto",
    as_json: Json = False,
) -> None:
    """Dry run: per stage what is fresh, stale, missing or failed, why, and what it would cost.

    Also before the first run: units from the sheets, hours from what this machine took before, or
    from one video measured now. Nothing of the workspace is written.
    """
    from flows.runs import planner

    del runner  # so that every word of a `run` can be planned
    say = partial(typer.echo, err=True) if measure else None
    found = planner.plan(request, say)
    typer.echo(json.dumps(found, indent=1) if as_json else planner.to_text(found, request))


@app.command()
@_guard
def check(
    layout: Annotated[str, Layout],
    root: Annotated[Path, typer.Argument(help="The folder as its owner ships it.")],
    deep: Annotated[bool, typer.Option(help="Decode every frame, not three per video.")] = False,
    as_json: Json = False,
) -> None:
    """What a dataset folder holds against what it should hold. Writes nothing.

    Exit code 0: no defects ("clean" where the published counts match too); 3: usable with the
    repairs listed; 4: unusable, with the layout it looks like instead. Ends with what to type next.
    """
    from data.ingest.check import check_dataset
    from flows.commands.looking import next_command

    with terminal_progress() as show:
        report = check_dataset(layout, root, deep=deep, progress=partial(show, layout))
    typer.echo(report.to_json() if as_json else report.to_text())
    if not as_json and (command := next_command(report)):
        typer.echo(f"next: {command}")
    raise typer.Exit(report.exit_code)


@app.command()
@_guard
def synthesize(
    layout: Annotated[
        str,
        typer.Argument(
            metavar="LAYOUT[:VARIANT]",
            help=f"One of: {LAYOUTS}; or another shape it ships in, e.g. casme2:selected "
            "(a wrong variant lists them).",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; made when missing.")],
    preset: Annotated[
        str,
        typer.Option(help="smoke, tiny, default, hard (as real recordings are) or low (40 px)."),
    ] = "default",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    defects: Annotated[bool, typer.Option(help="Plant every defect known of the layout.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
) -> None:
    """Render a synthetic dataset of real face pixels with known truth in a dataset's own layout."""
    from data.stages.pool import cpu_count
    from data.synthetic import write_dataset

    with terminal_progress() as show:
        path = write_dataset(
            layout,
            out,
            preset=preset,
            seed=seed,
            defects=defects,
            workers=workers or cpu_count(),
            progress=partial(show, layout),
        )
    typer.echo(f"{path}: layout {layout}, preset {preset}, seed {seed}")


app.command()(_guard(inject))
app.command()(_guard(worker))
app.command()(_guard(decode))
app.command("import-pictures")(_guard(import_pictures))


@app.command()
@_guard
def demo(
    folder: Annotated[Path, typer.Option(help="Where data, stores and reports go.")] = Path("demo"),
    port: Annotated[
        int | None, typer.Option(help="Server port; default 4200 or the next free.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic datasets.")] = 0,
    server: Annotated[bool, typer.Option(help="Show the run in a Prefect server.")] = True,
) -> None:
    """Synthetic data → all stages → HSTA and ME-TST → report; leaves the run in the Prefect UI."""
    from flows.commands import demo as demo_flow

    show_log(verbose=True)
    typer.echo(demo_flow.run_demo(folder, port=port, seed=seed, with_server=server))


app.command()(_guard(up))


@app.command()
@_guard
def status(as_json: Json = False) -> None:
    """Whether the server and its worker run, and where."""
    from flows.server import local_server

    found = local_server.describe()
    text = "\n".join(f"{k}: {v}" for k, v in found.items())
    typer.echo(json.dumps(found, indent=1) if as_json else text)


@app.command()
@_guard
def down() -> None:
    """Stop the worker and the server that this checkout started."""
    from flows.server import local_server

    stopped = local_server.stop()
    typer.echo("stopped " + ", ".join(stopped) if stopped else "nothing was running")


@app.command()
@_guard
def report(
    run_name: Annotated[
        str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete_run)
    ],
    workspace: WorkspaceOfRuns = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default RUN/report.html.")
    ] = None,
) -> None:
    """Write a run's report again: one HTML file that needs no network."""
    from data.stages.files import replacing
    from models.report.write import write_report
    from models.runs.files import find_run

    found = find_run(run_name, workspace)
    target = (out or found.folder / "report.html").absolute()
    if target.parent.is_dir() and not os.access(target.parent, os.W_OK):  # before minutes of work
        raise PermissionError(errno.EACCES, "not allowed to write there", str(target.parent))
    with replacing(target) as temporary:
        write_report(found, temporary)
    typer.echo(str(target))


@app.command()
@_guard
def compare(
    run_names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Two or more runs: short names (see `runs`) or folders.",
            autocompletion=complete_run,
        ),
    ],
    workspace: WorkspaceOfRuns = None,
    as_json: Json = False,
) -> None:
    """Runs side by side with paired bootstrap differences; refuses different sample lists."""
    from models.runs.compare import compare as compare_runs
    from models.runs.files import find_run

    found = compare_runs([find_run(name, workspace) for name in run_names])
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())


@app.command()
@_guard
def prune(
    workspace: Annotated[Path, typer.Argument(help="Workspace folder.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove; without it only list.")] = False,
    as_json: Json = False,
) -> None:
    """List, then with --delete remove, files in the stores that nothing current needs."""
    from flows.runs import pruning

    found = pruning.prune(workspace, delete=delete)
    typer.echo(json.dumps(found, indent=1) if as_json else pruning.to_text(found, delete))


app.command()(_guard(predict))


app.command()(_guard(evaluate))


app.command()(_guard(export))


@app.command()
@_guard
def clip(
    workspace: Annotated[Path, typer.Argument(help="Workspace with an aligned dataset.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .mp4 or .gif.")],
    dataset: Annotated[
        str | None, typer.Option(help="Dataset; may be left out if only one.")
    ] = None,
    video: Annotated[str | None, typer.Option(help="Video id, e.g. sub01/EP02_01f.")] = None,
    event: Annotated[
        str | None, typer.Option(help="Event id instead: its frames from onset to offset.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The dataset's folder; default where the last run read it.")
    ] = None,
    fps: Annotated[
        float, typer.Option(help="Frames per second of the film; below the video's: slow motion.")
    ] = 25.0,
    with_faces: Faces = False,
) -> None:
    """A film of one video before (left) and after (right) alignment: does the face shake?

    Left, the crop square of the reference frame is cut from every raw frame; right, the aligned
    crops that later stages read. Without --video or --event, some ids to choose from are named.
    Faces of licensed sets leave only --with-faces.

    Example: python -m flows clip work shake.gif --dataset casme2 --event sub01/EP02_01f --fps 10
    """
    from flows.runs.launch import export_before_after

    show_log(verbose=False)
    typer.echo(export_before_after(workspace, out, dataset, video=video, event=event, root=root,
                                   fps=fps, with_faces=with_faces))  # fmt: skip


for _command in (recipes, runs, gallery, track, completion):
    app.command()(_guard(_command))


def main() -> None:
    """Entry point: usage errors exit with 2, everything else as the command says."""
    for stream in (sys.stdout, sys.stderr):  # names that are no UTF-8 can be printed, too
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if VARIABLE in os.environ:  # a shell asks what may come next
        from typer._completion_classes import completion_init

        completion_init()
    try:
        sys.exit(app(with_plain_verify(sys.argv[1:]), complete_var=VARIABLE))
    except Exception as error:  # before or outside a command
        from flows.terminal.last_resort import sentence

        print(sentence(error, "python -m flows"), file=sys.stderr)  # noqa: T201
        sys.exit(Exit.FAILED)
