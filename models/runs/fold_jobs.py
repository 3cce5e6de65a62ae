"""A run's folds: what each is given, and the keys that decide their weights.

Sides are made when they are needed and keys digest texts that are written once, so that a run of
many subjects on many events costs memory by its events and time by the bytes it digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import SplitError
from data.folds import Split, event_ids
from data.held_out import HeldOut, Places, Side
from data.stages.contract import Scope
from data.stages.identity import KEY_LENGTH, JoinedJson, plain_json
from models.recipe import Recipe
from models.runs.files import FoldJob, Sample
from models.runs.samples import Samples, fold_name


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

    def rows(self, name: str) -> tuple[Places, Places]:
        """Rows of the two sides of a fold, in the split's order; ids without a sample left out."""
        if isinstance(self._folds, HeldOut):
            train, test = self._folds.places(name)
            return self._of_place[train], self._of_place[test]
        found = [
            np.array([self._row[i] for i in side if i in self._row], np.int64)
            for side in self._folds[name]
        ]
        return found[0], found[1]

    def side(self, name: str, which: int, length: int) -> Side[Sample]:
        """Samples of a side, made when asked for."""
        return Side(length, lambda: tuple(self.samples[r] for r in self.rows(name)[which].tolist()))

    def videos_of(self, name: str, which: int) -> Side[Sample]:
        """Videos of a side, sorted, made when asked for."""

        def places() -> Places:
            seen = np.zeros(len(self.videos), bool)
            seen[self._video[self.rows(name)[which]]] = True
            return np.flatnonzero(seen)

        return Side(len(places()), lambda: tuple(self.videos[v] for v in places().tolist()))


def make_fold_jobs(scope: Scope, recipe: Recipe, sides: Sides, split: Split) -> dict[str, FoldJob]:
    """Fold name → its job. Raises SplitError for a fold without samples on a side."""
    jobs = {}
    for number, name in enumerate(split.folds):
        fold = fold_name(number, str(name))
        lengths = [len(rows) for rows in sides.rows(name)]
        if not all(lengths):
            raise SplitError(
                f"{recipe.name}, {fold}",
                expected="samples on both sides",
                got=f"{lengths[0]} to train on, {lengths[1]} to test",
                todo="Use fewer folds or more subjects.",
            )
        jobs[fold] = FoldJob(
            workspace=scope.workspace.path,
            recipe=recipe,
            fold=fold,
            datasets=recipe.data,
            train_events=sides.side(name, 0, lengths[0]),
            test_events=sides.side(name, 1, lengths[1]),
            train_videos=sides.videos_of(name, 0),
            test_videos=sides.videos_of(name, 1),
            seed=recipe.seed,
            out=Path(),
            device=scope.device,
        )
    return jobs


def fold_keys(facts: Any, keys: Mapping[Sample, str], sides: Sides, split: Split) -> Iterator[str]:
    """Each fold's key: `stable_hash(facts, train, test)`, a side being its sorted samples.

    A sample stands there as [dataset, id, what identifies it].
    """
    named = [[*sample, keys[sample]] for sample in sides.samples]
    order = sorted(range(len(named)), key=named.__getitem__)
    texts = JoinedJson(named[row] for row in order)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    start = plain_json(facts)[:-1].encode()
    for name in split.folds:
        digest = hashlib.sha256(start)
        for rows in sides.rows(name):
            digest.update(b",")
            texts.feed(digest, np.sort(rank[rows]))
        digest.update(b"]")
        yield digest.hexdigest()[:KEY_LENGTH]
