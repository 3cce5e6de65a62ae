"""Which apexflow this is: its version, and the commit of the checkout it runs from."""

from __future__ import annotations

import functools
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUR_LOGGERS = ("data", "models", "tasks", "flows")
CHANGED = "+changes"  # after a commit whose files have been edited since
GIT_LIMIT_S = 10.0


@functools.cache
def project_version() -> str:
    """'0.2.0', as pyproject.toml says: the checkout counts, not what was once installed."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return str(tomllib.load(file)["project"]["version"])


@functools.cache
def project_commit() -> str:
    """'1a2b3c4d5e6f', with '+changes' when tracked files differ; '' outside a git checkout."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return ""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}{CHANGED}" if changed else commit


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
