"""Signs of life: which unit a job is at, told to whoever watches it.

A job that hangs, is stopped or dies is then known by its unit, and only that unit is given up.
"""

from __future__ import annotations

from collections.abc import Callable

SEVERAL = ""  # in a unit's place: work on more than one at once, and no one of them is known
_listener: Callable[[str], None] | None = None


def working_on(unit: str) -> None:
    """Say that work on `unit` begins; its time limit is counted from here."""
    if _listener is not None:
        _listener(unit)


def listen(listener: Callable[[str], None] | None) -> None:
    """Who hears it in this process; None for nobody."""
    global _listener
    _listener = listener
