"""Action units as targets: texts, codes, scores with counts, and a fold that learns them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data.datasets.composite import CD6ME_UNITS
from data.errors import ConfigError, InputError
from models import targets
from models.hsta.training import epoch_order, unit_weights
from models.recipe import load_recipe
from models.scores import units
from models.scores.bootstrap import group_counts


def test_texts_and_codes() -> None:
    events = pd.DataFrame({"aus": ["4+L10", "(R6|12)+7", "38", None, "12+14(k)", "R6|R12"]})
    texts = targets.label_texts(events, "aus")
    assert texts.fillna("-").tolist() == ["4+10", "6+7", "none", "-", "12", "6"]
    uncoded = targets.label_texts(events, "aus", uncoded=True)
    assert uncoded[3] == "none" and texts.isna().tolist() == [i == 3 for i in range(6)]
    for text in ("none", "1", "4+7", "1+2+4+5+6+7+9+10+12+14+15+17"):
        code = targets.code_of(text)
        bits = targets.bits_of([code])[0]
        assert targets.text_of({n for n, b in zip(CD6ME_UNITS, bits, strict=True) if b}) == text
    with pytest.raises(InputError, match="4\\+7"):
        targets.numbers_of("anger")
    chances = np.zeros((2, 12))
    chances[1, [0, 11]] = 0.5, 0.9
    assert targets.seen(chances) == ["none", "1+17"]


def table(pairs: list[tuple[str, str]], people: str = "ab") -> pd.DataFrame:
    rows = [
        {"dataset": "d", "event": f"e{i}", "person": people[i % len(people)], "fold": f"f{i % 2}",
         "label": t, "predicted": p} for i, (t, p) in enumerate(pairs)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_scores_by_hand() -> None:
    """AU4: TP 1 FP 1 FN 1; AU12: TP 1; AU1 said once and never true."""
    found = table([("4", "4"), ("4+12", "12"), ("none", "4"), ("none", "1")])
    rows = units.score_table(found).set_index(["name", "scope"])
    pooled = rows.xs("pooled", level="scope")
    assert pooled.value["uf1"] == pytest.approx((0.5 + 1) / 2)
    assert pooled.value["uar"] == pytest.approx(((1 / 2 + 1 / 2) / 2 + 1) / 2)
    assert pooled.value["accuracy"] == 0.25
    assert "AU1," in pooled.note["uf1"] and "AU4" not in pooled.note["uf1"]
    assert rows.note["f1", "class:AU4"] == "TP 1, FP 1, FN 1"
    assert rows.value["f1", "class:AU4"] == 0.5 and rows["count"]["f1", "class:AU4"] == 2
    assert np.isnan(rows.value["f1", "class:AU5"])  # neither true nor said: no F1, not 0
    assert rows.value["f1", "class:AU1"] == 0.0
    assert pooled.majority["accuracy"] == 0.5 and pooled.chance["uar"] == 0.5
    assert set(rows.index.get_level_values("scope")) >= {"fold:f0", "fold:f1"}
    assert pooled.low["uf1"] <= pooled.value["uf1"] <= pooled.high["uf1"]


def test_scores_agree_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 1 << 12, (2, 60))
    texts = [
        [targets.text_of({n for n, b in zip(CD6ME_UNITS, row, strict=True) if b})
         for row in targets.bits_of(side)] for side in codes
    ]  # fmt: skip
    found = units.score_table(table(list(zip(*texts, strict=True)))).set_index(["name", "scope"])
    true, said = (targets.bits_of(side).astype(int) for side in codes)
    expected = sklearn.f1_score(true, said, average="macro")
    assert found.value["uf1", "pooled"] == pytest.approx(expected)
    exact = sklearn.accuracy_score(true, said)
    assert found.value["accuracy", "pooled"] == pytest.approx(exact)


def test_counts_for_comparisons_are_those_of_the_table() -> None:
    found = table([("4", "4"), ("4+12", "12"), ("none", "4"), ("7", "none")], people="abcd")
    counted = units.count(found)
    assert counted.people == list("abcd") and counted.counts.shape == (4, 13, 4)
    total = counted.counts.sum(axis=0)
    statistic = counted.statistics(total)["uf1"]
    rows = units.score_table(found).set_index(["name", "scope"])
    assert statistic(total) == pytest.approx(rows.value["uf1", "pooled"])
    assert counted.floors(total)["uar"][0] == 0.5 and "never true" in counted.describe(total)
    people, _ = group_counts(list(found.person), units.each(found))
    assert people == counted.people
    both = pd.concat([found.assign(epoch=1), found.assign(epoch=2, predicted=found.label)])
    epochs = units.count_epochs("fold-00-a", both)
    assert epochs.counts.shape == (2, 4, 13, 4)
    assert units.scores_of(epochs.counts[1].sum(axis=0))["uf1"] == 1.0


def test_sampling_and_weights() -> None:
    train = load_recipe("hsta_cpu").train
    codes = np.array([targets.code_of(t) for t in ("4", "4", "4", "4+7", "none", "none")])
    weights = unit_weights(codes, 12, train.model_copy(update={"class_weights": "inverse"}))
    assert weights is not None
    assert weights[CD6ME_UNITS.index(4)] == pytest.approx(2 / 4)
    assert weights[CD6ME_UNITS.index(7)] == 5 and weights[0] == 6
    assert unit_weights(codes, 12, train.model_copy(update={"class_weights": "none"})) is None
    balanced = train.model_copy(update={"balanced": True, "batch_size": 6})
    drawn = np.concatenate([
        part for seed in range(200)
        for part in epoch_order(codes, balanced, np.random.default_rng(seed))
    ])  # fmt: skip
    share = np.bincount(drawn, minlength=6) / len(drawn)
    assert share[3] == pytest.approx(1 / 3, abs=0.03)  # a set that occurs once of three sets


@pytest.mark.parametrize(
    "name", ["me_tst_cpu_samm_lv", "me_tst_plus_cpu_samm_lv", "ststnet_pictures"]
)
def test_a_network_of_one_class_refuses_sets_when_its_recipe_is_read(name: str) -> None:
    with pytest.raises(ConfigError, match="yes or no") as caught:
        load_recipe(name, {"labels": "aus"})
    assert load_recipe(name).network_name in caught.value.got


def test_cd6me_counts_uncoded_events_and_others_drop_them() -> None:
    events = pd.DataFrame({"aus": ["4", None]})
    ours = load_recipe("hsta_cpu", {"labels": "aus"})
    assert targets.texts_of(events, ours).isna().tolist() == [False, True]
    theirs = load_recipe("hsta_cpu", {"labels": "aus", "split.kind": "cd6me"})
    assert targets.texts_of(events, theirs).tolist() == ["4", "none"]
