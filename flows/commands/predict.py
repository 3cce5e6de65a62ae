"""The command `predict`: a trained run on videos of one's own, one or a folder of them.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.looking import WorkspaceOfRuns, complete_run


def predict(
    video: Annotated[
        Path,
        typer.Argument(help="A video file, a folder of frames, or a folder of such videos."),
    ],
    run_names: Annotated[
        list[str],
        typer.Option(
            "--run",
            help="A trained ME-TST run: short name (see `runs`) or folder; repeat: their mean.",
            autocompletion=complete_run,
        ),
    ],
    workspace: WorkspaceOfRuns = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results; default NAME-prediction beside the video."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second, for frame folders.")] = None,
    fold: Annotated[str | None, typer.Option(help="One fold; default the mean of all.")] = None,
    recognise: Annotated[
        str | None,
        typer.Option(
            help="An HSTA run that also names each spotted interval.", autocompletion=complete_run
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Read a folder of videos as this dataset's, e.g. megc (the test sets)."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overlay: Annotated[bool, typer.Option(help="Also write an overlay video.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Spot and recognise micro-expressions in videos of your own with a trained run.

    Several --run average their curves. Of a folder of videos the challenge's submission files are
    written too: spotting/PART_pred.csv and recognised/PART_pred.csv. A video slower than the run
    was trained at, too short for its window or without a face is refused by name; the others go on.
    """
    from flows.terminal.live import terminal_progress
    from models.devices import resolve_device
    from models.predict.folder import is_collection, predict_folder
    from models.predict.spot import predict_video
    from models.runs.files import find_run

    runs = [find_run(name, workspace) for name in run_names]
    target = out or _beside(video)
    options: dict[str, Any] = {
        "fps": fps,
        "overlay": overlay,
        "fold": fold,
        "recogniser": find_run(recognise, workspace) if recognise else None,
        "device": resolve_device(device),
    }
    with terminal_progress() as show:
        found: Any
        if layout is not None or is_collection(video):
            found = predict_folder(video, runs, target, layout=layout, show=show, **options)
        else:
            found = predict_video(
                video,
                runs,
                target,
                progress=lambda share, text: show(video.name, round(100 * share), 100, text),
                **options,
            )
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())


def _beside(video: Path) -> Path:
    video = video.absolute()
    return video.with_name(f"{video.name}-prediction")
