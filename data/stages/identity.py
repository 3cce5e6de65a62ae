"""Content identity: stable hashes of values, files and configurations."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

KEY_LENGTH = 32  # hex digits kept of a sha256: 128 bits


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


def stable_hash(*values: Any) -> str:
    """Hex digest of JSON-able values; equal values give equal digests in any process, any day."""
    text = json.dumps([_plain(v) for v in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


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
