"""Content identity: stable hashes of values, files and configurations."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

KEY_LENGTH = 32  # hex digits kept of a sha256: 128 bits
_ATOMS = {str, int, float, bool, type(None)}
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _plain(value: Any) -> Any:
    """JSON-able twin of a value, independent of dict order and numpy types."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(v) for v in value)
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if str(value) == "<NA>":
        return None
    raise TypeError(f"cannot hash a {type(value).__name__}: give plain values")


def _is_plain(value: Any) -> bool:
    """Whether JSON writes the value as `_plain` would have it: exact types, keys that are text."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is list or kind is tuple:
        return set(map(type, value)) <= _ATOMS or all(map(_is_plain, value))
    return kind is dict and set(map(type, value)) <= {str} and _is_plain([*value.values()])


def plain_json(*values: Any) -> str:
    """The text that `stable_hash` digests."""
    return _encode([v if _is_plain(v) else _plain(v) for v in values])


def stable_hash(*values: Any) -> str:
    """Hex digest of JSON-able values; equal values give equal digests in any process, any day."""
    return hashlib.sha256(plain_json(*values).encode()).hexdigest()[:KEY_LENGTH]


class JoinedJson:
    """JSON texts of many values, written once, so that selections of them are digested fast."""

    def __init__(self, values: Iterable[Any]) -> None:
        texts = [plain_json(value)[1:-1].encode() for value in values]
        self._text = memoryview(b",".join([*texts, b""]))
        self._ends = np.cumsum([0, *(len(text) + 1 for text in texts)])

    def feed(self, digest: Any, places: npt.NDArray[np.int64]) -> None:
        """Digest the JSON list of the values at `places`, as `plain_json` would write it."""
        digest.update(b"[")
        if len(places):
            cuts = np.flatnonzero(np.diff(places) != 1) + 1
            first, last = places[[0, *cuts]], places[[*(cuts - 1), -1]]
            runs = list(zip(self._ends[first].tolist(), self._ends[last + 1].tolist(), strict=True))
            for start, end in runs[:-1]:
                digest.update(self._text[start:end])
            start, end = runs[-1]
            digest.update(self._text[start : end - 1])
        digest.update(b"]")


def bucket_of(text: str, buckets: int) -> int:
    """Stable bucket in 0..buckets-1, so that adding a video never moves another."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % buckets


def digest_of(path: Path) -> str:
    """A file's digest, read once per process as long as its size and time stay the same."""
    stat = path.stat()
    return _digest_once(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _digest_once(path: str, size: int, mtime_ns: int) -> str:
    return file_digest(Path(path))


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:KEY_LENGTH]
