"""Before anything large is loaded: whether the address space that `ulimit -v` allows is enough.

Where it is not, native libraries end the process themselves, by a signal and without a word. What
they will need cannot be asked, so it was measured (docs/machines.md).
"""

from __future__ import annotations

import os
import resource
import sys

from flows.terminal import last_resort  # while there is memory
from flows.terminal.exit_codes import Exit

LEAST_MB = 2400  # `check` of four videos reserves 2300; below 800 a library ends in a segfault
RUN_MB = 4000  # a run of the demo reserves 3100 on two cores; it is more on more
LIGHT = {"--help", "--version"}


def said_of_limit(limit_mb: float) -> str:
    """What to say of an address space of so many megabytes; "" where it is enough for all."""
    allows = f"ulimit -v allows {limit_mb:.0f} MB of address space"
    instead = "`ulimit -v unlimited` takes the limit away; --memory bounds what a run uses."
    if limit_mb < LEAST_MB:
        return f"error: {allows}, and loading the libraries takes {LEAST_MB}. {instead}"
    if limit_mb < RUN_MB:
        return (
            f"warning: {allows}: not enough memory for every command. A run reserves up to {RUN_MB}"
            f" MB and may end without another word. {instead}"
        )
    return ""


def start() -> None:
    """The command line; a sentence where it cannot even be loaded."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = limit == resource.RLIM_INFINITY or LIGHT & set(sys.argv)
    limit_mb = float("inf") if unlimited else limit / 2**20
    said = said_of_limit(limit_mb)
    if said:
        print(said, file=sys.stderr)  # noqa: T201
    if limit_mb < LEAST_MB:
        sys.exit(Exit.FAILED)
    try:
        from flows.cli import main

        main()
    except MemoryError:
        os.write(2, b"error: no memory was left. What was finished is whole and kept.\n")
        os._exit(Exit.FAILED)
    except Exception as error:
        print(last_resort.sentence(error, "python -m flows"), file=sys.stderr)  # noqa: T201
        sys.exit(Exit.FAILED)
