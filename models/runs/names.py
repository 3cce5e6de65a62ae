"""Short names of runs: what a person types instead of WORKSPACE/runs/RECIPE/RUN_ID.

A run is named by as many first letters of its id as tell it from the workspace's others (at least
four), a forced repetition by its number behind them: d4f2, d4f2-2. Recipes that differ in their
name only have runs of one id, which are then named RECIPE/d4f2. A recipe's name stands for its
newest run. `find_run` takes paths too, and WORKSPACE/NAME from anywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from data.errors import ConfigError
from models.runs.history import read_history

SHORTEST = 4  # letters of an id
SHOWN = 8  # runs named in an error


def run_folders(workspace: Path) -> list[Path]:
    """Folders of a workspace's runs, oldest first."""
    found = [path.parent for path in (workspace / "runs").glob("*/*/recipe.json")]
    return sorted(found, key=lambda folder: (begun(folder), folder.parent.name, folder.name))


def begun(folder: Path) -> float:
    """When a run was begun, seconds since 1970: by its history, else by its recipe's file."""
    history = read_history(folder)
    if history:
        return datetime.fromisoformat(history[0].began).timestamp()
    return (folder / "recipe.json").stat().st_mtime


def short_names(folders: Iterable[Path]) -> dict[Path, str]:
    """Folder → short name, which is no beginning of another run's id, or has its recipe."""
    every = list(folders)
    ids = {folder: _split(folder.name) for folder in every}
    found = {}
    for folder, (own, repetition) in ids.items():
        others = {id_ for id_, _ in ids.values() if id_ != own}
        length = SHORTEST
        while any(other.startswith(own[:length]) for other in others) and length < len(own):
            length += 1
        twin = any(f.name == folder.name and f.parent.name != folder.parent.name for f in every)
        found[folder] = f"{folder.parent.name}/" * twin + own[:length] + repetition
    return found


def short_name(folder: Path) -> str:
    """The short name of one run among its workspace's."""
    workspace = folder.parent.parent.parent
    return short_names([*run_folders(workspace), folder])[folder]


def find_folder(text: str, workspace: Path | None = None) -> Path:
    """The folder of the run that `text` names.

    `text`: the folder's path, a name as above in `workspace` (else in the current folder), or
    WORKSPACE/NAME. Raises ConfigError saying which runs there are.
    """
    direct = Path(text)
    with suppress(OSError, ValueError, RuntimeError):  # no path: too long, a NUL, no home
        direct = direct.expanduser()
        if text and (direct / "recipe.json").is_file():
            return direct.absolute()
    where, name = _workspace_and_name(text, workspace)
    known = run_folders(where) if where is not None else []
    found = _matching(name, known)
    if len(found) == 1:
        return found[0].absolute()
    names = short_names(known)
    told = [f"{names[f]} ({f.parent.name})" for f in (found or known)[-SHOWN:]]
    if found:
        got = f"{len(found)} runs of that name: {', '.join(told)}"
        todo = "Type more of its id, or RECIPE/NAME."
    elif known:
        near = difflib.get_close_matches(name, {f.parent.name for f in known} | {*names.values()})
        got = f"none of that name; it holds {', '.join(told)}"
        todo = f"Did you mean {', '.join(near)}?" if near else f"See: python -m flows runs {where}"
    else:
        got = f"no recipe.json at {direct}" if where is None else f"no runs in {where}"
        todo = "List a workspace's runs with: python -m flows runs WORKSPACE"
    raise ConfigError(
        f"run {text}",
        expected="a run's folder, a name that `runs WORKSPACE` lists with --workspace, or "
        "WORKSPACE/NAME",
        got=got,
        todo=todo,
    )


def _workspace_and_name(text: str, workspace: Path | None) -> tuple[Path | None, str]:
    """Where a name is looked for: given, in front of it, or here."""
    if workspace is not None:
        return workspace, text
    parts = text.rstrip("/").split("/")
    for cut in (1, 2):  # WORKSPACE/NAME, WORKSPACE/RECIPE/NAME
        front = Path("/".join(parts[:-cut]) or "/") if len(parts) > cut else None
        with suppress(OSError, ValueError, RuntimeError):
            if front is not None and (front.expanduser() / "runs").is_dir():
                return front.expanduser(), "/".join(parts[-cut:])
    here = Path()
    return (here, text) if (here / "runs").is_dir() else (None, text)


def _matching(name: str, known: list[Path]) -> list[Path]:
    recipe, _, wanted = name.strip("/").rpartition("/")
    if not wanted:
        return []
    if not recipe and (own := [f for f in known if f.parent.name == wanted]):
        return own[-1:]
    start, repetition = _split(wanted)
    return [
        folder
        for folder in known
        if _split(folder.name)[0].startswith(start)
        and _split(folder.name)[1] == repetition
        and recipe in ("", folder.parent.name)
    ]


def _split(name: str) -> tuple[str, str]:
    """'d4f2e0-2' → ('d4f2e0', '-2')."""
    own, dash, repetition = name.rpartition("-")
    return (own, dash + repetition) if dash and repetition.isdigit() else (name, "")
