"""A workspace's runs in a table: when each was made, what it reached, in what it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from data.errors import ApexflowError
from models.report.scores import Score, headline, number, scores
from models.runs.compare import comparable
from models.runs.files import RunFiles, done_folds
from models.runs.history import Session, read_history
from models.runs.names import begun, run_folders, short_names

ABSENT = "–"
TOLD = 3  # differing settings shown in a table's cell
SAID_ELSEWHERE = ("name", "about", "expected")  # recipe keys that have a column, or no effect


@dataclass(frozen=True)
class Listed:
    """One run. `differs`: dotted settings in which runs of its recipe are not all alike."""

    name: str
    folder: Path
    recipe: str
    network: str
    data: tuple[str, ...]
    split: str
    seeds: tuple[int, ...]
    folds: int
    folds_trained: int
    made: str  # local time of its first session
    seconds: float | None  # of all sessions; None where none is recorded
    scores: list[Score] = field(default_factory=list)
    differs: dict[str, Any] = field(default_factory=dict)
    history: list[Session] = field(default_factory=list)
    problem: str = ""  # why it cannot be read whole

    @property
    def state(self) -> str:
        """'scored', or how many folds are trained."""
        if self.problem:
            return "damaged"
        return "scored" if self.scores else f"{self.folds_trained} of {self.folds} folds"

    def row(self) -> dict[str, str]:
        """For a table."""
        settings = [f"{key}={value}" for key, value in self.differs.items()]
        more = f" +{len(settings) - TOLD}" if len(settings) > TOLD else ""
        return {
            "run": self.name,
            "made": self.made,
            "recipe": self.recipe,
            "data": "+".join(self.data),
            "scores (95 % interval; chance)": _told(self.scores) or self.state,
            "differs in": (" ".join(settings[:TOLD]) + more) or ABSENT,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "recipe": self.recipe,
            "network": self.network,
            "data": list(self.data),
            "split": self.split,
            "seed": next(iter(self.seeds), 0),
            "seeds": list(self.seeds),
            "folds": self.folds,
            "folds_trained": self.folds_trained,
            "state": self.state,
            "made": self.made,
            "seconds": self.seconds,
            "scores": {
                s.name: {"value": s.value, "low": s.low, "high": s.high, "chance": s.chance}
                for s in self.scores
            },
            "differs": self.differs,
            "history": [vars(session) for session in self.history],
            "problem": self.problem,
        }


def list_runs(workspace: Path, recipe: str | None = None) -> list[Listed]:
    """A workspace's runs, oldest first; of one recipe where it is named."""
    folders = run_folders(workspace)
    names = short_names(folders)
    chosen = [f for f in folders if recipe in (None, f.parent.name)]
    settings = {folder: _settings(folder) for folder in chosen}
    found = []
    for folder in chosen:
        alike = [settings[f] for f in chosen if f.parent.name == folder.parent.name]
        found.append(_listed(folder, names[folder], _differing(settings[folder], alike)))
    return found


def side_by_side(found: list[Listed]) -> tuple[Listed, Listed] | None:
    """The newest scored run and the newest one before it that `compare` takes with it."""
    scored = [run for run in found if run.state == "scored"]
    if not scored:
        return None
    last = RunFiles(scored[-1].folder)
    earlier = (run for run in reversed(scored[:-1]) if comparable(RunFiles(run.folder), last))
    one = next(earlier, None)
    return None if one is None else (one, scored[-1])


def score_history(workspace: Path) -> list[dict[str, str]]:
    """A row for each headline score of each scored run, the newest run first."""
    return [
        {
            "made": run.made,
            "recipe": run.recipe,
            "run": run.name,
            "score": score.title,
            "value": number(score.value, 3),
            "95 % interval": score.interval or ABSENT,
            "chance": number(score.chance),
            "differs in": ", ".join(f"{k}={v}" for k, v in run.differs.items()) or ABSENT,
        }
        for run in reversed(list_runs(workspace))
        for score in run.scores
    ]


def _listed(folder: Path, name: str, differs: dict[str, Any]) -> Listed:
    run, history = RunFiles(folder), read_history(folder)
    common: dict[str, Any] = {
        "name": name,
        "folder": folder,
        "made": f"{datetime.fromtimestamp(begun(folder)):%Y-%m-%d %H:%M}",
        "seconds": sum(s.seconds for s in history) if history else None,
        "history": history,
        "differs": differs,
    }
    try:
        recipe, folds = run.recipe, len(run.split["folds"])
    except (ApexflowError, LookupError) as error:
        unknown: dict[str, Any] = {"network": "", "data": (), "split": "", "seeds": ()}
        return Listed(
            **common,
            **unknown,
            recipe=folder.parent.name,
            folds=0,
            folds_trained=0,
            problem=str(error),
        )
    try:
        found = headline(scores(run.metrics()))
    except ApexflowError:
        found = []
    return Listed(
        **common,
        recipe=recipe.name,
        network=recipe.network_name,
        data=recipe.data,
        split=recipe.split.kind,
        seeds=recipe.each_seed,
        folds=folds,
        folds_trained=len(done_folds(folder)),
        scores=found,
    )


def _told(found: list[Score]) -> str:
    """'UF1 0.62 (0.51–0.72; 0.33), UAR 0.60'."""
    parts = []
    for score in found[:2]:
        beside = [score.interval or "no interval"]
        beside += [number(score.chance)] if score.chance is not None else []
        parts.append(f"{score.title} {number(score.value)} ({'; '.join(beside)})")
    return ", ".join(parts)


def _settings(folder: Path) -> dict[str, Any]:
    """A run's recipe as dotted keys; empty when it cannot be read."""
    try:
        plain = RunFiles(folder).recipe.model_dump(mode="json")
    except ApexflowError:
        return {}
    return {k: v for k, v in flat(plain).items() if k not in SAID_ELSEWHERE}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _differing(own: Mapping[str, Any], alike: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a run's settings those that are not the same in all of `alike` that could be read."""
    others = [one for one in alike if one]
    return {
        key: value
        for key, value in sorted(own.items())
        if any(other.get(key) != value for other in others)
    }
