"""Seeds, recorded epochs and the nested choice in a run: what is trained, kept and scored."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError
from data.stages.contract import StepPlan
from data.stages.files import read_table, read_table_and_facts
from data.stages.identity import stable_hash
from data.stages.workspace import Workspace
from models.family import family_of
from models.metrics import recognition_statistic
from models.recipe import Recipe, parse_recipe
from models.registry import NETWORKS
from models.report.choices import gap_figure, gap_sentence, is_optimistic
from models.report.scores import headline, limits, scores
from models.runs.compare import compare
from models.runs.files import RunFiles
from models.runs.packs import attempts, fit_pack
from models.runs.publishing import VERSION
from models.runs.scores import FACTS, score_run
from models.runs.training import STEP as TRAIN
from models.runs.training import plan_run
from models.scores.bootstrap import mean_of_parts, subject_interval
from tests.fakes import fabricated_run as made
from tests.fakes import toy_network
from tests.fakes.steps import evaluate, scope, train

ALL = {"epoch_scores": {"record": 3, "nested": True, "inner_folds": 2}, "seeds": [0, 1]}


def recipe(**changes: Any) -> Recipe:
    """Two folds of a tiny network on a made-up dataset."""
    values: dict[str, Any] = {
        "name": "gru",
        "data": ["samm_lv"],
        "model": {"name": "toy_gru"},
        "motion": {"k": 20},
        "train": {"epochs": 3, "batch_size": 8, "max_lr": 0.05},
        "decode": {"draws": 10},
        "split": {"kind": "subject_kfold", "k": 2},
    }
    return parse_recipe({**values, **changes})


@pytest.fixture(scope="module")
def plugged() -> Any:
    """The toy network in the map."""
    module: Any = ModuleType("tests.fakes.toy_gru")
    module.NETWORK = toy_network.WINDOWS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(NETWORKS, "toy_gru", module.__name__)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plugged: None) -> RunFiles:
    """A scored run with everything: two seeds, three epochs, a nested choice."""
    workspace = Workspace(tmp_path_factory.mktemp("honest") / "ws")
    events = made.write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=1)
    first = recipe(**ALL)
    made.write_motion_store(workspace, "samm_lv", sorted(set(events.video)), recipe=first)
    plan = train(workspace, first)
    with pytest.MonkeyPatch.context() as patch:  # drawn in another test
        patch.setattr("models.report.write.write_report", lambda run, path: path.touch())
        evaluate(workspace, first)
    return RunFiles(Path(plan.detail["run"]))


def planned(run: RunFiles, **changes: Any) -> StepPlan:
    """What training would do under other settings."""
    return TRAIN.plan(scope(run.workspace, None, Path(), recipe(**changes)))


def value(table: pd.DataFrame, scope_: str, name: str = "spotting_f1") -> float:
    """One number of a metrics table."""
    [found] = table[(table.scope == scope_) & (table.name == name)].value
    return float(found)


# ------------------------------------------------------------------------------------------- seeds


def test_a_seed_added_trains_only_itself(whole: RunFiles) -> None:
    more = planned(whole, **{**ALL, "seeds": [0, 1, 2]}).reasons
    new = {unit for unit, why in more.items() if why == "missing"}
    assert new == {u for u in more if u.startswith("seed-2-")} and len(new) == 4
    assert all("taken over" in why for unit, why in more.items() if unit not in new)
    turned = planned(whole, **{**ALL, "seeds": [1, 0]}).reasons
    assert len(turned) == 8 and all("taken over" in why for why in turned.values())
    one = planned(whole, **{**ALL, "seeds": [1]}).reasons
    assert len(one) == 4 and all("taken over" in why for why in one.values())


def test_one_seed_is_as_before_whichever_way_it_is_written(whole: RunFiles) -> None:
    """Keys and the run's name too: those of a run without seeds or recorded epochs."""
    plans = [
        plan_run(scope(whole.workspace, None, Path(), recipe(**changes)))
        for changes in ({"seed": 3}, {"seeds": [3]}, {"seed": 9, "seeds": [3]})
    ]
    assert len({plan.run_id for plan in plans}) == 1
    plan = plans[0]
    assert list(plan.jobs) == ["fold-00-fold_1", "fold-01-fold_2"]
    of = plan.recipe
    facts = [VERSION, "toy_gru", of.model.identity(), of.train.identity(), {}, "label_3", 3]
    for unit, job in plan.jobs.items():
        sides = [
            sorted([*sample, plan.samples.keys[sample]] for sample in side)
            for side in (job.train_events, job.test_events)
        ]
        assert plan.keys[unit] == stable_hash(facts, *sides)
    assert plan.run_id == stable_hash(list(plan.keys.items()), of.decode.identity())[:12]


def test_scores_are_means_over_seeds_and_their_spread_stands_beside(whole: RunFiles) -> None:
    table, each = whole.metrics(), [family_of(r.recipe).score(r) for r in whole.each_seed]
    own = [value(one, "pooled") for one in each]
    assert own[0] != own[1]
    assert [value(table, f"seed:{s}") for s in (0, 1)] == own
    assert value(table, "pooled") == pytest.approx(np.mean(own))
    assert value(table, "seed:standard deviation") == pytest.approx(np.std(own, ddof=1))
    spread = table[table.scope == "seed:standard deviation"].set_index("name")
    assert (spread.low["spotting_f1"], spread.high["spotting_f1"]) == (min(own), max(own))
    folds = [value(one, "fold:fold-00-fold_1") for one in each]
    assert value(table, "fold:fold-00-fold_1") == pytest.approx(np.mean(folds))
    counted = [family_of(r.recipe).count(r) for r in whole.each_seed]
    stack = np.stack([c.counts for c in counted], axis=1)
    statistic = counted[0].statistics(stack.sum(axis=(0, 1)))["spotting_f1"]
    wanted = subject_interval(stack, mean_of_parts(statistic), draws=10)
    [row] = table[(table.scope == "pooled") & (table.name == "spotting_f1")].to_dict("records")
    assert (row["low"], row["high"]) == (wanted.low, wanted.high)
    assert "mean of 2 seeds" in row["note"]
    said = " ".join(limits(whole, scores(table)))
    assert "means over 2 seeds (0, 1)" in said and "One seed" not in said
    assert set(read_table(whole.folder / "predictions.parquet").seed) == {0, 1}


def test_a_seed_twice_and_a_choice_without_epochs_are_refused() -> None:
    for changes, said in (
        ({"seeds": [1, 1]}, "1 stands there twice"),
        ({"seeds": [-1]}, "seeds"),
        ({"epoch_scores": {"nested": True}}, "set record to 2 or more"),
        ({"epoch_scores": {"headline": "optimistic"}}, "unknown key"),
        ({"headline": "optimistic"}, "unknown key"),
    ):
        with pytest.raises(ConfigError, match=said):
            recipe(model={"name": "me_tst"}, **changes)


# ------------------------------------------------------------------------------- epochs and choices


def test_recording_changes_no_weight(whole: RunFiles, tmp_path: Path) -> None:
    shutil.copytree(whole.workspace.path, tmp_path / "ws")
    plan = train(Workspace(tmp_path / "ws"), recipe(), folds=("0",))
    assert plan.reasons["fold-00-fold_1"] == "missing", "a fold without records is another"
    plain = Path(plan.detail["run"]) / "fold-00-fold_1"
    for name in ("weights.safetensors", "history.parquet", "predictions.parquet"):
        assert (plain / name).read_bytes() == (whole.folds[0] / name).read_bytes(), name
    assert not (plain / "epochs.h5").exists() and (whole.folds[0] / "epochs.h5").exists()


def test_inner_people_are_of_the_training_side_and_train_nothing(whole: RunFiles) -> None:
    split = whole.split
    videos = read_table(whole.workspace.stage("samm_lv", "ingest") / "videos.parquet")
    person = dict(zip(videos.video, videos.person, strict=True))
    assert list(split["inner"]) == list(split["folds"])
    run = plan_run(scope(whole.workspace, None, Path(), whole.recipe))
    for fold, chosen in split["inner"].items():
        sides = split["folds"][fold]
        tested, chooses = ({person[v] for v in ids} for ids in (sides["test"], chosen))
        job = run.jobs[fold.replace("fold-", "inner-")]
        learned = {person[v] for _, v in job.train_events}
        assert chooses and learned and chooses <= {person[v] for v in sides["train"]}
        assert not chooses & tested and not learned & (tested | chooses)
        assert {v for _, v in job.test_events} == set(chosen)
    again = plan_run(scope(whole.workspace, None, Path(), whole.recipe))
    assert again.keys == run.keys and again.inner == run.inner
    assert not [p for p in whole.inner_folds if (p / "weights.safetensors").exists()]


def test_choices_stand_in_the_table_and_the_last_epoch_is_the_headline(whole: RunFiles) -> None:
    table = whole.metrics()
    names = [s.removeprefix("choice:") for s in table.scope.unique() if s.startswith("choice:")]
    assert [n.split(" ")[0] for n in names] == ["last", "chosen", "optimistic:", "optimistic:"]
    for name in ("spotting_f1", "strs"):
        assert value(table, "choice:last epoch (headline)", name) == pytest.approx(
            value(table, "pooled", name)
        )
        assert value(table, "epoch:3", name) == pytest.approx(value(table, "pooled", name))
    best = max(value(table, f"epoch:{n}") for n in (1, 2, 3))
    assert value(table, f"choice:{names[3]}") >= best - 1e-9
    found = scores(table)
    assert {s.scope for s in headline(found)} == {"pooled"}
    without = scores(table[table.scope != "pooled"])
    assert headline(without) == [], "nothing takes the headline's place"
    assert [is_optimistic(s) for s in found if s.scope.startswith("choice:")].count(True) == 4
    assert "optimistic, no result" in gap_sentence(found)
    assert gap_figure(found) is not None and gap_figure(scores(table[:3])) is None


@pytest.mark.slow
def test_another_decoder_decodes_the_epochs_too(whole: RunFiles, tmp_path: Path) -> None:
    shutil.copytree(whole.workspace.path, tmp_path / "ws")
    plan = train(Workspace(tmp_path / "ws"), recipe(**ALL, decode={"draws": 10, "p": 0.9}))
    assert all("taken over" in why for why in plan.reasons.values())
    other = score_run(RunFiles(Path(plan.detail["run"])))
    assert value(other, "epoch:1") != value(whole.metrics(), "epoch:1")
    assert value(other, "epoch:3") == pytest.approx(value(other, "pooled"))


def test_the_metrics_file_says_what_was_scored(whole: RunFiles) -> None:
    facts = json.loads(read_table_and_facts(whole.folder / "metrics.parquet")[1][FACTS])
    counts = facts["counts"]["all"]
    assert counts["samples"] == counts["people"] == 4 and sum(counts["classes"].values()) == 8
    assert facts["seeds"] == [0, 1] and facts["split"] == "subject_kfold"
    [row] = whole.metrics().query("scope == 'samples:all'").to_dict("records")
    assert row["value"] == 4 and facts["sample_digest"] in row["note"]


# ----------------------------------------------------------------------------------------- compare


def changed(run: RunFiles, tmp_path: Path, **changes: Any) -> RunFiles:
    """A copy of the run whose recipe says otherwise."""
    shutil.copytree(run.workspace.path, tmp_path / "other")
    folder = tmp_path / "other" / run.folder.relative_to(run.workspace.path)
    stored = json.loads((folder / "recipe.json").read_text())
    for key, new in changes.items():
        stored[key] = {**stored[key], **new} if isinstance(new, dict) else new
    (folder / "recipe.json").write_text(json.dumps(stored))
    return RunFiles(folder)


def test_compare_is_over_all_seeds(whole: RunFiles, tmp_path: Path) -> None:
    found = compare([whole, changed(whole, tmp_path, name="again")])
    assert {p.difference.value for p in found.pairs} == {0.0}
    text = found.to_text()
    assert "mean over the seeds 0, 1" in text and "Standard deviation over seeds" in text
    assert "optimistic, no result" in text and "(nested)" in text
    assert not [p for p in found.pairs if "optimistic" in p.score]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [0]}, "number of seeds"),
        ({"decode": {"videos": "with_events"}}, "scoring rules.*videos all"),
        ({"decode": {"k_p": "global"}}, "half-width of tested people"),
        ({"decode": {"matcher": "authors"}}, "matcher one_to_one"),
        ({"decode": {"stitch": "authors"}}, "stitch clean"),
        ({"labels": "label_4"}, "labels"),
    ],
)
def test_unlike_protocols_are_refused_with_the_reason(
    whole: RunFiles, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}") as caught:
        compare([whole, changed(whole, tmp_path, **changes)])
    assert caught.value.code == "not_comparable"


def test_other_decoding_is_compared_and_said(whole: RunFiles, tmp_path: Path) -> None:
    found = compare([whole, changed(whole, tmp_path, decode={"p": 0.9, "draws": 20})])
    assert found.decoders == ["Decoded otherwise, decode.p: 0.55, 0.9"]
    assert found.decoders[0] in found.to_text()
    assert any(p.difference.value != 0 for p in found.pairs)


def test_the_mean_over_parts_is_the_mean() -> None:
    labels = ("a", "b")
    counts = np.zeros((2, 2, 3), np.int64)
    counts[0, 0, 0] = counts[0, 1, 1] = counts[1, 0, 1] = counts[1, 1, 1] = 1
    accuracy = recognition_statistic("accuracy", labels, counts.sum(0))
    assert mean_of_parts(accuracy)(counts) == 0.75


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Killer:
    """Ends a training that has come so far; can be given to a fold as its progress."""

    share: float

    def __call__(self, share: float, text: str) -> None:
        if share >= self.share:
            raise Killed


def test_a_killed_training_goes_on_with_every_recorded_epoch(
    whole: RunFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.me_tst.training.SECONDS_BETWEEN_SAVES", -1.0)
    stores = tmp_path / "ws"
    shutil.copytree(whole.workspace.path, stores, ignore=shutil.ignore_patterns("runs"))
    where = scope(Workspace(stores), None, Path(), recipe(**ALL), folds=("0",))
    plan = TRAIN.plan(where)
    packs = TRAIN.jobs(where, plan)
    assert len(packs) == 4, "a fold of two seeds, and their inner trainings"
    for pack in packs:
        dying = replace(pack, folds=tuple(replace(j, progress=Killer(0.6)) for j in pack.folds))
        with pytest.raises(Killed):
            fit_pack(dying)
        [left] = attempts(pack.folds[0].out)
        assert len(list((left / "resume").glob("epoch-*.npz"))) == 2
    train(where.workspace, recipe(**ALL), folds=("0",))
    run = RunFiles(Path(plan.detail["run"]))
    assert not [p for p in run.folder.iterdir() if p.name.startswith(".partial")]
    for unit in ("fold-00-fold_1", "inner-00-fold_1", "seed-1-fold-00-fold_1"):
        for name in ("curves.h5", "epochs.h5", "history.parquet"):
            one, two = (r.folder / unit / name for r in (run, whole))
            assert one.read_bytes() == two.read_bytes(), f"{unit}/{name}"
