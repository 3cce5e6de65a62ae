"""What folds are given: one set of classes for all, in a key where a fold's labels do not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.folds import Split, leave_one_subject_out
from models.recipe import Recipe, load_recipe
from models.runs.files import FoldJob
from models.runs.fold_jobs import FoldKeys, Sides, make_fold_jobs
from models.runs.samples import Samples
from tests.fakes.steps import scope

EMOTIONS = {"a": ["joy", "fear"], "b": ["joy", "anger"], "c": ["joy", "fear"], "d": ["joy", "awe"]}


def samples(emotions: dict[str, list[str]]) -> Samples:
    rows = [
        ("casme2", f"casme2:{who}", f"{who}{n}", f"{who}{n}", "micro", label)
        for who, labels in emotions.items() for n, label in enumerate(labels)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["dataset", "person", "video", "event", "type", "label"])
    keys = dict.fromkeys(zip(table.dataset, table.event, strict=True), "k")
    return Samples(table.assign(subject="s"), pd.DataFrame(), keys, pd.DataFrame())


def planned(
    recipe: Recipe, found: Samples, split: Split | None = None
) -> tuple[dict[str, FoldJob], dict[str, str]]:
    where = scope(Path(), None, Path(), recipe)
    split = split or leave_one_subject_out(found.table)
    return make_fold_jobs(where, recipe, found, split)[:2]


def recipe_of(**more: Any) -> Recipe:
    return load_recipe("hsta_cpu", {"data": ["casme2"], "labels": "emotion", **more})


@pytest.fixture
def nested() -> Recipe:
    """Inner people are one of two groups of the training people."""
    return recipe_of(epoch_scores={"record": 2, "nested": True, "inner_folds": 2})


def test_all_folds_have_the_classes_of_the_splits_samples(nested: Recipe) -> None:
    folds = {"one": (("a0", "a1"), ("b0",)), "two": (("b0", "b1"), ("a0",))}
    jobs, _ = planned(recipe_of(), samples(EMOTIONS), Split("published", folds))
    assert {job.classes for job in jobs.values()} == {("anger", "fear", "joy")}  # nobody's awe
    jobs, _ = planned(nested, samples(EMOTIONS))
    assert {job.classes for job in jobs.values()} == {("anger", "awe", "fear", "joy")}
    assert {unit.split("-")[0] for unit in jobs} == {"fold", "inner"}
    fixed, _ = planned(recipe_of(labels="label_3"), samples({who: ["negative"] for who in "ab"}))
    assert {job.classes for job in fixed.values()} == {None}


def test_a_key_has_the_classes_where_its_labels_do_not_tell_them(nested: Recipe) -> None:
    """Another label of a tested person widens the inner network, whose own samples are as ever."""
    more = {**EMOTIONS, "d": ["joy", "shame"]}
    (jobs, before), (_, after) = planned(nested, samples(EMOTIONS)), planned(nested, samples(more))
    inner = next(unit for unit in jobs if unit.startswith("inner-") and unit.endswith("_d"))
    assert "d0" not in {event for _, event in (*jobs[inner].train_events, *jobs[inner].test_events)}
    assert before[inner] != after[inner]


def test_keys_are_as_ever_where_labels_tell(nested: Recipe) -> None:
    found = samples(EMOTIONS)
    split, jobs = leave_one_subject_out(found.table), planned(recipe_of(), found)[1]
    sides = Sides(split, found)
    bare = FoldKeys(recipe_of(), found.keys, sides)
    assert list(jobs.values()) == [bare.key(0, sides.of(name)) for name in split.folds]
