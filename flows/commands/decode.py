"""The command `decode`: a finished run's curves under other decoders, nothing trained.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.looking import RUN_HELP, WorkspaceOfRuns, complete_run


def decode(
    run_name: Annotated[
        str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete_run)
    ],
    workspace: WorkspaceOfRuns = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="threshold, height, smoothing, k_p, strategy, any; repeat. Default all.",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option("--by", help="What a decoder is chosen by: spotting_f1 or strs.")
    ] = "spotting_f1",
    out: Annotated[
        Path | None, typer.Option(help="Folder for decoders.csv and .html; default RUN/decoders.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Would another threshold, smoothing or half-width spot better? Seconds, no training.

    Scores the saved curves of a run under 126 decoders. The decoder of each person is
    chosen on the other people; beside it stand the recipe's own decoder and, labelled as
    flattering, the best on all. Differences come with paired intervals over people, counts under
    three matchers. Writes a table and a page beside the run.
    """
    from models.report.decoding import decode_run
    from models.runs.files import find_run
    from models.scores.decoders import KINDS

    run = find_run(run_name, workspace)
    found = decode_run(run, kinds or KINDS, objective)
    files = found.write(out or run.folder / "decoders")
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    typer.echo("\n".join([found.to_text(), "", *(f"wrote {path}" for path in files)]))
