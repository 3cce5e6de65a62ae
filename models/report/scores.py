"""A run's scores put into words: scoreboard, verdict, limits, folds, classes, confusion matrices.

Works from the metrics table (name scope value low high chance majority count note) and the
predictions table; shared by the report, the UI pages and the terminal's scoreboard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.datasets.composite import sources
from data.schema import EVENTS

if TYPE_CHECKING:
    from models.runs.files import RunFiles

# Shown large: those of the first line that a run has any of.
HEADLINES = (("spotting_f1", "strs", "f1_of_means"), ("uf1", "uar", "accuracy"))
TITLES = {
    "uf1": ("UF1", "mean F1 over the classes, pooled over folds"),
    "uar": ("UAR", "mean recall over the classes, pooled over folds"),
    "accuracy": ("Accuracy", "share of samples whose class is right"),
    "f1_of_means": ("F1 of means", "harmonic mean of macro precision and macro recall"),
    "strs": ("STRS", "spotting F1 × F1 of the class on what was spotted"),
    "spotting_f1": ("Spotting F1", "intervals found, all videos pooled"),
    "spotting_precision": ("Spotting precision", "share of predicted intervals that are right"),
    "spotting_recall": ("Spotting recall", "share of annotated intervals that are found"),
    "precision": ("Precision", "share of what is predicted that is right"),
    "recall": ("Recall", "share of what is true that is found"),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "average_precision": ("AP", "area under the precision-recall curve"),
}
NOTED = (
    "errors",
    "megc",
    "baseline",
    "choice",
    "dataset",
    "seed",
)  # scopes whose notes say what their names mean
# "random intervals" is already the chance column; perfect intervals use the answers.
NOT_GUESSES = ("random intervals", "perfect intervals")
FEW_PEOPLE = 10
WIDE = 0.2  # an interval this wide or wider is called wide


@dataclass(frozen=True)
class Score:
    """One row of the metrics table, numbers or None."""

    name: str
    scope: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    majority: float | None
    count: int | None
    note: str
    baselines: tuple[tuple[float | None, str], ...] = ()

    @property
    def title(self) -> str:
        """The score's name for people."""
        return TITLES.get(self.name, (self.name.replace("_", " "), ""))[0]

    @property
    def meaning(self) -> str:
        """What the score says, in a few words; '' for a score unknown here."""
        return TITLES.get(self.name, ("", ""))[1]

    @property
    def interval(self) -> str:
        """'0.51–0.72', or '' without an interval."""
        if self.low is None or self.high is None:
            return ""
        return f"{number(self.low)}–{number(self.high)}"

    @property
    def guesses(self) -> list[tuple[float, str]]:
        """What is reached without learning, with its name; empty when nothing is recorded."""
        known = ((self.majority, "the majority class"), (self.chance, "chance"), *self.baselines)
        return [(v, t) for v, t in known if v is not None]


@dataclass(frozen=True)
class Verdict:
    """What may be said about a score. `tone`: above, unsure, below or open."""

    tone: str
    text: str


def number(value: float | None, digits: int = 2) -> str:
    """A number for people, '–' for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def scores(metrics: pd.DataFrame) -> list[Score]:
    """The metrics table's rows in its order; pooled ones know the baselines that need no labels."""
    rows = _rows(metrics)
    reached: dict[str, list[tuple[float | None, str]]] = {}
    for row in rows:
        kind, _, name = row.scope.partition(":")
        if kind == "baseline" and name not in NOT_GUESSES:
            reached.setdefault(row.name, []).append((row.value, name))
    return [
        replace(r, baselines=tuple(reached.get(r.name, ()))) if r.scope == "pooled" else r
        for r in rows
    ]


def _rows(metrics: pd.DataFrame) -> list[Score]:
    return [
        Score(
            name=str(row["name"]),
            scope=str(row["scope"]),
            value=_real(row.get("value")),
            low=_real(row.get("low")),
            high=_real(row.get("high")),
            chance=_real(row.get("chance")),
            majority=_real(row.get("majority")),
            count=None if _missing(row.get("count")) else int(row["count"]),
            note="" if _missing(row.get("note")) else str(row["note"]),
        )
        for row in metrics.to_dict("records")
    ]


def pooled(found: Iterable[Score]) -> list[Score]:
    """The scores over all folds together."""
    return [s for s in found if s.scope == "pooled"]


def headline(found: Iterable[Score]) -> list[Score]:
    """The pooled scores shown large, most telling first; the first two if none is known by name."""
    by_name = {s.name: s for s in pooled(found)}
    for names in HEADLINES:
        if chosen := [by_name[n] for n in names if n in by_name]:
            return chosen
    return list(by_name.values())[:2]


def verdict(score: Score) -> Verdict:
    """One plain sentence: is the score above what guessing gives?"""
    who = f"{score.title} {number(score.value)}"
    if score.value is None:
        return Verdict("open", f"{score.title} could not be computed. {score.note}".strip())
    if not score.guesses:
        return Verdict("open", f"{who}; no chance level is recorded beside it.")
    floor, name = max(score.guesses)
    known = ", ".join(f"{t.removeprefix('the ')} {number(v)}" for v, t in score.guesses)
    beside = f" ({known})"
    if score.value <= floor:
        return Verdict("below", f"{who} does not beat {name}{beside}.")
    if score.low is None:
        text = f"{who} is above {name}{beside}; without an interval that may be luck."
        return Verdict("unsure", text)
    if score.low > floor:
        text = f"{who} beats {name}{beside}: its whole 95 % interval, {score.interval}, lies above."
        return Verdict("above", text)
    text = (
        f"{who} is above {name}{beside}, but its 95 % interval reaches down to "
        f"{number(score.low)}: this run alone does not show it."
    )
    return Verdict("unsure", text)


def limits(run: RunFiles, found: list[Score]) -> list[str]:
    """What this run's size and protocol allow, one sentence each."""
    from models.runs.files import read_tables

    recipe, samples = run.recipe, test_samples(run)
    column = recipe.network.samples.removesuffix("s")
    table = read_tables(run.workspace, recipe.data, f"{column}s")
    tested = table[(table.dataset + ":" + table[column]).isin(samples)]
    people = tested.person.nunique()
    what = kind = {"events": "clips", "videos": "videos"}[recipe.network.samples]
    if recipe.network.samples == "videos":
        events = read_tables(run.workspace, recipe.data, "events")
        inside = (events.dataset + ":" + events.video).isin(samples) & (events.type == "micro")
        what += f" with {int(inside.sum())} micro-expressions"
    said = [f"{people} people and {len(tested)} {what} were tested.{_how_few(people, found)}"]
    said += [f"Scored: {s.count} {kind}, {s.note}." for s in found if s.scope == "samples:all"]
    seeds = recipe.each_seed
    if len(seeds) == 1:
        said.append(
            f"One seed ({seeds[0]}): another seed gives somewhat other scores; "
            "the interval covers the choice of people, not the choice of seed."
        )
    else:
        said.append(
            f"Scores are means over {len(seeds)} seeds ({', '.join(map(str, seeds))}); the "
            "interval covers the choice of people, the standard deviation the choice of seed. "
            "Pictures and confusion matrices are the first seed's."
        )
    return said


def _how_few(people: int, found: list[Score]) -> str:
    first = next(iter(headline(found)), None)
    width = 0.0
    if first is not None and first.low is not None and first.high is not None:
        width = first.high - first.low
    said = ""
    if people < 2:
        said = " With one person there is no interval over people at all."
    elif people < FEW_PEOPLE:
        said = f" That is few: an interval over {people} people is itself a rough guess."
    if first is not None and width >= WIDE:
        said += (
            f"{'' if said else ' That is few.'} The interval of {first.title} is {number(width)} "
            "wide, and differences smaller than that say nothing here."
        )
    return said


def test_samples(run: RunFiles) -> set[str]:
    """'dataset:id' of every sample that some fold tests."""
    return with_dataset(run, (i for fold in run.split["folds"].values() for i in fold["test"]))


def with_dataset(run: RunFiles, named: Iterable[str]) -> set[str]:
    """'dataset:id' of ids as the split names them.

    Samples of one dataset have plain ids (data.folds.event_ids).
    """
    data, ids = run.recipe.data, set(named)
    if len(data) > 1 and all(i.startswith(tuple(f"{d}:" for d in data)) for i in ids):
        return ids
    dataset = data[0] if len(data) == 1 else str(run.predictions().dataset.iloc[0])
    return {f"{dataset}:{i}" for i in ids}


def fold_table(run: RunFiles, found: list[Score]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row per fold with who is held out, sizes and the fold's scores."""
    names = list(dict.fromkeys(s.name for s in found if s.scope.startswith("fold:")))
    value = {(s.scope.removeprefix("fold:"), s.name): s for s in found}
    header = ["Fold", "Train", "Test", *(TITLES.get(n, (n, ""))[0] for n in names)]
    rows = []
    for fold, sides in run.split["folds"].items():
        line = [fold, str(len(sides["train"])), str(len(sides["test"]))]
        for name in names:
            score = value.get((fold, name))
            line.append(number(score.value) if score else "–")
        rows.append(line)
    return header, rows


def scope_table(found: list[Score], prefix: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores whose scope is 'prefix:NAME': one row per NAME.

    A score with an interval shows it; the last column is n. Under a name, what its scores note.
    """
    chosen = [s for s in found if s.scope.startswith(f"{prefix}:")]
    names = list(dict.fromkeys(s.name for s in chosen))
    value = {(s.scope, s.name): s for s in chosen}
    header = [TITLES.get(n, (n.replace("_", " "), ""))[0] for n in names]
    noted = prefix in NOTED
    rows = []
    for scope in dict.fromkeys(s.scope for s in chosen):
        cells = [value.get((scope, n)) for n in names]
        counts = [c.count for c in cells if c is not None and c.count is not None]
        name = scope.removeprefix(f"{prefix}:").replace("_", " ")
        note = next((c.note for c in cells if c is not None and c.note), "") if noted else ""
        row = [f"{name}\n{note}" if note else name]
        row += [_with_interval(c) for c in cells]
        rows.append([*row, str(max(counts)) if counts else "–"])
    return ["", *header, "n"], rows


def _with_interval(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{number(score.value)} ({score.interval})" if score.interval else number(score.value)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: row = true class, column = predicted class."""

    title: str
    labels: list[str]
    counts: list[list[int]]

    @property
    def shares(self) -> list[list[float]]:
        """Counts over their row's sum; 0 in an empty row."""
        return [[c / max(1, sum(row)) for c in row] for row in self.counts]

    @property
    def total(self) -> int:
        """Samples in the matrix."""
        return sum(map(sum, self.counts))


def confusions(predictions: pd.DataFrame, labels: list[str] | None = None) -> list[Confusion]:
    """All datasets (or databases of people) together, then each alone when there are several.

    predictions: columns dataset, person, label, predicted; rows without the last two are left out.
    """
    table = predictions.dropna(subset=["label", "predicted"])
    if table.empty:
        return []
    names = labels or sorted({*table.label.astype(str), *table.predicted.astype(str)})
    parts = [("All folds together", table)]
    origin = sources(table)
    if origin.nunique() > 1:
        parts += [(f"{name} alone", part) for name, part in table.groupby(origin)]
    found = []
    for title, part in parts:
        counts = pd.crosstab(part.label.astype(str), part.predicted.astype(str))
        counts = counts.reindex(index=names, columns=names, fill_value=0)
        found.append(Confusion(str(title), names, counts.astype(int).to_numpy().tolist()))
    return found


def label_word(recipe_labels: str) -> str:
    """'label_3' → '3 classes', 'aus' → 'action units'; other names as they are."""
    if recipe_labels == "aus":
        return "action units"
    if recipe_labels not in EVENTS or not recipe_labels.startswith("label_"):
        return recipe_labels.replace("_", " ")
    return f"{recipe_labels.removeprefix('label_')} classes"


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _real(value: Any) -> float | None:
    return None if _missing(value) else float(value)
