"""Splits: disjoint people and videos, determinism, stratification, published lists."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import folds
from data.errors import SplitError


def make_events(per_person: dict[str, int], dataset: str = "casme2") -> pd.DataFrame:
    rows = []
    for person, count in per_person.items():
        for i in range(count):
            rows.append(
                {
                    "dataset": dataset,
                    "person": f"{dataset}:{person}",
                    "video": f"{person}/v{i}",
                    "event": f"{person}/v{i}",
                    "label_3": ["negative", "positive", "surprise"][i % 3],
                }
            )
    return pd.DataFrame(rows)


def test_leave_one_subject_out_tests_each_event_once():
    events = make_events({"a": 3, "b": 1, "c": 4})
    split = folds.leave_one_subject_out(events)
    assert list(split.folds) == ["casme2:a", "casme2:b", "casme2:c"]
    tested = [i for _, test in split.folds.values() for i in test]
    assert sorted(tested) == sorted(events["event"])
    train, test = split.folds["casme2:b"]
    assert test == ("b/v0",) and len(train) == 7
    assert split.people_shared == {} and split.subject_independent


def test_ids_of_several_datasets_carry_the_dataset():
    both = pd.concat([make_events({"a": 2}, "casme2"), make_events({"a": 2}, "samm")])
    split = folds.leave_one_subject_out(both)
    assert split.folds["samm:a"] == (
        ("casme2:a/v0", "casme2:a/v1"),
        ("samm:a/v0", "samm:a/v1"),
    )


def test_same_person_in_two_datasets_is_held_out_together():
    clips = make_events({"006": 2, "007": 1}, "samm")
    long = make_events({"006": 3}, "samm_lv").assign(person="samm:006")
    split = folds.leave_one_subject_out(pd.concat([clips, long]))
    assert len(split.folds["samm:006"][1]) == 5


def test_digest_ignores_row_order_and_sees_every_id():
    events = make_events({"a": 3, "b": 2})
    first = folds.leave_one_subject_out(events).digest
    assert folds.leave_one_subject_out(events.sample(frac=1, random_state=1)).digest == first
    assert folds.leave_one_subject_out(events.iloc[1:]).digest != first


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=4, max_size=15), st.integers(2, 4), st.integers(0, 3))
def test_subject_kfold_is_a_partition_by_person(sizes, k, seed):
    events = make_events({f"s{i}": n for i, n in enumerate(sizes)})
    split = folds.subject_kfold(events, k, seed)
    assert len(split.folds) == k
    tested = [i for _, test in split.folds.values() for i in test]
    assert sorted(tested) == sorted(events["event"])
    owner = dict(zip(events["event"], events["person"], strict=True))
    for train, test in split.folds.values():
        assert test and train
        assert not {owner[i] for i in train} & {owner[i] for i in test}


def test_subject_kfold_does_not_depend_on_the_order_or_index_of_rows():
    events = make_events({c: 1 + n % 4 for n, c in enumerate("abcdefghij")})
    wanted = folds.subject_kfold(events, 3).folds
    assert folds.subject_kfold(events.sample(frac=1, random_state=2), 3).folds == wanted
    assert folds.subject_kfold(events.set_index(events.index + 100), 3).folds == wanted


def test_subject_kfold_depends_on_seed_only():
    events = make_events({f"s{i}": 3 for i in range(12)})
    assert folds.subject_kfold(events, 4, 7).digest == folds.subject_kfold(events, 4, 7).digest
    digests = {folds.subject_kfold(events, 4, s).digest for s in range(5)}
    assert len(digests) > 1


def test_subject_kfold_balances_classes():
    rows = []
    for i in range(20):  # half the people are all-negative, half all-positive
        kind = "negative" if i % 2 else "positive"
        rows.append(make_events({f"s{i:02d}": 5}).assign(label_3=kind))
    events = pd.concat(rows, ignore_index=True)
    label = dict(zip(events["event"], events["label_3"], strict=True))
    for _, test in folds.subject_kfold(events, 5).folds.values():
        share = sum(label[i] == "positive" for i in test) / len(test)
        assert share == pytest.approx(0.5), "each fold gets two people of each class"


@pytest.mark.parametrize(
    ("events", "code"),
    [
        (make_events({"a": 3}), "too_few_people"),
        (make_events({"a": 3, "b": 1}).iloc[:0], "no_events"),
        (pd.concat([make_events({"a": 2, "b": 2})] * 2), "repeated_ids"),
        (make_events({"a": 2, "b": 2}).drop(columns="person"), "bad_split"),
        (make_events({"a": 2, "b": 2}).assign(video="one"), "videos_shared"),
    ],
)
def test_bad_events_are_refused_by_name(events, code):
    with pytest.raises(SplitError) as error:
        folds.leave_one_subject_out(events)
    assert error.value.code == code


@pytest.mark.parametrize("k", [0, 1, 4])
def test_bad_fold_count(k):
    with pytest.raises(SplitError, match="k = "):
        folds.subject_kfold(make_events({"a": 1, "b": 1, "c": 1}), k)


def test_prove_disjoint_lists_the_people():
    split = folds.Split("x", {"1": (("a",), ("b",))}, {"1": ("casme2:sub01",)})
    with pytest.raises(SplitError, match="casme2:sub01"):
        folds.prove_disjoint(split)


def write_hsta(folder: Path, train: str = "no_macro_exp_train") -> None:
    head = "Subject,Filename,Onset,Apex,Offset,AU,Expression type,Objective class\n"
    rows = [
        "spNO.1,a,5,9,20,4,Micro-expression,III\n",
        "spNO.1,b,7,9,20,4,Micro-expression,III\n",
        "spNO.216,d,3647,2655,2694,4,Micro-expression,III\n",
        "spNO.7,J,8,9,30,L2+L1,Micro-expression,II\n",
    ]
    for fold in (1, 2):
        test = rows[2 * fold - 2 : 2 * fold]
        rest = [r for r in rows if r not in test]
        (folder / f"test_fold_{fold}.csv").write_text(head + "".join(test))
        macro = "spNO.1,a,300,310,350,12,Macro-expression,I\n"
        (folder / f"{train}_fold_{fold}.csv").write_text(head + "".join(rest) + macro)


def test_hsta_lists_load_and_name_the_shared_people(tmp_path):
    folder = tmp_path
    write_hsta(folder)
    split = folds.published_split("hsta_objective", folder)
    assert set(split.folds) == {"1", "2"}
    assert split.folds["1"][1] == ("spNO.1_a_5", "spNO.1_b_7")
    assert split.people_shared == {"1": ("casme3:spNO.1",)}
    assert not split.subject_independent
    assert "SUBJECT-DEPENDENT" in split.describe()
    assert "spNO.1_a_300_macro" in split.folds["2"][0]


def test_hsta_ids_use_the_corrected_onset(tmp_path):
    write_hsta(tmp_path)
    split = folds.published_split("hsta_objective", tmp_path)
    assert "spNO.216_d_2647" in split.folds["2"][1]


def test_megc_list_becomes_68_style_folds(tmp_path):
    path = tmp_path / "combined_3class_gt.csv"
    path.write_bytes(
        b"casme2,sub01,EP02_01f,1\r\n,,,\r\nsmic,s01,s01_ne_01,0\r\nsamm,6,006_1_2,0\r\n"
        b"samm,6,006_1_3,2\r\n"
    )
    split = folds.published_split("megc2019", path)
    assert list(split.folds) == ["casme2:sub01", "samm:006", "smic:01"]
    assert split.folds["smic:01"][1] == ("smic:HS/s1_ne_01",)
    assert split.subject_independent


def test_plain_csv_split(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("fold,role,event,person\n1,train,a,p\n1,test,b,q\n2,train,b,q\n2,test,a,p\n")
    split = folds.published_split("csv", path)
    assert split.folds == {"1": (("a",), ("b",)), "2": (("b",), ("a",))}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("csv", "fold,role,event\n1,train,a\n1,test,a\n", "events_shared"),
        ("csv", "fold,role,event\n1,train,a\n", "empty_fold"),
        ("csv", "fold,role,event\n1,valid,a\n", "bad_fold_file"),
        ("csv", "nothing here\n", "bad_fold_file"),
        ("megc2019", "casme2,subject,EP02,1\n", "bad_fold_file"),
        ("unknown", "", "bad_split"),
        ("hsta_emotion", "a file, not a folder\n", "no_fold_files"),
    ],
)
def test_malformed_lists_are_refused_by_name(tmp_path, name, content, code):
    path = tmp_path / "list.csv"
    path.write_text(content)
    with pytest.raises(SplitError) as error:
        folds.published_split(name, path)
    assert error.value.code == code


def test_leave_one_dataset_out_by_hand():
    events = pd.concat([make_events({"a": 2, "b": 1}, d) for d in ("casme2", "samm", "smic")])
    split = folds.leave_one_dataset_out(events)
    assert list(split.folds) == ["casme2", "samm", "smic"] and split.subject_independent
    train, test = split.folds["samm"]
    assert test == ("samm:a/v0", "samm:a/v1", "samm:b/v0")
    assert {i.split(":")[0] for i in train} == {"casme2", "smic"} and len(train) == 6
    with pytest.raises(SplitError, match="at least 2 datasets") as caught:
        folds.leave_one_dataset_out(make_events({"a": 2, "b": 1}))
    assert caught.value.code == "too_few_datasets"


def test_a_person_of_two_datasets_never_trains_for_their_own_test():
    """SAMM and SAMM Long Videos recorded the same people."""
    clips = make_events({"006": 2, "007": 1}, "samm")
    long = make_events({"006": 3, "030": 1}, "samm_lv")
    long.loc[long.person == "samm_lv:006", "person"] = "samm:006"
    split = folds.leave_one_dataset_out(pd.concat([clips, long]))
    assert split.folds["samm"] == (
        ("samm_lv:030/v0",), ("samm:006/v0", "samm:006/v1", "samm:007/v0"),
    )  # fmt: skip
    assert split.folds["samm_lv"][0] == ("samm:007/v0",)
    only = long[long.person == "samm:006"]
    with pytest.raises(SplitError, match="to train on"):
        folds.leave_one_dataset_out(pd.concat([clips, only]))


def test_inner_people_are_few_fixed_and_never_tested():
    events = make_events(dict.fromkeys("abcdefghij", 3))
    people = folds.inner_people(events, {"casme2:a"}, "fold_x", 3)
    assert people == folds.inner_people(events.sample(frac=1, random_state=2), ["casme2:a"],
                                        "fold_x", 3)  # fmt: skip
    assert 2 <= len(people) <= 4 and "casme2:a" not in people
    groups = {tuple(folds.inner_people(events, [], f"fold_{n}", 3)) for n in range(12)}
    assert len(groups) == 3, "over the folds everybody has a turn"
    assert sorted(p for group in groups for p in group) == sorted(events.person.unique())
    with pytest.raises(SplitError, match="at least 2 training people") as caught:
        folds.inner_people(make_events({"a": 2, "b": 1}), ["casme2:a"], "fold_x", 3)
    assert caught.value.code == "too_few_people"
