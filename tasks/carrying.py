"""The carrier that a request asks for: processes of this machine, or workers of a scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.carriers import Carrier, LocalCarrier
from tasks.request import RunRequest


@contextmanager
def carrying(request: RunRequest) -> Iterator[Carrier]:
    """The carrier of a request, while it is connected. Raises ConfigError, MissingExtraError."""
    if not request.scheduler:
        yield LocalCarrier.of(request)
        return
    from tasks.cluster.carrier import connected

    with connected(request) as carrier:
        yield carrier
