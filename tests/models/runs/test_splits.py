"""Split kinds of a recipe: composites by their own rules, and that no kind lets people through."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from data.datasets import composite
from data.errors import ConfigError, SplitError
from data.stages.inputs import StageInputs
from data.stages.workspace import Workspace
from models.recipe import load_recipe
from models.report.data import SPLITS
from models.runs.samples import choose_samples, find_fold, inner_sides, make_split
from models.runs.scores import score_run
from tests.fakes import fabricated_run as made

KINDS = ("leave_one_subject_out", "subject_kfold", "leave_one_dataset_out", "megc2019", "cd6me")


def recipe(**changes: Any) -> Any:
    """The demo's, over the composite's datasets."""
    base: dict[str, Any] = {"data": ["casme2", "samm", "smic"], "split.kind": "megc2019"}
    return load_recipe("demo_hsta", {**base, **changes})


def table(people: int = 4) -> pd.DataFrame:
    """Samples of three datasets, two events a person."""
    rows = [
        (d, f"{d}:p{n}", f"v{n}{e}", f"v{n}{e}", "micro", ["negative", "positive"][e])
        for d in ("casme2", "samm", "smic") for n in range(people) for e in range(2)
    ]  # fmt: skip
    names = ["dataset", "person", "video", "event", "type", "label"]
    return pd.DataFrame(rows, columns=names).assign(subject="s")


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_lets_a_person_through(kind: str) -> None:
    """Planted: a person under two datasets; and every fold's sides are theirs alone."""
    data = ["casme2", "samm"] if kind == "cd6me" else ["casme2", "samm", "smic"]
    samples = table()
    samples = samples[samples.dataset.isin(data)].reset_index(drop=True)
    samples.loc[samples.person == "samm:p0", "person"] = "casme2:p0"
    split = make_split(recipe(data=data, **{"split.kind": kind, "split.k": 3}), samples)
    owner = dict(zip(samples.dataset + ":" + samples.event, samples.person, strict=True))
    tested: list[str] = []
    for train, test in split.folds.values():
        assert not {owner[i] for i in train} & {owner[i] for i in test}
        tested += test
    assert sorted(tested) == sorted(owner), "everything is tested once"
    if kind in ("leave_one_dataset_out", "cd6me"):
        assert list(split.folds) == data and "samm:v00" not in split.folds["casme2"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_of_two_people_is_refused_by_every_kind(kind: str) -> None:
    samples = table()
    data = ["casme2", "samm", "smic"]
    samples.loc[samples.event == "v00", "video"] = "shared"
    samples.loc[samples.event == "v10", "video"] = "shared"
    asked = recipe(data=data, **{"split.kind": kind, "split.k": 3})
    if kind in ("leave_one_dataset_out", "cd6me"):
        assert make_split(asked, samples).subject_independent, "both are of one dataset"
        return
    with pytest.raises(SplitError, match="shared"):
        for seed in range(9):  # of k folds, one may hold both
            again = asked.split.model_copy(update={"seed": seed})
            make_split(asked.model_copy(update={"split": again}), samples)


def test_every_kind_is_put_into_words() -> None:
    kinds = type(recipe().split).model_fields["kind"].annotation
    assert set(kinds.__args__) == set(SPLITS)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": ["casme2", "samm"]},
        {"labels": "label_4"},
        {"data": ["casme2", "casme3", "smic"], "split.kind": "cd6me"},
    ],
)
def test_a_composite_of_other_data_is_refused(tmp_path: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"split\.kind"):
        choose_samples(Workspace(tmp_path), recipe(**changes))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The three datasets, made up; SMIC with cameras."""
    found = Workspace(tmp_path_factory.mktemp("composite") / "ws")
    for name in ("casme2", "samm", "smic"):
        events = made.write_ingest(found, name, subjects=3, prefix=name)
        made.write_clip_stores(found, name, events)
    return found


def test_what_is_outside_the_composite_is_in_the_ledger(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageInputs, "states", lambda self, stage, expect: _Everything())
    found = choose_samples(workspace, recipe())
    assert set(found.table.dataset) == {"casme2", "samm"}, "no made-up clip is of camera HS"
    out = found.ledger[found.ledger.reason == "outside_megc2019"]
    assert set(out.dataset) == {"smic"} and set(out.detail) == {"camera other than HS"}
    plain = choose_samples(workspace, recipe(**{"split.kind": "leave_one_subject_out"}))
    assert set(plain.table.dataset) == {"casme2", "samm", "smic"}


class _Everything(dict):  # type: ignore[type-arg]
    """A stage that has every unit."""

    def get(self, unit: str, default: Any = None) -> tuple[str, str]:
        return "ok", unit

    def __getitem__(self, unit: str) -> tuple[str, str]:
        return "ok", unit


def test_scores_per_dataset_and_whether_it_is_the_official_list(workspace: Workspace) -> None:
    from models.runs.files import RunFiles

    folder = made.write_hsta_run(
        workspace, ("casme2", "samm", "smic"), "composite", split={"kind": "megc2019"}
    )
    run = RunFiles(folder)
    scored = score_run(run)
    predictions = run.predictions()
    for name in ("casme2", "samm", "smic"):
        part = predictions[predictions.dataset == name]
        [row] = scored.query(f"scope == 'dataset:{name}' and name == 'accuracy'").to_dict("records")
        assert row["value"] == pytest.approx((part.label == part.predicted).mean())
        assert row["count"] == 3 and "3 classes" in row["note"]
        assert row["low"] <= row["value"] <= row["high"] and row["majority"] < 1
        [n] = scored.query(f"scope == 'samples:{name}'").value
        assert n == len(part)
    [whole] = scored.query("scope == 'samples:all'").note
    assert "IS NOT the official list" in whole and "9 people" in whole
    assert not composite.is_megc2019(predictions.assign(label_3=predictions.label))


def test_a_class_absent_from_a_dataset_is_said_with_both_numbers() -> None:
    from models.scores.recognition import count

    rows = [("a", "x", "n", "n"), ("a", "y", "p", "p"), ("b", "x", "n", "n"), ("b", "z", "s", "n")]
    predictions = pd.DataFrame(rows, columns=["dataset", "person", "label", "predicted"])
    predictions = predictions.assign(event=list("1234"), fold="f", prob_n=1, prob_p=0, prob_s=0)
    one = count(predictions, "a")
    total = one.counts.sum(axis=0)
    assert one.describe(total).startswith("2 of 3 classes")
    assert "over all 3 UF1 0.667" in one.describe(total)
    assert one.floors(total)["uf1"][0] == pytest.approx(1 / 3), "chance is the run's"
    assert one.classes == ("n", "p", "s")


def test_inner_sides_keep_macro_and_tested_people_apart() -> None:
    samples = table(6)
    samples.loc[samples.event == "v10", "type"] = "macro"
    split = make_split(recipe(**{"split.kind": "leave_one_subject_out"}), samples)
    owner = dict(zip(samples.dataset + ":" + samples.event, samples.person, strict=True))
    kind = dict(zip(samples.dataset + ":" + samples.event, samples.type, strict=True))
    for name, (train, test) in split.folds.items():
        learns, chooses = inner_sides(samples, (train, test), name, 5)
        people = [{owner[i] for i in ids} for ids in (learns, chooses, test)]
        assert people[0] and people[1] and not people[0] & people[1]
        assert not people[1] & people[2] and set(learns) | set(chooses) <= set(train)
        assert {kind[i] for i in chooses} == {"micro"}
    overlap = (tuple(owner), ("casme2:v00",))  # a published list that trains on who is tested
    learns, chooses = inner_sides(samples, overlap, "published", 5)
    assert "casme2:p0" not in {owner[i] for i in chooses}


@pytest.mark.parametrize(
    ("held", "wanted", "number"),
    [
        (["csv:1", "csv:2", "csv:3"], 1, 1),
        (["csv:1", "csv:2", "csv:3"], "fold-02-csv_3", 2),
        (["csv:1", "csv:2", "csv:3"], "csv:3", 2),
        (["csv:1", "csv:2", "csv:3"], "csv_3", 2),
        (["csv:1", "csv:2", "csv:3"], "0", 0),
        (["csv:1", "csv:2", "csv:3"], "1", None),  # fold 1, or csv:1 of fold 0
        (["1", "2", "3"], "2", None),
        (["1", "2", "3"], 2, 2),
        (["0", "1"], "1", 1),  # both say the same fold
        (["a:sub01", "b:sub01"], "sub01", None),
        (["a:sub01", "b:sub01"], "b:sub01", 1),
        (["a:sub01", "b:sub01"], "01", 1),
        (["a:sub01"], "nobody", None),
        (["a:sub01"], 1, None),
        (["a:sub01"], -1, None),
    ],
)
def test_a_fold_is_found_by_number_or_by_one_meaning(
    held: list[str], wanted: str | int, number: int | None
) -> None:
    if number is not None:
        assert find_fold(held, wanted) == number
        return
    with pytest.raises(ConfigError, match="fold-0"):
        find_fold(held, wanted)
