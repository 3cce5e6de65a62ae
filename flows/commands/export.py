"""The command `export`: stores as files that others read.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.asking import Faces

EACH = ("crops", "flow", "tables", "tim")  # a folder a dataset
TOGETHER = ("pictures", "shards", "events")  # all datasets in one
RUNS = ("spotting",)


def export(
    what: Annotated[
        str, typer.Argument(help="crops, flow, tables, tim, pictures, shards, events or spotting.")
    ],
    source: Annotated[Path, typer.Argument(help="Workspace; for spotting a run's folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; for events a .json file.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Dataset; repeat. Default all in it.")
    ] = None,
    label: Annotated[str, typer.Option(help="Label of pictures and shards.")] = "label_3",
    size: Annotated[int, typer.Option(help="Side of the pictures, px.")] = 28,
    length: Annotated[int, typer.Option(help="Frames of a tim clip, and of clips in shards.")] = 10,
    clips: Annotated[
        bool, typer.Option("--clips", help="Shards hold the aligned clips, too (faces).")
    ] = False,
    with_faces: Faces = False,
) -> None:
    """Stores → files that others read.

    crops: PNG. flow: .npy. tables: CSV. spotting: a run's intervals in the MEGC form. tim: clips of
    one length. pictures: u, v and strain in STSTNet's and HTNet's folders, leave one subject out
    laid out. shards: tar files as WebDataset reads them, one person each. events: one JSON file in
    COCO's manner.
    """
    datasets = dataset or []
    options = {"label": label, "size": size, "length": length, "clips": clips}
    typer.echo(export_files(what, source, out, datasets, with_faces, options))


def export_files(
    what: str,
    source: Path,
    out: Path,
    datasets: list[str],
    with_faces: bool,
    options: dict[str, Any],
) -> str:
    """Write the files; returns one line saying what was written. Raises ConfigError."""
    from data.errors import ConfigError
    from data.stages.workspace import Workspace

    if what in RUNS:
        from models.runs.files import find_run
        from models.runs.pages import export_spotting

        return f"{export_spotting(find_run(str(source)), out)} intervals to {out}"
    known = (*EACH, *TOGETHER, *RUNS)
    if what not in known:
        raise ConfigError("export", expected=f"one of {', '.join(known)}", got=what)
    workspace = Workspace(source)
    chosen = datasets or workspace.datasets()
    if not chosen:
        raise ConfigError(f"workspace {source}", expected="a dataset in it", got="none")
    if what in TOGETHER:
        count = _together(what, workspace, chosen, out, with_faces, options)
        return f"{what}: {count} from {', '.join(chosen)} to {out}"
    counts = [
        f"{_each(what, workspace, name, out / name, with_faces, options)} from {name}"
        for name in chosen
    ]
    return f"{what}: {', '.join(counts)} to {out}"


def _each(
    what: str, workspace: Any, name: str, out: Path, with_faces: bool, options: dict[str, Any]
) -> int:
    from data.export import ordinary
    from data.export.tim import export_tim_clips

    if what == "tim":
        return export_tim_clips(
            workspace, name, out, length=options["length"], with_faces=with_faces
        )
    if what == "crops":
        return ordinary.export_crops(workspace, name, out, with_faces=with_faces)
    writers: dict[str, Callable[..., int]] = {
        "flow": ordinary.export_flow,
        "tables": ordinary.export_tables,
    }
    return writers[what](workspace, name, out)


def _together(
    what: str,
    workspace: Any,
    datasets: list[str],
    out: Path,
    with_faces: bool,
    options: dict[str, Any],
) -> int:
    from data.export.events_json import export_events
    from data.export.flow_pictures import export_flow_pictures
    from data.export.shards import export_shards

    if what == "events":
        return export_events(workspace, datasets, out)
    if what == "pictures":
        return export_flow_pictures(
            workspace, datasets, out, label=options["label"], size=options["size"]
        )
    return export_shards(
        workspace, datasets, out, label=options["label"], length=options["length"],
        with_frames=options["clips"], with_faces=with_faces,
    )  # fmt: skip
