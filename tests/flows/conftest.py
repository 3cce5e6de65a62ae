"""A Prefect server of the project's own, one for each module that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.prefect_server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Iterator[Server]:
    """Server, worker and deployments, in a home of their own; stopped at the end."""
    server = Server(tmp_path_factory.mktemp("prefect"), cli)
    try:
        server.up()
        yield server
    finally:
        server.down()
