"""A run's metrics table: what its family scores, and what every family is scored on beside it.

Scopes beside the family's own (columns name scope value low high chance majority count note):

    dataset:<name>   the pooled scores on one dataset's samples, where there are several; in one
                     dataset of people of several databases (imported pictures), on each database's
    choice:<how>     the scores under each way of choosing the epoch, where epochs are recorded;
                     the last epoch's are the headline, those called optimistic are no results
    epoch:<n>        pooled scores after n epochs
    seed:<s>         pooled scores of each seed, where there are several, and their spread
    samples:<what>   how many samples and people were scored, and the digest of their list

With several seeds every other value is the mean over them; an interval over people is that of the
mean, the same people being drawn for all seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.datasets.composite import (
    cd6me_differences,
    database_of,
    is_megc2019,
    megc_differences,
    sources,
)
from data.errors import StoreError
from data.stages.identity import stable_hash
from models.contract import Counted
from models.family import Family, family_of
from models.report.scores import test_samples
from models.runs.files import RunFiles, read_tables
from models.scores.bootstrap import mean_of_parts, subject_interval
from models.scores.epochs import choices, pooled_epochs
from models.scores.table import METRIC_COLUMNS, metric_row, metric_table
from models.targets import texts_of

Ints = npt.NDArray[np.int64]
SPREAD = "standard deviation"
FACTS = "apexflow_samples"  # in the metrics file's own metadata


@dataclass
class _Seed:
    """One seed's table, and the counts of people (P, ...) behind scopes that have an interval."""

    table: pd.DataFrame
    counts: dict[str, tuple[Counted, Ints]] = field(default_factory=dict)


def score_run(run: RunFiles) -> pd.DataFrame:
    """The metrics table. Raises StoreError for a fold that is not as its run recorded."""
    each = [_score_seed(one) for one in run.each_seed]
    seeds = run.recipe.each_seed
    table = each[0].table if len(each) == 1 else _over_seeds(each, seeds, _draws(run))
    rows = list(_sample_rows(sample_facts(run)))
    whole = pd.concat([table, metric_table(rows)], ignore_index=True)
    return whole.astype(METRIC_COLUMNS)


def _score_seed(run: RunFiles) -> _Seed:
    family, recipe = family_of(run.recipe), run.recipe
    whole, draws = family.count(run), _draws(run)
    found = _Seed(family.score(run), {"pooled": (whole, whole.counts)})
    rows: list[dict[str, Any]] = []
    if len(recipe.data) > 1:
        for dataset in sorted({sample.split(":", 1)[0] for sample in test_samples(run)}):
            try:
                part = family.count(run, dataset)
            except StoreError as error:
                if error.code != "nothing_scored":
                    raise
                rows += [
                    metric_row(name, f"dataset:{dataset}", np.nan, note="nothing of it was scored")
                    for name in whole.statistics(whole.counts.sum(axis=0))
                ]
                continue
            rows += _rows(f"dataset:{dataset}", part, part.counts, draws)
            found.counts[f"dataset:{dataset}"] = (part, part.counts)
    elif len(databases := sorted({database_of(person) for person in whole.people})) > 1:
        for name in databases:
            inside = [database_of(person) == name for person in whole.people]
            people = [p for p, own in zip(whole.people, inside, strict=True) if own]
            part = replace(whole, people=people, counts=whole.counts[inside])
            rows += _rows(f"dataset:{name}", part, part.counts, draws)
            found.counts[f"dataset:{name}"] = (part, part.counts)
    if recipe.epoch_scores.record:
        rows += _epoch_rows(run, family, whole, found)
    found.table = pd.concat([found.table, metric_table(rows)], ignore_index=True)
    return found


def _epoch_rows(
    run: RunFiles, family: Family, whole: Counted, found: _Seed
) -> Iterator[dict[str, Any]]:
    """Every way of choosing the epoch, and the pooled scores of every recorded epoch."""
    folds, inner = (
        [family.count_epochs(run.recipe, folder) for folder in folders]
        for folders in (run.folds, run.inner_folds)
    )
    for choice in choices(folds, inner, whole.people, whole.statistics):
        scope = f"choice:{choice.name}"
        found.counts[scope] = (whole, choice.counts)
        yield from _rows(scope, whole, choice.counts, _draws(run), choice.note)
    epochs, counts = pooled_epochs([fold for fold in folds if fold.epochs], whole.people)
    functions = whole.statistics(counts.sum(axis=(0, 1)))
    for epoch, own in zip(epochs, counts.sum(axis=1), strict=True):
        for name, function in functions.items():
            yield metric_row(name, f"epoch:{epoch}", float(function(own)), count=len(whole.people))


def _rows(
    scope: str, counted: Counted, per_person: Ints, draws: int, note: str = ""
) -> Iterator[dict[str, Any]]:
    """A row for each of the family's statistics, with its interval over people."""
    total = per_person.sum(axis=0)
    floors, said = counted.floors(total), "; ".join(filter(None, [note, counted.describe(total)]))
    for name, function in counted.statistics(total).items():
        interval = subject_interval(per_person, function, draws=draws)
        chance, majority = floors.get(name, (np.nan, np.nan))
        yield metric_row(
            name,
            scope,
            interval.value,
            low=interval.low,
            high=interval.high,
            chance=chance,
            majority=majority,
            count=len(counted.people),
            note=f"{said}; n is people",
        )


# ------------------------------------------------------------------------------------ several seeds


def _over_seeds(each: Sequence[_Seed], seeds: Sequence[int], draws: int) -> pd.DataFrame:
    """Means over the seeds' tables, the seeds' own pooled scores, and how far they lie apart."""
    stacked = pd.concat([one.table for one in each], ignore_index=True)
    rows = [
        _mean_row(str(name), str(scope), part, len(each))
        for (scope, name), part in stacked.groupby(["scope", "name"], sort=False)
    ]
    for row in rows:
        if all(row["scope"] in one.counts for one in each):
            _set_interval(row, [one.counts[row["scope"]] for one in each], draws)
    pooled = stacked[stacked.scope == "pooled"]
    for name, part in pooled.groupby("name", sort=False):
        values = part.value.to_numpy(np.float64)
        for seed, own in zip(seeds, part.to_dict("records"), strict=True):
            rows.append({**own, "scope": f"seed:{seed}"})
        rows.append(
            metric_row(
                str(name),
                f"seed:{SPREAD}",
                float(values.std(ddof=1)),
                low=float(values.min()),
                high=float(values.max()),
                count=len(values),
                note="in brackets the lowest and the highest seed; n is seeds",
            )
        )
    return metric_table(rows)


def _mean_row(name: str, scope: str, part: pd.DataFrame, seeds: int) -> dict[str, Any]:
    """One score's mean over the seeds; undefined when it is so for one of them."""
    means = {c: float(part[c].to_numpy(np.float64).mean()) for c in ("value", "chance", "majority")}
    notes = set(part.note.fillna(""))
    values = part.value.to_numpy(np.float64)
    said = [*(notes if len(notes) == 1 else ())]
    if scope.startswith(("choice:", "dataset:")) and not said:
        said.append("n is people")
    if scope == "pooled":
        said.append(f"mean of {seeds} seeds, standard deviation {values.std(ddof=1):.3f}")
    if len(part) < seeds:
        means["value"] = np.nan
        said.append(f"defined for {len(part)} of {seeds} seeds only")
    return metric_row(
        name,
        scope,
        means["value"],
        chance=means["chance"],
        majority=means["majority"],
        count=round(float(part["count"].mean())),
        note="; ".join(filter(None, said)),
    )


def _set_interval(row: dict[str, Any], parts: Sequence[tuple[Counted, Ints]], draws: int) -> None:
    """The interval of a mean over seeds: people are drawn, and all their seeds with them."""
    per_person = np.stack([counts for _, counts in parts], axis=1)  # (P, seeds, ...)
    functions = parts[0][0].statistics(per_person.sum(axis=(0, 1)))
    if row["name"] in functions:
        statistic = mean_of_parts(functions[row["name"]])
        interval = subject_interval(per_person, statistic, draws=draws)
        row["low"], row["high"] = interval.low, interval.high


# ---------------------------------------------------------------------------------- what was scored


def sample_facts(run: RunFiles) -> dict[str, Any]:
    """What was scored: counts, protocol and digests, for people and for comparisons."""
    recipe, samples = run.recipe, test_samples(run)
    column = recipe.network.samples.removesuffix("s")
    tables = [read_tables(run.workspace, (name,), f"{column}s") for name in recipe.data]
    table = pd.concat(tables, ignore_index=True)
    tested = table[(table.dataset + ":" + table[column]).isin(samples)]
    events = read_tables(run.workspace, recipe.data, "events")
    inside = (events.dataset + ":" + events[column]).isin(samples) & (events.type == "micro")
    micro = events[inside].assign(label=texts_of(events, recipe))
    parts = {"all": (tested, micro)}
    if len(recipe.data) > 1:
        for name in recipe.data:
            parts[name] = (tested[tested.dataset == name], micro[micro.dataset == name])
    elif len(databases := sorted(set(sources(tested)))) > 1:
        for name in databases:
            parts[name] = (tested[sources(tested) == name], micro[sources(micro) == name])
    facts: dict[str, Any] = {
        "sample_digest": stable_hash(sorted(samples))[:12],
        "split": recipe.split.kind,
        "split_digest": str(run.split["digest"])[:12],
        "labels": recipe.labels,
        "seeds": list(recipe.each_seed),
        "counts": {
            name: {
                "samples": len(own),
                "people": int(own.person.nunique()),
                "classes": {
                    str(k): int(n) for k, n in sorted(labelled.label.value_counts().items())
                },
            }
            for name, (own, labelled) in parts.items()
        },
    }
    if recipe.split.kind == "megc2019":
        rows = micro.assign(label_3=micro.label)
        facts["official"] = is_megc2019(rows)
        facts["differences"] = megc_differences(rows)
    if recipe.split.kind == "cd6me":
        facts["differences"] = cd6me_differences(micro)
    return facts


def _sample_rows(facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, counts in facts["counts"].items():
        classes = ", ".join(f"{label} {n}" for label, n in counts["classes"].items())
        said = f"{counts['people']} people; micro-expressions: {classes or 'none'}"
        if name == "all":
            said += f"; sample list {facts['sample_digest']}"
            if "official" in facts:
                said += (
                    f"; {'is' if facts['official'] else 'IS NOT'} the official list clip by clip"
                )
        n = counts["samples"]
        yield metric_row("samples", f"samples:{name}", float(n), count=n, note=said)


def metadata(run: RunFiles) -> dict[str, str]:
    """What the metrics file says of itself, as Parquet metadata."""
    return {FACTS: json.dumps(sample_facts(run), sort_keys=True)}


# ------------------------------------------------------------------------------------------ helpers


def _draws(run: RunFiles) -> int:
    return int(getattr(run.recipe.decode, "draws", 1000))
