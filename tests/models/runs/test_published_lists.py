"""A run of a published list that names more than there is: what is said to have been scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.errors import StoreError
from data.stages.files import read_table
from data.stages.workspace import Workspace
from models.hsta.family import FAMILY as CLIPS
from models.me_tst.family import FAMILY as WINDOWS
from models.recipe import parse_recipe
from models.report import scores as report
from models.report.data import accounts
from models.runs.files import RunFiles
from models.runs.scores import sample_facts, score_run
from tests.fakes import fabricated_run as made
from tests.fakes.steps import evaluate, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """9 clips of which one has no flow; the list names them all, 2 that nobody has, tests 6."""
    workspace = Workspace(tmp_path_factory.mktemp("listed"))
    events = made.write_ingest(workspace, "casme2", subjects=3)
    values: dict[str, Any] = {
        "name": "listed", "data": ["casme2"], "model": {"name": "flow_regression"},
        "train": {"solver": "lbfgs", "epochs": 3}, "labels": "label_3",
        "split": {"kind": "published", "name": "csv", "path": str(workspace.path / "list.csv")},
    }  # fmt: skip
    recipe = parse_recipe(values)
    made.write_clip_stores(workspace, "casme2", events, recipe=recipe)
    who = dict(zip(events.event, events.person, strict=True))
    rows = []
    for fold in sorted(set(who.values()))[1:]:
        named = [(e, "test" if p == fold else "train") for e, p in who.items()]
        named += [(f"lost-{role}", role) for role in ("train", "test")]
        rows += [{"fold": fold, "role": role, "event": event} for event, role in named]
    pd.DataFrame(rows).to_csv(workspace.path / "list.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.runs.twins.find_twins", lambda *_: [])  # all have one drawn face
        found = RunFiles(Path(train(workspace, recipe).detail["run"]))
        evaluate(workspace, recipe)
    return found


def test_only_what_was_predicted_is_called_scored(run: RunFiles) -> None:
    predicted = run.predictions()
    assert len(predicted) == 5  # 6 clips of two people, one of them without flow
    assert report.test_samples(run) == set("casme2:" + predicted.event)
    assert sample_facts(run)["counts"]["all"]["samples"] == len(predicted)
    assert any(
        s.startswith("Scored: 5 clips") for s in report.limits(run, report.scores(run.metrics()))
    )
    sides = json.loads((run.folder / "split.json").read_text())["folds"].values()
    assert {event for fold in sides for event in fold["test"]} == set(predicted.event)
    assert not any(e.startswith("lost") for fold in sides for side in fold.values() for e in side)


def test_the_account_counts_each_sample_once(run: RunFiles) -> None:
    """Taken: 9 clips and 2 names; dropped: the clip without flow and the names, whatever said."""
    last = accounts(run)[-1]
    ledger = read_table(run.folder / "ledger.parquet")
    assert ledger.unit.duplicated().any(), "without flow, and named in vain"
    assert (last.taken, last.kept, last.dropped) == (11, 8, 3)


def test_a_dataset_of_which_nothing_was_scored_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both families; the others' scores are as without it."""
    workspace = Workspace(tmp_path)
    for name in ("casme2", "samm"):
        events = made.write_ingest(workspace, name, prefix=name[:3])
        made.write_clip_stores(workspace, name, events)
    one = RunFiles(made.write_hsta_run(workspace, ("casme2", "samm")))
    table = one.predictions()
    monkeypatch.setattr(RunFiles, "predictions", lambda _: table[table.dataset == "casme2"])
    rows = score_run(one).set_index(["scope", "name"])
    assert np.isnan(rows.value["dataset:samm", "uf1"])
    assert rows.note["dataset:samm", "uf1"] == "nothing of it was scored"
    assert rows.value["dataset:casme2", "uf1"] == rows.value["pooled", "uf1"]
    monkeypatch.setattr("models.report.spotting.results_of", lambda _: ([], 0))
    for family in (CLIPS, WINDOWS):
        with pytest.raises(StoreError) as caught:
            family.count(one, "samm")
        assert caught.value.code == "nothing_scored"
