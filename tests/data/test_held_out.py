"""Folds made when asked for: the same sides, digests and files as lists of all of them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import SplitError
from data.folds import (
    Split,
    leave_one_dataset_out,
    leave_one_subject_out,
    subject_kfold,
    with_training_events,
)
from data.stages import identity
from data.stages.identity import JoinedJson, plain_json, stable_hash
from models.runs import split_file


def events(count: int, people: int) -> pd.DataFrame:
    names = [f'e{37 * i % 101:03d}"é' for i in range(count)]
    rows = {"dataset": "d", "video": [f"v{i}" for i in range(count)], "event": names}
    return pd.DataFrame({**rows, "person": [f"p{i % people}" for i in range(count)]})


def as_lists(split: Split) -> Split:
    return Split(split.name, dict(split.folds), split.people_shared, split.videos_shared)


OTHERS = events(40, 9).assign(dataset="b", person=[f"p{5 + i % 9}" for i in range(40)])
SPLITS = [
    leave_one_dataset_out(pd.concat([events(9, 7), OTHERS])),
    leave_one_subject_out(events(60, 7)),
    subject_kfold(events(60, 7), 3),
    with_training_events(
        leave_one_subject_out(events(60, 7)),
        events(60, 7),
        events(9, 3).assign(event=[f"m{i}" for i in range(9)], video=[f"x{i}" for i in range(9)]),
    ),
]


@pytest.mark.parametrize("split", SPLITS)
def test_digest_names_and_file_are_those_of_lists(split: Split) -> None:
    lists = as_lists(split)
    assert isinstance(lists.folds, dict)
    assert split.digest == lists.digest
    assert split.named() == lists.named() and split.tested() == lists.tested()
    names = [f"fold-{i}" for i in range(len(split.folds))]
    folds = {
        n: {"train": list(a), "test": list(b)}
        for n, (a, b) in zip(names, split.folds.values(), strict=True)
    }
    facts: dict[str, object] = {"digest": split.digest, "people_shared": [], "folds": folds}
    assert split_file.split_text(split, names) == json.dumps(facts, indent=1)
    facts["inner"] = {"fold-0": ["a", 'b"']}
    assert split_file.split_text(split, names, {"fold-0": ["a", 'b"']}) == json.dumps(
        facts, indent=1
    )
    del facts["inner"]
    assert split_file.split_text(lists, names) == json.dumps(facts, indent=1)


@pytest.mark.parametrize("split", SPLITS)
def test_a_large_splits_file_grows_with_its_events(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"fold-{i}" for i in range(len(split.folds))]
    whole = json.loads(split_file.split_text(split, names))
    monkeypatch.setattr(split_file, "MOST", 10)
    small = json.loads(split_file.split_text(split, names))
    assert len(small["events"]) == len(split.named())
    back = split_file.with_sides(small)["folds"]
    assert {f: {k: list(v) for k, v in s.items()} for f, s in back.items()} == whole["folds"]


def test_extra_events_train_where_their_person_is_not_tested() -> None:
    plain, more = SPLITS[1], SPLITS[3]
    for fold, (train, test) in more.folds.items():
        assert test == plain.folds[fold][1]
        person = fold.removeprefix("d:").removeprefix("p")
        mine = {f"m{i}" for i in range(9) if i % 3 == int(person)}
        assert set(train) - set(plain.folds[fold][0]) == {f"m{i}" for i in range(9)} - mine


def test_a_person_who_shares_a_video_is_named() -> None:
    table = events(6, 3).assign(video="one")
    with pytest.raises(SplitError, match="one") as error:
        leave_one_subject_out(table)
    assert error.value.code == "videos_shared"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(plain)
def test_the_fast_way_digests_what_the_careful_way_does(value: object) -> None:
    careful = json.dumps([identity._plain(value)], sort_keys=True, separators=(",", ":"))
    assert plain_json(value) == careful


def test_keys_that_are_no_text_are_written_as_before() -> None:
    value = {10: np.int64(1), 9: {"a": (None, True)}}
    careful = json.dumps([identity._plain(value)], sort_keys=True, separators=(",", ":"))
    assert plain_json(value) == careful


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=3), min_size=1), min_size=1), st.data())
def test_a_selection_is_digested_as_its_list(values: list[list[str]], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(values) - 1)).map(sorted))
    digest = hashlib.sha256(b"[")
    JoinedJson(values).feed(digest, np.array(places, np.int64))
    digest.update(b"]")
    assert digest.hexdigest()[:32] == stable_hash([values[i] for i in places])
