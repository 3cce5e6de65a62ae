"""A worker's run goes on printing when its worker has died.

A worker reads what its runs print. Once it is gone the next line has no reader, and a console
library answers that by ending the process: hours of computing, for a line in a log.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import sys
import threading

_CHUNK = 4096  # a pipe that is ready takes as much at once
_PATIENCE_MS = 1000  # for a reader that is stopped; then its lines are dropped


def outlive_reader() -> None:
    """Put a pipe of our own, with a reader that stays, before this process's output and errors.

    The reader passes everything on as long as somebody takes it. For the rest of the process's
    life; what is left at its end is passed on then.
    """
    for stream in (sys.stdout, sys.stderr):
        _put_before(stream.fileno())


def _put_before(number: int) -> None:
    theirs = os.dup(number)
    read, write = os.pipe()
    os.dup2(write, number)
    os.close(write)
    thread = threading.Thread(target=_pass_on, args=(read, theirs), name="output", daemon=True)
    thread.start()

    def give_back() -> None:
        with contextlib.suppress(OSError, ValueError):
            (sys.stdout if number == sys.stdout.fileno() else sys.stderr).flush()
        os.dup2(theirs, number)  # the last writer is gone: the reader comes to the end
        thread.join(_PATIENCE_MS / 1000)

    atexit.register(give_back)


def _pass_on(read: int, theirs: int) -> None:
    ready = select.poll()
    ready.register(theirs, select.POLLOUT)
    while text := os.read(read, _CHUNK):
        with contextlib.suppress(OSError):  # nobody reads any more
            if ready.poll(_PATIENCE_MS):
                os.write(theirs, text)
