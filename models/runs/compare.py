"""Runs side by side: their scores, and the difference of every pair with its interval.

Two runs are compared on the same people, drawn together (paired bootstrap), which cancels what
makes a person hard for both. Runs that were not scored on the same samples, under the same labels
and the same folds, are refused with the reason: their scores do not mean the same. What is compared
is the headline, the last epoch's scores, as means over seeds where a run has several.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import ApexflowError, ConfigError
from data.stages.identity import stable_hash
from models.contract import Counted
from models.family import family_of
from models.report.choices import gap_sentence, main_name, nested_sentence
from models.report.data import protocol, sample_digest
from models.report.scores import TITLES, Score, headline, number, pooled, scores, test_samples
from models.runs.files import RunFiles
from models.scores.bootstrap import Difference, mean_of_parts, paired_difference

Counts = npt.NDArray[np.int64]
SHOWN_IDS = 5


@dataclass(frozen=True)
class RunPair:
    """Score of run `a` minus score of run `b` (positions in the list of runs)."""

    score: str
    a: int
    b: int
    difference: Difference

    @property
    def sentence(self) -> str:
        """What the interval allows to say."""
        d = self.difference
        title = TITLES.get(self.score, (self.score, ""))[0]
        said = f"{title}: run {self.a + 1} − run {self.b + 1} = {d.value:+.3f}"
        if not d.draws:
            return f"{said}; no interval with fewer than two people"
        said += f" ({d.low:+.3f} to {d.high:+.3f})"
        if d.low > 0 or d.high < 0:
            better = self.a if d.low > 0 else self.b
            return f"{said}; run {better + 1} is better, the interval excludes 0"
        return f"{said}; not distinguishable on these people"


@dataclass(frozen=True)
class Comparison:
    """Several runs on one sample list."""

    runs: list[dict[str, Any]]
    pairs: list[RunPair]
    seeds: list[dict[str, Any]]
    protocol: str
    people: int
    samples: int
    decoders: list[str]  # how decoding differs, in words

    def to_text(self) -> str:
        """For a terminal."""
        lines = [f"{self.samples} samples of {self.people} people. {self.protocol}", ""]
        for number_, run in enumerate(self.runs, start=1):
            values = ", ".join(_score_text(name, s) for name, s in run["scores"].items())
            seeds = ", ".join(map(str, run["seeds"]))
            word = "seed" if len(run["seeds"]) == 1 else "mean over the seeds"
            lines.append(f"run {number_}: {run['recipe']}/{run['run_id']} ({word} {seeds})")
            lines.append(f"       {values}")
            lines += [f"       {text}" for text in run["beside"]]
        lines += self.decoders
        lines += ["", "Differences, 95 % interval by paired bootstrap over people:"]
        lines += [f"  {pair.sentence}" for pair in self.pairs]
        for group in self.seeds:
            values = ", ".join(
                f"{TITLES.get(n, (n, ''))[0]} {v['mean']:.3f} ± {v['std']:.3f}"
                for n, v in group["scores"].items()
            )
            lines.append(f"Over the seeds {group['seeds']} (mean ± standard deviation): {values}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""
        pairs = [
            {
                "score": p.score,
                "a": p.a,
                "b": p.b,
                **{
                    name: _plain(getattr(p.difference, name))
                    for name in ("value", "low", "high", "share_above", "draws")
                },
                "sentence": p.sentence,
            }
            for p in self.pairs
        ]
        return {
            "runs": self.runs,
            "differences": pairs,
            "seeds": self.seeds,
            "protocol": self.protocol,
            "people": self.people,
            "samples": self.samples,
            "decoders": self.decoders,
        }


def compare(runs: list[RunFiles]) -> Comparison:
    """Compare at least two scored runs.

    Raises ConfigError: `too_few_runs`, or `not_comparable` naming what differs (model family,
    labels, samples, folds, number of seeds, true labels, classes, scoring rules).
    """
    if len(runs) < 2:
        raise ConfigError(
            "compare", expected="at least two runs", got=str(len(runs)), code="too_few_runs"
        )
    for other in runs[1:]:
        _check_same_protocol(runs[0], other)
    each = [[family_of(run.recipe).count(one) for one in run.each_seed] for run in runs]
    counted = [seeds[0] for seeds in each]
    for counts, run in zip(counted[1:], runs[1:], strict=True):
        _check_same_truth(runs[0], run, counted[0], counts)
    stacks = [np.stack([one.counts for one in seeds], axis=1) for seeds in each]  # (P, seeds, ...)
    pairs = []
    for a, b in combinations(range(len(runs)), 2):
        total = stacks[a].sum(axis=(0, 1)) + stacks[b].sum(axis=(0, 1))
        for name, statistic in counted[a].statistics(total).items():
            difference = paired_difference(stacks[a], stacks[b], mean_of_parts(statistic))
            pairs.append(RunPair(name, a, b, difference))
    facts = [_facts(run) for run in runs]
    return Comparison(
        facts,
        pairs,
        _over_seeds(runs, facts),
        protocol(runs[0])[0],
        len(counted[0].people),
        len(test_samples(runs[0])),
        _decoders(runs),
    )


def comparable(a: RunFiles, b: RunFiles) -> bool:
    """Whether `compare` takes two scored runs: one protocol, one truth; nothing damaged."""
    try:
        _check_same_protocol(a, b)
        _check_same_truth(a, b, *(family_of(run.recipe).count(run) for run in (a, b)))
    except ApexflowError:
        return False
    return True


def _check_same_truth(a: RunFiles, b: RunFiles, one: Counted, two: Counted) -> None:
    if one.classes != two.classes:
        raise _differs(a, b, "classes", ", ".join(one.classes), ", ".join(two.classes))
    if one.truth != two.truth:
        raise _differs(a, b, "true labels", "the same ones", "others: ingest again")


def _check_same_protocol(a: RunFiles, b: RunFiles) -> None:
    one, two = a.recipe, b.recipe
    families = [family_of(recipe) for recipe in (one, two)]
    if families[0].name != families[1].name:
        raise _differs(a, b, "kind of model", families[0].name, families[1].name)
    if one.labels != two.labels:
        raise _differs(a, b, "labels", one.labels, two.labels)
    first, second = test_samples(a), test_samples(b)
    if first != second:
        only = [sorted(first - second), sorted(second - first)]
        got = "; ".join(
            f"{len(ids)} only in run {n}, such as {', '.join(ids[:SHOWN_IDS])}"
            for n, ids in enumerate(only, start=1)
            if ids
        )
        raise _differs(a, b, "sample list", f"one ({sample_digest(a)})", got)
    if a.split["digest"] != b.split["digest"]:
        names = [f"{r.recipe.split.kind}, {len(r.split['folds'])} folds" for r in (a, b)]
        raise _differs(a, b, "folds", names[0], f"{names[1]} (other training sets)")
    seeds = [list(recipe.each_seed) for recipe in (one, two)]
    if len(seeds[0]) != len(seeds[1]):
        raise _differs(a, b, "number of seeds", f"{len(seeds[0])}: {seeds[0]}", f"{seeds[1]}")
    rules = [family.rules(recipe) for family, recipe in zip(families, (one, two), strict=True)]
    unlike = {name for name in rules[0] if rules[0][name] != rules[1].get(name)}
    if unlike:
        shown = [", ".join(f"{n} {own.get(n)}" for n in sorted(unlike)) for own in rules]
        raise _differs(a, b, "scoring rules", shown[0], shown[1])


def _differs(a: RunFiles, b: RunFiles, what: str, expected: str, got: str) -> ConfigError:
    return ConfigError(
        f"compare {a.folder.name} with {b.folder.name}, {what}",
        expected=expected,
        got=got,
        todo="Scores of different protocols do not mean the same; run both under one.",
        code="not_comparable",
    )


def _decoders(runs: list[RunFiles]) -> list[str]:
    """How runs decode otherwise where the rules allow it: then not only the networks differ."""
    plain = [run.recipe.decode.model_dump(mode="json", exclude={"draws"}) for run in runs]
    names = [n for n in plain[0] if any(own.get(n) != plain[0][n] for own in plain)]
    return [
        f"Decoded otherwise, decode.{name}: {', '.join(str(own.get(name)) for own in plain)}"
        for name in names
    ]


def _facts(run: RunFiles) -> dict[str, Any]:
    recipe, found = run.recipe, scores(run.metrics())
    return {
        "recipe": recipe.name,
        "run_id": run.folder.name,
        "model": recipe.network_name,
        "seed": recipe.each_seed[0],
        "seeds": list(recipe.each_seed),
        "scores": {s.name: {"value": s.value, "low": s.low, "high": s.high} for s in pooled(found)},
        "choices": {
            s.scope.removeprefix("choice:"): {
                "score": s.name,
                "value": s.value,
                "low": s.low,
                "high": s.high,
            }
            for s in found
            if s.scope.startswith("choice:") and s.name == main_name(found)
        },
        "beside": list(filter(None, [_spread(found), nested_sentence(found), gap_sentence(found)])),
    }


def _spread(found: list[Score]) -> str:
    """How far a run's seeds lie apart, in words; '' with one seed."""
    words = [
        f"{s.title} {number(s.value, 3)} ({number(s.low, 3)} to {number(s.high, 3)})"
        for s in found
        if s.scope == "seed:standard deviation" and s.name in {h.name for h in headline(found)}
    ]
    return f"Standard deviation over seeds: {', '.join(words)}" if words else ""


def _over_seeds(runs: list[RunFiles], facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of runs that differ in nothing but their seed."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run, fact in zip(runs, facts, strict=True):
        plain = run.recipe.model_dump(
            mode="json", exclude={"seed", "seeds", "name", "about", "expected"}
        )
        groups.setdefault(stable_hash(plain), []).append(fact)
    found = []
    for group in groups.values():
        seeds = [fact["seed"] for fact in group]
        if len(set(seeds)) < 2 or any(len(fact["seeds"]) > 1 for fact in group):
            continue
        names = [n for n, s in group[0]["scores"].items() if s["value"] is not None]
        values = {n: np.array([f["scores"][n]["value"] for f in group], float) for n in names}
        found.append(
            {
                "seeds": seeds,
                "scores": {
                    n: {"mean": float(v.mean()), "std": float(v.std(ddof=1))}
                    for n, v in values.items()
                },
            }
        )
    return found


def _score_text(name: str, score: dict[str, Any]) -> str:
    title = TITLES.get(name, (name, ""))[0]
    text = f"{title} {number(score['value'], 3)}"
    if score["low"] is None or score["high"] is None:
        return text
    return f"{text} ({number(score['low'])}–{number(score['high'])})"


def _plain(value: float) -> float | None:
    return None if value != value else value
