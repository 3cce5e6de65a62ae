"""The command `predict`: a trained run on a video of one's own.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.looking import WorkspaceOfRuns, complete_run


def predict(
    video: Annotated[Path, typer.Argument(help="A video file or a folder of frames.")],
    run_name: Annotated[
        str,
        typer.Option(
            "--run",
            help="A trained ME-TST run: short name (see `runs`) or folder.",
            autocompletion=complete_run,
        ),
    ],
    workspace: WorkspaceOfRuns = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; default beside.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second, for frame folders.")] = None,
    fold: Annotated[str | None, typer.Option(help="One fold; default the mean of all.")] = None,
    recognise: Annotated[
        str | None,
        typer.Option(
            help="An HSTA run that also names each spotted interval.", autocompletion=complete_run
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overlay: Annotated[bool, typer.Option(help="Also write an overlay video.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Spot and recognise micro-expressions in a video of your own with a trained run."""
    from flows.terminal import terminal_progress
    from models.devices import resolve_device
    from models.predict.spot import predict_video
    from models.runs.files import find_run

    target = out or Path(f"{video.name}-prediction")
    with terminal_progress() as show:
        found = predict_video(
            video,
            find_run(run_name, workspace),
            target,
            fps=fps,
            overlay=overlay,
            fold=fold,
            recogniser=find_run(recognise, workspace) if recognise else None,
            device=resolve_device(device),
            progress=lambda share, text: show(video.name, round(100 * share), 100, text),
        )
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())
