"""A Prefect worker of somebody else's server: `python -m flows worker --connect URL`.

It does what the server's own worker does, on this machine: takes runs from the pool `apexflow` and
starts each in a process. A run's process number says something on one machine only, so this worker
writes it down with its machine's name, and looks for runs here whose process is gone itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import typer

from data.errors import ApexflowError


def connect(url: str, *, auth_file: Path | None = None, name: str = "", limit: int = 1) -> None:
    """Work for the server at `url` until told to end; the address and password are remembered.

    Raises ConfigError without a password, ApexflowError when the server does not answer or refuses.
    """
    from flows.server import local_server
    from flows.server.settings import AUTH, changed, password, read_settings
    from tasks.prefect_api import PrefectApi, Refused, Unreachable

    settings = changed(read_settings(local_server.home()), connect=url)
    auth = password(local_server.home(), auth_file)
    api = PrefectApi(settings.connect, auth)
    try:
        api.post("work_pools/filter", {})
    except Refused as error:
        raise ApexflowError(
            settings.connect,
            expected="a server that takes this password",
            got=str(error)[:200],
            todo="`user:password` stands in `.prefect/auth` on the server's machine.",
            code="server_refused",
        ) from error
    except Unreachable as error:
        raise ApexflowError(
            settings.connect,
            expected="an answer",
            got=str(error)[:200],
            todo="Is it up, and started with --host? A firewall?",
            code="server_unreachable",
        ) from error
    finally:
        api.close()
    local_server.remember(settings)
    local_server.write_private(local_server.home() / AUTH, auth + "\n")
    os.environ.update(local_server.client_environment(settings.connect, auth))
    os.chdir(local_server.ROOT)
    words = [sys.executable, "-m", "flows.server.remote", name or socket.gethostname(), str(limit)]
    os.execv(sys.executable, words)  # Prefect's settings are read once, at import


@cache
def _named_worker() -> Any:
    """Prefect's worker that says with a process number whose it is."""
    from prefect.workers.process import ProcessWorker

    class NamedWorker(ProcessWorker):
        """See above."""

        @classmethod
        def __dispatch_key__(cls) -> str:
            return "apexflow-process"  # beside Prefect's own, which it would replace with a warning

        async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
            return await super().run(flow_run, configuration, _Named(task_status))

    return NamedWorker


def main(name: str, limit: int) -> None:
    """The worker itself, in an environment that names the server."""
    from flows.server.deployed import POOL
    from flows.terminal.exit_codes import Exit
    from flows.terminal.last_resort import sentence
    from tasks.ghosts import watch
    from tasks.prefect_api import PrefectApi

    os.umask(0o077)
    home = Path(os.environ["PREFECT_HOME"])
    threading.Thread(target=watch, args=(PrefectApi.from_environment(), home), daemon=True).start()
    worker = _named_worker()(work_pool_name=POOL, name=name, limit=limit)
    try:
        asyncio.run(worker.start())
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(Exit.STOPPED)
    except Exception as error:
        typer.echo(sentence(error, "worker"), err=True)
        sys.exit(Exit.FAILED)


class _Named:
    """Prefect's task status; what it is started with becomes HOST:NUMBER."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def started(self, value: Any = None) -> None:
        """The process runs."""
        if self._inner is not None:
            self._inner.started(f"{socket.gethostname()}:{value}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
