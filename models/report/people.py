"""Person by person: what was tested, scored, dropped and left of head motion; and who stands out.

Group outliers are where a study goes wrong unseen: one lamp, one camera angle, one pair of glasses.
A person stands out by a residual far from the others' median (3.5 robust standard deviations), or
by a share (dropped units, right answers) whose 99.9 % interval leaves out that of all others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from data.errors import ApexflowError
from models.family import family_of
from models.report.scores import TITLES, number, test_samples

if TYPE_CHECKING:
    from models.runs.files import RunFiles

FEWEST = 5  # people: among fewer nobody can stand out
FAR = 3.5  # robust standard deviations
Z = 3.29  # of a two-sided 99.9 % interval
LEAST_PX = 0.05  # residuals closer than this are alike, however alike the others are
UNSURE = float("nan")


@dataclass(frozen=True)
class Person:
    """One person. Shares are (how many, of how many)."""

    name: str
    dataset: str
    tested: int
    right: tuple[int, int]  # right answers of all, or events found of all
    false_alarms: int | None
    dropped: tuple[int, int]  # units without data of all, over the preprocessing stages
    residual_px: float  # median over the videos, NaN where none was measured


def people(run: RunFiles) -> list[Person]:
    """Everybody who was tested, by dataset and name."""
    from models.runs.files import read_tables

    recipe, samples = run.recipe, test_samples(run)
    column = recipe.network.samples.removesuffix("s")
    found = []
    answers = _answers(run)
    for dataset in recipe.data:
        videos = read_tables(run.workspace, (dataset,), "videos")
        table = read_tables(run.workspace, (dataset,), f"{column}s")
        events = read_tables(run.workspace, (dataset,), "events")
        tested = table[(dataset + ":" + table[column]).isin(samples)]
        owner = dict(zip(videos.video, videos.person, strict=True))
        owner |= dict(zip(events.event, events.person, strict=True))
        residuals, units = _stages(run, dataset, owner)
        for person, rows in tested.groupby("person"):
            name = str(person)
            hits, of, alarms = answers.get((dataset, name), (0, 0, None))
            own = residuals.get(name, [])
            found.append(
                Person(
                    name.split(":", 1)[-1],
                    dataset,
                    len(rows),
                    (hits, of),
                    alarms,
                    units.get(name, (0, 0)),
                    median(own) if own else UNSURE,
                )
            )
    return found


def _answers(run: RunFiles) -> dict[tuple[str, str], tuple[int, int, int | None]]:
    """(dataset, person) → (right, of how many, false alarms); one may be in several datasets."""
    found: dict[tuple[str, str], tuple[int, int, int | None]] = {}
    try:
        if family_of(run.recipe).spots:
            from models.report.spotting import results_of

            for result in results_of(run)[0]:
                who = result.curves.dataset, result.curves.person
                hit, of, false = found.get(who, (0, 0, 0))
                hits = sum(int(i) >= 0 for i in result.gt_index)
                found[who] = (
                    hit + hits,
                    of + len(result.curves.truth.intervals),
                    (false or 0) + len(result.intervals) - hits,
                )
            return found
        table = run.predictions()
    except (ApexflowError, OSError):
        return {}
    for (dataset, person), rows in table.groupby(["dataset", "person"]):
        right = int((rows.label.astype(str) == rows.predicted.astype(str)).sum())
        found[str(dataset), str(person)] = (right, len(rows), None)
    return found


def _stages(
    run: RunFiles, dataset: str, owner: Mapping[str, str]
) -> tuple[dict[str, list[float]], dict[str, tuple[int, int]]]:
    """Person → residuals of alignment, and (units without data, units) of all stages."""
    residuals: dict[str, list[float]] = {}
    units: dict[str, tuple[int, int]] = {}
    for stage in run.recipe.stages[1:]:
        try:
            manifest = run.store(dataset, stage).manifest
        except (ApexflowError, OSError):
            continue
        for unit, status, counts in zip(
            manifest.unit, manifest.status, manifest.counts, strict=True
        ):
            person = owner.get(str(unit))
            if person is None:
                continue
            lost, of = units.get(person, (0, 0))
            units[person] = (lost + (status != "ok"), of + 1)
            value = json.loads(counts or "{}").get("residual_px")
            if stage == "align" and isinstance(value, int | float) and value == value:
                residuals.setdefault(person, []).append(float(value))
    return residuals, units


def outliers(everybody: list[Person], spots: bool) -> list[str]:
    """Sentences about who stands out, the plainest first; empty where nobody does."""
    if len(everybody) < FEWEST:
        return []
    said = []
    measured = [p for p in everybody if p.residual_px == p.residual_px]
    if len(measured) >= FEWEST:
        middle = median(p.residual_px for p in measured)
        spread = 1.4826 * median(abs(p.residual_px - middle) for p in measured)
        limit = max(FAR * spread, LEAST_PX)
        said += [
            f"{_who(p)}: alignment leaves {p.residual_px:.2f} px of head motion, the median "
            f"person {middle:.2f} px."
            for p in measured
            if p.residual_px - middle > limit
        ]
    answer = "found of the events" if spots else "right answers"
    for what, share in (("units without data", "dropped"), (answer, "right")):
        total = [getattr(p, share) for p in everybody]
        for person, (some, of) in zip(everybody, total, strict=True):
            others = sum(s for s, _ in total) - some, sum(n for _, n in total) - of
            if of and others[1] and _differs((some, of), others):
                said.append(
                    f"{_who(person)}: {some} of {of} {what} ({some / of:.0%}), all others "
                    f"{others[0] / others[1]:.0%}."
                )
    return said


def _who(person: Person) -> str:
    return f"{person.dataset} {person.name}"


def _differs(own: tuple[int, int], others: tuple[int, int]) -> bool:
    """Whether a share's 99.9 % interval (Wilson) leaves out the others' share."""
    low, high = wilson(*own)
    share = others[0] / others[1]
    return share < low or share > high


def wilson(some: int, of: int, z: float = Z) -> tuple[float, float]:
    """Interval of a share, `some` of `of`."""
    p, n = some / of, float(of)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def person_table(everybody: list[Person], spots: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the report's table; a dash where nothing was measured."""
    right = "Events found" if spots else "Right answers"
    head = ["Person", "Dataset", "Tested", right, "Dropped units", "Residual, px"]
    if spots:
        head.insert(4, "False alarms")
    rows = []
    for p in everybody:
        row = [p.name, p.dataset, str(p.tested), _share(p.right), _share(p.dropped, lost=True)]
        row.append(number(p.residual_px if p.residual_px == p.residual_px else None))
        if spots:
            row.insert(4, "–" if p.false_alarms is None else str(p.false_alarms))
        rows.append(row)
    return head, rows


def _share(share: tuple[int, int], *, lost: bool = False) -> str:
    some, of = share
    if not of:
        return "–"
    return f"{some} of {of}" if lost else f"{some} of {of} ({some / of:.0%})"


def score_note(spots: bool) -> str:
    """What the table's shares are, for the page."""
    name = TITLES["spotting_recall" if spots else "accuracy"][0].lower()
    return f"A person's own share says little alone ({name} of few samples); look for who differs."
