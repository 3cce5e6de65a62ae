"""`python -m tasks.cluster.batch`: a batch job's worker, with the words dask-jobqueue gives it.

It is `python -m flows worker` in other words; it replaces the job's shell, so that the signal which
a batch system sends before the wall time ends reaches it.
"""

from __future__ import annotations

import argparse
import sys

from data.errors import ApexflowError
from data.stages.limits import parse_memory
from tasks.cluster.worker import PATIENCE_S, serve


def main(words: list[str] | None = None) -> int:
    """Serve the scheduler that the words name; 0, or 1 with the reason on the error output."""
    parser = argparse.ArgumentParser(prog="tasks.cluster.batch")
    parser.add_argument("scheduler")
    parser.add_argument("--name")
    parser.add_argument("--nthreads", type=int, default=0)
    parser.add_argument("--memory-limit", default="")
    parser.add_argument("--death-timeout", type=float, default=PATIENCE_S)
    parser.add_argument("--device", default="auto")
    said, unknown = parser.parse_known_args(words)
    if unknown:
        print(f"not used: {' '.join(unknown)}", file=sys.stderr)  # noqa: T201 (a job's log)
    try:
        serve(
            said.scheduler,
            workers=said.nthreads,
            memory_bytes=parse_memory(said.memory_limit),
            device=said.device,
            name=said.name,
            patience_s=said.death_timeout,
        )
    except ApexflowError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
