"""How datasets, stages and networks are found: one line in one map, imported when asked for.

A map's value names a module, or a room (a package). The object has a well-known name; a module
holds it itself, a room in the file of the given name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from data.errors import ConfigError


def find(place: str, name: str, file: str) -> Any:
    """The object `name` of the module `place`, or of `file` in the room `place`."""
    module = import_module(place)
    if not hasattr(module, name):
        module = import_module(f"{place}.{file}")
    return getattr(module, name)


def place_of(known: Mapping[str, str], name: str, what: str, code: str = "bad_config") -> str:
    """The map's value for `name`. Raises ConfigError that lists the known names."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        raise ConfigError(
            what,
            expected=f"one of {', '.join(known)}",
            got=str(name),
            todo=f"Did you mean {near[0]}?" if near else "",
            code=code,
        )
    return known[name]
