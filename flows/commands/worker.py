"""`worker`: lend this machine to runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def worker(
    scheduler: Annotated[
        str, typer.Option(help="A Dask scheduler's address (tcp://HOST:PORT) or file.")
    ] = "",
    connect: Annotated[
        str, typer.Option(help="Instead: a team's Prefect server (`up --host`), http://HOST:PORT.")
    ] = "",
    auth_file: Annotated[
        Path | None, typer.Option(help="With --connect: a copy of the server's `.prefect/auth`.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Jobs at once; 0: one per core, or as --memory allows. --connect: runs; 0: 1.",
        ),
    ] = 0,
    memory: Annotated[str, typer.Option(help="Ceiling for all jobs here, e.g. 8G.")] = "",
    device: Annotated[
        str, typer.Option(help="GPUs to lend: auto (all), cpu (none), cuda:0,cuda:2.")
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="Name in the scheduler's pages.")] = None,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for the scheduler.")
    ] = 60.0,
) -> None:
    """Do jobs for a Dask scheduler, or runs of a team's Prefect server, until a signal comes.

    Needs the run's checkout, environment, workspace and data under the same paths; what differs is
    refused in words. The scheduler is started with `dask scheduler`.
    """
    from data.errors import ConfigError
    from data.stages.limits import parse_memory

    if bool(scheduler) == bool(connect):
        raise ConfigError(
            "worker", expected="either --scheduler ADDRESS or --connect URL", got="both or none"
        )
    idle = {"--memory": memory != "", "--device": device != "auto", "--patience": patience != 60.0}
    idle = idle if connect else {"--auth-file": auth_file is not None}
    if said := [option for option, is_said in idle.items() if is_said]:
        raise ConfigError(
            said[0],
            expected=f"no such option with {'--connect' if connect else '--scheduler'}",
            got="one",
            todo="Each run says in its form what it may take." if connect else "",
        )
    if connect:
        from flows.server import remote

        remote.connect(connect, auth_file=auth_file, name=name or "", limit=workers or 1)
        return
    from tasks.cluster import require_distributed

    require_distributed("worker")
    from tasks.cluster.worker import serve

    serve(
        scheduler,
        workers=workers,
        memory_bytes=parse_memory(memory),
        device=device,
        name=name,
        patience_s=patience,
    )
