"""Formats of films, and which of them are not read."""

from __future__ import annotations

from data.frames import VIDEO_SUFFIXES

FILM_SUFFIXES = (
    *(".webm", ".mpg", ".mpeg", ".flv", ".3gp", ".mts", ".m2ts", ".ts", ".vob", ".ogv", ".asf"),
    *(".mxf", ".rm", ".divx", ".f4v", ".y4m"),
)
NOT_READ = tuple(s for s in FILM_SUFFIXES if s not in VIDEO_SUFFIXES)


def not_read(name: str) -> str:
    """What to say of a film in a format that is not read; "" for any other name."""
    suffix = "." + name.rpartition(".")[2].lower()
    if suffix not in NOT_READ:
        return ""
    return f"{suffix} is not read; {' '.join(VIDEO_SUFFIXES)} are"
