"""The command `track`: runs into MLflow's own store, for those who look at theirs there.

Imports what it needs when it runs, as all commands do.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.looking import RUN_HELP, WorkspaceOfRuns, complete_run


def track(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A folder (SQLite in it) or a tracking URI.")
    ],
    run_names: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help=RUN_HELP, autocompletion=complete_run),
    ] = None,
    workspace: WorkspaceOfRuns = None,
) -> None:
    """Write runs into an MLflow store: params, scores, folds, curves, report, provenance.

    Without RUN all scored runs of --workspace. Needs the extra `mlflow`; what is written twice is
    there once. Look at it: mlflow ui --backend-store-uri sqlite:///STORE/mlflow.db
    """
    from data.errors import ConfigError
    from models.runs.files import RunFiles, find_run
    from models.runs.names import run_folders
    from models.runs.tracking import tracking_uri, write_run

    if run_names:
        runs = [find_run(name, workspace) for name in run_names]
    elif workspace is not None:
        every = run_folders(workspace)
        runs = [RunFiles(folder) for folder in every if (folder / "metrics.parquet").is_file()]
    else:
        raise ConfigError("track", expected="runs, or --workspace for all of its", got="neither")
    for run in runs:
        name = write_run(run, store)
        typer.echo(f"{run.recipe.name}/{run.folder.name} is MLflow run {name}")
    typer.echo(f"{len(runs)} run{'s' * (len(runs) != 1)} in {tracking_uri(store)}")
