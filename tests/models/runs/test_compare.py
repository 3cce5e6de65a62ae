"""Comparing runs: paired differences that are right, and refusals that say why."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError
from data.stages import stores
from data.stages.workspace import Workspace
from models.metrics import recognition
from models.runs.compare import compare
from models.runs.files import RunFiles
from models.scores.bootstrap import paired_difference
from tests.fakes.fabricated_run import (
    enter_again,
    write_clip_stores,
    write_hsta_run,
    write_ingest,
    write_me_tst_run,
    write_motion_store,
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("ws"))
    events = write_ingest(found, "casme2", subjects=6)
    write_clip_stores(found, "casme2", events)
    return found


@pytest.fixture(scope="module")
def good(workspace):
    return RunFiles(write_hsta_run(workspace, name="good", skill=1.0))


@pytest.fixture(scope="module")
def bad(workspace):
    return RunFiles(write_hsta_run(workspace, name="bad", skill=0.0, seed=1))


@pytest.fixture
def changed(bad, tmp_path):
    """Changes one table or file of the bad run's copy."""

    def change(edit):
        shutil.copytree(bad.workspace.path, tmp_path, dirs_exist_ok=True)
        folder = tmp_path / bad.folder.relative_to(bad.workspace.path)
        edit(folder)
        return RunFiles(folder)

    return change


def test_difference_is_that_of_the_scores(good, bad):
    found = compare([good, bad])
    wanted = []
    for run in (good, bad):
        table = run.predictions()
        labels = sorted(set(table.label))
        wanted.append(recognition(list(table.label), list(table.predicted), labels).uf1)
    (uf1,) = [p for p in found.pairs if p.score == "uf1"]
    assert uf1.difference.value == pytest.approx(wanted[0] - wanted[1])
    assert uf1.difference.low > 0
    assert "run 1 is better" in uf1.sentence
    assert (found.people, found.samples) == (6, 18)


def test_it_is_paired_by_person_not_by_place(good, bad, changed):
    """The order of rows and folds in the tables does not matter."""

    def shuffle(folder):
        for path in folder.glob("fold-*/predictions.parquet"):
            table = stores.read_table(path)
            stores.write_table(table.iloc[::-1].reset_index(drop=True), path)

    before, after = compare([good, bad]), compare([good, _entered(changed(shuffle))])
    assert [p.difference for p in before.pairs] == [p.difference for p in after.pairs]


def _entered(run):
    """Bring the run's manifest up to date after an edit."""
    enter_again(run.folder)
    return run


def test_a_run_does_not_differ_from_itself(good):
    found = compare([good, good])
    for pair in found.pairs:
        d = pair.difference
        assert (d.value, d.low, d.high) == (0, 0, 0)
        assert "not distinguishable" in pair.sentence


def test_three_runs_make_three_pairs(good, bad):
    found = compare([good, bad, good])
    assert {(p.a, p.b) for p in found.pairs} == {(0, 1), (0, 2), (1, 2)}


def test_text_and_json_say_the_same(good, bad):
    found = compare([good, bad])
    plain = json.loads(json.dumps(found.to_json()))
    text = found.to_text()
    for row in plain["differences"]:
        assert row["sentence"] in text
    assert {"value", "low", "high", "share_above", "draws"} <= set(plain["differences"][0])
    assert [r["recipe"] for r in plain["runs"]] == ["good", "bad"]


def test_seeds_of_one_recipe_are_summed_up(workspace):
    runs = [RunFiles(write_hsta_run(workspace, name="s", skill=0.5, seed=s)) for s in (3, 4)]
    found = compare(runs)
    values = [
        float(r.metrics().query("scope == 'pooled' and name == 'uf1'").value.iloc[0]) for r in runs
    ]
    (group,) = found.seeds
    assert group["seeds"] == [3, 4]
    assert group["scores"]["uf1"]["mean"] == pytest.approx(np.mean(values))
    assert group["scores"]["uf1"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert "Over the seeds [3, 4]" in found.to_text()


def test_other_recipes_are_no_seeds(good, bad, workspace):
    other = write_hsta_run(workspace, name="o", skill=0.5, seed=9, labels="label_4")
    assert compare([good, bad]).seeds != []  # the same recipe but for name and seed
    with pytest.raises(ConfigError, match="labels"):
        compare([good, RunFiles(other)])


def test_fewer_than_two_runs_are_refused(good):
    with pytest.raises(ConfigError) as caught:
        compare([good])
    assert caught.value.code == "too_few_runs"


def test_other_samples_are_refused_and_named(good, changed):
    def drop_a_sample(folder):
        split = json.loads((folder / "split.json").read_text())
        next(iter(split["folds"].values()))["test"].pop()
        (folder / "split.json").write_text(json.dumps(split))

    with pytest.raises(ConfigError, match="sample list") as caught:
        compare([good, changed(drop_a_sample)])
    assert "1 only in run 1, such as casme2:sub01/EP03" in str(caught.value)
    assert caught.value.code == "not_comparable"


def test_other_folds_are_refused(good, changed):
    def other_folds(folder):
        split = json.loads((folder / "split.json").read_text())
        (folder / "split.json").write_text(json.dumps({**split, "digest": "other"}))

    with pytest.raises(ConfigError, match="folds"):
        compare([good, changed(other_folds)])


def test_other_true_labels_are_refused(good, changed):
    def relabel(folder):
        path = next(iter(sorted(folder.glob("fold-*")))) / "predictions.parquet"
        table = stores.read_table(path)
        table["label"] = "surprise"
        stores.write_table(table, path)

    with pytest.raises(ConfigError, match="true labels"):
        compare([good, _entered(changed(relabel))])


def test_spotting_runs_by_their_counts(tmp_path):
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=1)
    write_motion_store(workspace, "samm_lv", sorted(set(events.video)))
    runs = [
        RunFiles(write_me_tst_run(workspace, name=n, skill=s)) for n, s in (("a", 1), ("b", 0.3))
    ]
    found = compare(runs)
    f1 = [
        float(r.metrics().query("scope == 'pooled' and name == 'spotting_f1'").value.iloc[0])
        for r in runs
    ]
    (pair,) = [p for p in found.pairs if p.score == "spotting_f1"]
    assert pair.difference.value == pytest.approx(f1[0] - f1[1])
    recipe = json.loads((runs[1].folder / "recipe.json").read_text())
    recipe["decode"]["iou"] = 0.3
    (runs[1].folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ConfigError, match="scoring rules"):
        compare(runs)


def test_clips_and_long_videos_are_not_compared(good, tmp_path):
    workspace = Workspace(tmp_path)
    events = write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=1)
    write_motion_store(workspace, "samm_lv", sorted(set(events.video)))
    with pytest.raises(ConfigError, match="kind of model"):
        compare([good, RunFiles(write_me_tst_run(workspace))])


def test_hard_people_cancel():
    """Two runs that differ by one sample of each person are told apart, though people differ."""
    rng = np.random.default_rng(0)
    hard = rng.integers(1, 19, 30)
    counts = [np.stack([hard + better, 20 - hard - better], 1) for better in (1, 0)]
    found = paired_difference(*counts, lambda c: c[0] / c.sum())
    assert found.low == pytest.approx(0.05)
    assert pd.notna(found.high)
