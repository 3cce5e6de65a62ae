"""`up`: a Prefect server, its worker and our deployments, for one person or a team."""

from __future__ import annotations

import json
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import ApexflowError

if TYPE_CHECKING:
    from flows.server.local_server import ServerState


FOLLOWS_S = 10.0  # an `up` with other settings ends the server and starts another


def up(
    port: Annotated[int | None, typer.Option(help="Default 4200 or the next free.")] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on: 0.0.0.0 or one of this machine's, for a team."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="More names that browsers know this machine by (repeatable); '' for none."
        ),
    ] = None,
    server_only: Annotated[
        bool | None,
        typer.Option(
            "--server-only/--with-worker", help="Whether runs are also done on this machine."
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(help="postgresql://USER:PASSWORD@HOST/NAME, or sqlite (the default)."),
    ] = None,
    retention_days: Annotated[
        float | None, typer.Option(min=0, help="Forget finished runs after so many days; 0: never.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPU slots all runs share; default: those found here.")
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Stay until told to end, as systemd and containers want.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Start the Prefect server and a worker, deploy the full run and every stage. Idempotent.

    What is said here is kept in `.prefect/settings.json`, and the next `up` does the same. Other
    machines work for the server with `worker --connect URL`.
    """
    from flows.server import local_server
    from flows.server.settings import read_settings

    state = local_server.start_worker(
        local_server.start_server(
            port,
            host=host,
            names=None if name is None else tuple(n for n in name if n),
            worker=None if server_only is None else not server_only,
            database=database,
            retention_days=retention_days,
            gpus=gpus,
        )
    )
    if stay:
        said = f"Prefect UI: {state.url}; the password is in {local_server.auth_path()}"
        typer.echo(json.dumps(local_server.describe(), indent=1) if as_json else said)
        stay_up(state)
        return
    if as_json:
        typer.echo(json.dumps(local_server.describe(), indent=1))
        return
    typer.echo(
        f"Prefect UI: {state.url}\nthe browser asks once for: {local_server.auth()}\n"
        "stop with: python -m flows down"
    )
    if read_settings(local_server.home()).open:
        typer.echo(
            f"other machines: python -m flows worker --connect {state.url} --auth-file FILE\n"
            f"  FILE is a copy of {local_server.auth_path()}\n"
            "HTTP is not encrypted: beyond a network you trust, put a proxy with TLS before it."
        )


def stay_up(state: ServerState, every_s: float = 2.0) -> None:
    """Watch server and worker until a signal comes, then stop both.

    A worker that ended is started again. A server that another `up` started in place of ours is
    watched from then on. Raises ApexflowError when the server has ended and none follows: whoever
    started us starts us again.
    """
    from flows.runs.launch import stopped_by_signals
    from flows.server import local_server

    gone_for = 0.0
    try:
        with stopped_by_signals():
            while gone_for < FOLLOWS_S:
                sleep(every_s)
                state = local_server.newer(state)
                gone_for = 0.0 if state.server is not None else gone_for + every_s
                if not gone_for and state.worker_pid and state.worker is None:
                    state = local_server.start_worker(state)
    except KeyboardInterrupt:
        return
    finally:
        local_server.stop(state)
    raise ApexflowError(
        "Prefect server",
        expected="it to run",
        got="its process ended",
        todo=f"See {local_server.home() / 'server.log'}.",
        code="server_ended",
    )
