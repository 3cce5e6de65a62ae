"""Random generators named by what they are for, so that nothing depends on the order of calls."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*name: str | int | float) -> np.random.Generator:
    """A generator seeded by the SHA-256 of `name`; the same name gives the same stream."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in name).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
