"""The command `import-pictures`: a folder of u-v-strain pictures becomes a dataset.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def import_pictures(
    folder: Annotated[
        Path, typer.Argument(help="Pictures as SUBJECT/u_test/CLASS/CLIP.png (STSTNet, HTNet).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write: a dataset of layout csv.")],
    recipe: Annotated[
        str | None,
        typer.Option("--run", metavar="RECIPE", help="Then run this recipe on it, in OUT-work."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Flow pictures that you have (u, v, strain as one image) → the project's folds and scores.

    Also read: SUBJECT/CLASS/CLIP.png. Only each subject's own pictures are taken; the folds are
    made here, leave one subject out, and pictures of a tested subject among its training pictures
    are refused.

    Example: python -m flows import-pictures three_norm_u_v_os OUT --run ststnet_pictures
    """
    from data.flow_pictures import importing
    from flows.runs import launch
    from tasks.request import RunRequest

    found = importing.import_pictures(folder, out)
    said = importing.summary(found)
    records = []
    if recipe is not None:
        work = out.absolute().with_name(f"{out.absolute().name}-work")
        request = RunRequest(recipe=recipe, workspace=str(work), data={"csv": str(out)})
        records = launch.run(request, "none")
    if as_json:
        classes = Counter(picture.label for picture in found)
        people = len({picture.person for picture in found})
        told = {"pictures": len(found), "people": people, "classes": classes, "run": records}
        typer.echo(json.dumps(told, indent=1, default=str))
        return
    typer.echo(f"{said}\n{out}: layout csv")
    if recipe is None:
        typer.echo(f"python -m flows run ststnet_pictures -w WORK -d csv={out}")
    else:
        typer.echo(launch.summary(records))
