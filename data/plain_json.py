"""JSON files as a project wrote them: small objects. Anything else is a ValueError with words."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises OSError when it cannot be opened, ValueError when it is no file (a pipe would be read for
    ever), too large, not JSON, nested without end, or no object.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("no ordinary file")
    if facts.st_size > MAX_BYTES:
        raise ValueError(f"{facts.st_size} bytes, more than the {MAX_BYTES} of any such file")
    try:
        found = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("brackets nested without end") from None
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}, not an object")
    return found
