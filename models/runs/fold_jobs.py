"""A run's folds: what each is given, and the keys that decide their weights.

Sides are made when they are needed and keys digest texts that are written once, so that a run of
many subjects on many events costs memory by its events and time by the bytes it digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.errors import SplitError
from data.folds import Split, event_ids
from data.held_out import Fold, HeldOut, Places, Side
from data.stages.contract import Scope
from data.stages.identity import KEY_LENGTH, JoinedJson, plain_json
from models.family import family_of
from models.recipe import Recipe
from models.runs.files import INNER, FoldJob, Sample, unit_name
from models.runs.publishing import VERSION
from models.runs.samples import Samples, fold_name, inner_sides
from models.targets import AUS, CLASSES

Rows = Callable[[], tuple[Places, Places]]  # rows of the samples' table on both sides of a fold


class Sides:
    """Both sides of every fold, as rows of the samples' table."""

    def __init__(self, split: Split, samples: Samples) -> None:
        table = samples.table
        self.samples: list[Sample] = list(zip(table.dataset, table.event, strict=True))
        videos = list(zip(table.dataset, table.video, strict=True))
        self.videos: list[Sample] = sorted(set(videos))
        number = {video: at for at, video in enumerate(self.videos)}
        self._video = np.array([number[v] for v in videos], np.int64)
        self._row = {i: row for row, i in enumerate(event_ids(table))}
        self._folds = split.folds
        if isinstance(self._folds, HeldOut):
            self._of_place = np.array([self._row[i] for i in self._folds.ids], np.int64)

    def of(self, name: str) -> Rows:
        """Of a fold of the split, in the split's order; ids without a sample are left out."""
        folds = self._folds
        if not isinstance(folds, HeldOut):
            return self.of_ids(folds[name])

        def rows() -> tuple[Places, Places]:
            train, test = folds.places(name)
            return self._of_place[train], self._of_place[test]

        return rows

    def of_ids(self, both: Fold) -> Rows:
        """Of two lists of ids; those without a sample are left out."""
        found = [
            np.array([self._row[i] for i in side if i in self._row], np.int64) for side in both
        ]
        return lambda: (found[0], found[1])

    def side(self, rows: Rows, which: int, length: int) -> Side[Sample]:
        """Samples of a side, made when asked for."""
        return Side(length, lambda: tuple(self.samples[r] for r in rows()[which].tolist()))

    def videos_of(self, rows: Rows, which: int) -> Side[Sample]:
        """Videos of a side, sorted, made when asked for."""

        def places() -> Places:
            seen = np.zeros(len(self.videos), bool)
            seen[self._video[rows()[which]]] = True
            return np.flatnonzero(seen)

        return Side(len(places()), lambda: tuple(self.videos[v] for v in places().tolist()))


class FoldKeys:
    """What decides a fold's files: network, training, labels, seed, recorded epochs, both sides.

    A side is its samples, sorted, each as [dataset, id, what identifies it]; the key is
    `stable_hash(facts, train, test)`. Classes are a fact where a fold's own labels do not tell
    them.
    """

    def __init__(
        self,
        recipe: Recipe,
        keys: Mapping[Sample, str],
        sides: Sides,
        labels: Sequence[str] = (),
        classes: tuple[str, ...] | None = None,
    ) -> None:
        """`labels` of the samples and the `classes` that jobs are given, where they decide."""
        self._recipe = recipe
        self._classes = classes
        number = {name: at for at, name in enumerate(classes or ())}
        self._label = np.array([number.get(label, -1) for label in labels], np.int64)
        named = [[*sample, keys[sample]] for sample in sides.samples]
        order = sorted(range(len(named)), key=named.__getitem__)
        self._texts = JoinedJson(named[row] for row in order)
        self._rank = np.empty(len(order), np.int64)
        self._rank[order] = np.arange(len(order))

    def key(self, seed: int, rows: Rows) -> str:
        """The key of a fold trained with `seed`."""
        recipe = self._recipe
        facts: list[Any] = [
            VERSION,
            recipe.network_name,
            recipe.model.identity(),
            recipe.train.identity(),
            family_of(recipe).training_facts(recipe),
            recipe.labels,
            seed,
        ]
        if recipe.epoch_scores.record:
            facts.append({"record": recipe.epoch_scores.record})
        both = rows()
        if self._classes is not None:
            own = set(np.unique(np.concatenate([self._label[side] for side in both])).tolist())
            if not own >= set(range(len(self._classes))):
                facts.append({"classes": list(self._classes)})
        digest = hashlib.sha256(plain_json(facts)[:-1].encode())
        for side in both:
            digest.update(b",")
            self._texts.feed(digest, np.sort(self._rank[side]))
        digest.update(b"]")
        return digest.hexdigest()[:KEY_LENGTH]


def make_fold_jobs(
    scope: Scope, recipe: Recipe, samples: Samples, split: Split
) -> tuple[dict[str, FoldJob], dict[str, str], dict[str, Fold]]:
    """Unit → its job, unit → its key; and, with a nested choice, fold → its inner sides.

    A unit is a fold, of one seed, or its inner training. Raises SplitError for an empty side.
    """
    sides = Sides(split, samples)
    folds = {fold_name(n, str(name)): sides.of(name) for n, name in enumerate(split.folds)}
    made = {fold: (_make(scope, recipe, sides, fold, rows), rows) for fold, rows in folds.items()}
    inner = {}
    if recipe.epoch_scores.nested:
        for (fold, rows), name in zip(folds.items(), split.folds, strict=True):
            inner[fold] = inner_sides(
                samples.table, split.folds[name], str(name), recipe.epoch_scores.inner_folds
            )
            rows, own = sides.of_ids(inner[fold]), fold.replace("fold-", INNER, 1)
            made[own] = (_make(scope, recipe, sides, own, rows), rows)
    classes = _classes(recipe, samples.table, split)
    maker = FoldKeys(recipe, samples.keys, sides, list(samples.table.label.astype(str)), classes)
    jobs, keys = {}, {}
    for number, seed in enumerate(recipe.each_seed):
        for job, rows in made.values():
            unit = unit_name(job.fold, seed, number)
            jobs[unit] = replace(job, seed=seed, unit=unit, classes=classes)
            keys[unit] = maker.key(seed, rows)
    return jobs, keys, inner


def _classes(recipe: Recipe, table: pd.DataFrame, split: Split) -> tuple[str, ...] | None:
    """The labels of all samples that the split names: every fold's network has the same classes.

    None where the label map or the network fixes them.
    """
    if recipe.network.samples != "events" or recipe.labels in (*CLASSES, AUS):
        return None
    named = event_ids(table).isin(split.named())
    return tuple(sorted(set(table.label[named].dropna().astype(str))))


def _make(scope: Scope, recipe: Recipe, sides: Sides, fold: str, rows: Rows) -> FoldJob:
    """A fold's job, for the first seed."""
    lengths = [len(side) for side in rows()]
    if not all(lengths):
        raise SplitError(
            f"{recipe.name}, {fold}",
            expected="samples on both sides",
            got=f"{lengths[0]} to train on, {lengths[1]} to test",
            todo="Use fewer folds or more subjects.",
        )
    return FoldJob(
        workspace=scope.workspace.path,
        recipe=recipe,
        fold=fold,
        datasets=recipe.data,
        train_events=sides.side(rows, 0, lengths[0]),
        test_events=sides.side(rows, 1, lengths[1]),
        train_videos=sides.videos_of(rows, 0),
        test_videos=sides.videos_of(rows, 1),
        seed=recipe.each_seed[0],
        record=recipe.epoch_scores.record,
        out=Path(),
        device=scope.device,
    )
