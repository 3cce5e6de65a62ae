"""`make bench`: every measured claim of the README, one benchmark after another.

    python -m tests.benchmarks                 all of them, short settings
    python -m tests.benchmarks tvl1 align      only these
    python -m tests.benchmarks --list

Each benchmark is a script of its own with `--help`; options after `--` go to all that are run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the chosen benchmarks; the exit code is the number that failed."""
    known = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among: {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="only list them")
    own, _, passed = _split(sys.argv[1:])
    options = parser.parse_args(own)
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if options.list:
        print("\n".join(known))
        return 0
    failed = 0
    for name in options.names or known:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}", *passed]
        failed += subprocess.run(command, cwd=HERE.parent.parent, check=False).returncode != 0
    return failed


def _split(words: list[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in words:
        return words, "", []
    cut = words.index("--")
    return words[:cut], "--", words[cut + 1 :]


if __name__ == "__main__":
    sys.exit(main())
