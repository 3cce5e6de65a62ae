"""The command `gallery`: thumbnails of all that a workspace's stages made, as pages on the disk.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.asking import Faces


def gallery(
    workspace: Annotated[Path, typer.Argument(help="Workspace with finished stages.")],
    dataset: Annotated[str | None, typer.Option(help="Only this dataset; default all.")] = None,
    with_faces: Faces = False,
) -> None:
    """Every unit of every stage to look at: a page a stage, one click to a video's own page.

    Written into WORKSPACE/DATASET/gallery/index.html, opened by any browser from the disk; sorted
    there by status, residual or confidence. Again, only what changed is drawn. Faces only where
    they may be shown.
    """
    from data.errors import ConfigError
    from data.pictures.gallery import galleries, write_gallery
    from data.stages.workspace import Workspace
    from flows.terminal.live import terminal_progress

    store = Workspace(workspace)
    names = [dataset] if dataset else galleries(store, store.datasets())
    if not names:
        raise ConfigError(
            "WORKSPACE",
            expected="a workspace with finished stages",
            got=str(workspace),
            todo="Make one: python -m flows run RECIPE -w WORKSPACE -d NAME=ROOT",
        )
    written = []
    with terminal_progress() as show:
        for name in names:
            told = partial(show, f"gallery-{name}")
            written.append(write_gallery(store, name, with_faces=with_faces, progress=told))
    typer.echo("\n".join(map(str, written)))
