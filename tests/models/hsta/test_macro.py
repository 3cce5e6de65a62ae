"""Macro-expressions as training data: who may train where, what is tested, what a run records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from data.errors import SplitError
from data.folds import Split, leave_one_subject_out, prove_disjoint, with_training_events
from data.stages.inputs import StageInputs
from data.stages.workspace import Workspace
from data.synthetic import write_dataset
from models.recipe import load_recipe
from models.runs.files import read_tables
from models.runs.samples import make_split
from models.runs.training import plan_run
from tests.fakes.steps import ingest, scope


def table(*rows):
    """Events (person, event, type) of one dataset, a video for each."""
    frame = pd.DataFrame(rows, columns=["person", "event", "type"])
    return frame.assign(
        dataset="made", subject=frame.person, video="v" + frame.event, label="1"
    ).reset_index(drop=True)


EVENTS = table(
    ("ann", "a1", "micro"),
    ("ann", "a2", "micro"),
    ("ann", "A", "macro"),
    ("bob", "b1", "micro"),
    ("bob", "B", "macro"),
    ("cid", "C", "macro"),  # has macro-expressions only
)


def recipe(**changes):
    return load_recipe("hsta_casme3_7objective_macro", changes)


def test_macro_trains_where_its_person_is_not_tested():
    split = make_split(recipe(**{"split.kind": "leave_one_subject_out"}), EVENTS)
    assert split.folds == {
        "ann": (("B", "C", "b1"), ("a1", "a2")),
        "bob": (("A", "C", "a1", "a2"), ("b1",)),
    }
    assert split.subject_independent and split.videos_shared == {}


def test_folds_by_subject_test_the_same_events_with_and_without_macro():
    rows = [
        (f"p{i}", f"{kind}{i}{j}", kind)
        for i in range(8)
        for kind, count in (("micro", 1 + i % 3), ("macro", 4))
        for j in range(count)
    ]
    events = table(*rows)
    changes = {"split.k": 4}
    plain = make_split(recipe(**changes), events[events.type == "micro"])
    both = make_split(recipe(**changes), events)
    assert {n: test for n, (_, test) in both.folds.items()} == {
        n: test for n, (_, test) in plain.folds.items()
    }
    person = dict(zip(events.event, events.person, strict=True))
    for name, (train, test) in both.folds.items():
        assert not {person[e] for e in train} & {person[e] for e in test}
        added = set(train) - set(plain.folds[name][0])
        tested = {person[e] for e in test}
        assert added == {e for e in person if e.startswith("macro") and person[e] not in tested}
    assert both.digest != plain.digest


def test_a_shared_video_or_a_strange_event_is_refused():
    micro, macro = EVENTS[EVENTS.type == "micro"], EVENTS[EVENTS.type == "macro"].copy()
    split = leave_one_subject_out(micro)
    macro["video"] = ["vb1", "vB", "vC"]  # ann's macro-expression lies in bob's video
    with pytest.raises(SplitError, match="videos"):
        with_training_events(split, micro, macro)
    with pytest.raises(SplitError, match="a1"):
        with_training_events(split, micro[micro.person == "bob"], EVENTS[EVENTS.person == "cid"])


@pytest.mark.parametrize("kind", ["leave_one_dataset_out", "cd6me"])
def test_a_held_out_dataset_trains_with_nothing_of_its_own(kind):
    """Nor with the macro-expressions of people who have no micro-expression, whom no fold tests."""
    ours = EVENTS.assign(dataset="casme3", person="casme3:" + EVENTS.person)
    theirs = EVENTS.assign(dataset="samm", person="samm:" + EVENTS.person)
    theirs.loc[theirs.person == "samm:cid", "person"] = "casme3:cid"  # in both: tested in neither
    split = make_split(recipe(**{"split.kind": kind}), pd.concat([ours, theirs]))
    for dataset, (train, test) in split.folds.items():
        assert {event.split(":")[0] for event in test} == {dataset}
        other = {"casme3": "samm", "samm": "casme3"}[dataset]
        assert train == tuple(f"{other}:{event}" for event in sorted(EVENTS.event))
    assert split.datasets_shared == {}


def test_a_held_out_dataset_on_both_sides_is_refused():
    split = Split(
        "leave_one_dataset_out", {"a": (("x",), ("y",))}, datasets_shared={"a": ("samm",)}
    )
    with pytest.raises(SplitError, match="no datasets on both sides") as error:
        prove_disjoint(split)
    assert error.value.code == "datasets_shared"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A small synthetic CAS(ME)^3 with micro- and macro-expressions, ingested."""
    folder = tmp_path_factory.mktemp("casme3")
    root = write_dataset("casme3", folder / "x", preset="smoke", seed=3)
    ingest(folder / "ws", "casme3", root)
    return Workspace(folder / "ws")


class _AllThere:
    """A stage store in which every event is ready."""

    def __init__(self, events):
        self.events = events

    def status(self, unit):
        return "ok"

    def keys(self):
        return {event: f"key of {event}" for event in self.events}


@pytest.mark.parametrize("macro", [False, True])
def test_a_plan_keeps_macro_only_where_asked_and_never_tests_it(workspace, monkeypatch, macro):
    ingested = read_tables(workspace, ("casme3",), "events")
    monkeypatch.setattr(StageInputs, "store", lambda self, stage: _AllThere(ingested.event))
    people = ingested.person[ingested.type == "micro"].nunique()
    asked = recipe(**{"train.macro": macro, "split.k": min(5, people)})
    plan = plan_run(scope(workspace, None, Path(), asked))
    jobs = list(plan.jobs.values())
    kinds = dict(zip(ingested.event, ingested.type, strict=True))
    labelled = ingested[ingested.objective_class.notna()]
    trained = {event for job in jobs for _, event in job.train_events}
    tested = {event for job in jobs for _, event in job.test_events}
    assert {kinds[e] for e in tested} == {"micro"}
    assert {kinds[e] for e in trained} == ({"micro", "macro"} if macro else {"micro"})
    assert (labelled.type == "macro").sum() > 2
    assert "not_tested_by_split" not in set(plan.ledger.reason)
    dropped = plan.ledger[plan.ledger.reason == "not_micro"]
    assert {kinds[e] for e in dropped.unit} == ({"blink"} if macro else {"macro", "blink"})
    person = dict(zip(ingested.event, ingested.person, strict=True))
    for job in jobs:
        held_out = {person[e] for _, e in job.test_events}
        assert not held_out & {person[e] for _, e in job.train_events}
