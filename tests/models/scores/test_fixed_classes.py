"""Intervals over one set of classes; chance where a fold has one class; splits that leak; outputs
that are no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError, SplitError, TrainingError
from data.folds import event_ids
from models.metrics import confusion_counts, recognition_from_counts, recognition_statistic
from models.recipe import load_recipe
from models.runs.samples import make_split
from models.scores.bootstrap import group_counts, subject_interval, subject_weights
from models.scores.recognition import score_table
from models.scores.spotting import NUM_COUNTS, statistics

LABELS = ("negative", "positive", "surprise")


def rare_class() -> np.ndarray:
    """Counts of 8 people; everybody right on two classes, the third in one person alone, wrong."""
    true, predicted, who = [], [], []
    for person in range(8):
        true += ["negative", "positive"]
        predicted += ["negative", "positive"]
        who += [person, person]
    true.append("surprise"), predicted.append("negative"), who.append(3)
    each = np.stack(
        [confusion_counts([t], [p], LABELS) for t, p in zip(true, predicted, strict=True)]
    )
    return group_counts(who, each)[1]


def test_a_class_in_one_person_does_not_stretch_the_interval() -> None:
    counts = rare_class()
    total = counts.sum(axis=0)
    value = recognition_from_counts(total, LABELS).uf1
    found = subject_interval(counts, recognition_statistic("uf1", LABELS, total))
    assert found.value == pytest.approx(value) and found.high <= 0.667
    by_hand = []
    for weights in subject_weights(8, 1000, 0):
        matrix = np.tensordot(weights, counts, axes=1)
        f1 = []
        for c in range(3):
            true, said = matrix[c].sum(), matrix[:, c].sum()
            f1.append(2 * matrix[c, c] / (true + said) if true + said else 0.0)
        by_hand.append(np.mean(f1))
    low, high = np.percentile(by_hand, [2.5, 97.5])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    loose = subject_interval(
        counts, lambda c: float(recognition_from_counts(c, LABELS).uf1)
    )  # another measure in each resample
    assert loose.high == 1.0


def test_the_interval_is_the_95_percent_one() -> None:
    counts = np.arange(40).reshape(40, 1)
    found = subject_interval(counts, lambda c: float(c[0]), draws=2000)
    sums = subject_weights(40, 2000, 0) @ counts[:, 0]
    assert (found.low, found.high) == tuple(np.percentile(sums, [2.5, 97.5]))


def test_a_class_nobody_has_stays_out_and_uar_is_over_true_classes() -> None:
    counts = confusion_counts(["negative", "positive"], ["negative", "surprise"], LABELS)
    assert recognition_statistic("uar", LABELS, counts)(counts) == 0.5
    assert recognition_statistic("uf1", LABELS, counts)(counts) == pytest.approx(1 / 3)
    only = confusion_counts(["negative"] * 3, ["negative"] * 3, LABELS)
    assert recognition_statistic("uf1", LABELS, only)(only) == 1.0


def test_spotting_intervals_keep_their_classes_too() -> None:
    classes = ("negative", "positive", "surprise")
    whole = np.zeros(NUM_COUNTS, np.int64)
    whole[:3] = (4, 0, 0)
    confusion = whole[3:].reshape(-1, int((NUM_COUNTS - 3) ** 0.5) + 1)
    confusion[0, 0], confusion[1, 0] = 3, 1
    part = whole.copy()
    part[3:].reshape(confusion.shape)[1, 0] = 0
    free, fixed = statistics(classes)["uf1"](part), statistics(classes, whole)["uf1"](part)
    assert free == 1.0 and fixed == 0.5


def test_a_fold_of_one_class_has_the_runs_chance(tmp_path: Path) -> None:
    rows = [("a", "f0", "negative"), ("b", "f1", "positive"), ("b", "f1", "surprise")]
    said = pd.DataFrame(rows, columns=["person", "fold", "label"])
    said = said.assign(predicted=said.label, dataset="d", event=["1", "2", "3"])
    said = said.assign(**{f"prob_{name}": 0.3 for name in LABELS})
    table = score_table(said).set_index(["scope", "name"])
    assert table.chance["fold:f0", "uf1"] == pytest.approx(1 / 3)
    assert table.chance["pooled", "uf1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("columns", ["none", "lying"])
@pytest.mark.parametrize("shared", ["person", "video"])
def test_a_split_is_checked_by_our_own_people_and_videos(
    tmp_path: Path, shared: str, columns: str
) -> None:
    """The file's own person column may be missing or say what its author would like."""
    samples = pd.DataFrame({
        "dataset": "d", "event": list("abcd"), "subject": "s",
        "person": ["p1", "p1", "p2", "p3"], "video": ["v1", "v2", "v3", "v4"],
        "type": "micro", "label": "positive",
    })  # fmt: skip
    if shared == "video":
        samples = samples.assign(person=list("wxyz"), video=["v1", "v1", "v3", "v4"])
    lines = ["fold,role,event,person", "1,train,a,q1", "1,test,b,q2", "1,train,c,q3"]
    if columns == "none":
        lines = [line.rsplit(",", 1)[0] for line in lines]
    path = tmp_path / "split.csv"
    path.write_text("\n".join(lines))
    recipe = load_recipe(
        "demo_hsta", {"split": {"kind": "published", "name": "csv", "path": str(path)}}
    )
    assert set(event_ids(samples)) == {"a", "b", "c", "d"}
    with pytest.raises(SplitError, match="both sides") as caught:
        make_split(recipe, samples)
    assert caught.value.code == {"person": "people_shared", "video": "videos_shared"}[shared]
    assert "p1" in str(caught.value) or shared == "video"
    clean = samples.assign(person=list("wxyz"), video=["v1", "v2", "v3", "v4"])
    assert make_split(recipe, clean).subject_independent


def test_probabilities_that_are_no_numbers_are_not_scored() -> None:
    from types import SimpleNamespace

    from models.hsta.fold import predictions_table

    events = pd.DataFrame({"dataset": "d", "subject": "s", "person": "p", "event": ["e1", "e2"],
                           "label": ["negative", "positive"]})  # fmt: skip
    job: Any = SimpleNamespace(fold="fold-07-x", recipe=SimpleNamespace(labels="label_3"))
    sound = np.array([[0.2, 0.5, 0.3]] * 2)
    assert list(predictions_table(job, events, LABELS, sound).predicted) == ["positive"] * 2
    sound[1] = np.nan
    with pytest.raises(TrainingError, match=r"fold-07-x.*none for e2") as caught:
        predictions_table(job, events, LABELS, sound)
    assert caught.value.code == "outputs_not_finite"


@pytest.mark.parametrize("name", ["spot", "logits"])
def test_curves_that_are_no_numbers_are_not_scored(name: str) -> None:
    from types import SimpleNamespace

    from models.me_tst.fold import _require_finite

    arrays = {"spot": np.zeros((2, 4)), "logits": np.zeros((2, 4, 5))}
    curves: Any = SimpleNamespace(video="v", **arrays)
    _require_finite([curves], "fold-07-x")
    arrays[name][1] = np.inf
    with pytest.raises(TrainingError, match=r"fold-07-x.*none for v") as caught:
        _require_finite([curves], "fold-07-x")
    assert caught.value.code == "outputs_not_finite"


@pytest.mark.parametrize(
    ("recipe", "key"),
    [("demo_hsta", "train.base_lr"), ("demo_hsta", "train.weight_decay"),
     ("demo_me_tst", "train.max_lr"), ("demo_me_tst", "decode.p")],
)  # fmt: skip
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_settings_that_are_no_finite_numbers_are_refused(recipe: str, key: str, value: str) -> None:
    from models.recipe_text import read_text

    with pytest.raises(ConfigError, match=key):
        load_recipe(recipe, {key: read_text(value, "--set")})
