"""The metrics table of an ME-TST run: headline, variants, baselines, errors.

Scopes of the rows (columns name scope value low high chance majority count note):

    pooled              the recipe's protocol, with intervals over people
    videos:...          over videos with micro-expressions only (as published), and over all
    fold:<id>           spotting_f1 and strs of one fold (no interval: one subject has none)
    class:<emotion>     recall, precision and F1 of an emotion on the matched events
    variant:...         other decodings of the same curves: strategies 0-2, the authors' protocol
    baseline:...        thresholded motion, random intervals, perfect intervals with voted emotion
    errors:...          how many events and intervals went wrong, and how
    iou:<t>             spotting F1 and average precision at other overlaps; 0.5:0.95 is a mean
    megc:<dataset> ...  the challenge's counts over all videos: micro, macro, overall
    unit:<AU>           spotting_recall of the events with that action unit, where sheets have units
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import metrics
from models.scores.baselines import perfect_intervals, random_intervals, threshold_motion
from models.scores.bootstrap import group_counts, subject_interval
from models.scores.spotting import (
    MEGC_OFFICIAL,
    Protocol,
    VideoCurves,
    VideoResult,
    average_precision,
    errors,
    evaluate,
    megc_counts,
    megc_overall,
    recognition_of,
    scored_classes,
    spotting_of,
    statistics,
    total,
)
from models.scores.table import metric_row, metric_table
from models.targets import numbers_of, unit_text

HEADLINE = ("spotting_f1", "strs")
BRIEF = ("spotting_f1", "spotting_precision", "spotting_recall", "f1_of_means", "strs")
RECOGNITION = ("f1_of_means", "uf1", "uar", "accuracy")
IOUS = (0.3, 0.5, 0.7)
WHOLE = 0.8  # share of the official events from which data count as the whole dataset
COCO_IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def score_table(
    curves: Sequence[VideoCurves], protocol: Protocol, *, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """All scores of a run from its folds' curves."""
    classes = scored_classes(c.dataset for c in curves)
    results = evaluate(curves, protocol)
    chance = random_intervals(results, protocol, classes, seed)
    rows = _pooled(results, chance, classes, draws, seed)
    rows += _videos(curves, protocol, classes, draws, seed)
    for fold in sorted({r.curves.fold for r in results}):
        part = [r for r in results if r.curves.fold == fold]
        rows += _rows(part, f"fold:{fold}", classes, HEADLINE)
    rows += _classes(results, classes)
    rows += _variants(curves, protocol, classes)
    rows += _baselines(curves, protocol, classes, draws, seed)
    note = "as many intervals per video as the network predicts; mean of draws"
    rows += [
        metric_row(
            name, "baseline:random intervals", chance[name], count=_events(results), note=note
        )
        for name in BRIEF
    ]
    rows += _errors(results, classes)
    for iou in IOUS:
        found = evaluate(curves, replace(protocol, iou=iou))
        rows += _rows(found, f"iou:{iou}", classes, ("spotting_f1",))
        value = average_precision(found, iou)
        rows.append(metric_row("average_precision", f"iou:{iou}", value, count=_events(found)))
    mean = float(np.mean([average_precision(results, iou) for iou in COCO_IOUS]))
    rows.append(metric_row("average_precision", "iou:0.5:0.95", mean, count=_events(results)))
    rows += _megc(results)
    return metric_table(rows)


def _pooled(
    results: Sequence[VideoResult],
    chance: dict[str, float],
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Headline rows with intervals, chance and majority."""
    rows = _rows(results, "pooled", classes, tuple(statistics(classes)), (draws, seed))
    guess, majority = _guessed(total(results), classes, seed)
    dropped = sorted({d for r in results for d in r.curves.truth.dropped})
    for row in rows:
        name = row["name"]
        row["chance"] = guess.get(name, chance.get(name, float("nan")))
        row["majority"] = majority.get(name, float("nan"))
        if dropped and name == "spotting_f1":
            row["note"] += f"; {len(dropped)} events left out: " + ", ".join(
                f"{e} ({r})" for e, r in dropped[:5]
            )
    return rows


def _guessed(
    counts: npt.NDArray[Any], classes: Sequence[str], seed: int, draws: int = 200
) -> tuple[dict[str, float], dict[str, float]]:
    """Recognition scores of a uniform guess (mean of draws) and of the most frequent class."""
    confusion = counts[3:].reshape(4, 5)
    support = confusion.sum(axis=1)
    rng = np.random.default_rng([seed, 2])

    def scores(guessed: npt.NDArray[Any]) -> list[float]:
        flat = np.concatenate([counts[:3], guessed.ravel()])
        found = recognition_of(flat, classes)
        return [float(getattr(found, name)) for name in RECOGNITION]

    share = np.full(len(classes), 1 / len(classes))
    drawn = []
    for _ in range(draws):
        guessed = np.zeros_like(confusion)
        guessed[:, : len(classes)] = [rng.multinomial(n, share) for n in support]
        drawn.append(scores(guessed))
    most = np.zeros_like(confusion)
    most[:, int(support[: len(classes)].argmax())] = support
    means = np.nanmean(drawn, axis=0) if support.any() else np.full(len(RECOGNITION), np.nan)
    return (
        dict(zip(RECOGNITION, means.tolist(), strict=True)),
        dict(zip(RECOGNITION, scores(most), strict=True)),
    )


def _videos(
    curves: Sequence[VideoCurves],
    protocol: Protocol,
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Both figures: over videos with micro-expressions only, as published, and over all."""
    rows = []
    for scope, only in (("with micro-expressions", True), ("all", False)):
        results = evaluate(curves, replace(protocol, only_with_events=only))
        rows += _rows(results, f"videos:{scope}", classes, BRIEF, (draws, seed))
    return rows


def _classes(results: Sequence[VideoResult], classes: Sequence[str]) -> list[dict[str, Any]]:
    found = recognition_of(total(results), classes)
    support = found.confusion.sum(axis=1) + found.other
    return [
        metric_row(key, f"class:{name}", float(values[i]), count=int(support[i]))
        for i, name in enumerate(classes)
        for key, values in (
            ("recall", found.recall),
            ("precision", found.precision),
            ("f1", found.f1),
        )
    ]


def _variants(
    curves: Sequence[VideoCurves], protocol: Protocol, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The same curves, decoded otherwise; weights are trained alike for strategies 1 and 2."""
    authors = replace(
        protocol, stitch="authors", matcher="authors", k_p="global", only_with_events=True
    )
    variants = {
        **{f"strategy {s}": replace(protocol, strategy=s) for s in (0, 1, 2)},
        "authors' stitching": replace(protocol, stitch="authors"),
        "k_p of all subjects": replace(protocol, k_p="global"),
        **{f"authors' protocol, strategy {s}": replace(authors, strategy=s) for s in (1, 2)},
        "clean protocol": Protocol(p=protocol.p, iou=protocol.iou, strategy=protocol.strategy),
    }
    rows = []
    for name, variant in variants.items():
        rows += _rows(evaluate(curves, variant), f"variant:{name}", classes, BRIEF)
    return rows


def _baselines(
    curves: Sequence[VideoCurves],
    protocol: Protocol,
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    thresholded = threshold_motion(curves, protocol)
    perfect = perfect_intervals(curves, protocol)
    rows = _rows(thresholded, "baseline:thresholded motion", classes, BRIEF, (draws, seed))
    return rows + _rows(perfect, "baseline:perfect intervals", classes, BRIEF, (draws, seed))


def _errors(results: Sequence[VideoResult], classes: Sequence[str]) -> list[dict[str, Any]]:
    events, intervals = _events(results), sum(len(r.intervals) for r in results)
    matched = sum(int((r.gt_index >= 0).sum()) for r in results)
    of = {
        "missed": (events, "events that no interval touches"),
        "shifted": (events, "events touched, but below the overlap bound"),
        "false": (intervals, "intervals that touch no micro-expression"),
        "false_macro": (intervals, "of these, on a macro-expression"),
        "near": (intervals, "intervals that touch an event they do not match"),
        "wrong_emotion": (matched, "matched events with another emotion voted"),
    }
    return [
        metric_row("share", f"errors:{kind}", n / max(1, of[kind][0]), count=n, note=of[kind][1])
        for kind, n in errors(results, classes).items()
    ]


def unit_rows(
    results: Sequence[VideoResult], aus: Mapping[tuple[str, str], str | None]
) -> list[dict[str, Any]]:
    """How many of the events with each action unit were found: (dataset, event) → units' text.

    One row a unit of CD6ME that any event has; none where no sheet says units.
    """
    found: Counter[int] = Counter()
    there: Counter[int] = Counter()
    for result in results:
        hit = set(result.gt_index[result.gt_index >= 0].tolist())
        for number, event in enumerate(result.curves.truth.events):
            text = unit_text(aus.get((result.curves.dataset, event)))
            for unit in numbers_of(text) if text is not None else ():
                there[unit] += 1
                found[unit] += number in hit
    return [
        metric_row(
            "spotting_recall",
            f"unit:AU{unit}",
            found[unit] / n,
            count=n,
            note=f"{found[unit]} of {n} events found",
        )
        for unit, n in sorted(there.items())
    ]


def _megc(results: Sequence[VideoResult]) -> list[dict[str, Any]]:
    """The challenge's counts over all videos, one to one at IoU 0.5: micro, macro and together.

    The network spots micro-expressions only, so every macro-expression is a miss. Where the
    official list has more events than the (whole) dataset read, more rows count the rest as missed.
    """
    rows = []
    for dataset in sorted({r.curves.dataset for r in results}):
        part = [r for r in results if r.curves.dataset == dataset]
        micro = [r.intervals for r in part], [r.curves.truth.intervals[:, [0, 2]] for r in part]
        none = [np.zeros((0, 2), np.int64)] * len(part)
        macro = none, [r.curves.others for r in part]
        rows += _megc_rows(f"megc:{dataset}", megc_counts(*micro), megc_counts(*macro))
        official = MEGC_OFFICIAL.get(dataset)
        if official is None:
            continue
        if _events(part) < WHOLE * official["micro"]:  # a part of the dataset, or a synthetic one
            rows[-3]["note"] += f" (official list: {official['micro']})"
            continue
        found = [
            megc_counts(p, t, num_events=max(official[kind], sum(map(len, t))))
            for kind, (p, t) in (("micro", micro), ("macro", macro))
        ]
        rows += _megc_rows(f"megc:{dataset}, official m,", *found)
    return rows


def _megc_rows(
    scope: str, micro: metrics.Spotting, macro: metrics.Spotting
) -> list[dict[str, Any]]:
    kinds = {"micro": micro, "macro": macro, "overall": megc_overall([micro, macro])}
    rows = []
    for kind, s in kinds.items():
        note = f"TP {s.tp}, FP {s.fp}, FN {s.fn}; m = {s.tp + s.fn}"
        if kind != "micro":
            note += "; no macro-expression is predicted"
        rows.append(
            metric_row("spotting_f1", f"{scope} {kind}", s.f1, count=s.tp + s.fn, note=note)
        )
    return rows


def _rows(
    results: Sequence[VideoResult],
    scope: str,
    classes: Sequence[str],
    names: Sequence[str],
    bootstrap: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """One row per score; with (draws, seed), its interval over people."""
    counts = total(results)
    functions = statistics(classes, counts)
    spot, recog = spotting_of(counts), recognition_of(counts, classes)
    texts = {
        "spotting": f"TP {spot.tp}, FP {spot.fp}, FN {spot.fn} in {len(results)} videos",
        "recognition": f"on {recog.num_samples} matched events of {len(classes)} classes",
    }
    rows = []
    for name in names:
        kind = "recognition" if name in RECOGNITION else "spotting"
        note = "; ".join(filter(None, [texts[kind], recog.note if kind == "recognition" else ""]))
        count = recog.num_samples if kind == "recognition" else spot.tp + spot.fn
        rows.append(metric_row(name, scope, functions[name](counts), count=count, note=note))
    if bootstrap is not None and results:
        people = [r.curves.person for r in results]
        _, per_person = group_counts(people, np.stack([r.counts for r in results]))
        for row in rows:
            found = subject_interval(
                per_person, functions[row["name"]], draws=bootstrap[0], seed=bootstrap[1]
            )
            row["low"], row["high"] = found.low, found.high
    return rows


def _events(results: Sequence[VideoResult]) -> int:
    return sum(len(r.curves.truth.intervals) for r in results)
