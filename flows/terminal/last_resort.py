"""What is said of an error nobody foresaw: one line, and where the details were written.

A traceback helps whoever mends the project and nobody else, so it goes into a file of its own.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

LONGEST = 300  # characters of the error's own words


def sentence(error: BaseException, command: str) -> str:
    """One line for a person: what happened in which command, where the traceback is, what to do."""
    if isinstance(error, MemoryError) or _no_room(error):
        return (
            f"error: no memory was left{_words(error, ' for ')}{_limit()}. What was finished is "
            "whole and kept: use fewer --workers or a smaller setting and run again to go on."
        )
    if type(error).__name__ == "BrokenProcessPool":
        return (
            "error: a worker process was ended from outside, most often because no memory was left."
            " What was finished is whole and kept: use fewer --workers and run again to go on."
        )
    what = f"{type(error).__name__}{_words(error, ': ')}"
    if isinstance(error, RecursionError):
        what = f"something given is nested without end ({what})"
    return (
        f"error: {command} met something unforeseen: {what}. {write_details(error, command)} "
        "That is a fault of apexflow's: please report it with that file."
    )


def _limit() -> str:
    """How much address space a shell's `ulimit -v` allows; "" where there is no limit."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY:
        return ""
    return f" (ulimit -v allows {allowed >> 20} MB of address space)"


def _no_room(error: BaseException) -> bool:
    """Whether a library could not be loaded for lack of memory: it says so in its own words."""
    said = str(error).lower()
    return isinstance(error, ImportError) and (
        "failed to map segment" in said or "cannot allocate memory" in said
    )


def write_details(error: BaseException, command: str) -> str:
    """Write the traceback to a file that only its owner reads; a sentence that says where."""
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}  apexflow {command}",
        f"python {platform.python_version()} on {platform.platform()}",
        "arguments: " + " ".join(map(ascii, sys.argv[1:]))[:4000],
        *traceback.format_exception(error),
    ]
    try:
        folder = Path(tempfile.gettempdir()) / f"apexflow-errors-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines).encode("ascii", "backslashreplace").decode())
    except OSError as problem:
        return f"(Its details could not be written: {problem}.)"
    return f"Details: {path}."


def _words(error: BaseException, before: str) -> str:
    said = " ".join(str(error).split())
    return f"{before}{said[:LONGEST]}{'...' if len(said) > LONGEST else ''}" if said else ""
