"""A fold trained beside others is the fold trained alone, and a history or company changes nothing.

The fold alone is the plain network under torch's own optimiser. What a proof says of right and of
broken programs is in test_proof.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.errors import TrainingError
from models.hsta import many as hsta
from models.hsta.training import HstaTrainConfig
from models.me_tst.many import fit_many
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.training import FoldTraining
from tests.fakes.folds import ROWS, gap, hsta_folds, me_tst_folds, toy_bank, toy_windows

CPU = torch.device("cpu")
TRAIN = MeTstTrainConfig(epochs=40, max_lr=3e-4, batch_size=8)
CLIPS = HstaTrainConfig(
    epochs=60, batch_size=8, base_lr=0.01, warmup_epochs=1, precision="fp32", resume_every=1
)


def test_histories_of_unequal_folds_are_those_of_the_folds_alone() -> None:
    config = TRAIN.model_copy(update={"epochs": 3})
    alone, beside = me_tst_folds("me_tst"), me_tst_folds("me_tst")
    want = [fit_many([fold], toy_windows(), config)[0] for fold in alone]
    got = fit_many(beside, toy_windows(), config)
    for a, b in zip(want, got, strict=True):
        assert [row["lr"] for row in a] == [row["lr"] for row in b] and len(a) == 3
        for key in ("loss", "spot", "recog"):
            np.testing.assert_allclose([r[key] for r in b], [r[key] for r in a], rtol=1e-4)
    for a, b in zip(alone, beside, strict=True):
        assert gap(a.network, b.network) < 1e-5 and not b.network.training
    bank, clips = toy_bank(), CLIPS.model_copy(update={"epochs": 2})
    ones, many = hsta_folds(bank, clips), hsta_folds(bank, clips)
    first = [hsta.fit_many([fold], clips, CPU)[0] for fold in ones]
    second = hsta.fit_many(many, clips, CPU)
    for x, y in zip(first, second, strict=True):
        assert [r["learning_rate"] for r in x.history] == [r["learning_rate"] for r in y.history]
        assert [r["train_uf1"] for r in x.history] == [r["train_uf1"] for r in y.history]
        np.testing.assert_allclose(x.history[-1]["loss"], y.history[-1]["loss"], atol=1e-5)
    assert all(gap(a.model, b.model, ("key.bias",)) < 1e-5 for a, b in zip(ones, many, strict=True))


def test_order_and_company_do_not_change_a_fold() -> None:
    config = TRAIN.model_copy(update={"epochs": 2})
    company = [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0)]
    found, clips = [], []
    bank, short = toy_bank(), CLIPS.model_copy(update={"epochs": 2})
    for order in company:
        folds, models = me_tst_folds("me_tst"), hsta_folds(bank, short)
        fit_many([folds[i] for i in order], toy_windows(), config)
        hsta.fit_many([models[i] for i in order], short, CPU)
        found.append(folds[0].network)
        clips.append(models[0].model)
    for other, clip in zip(found[1:], clips[1:], strict=True):
        assert gap(found[0], other) < 1e-6 and gap(clips[0], clip, ("key.bias",)) < 1e-6
    assert gap(found[0], me_tst_folds("me_tst")[0].network) > 1e-4  # it trained


def test_folds_of_one_seed_differ_by_their_data_only() -> None:
    config = TRAIN.model_copy(update={"epochs": 1})
    torch.manual_seed(0)
    twins = [replace(fold, seed=5, rows=ROWS[0]) for fold in me_tst_folds("me_tst")[:3]]
    for twin in twins[1:]:
        twin.network.load_state_dict(twins[0].network.state_dict())
    twins[2] = replace(twins[2], seed=6)
    fit_many(twins, toy_windows(), config)
    assert gap(twins[0].network, twins[1].network) == 0
    assert gap(twins[0].network, twins[2].network) > 1e-4


def test_a_loss_that_is_not_finite_names_the_fold_and_leaves_the_others() -> None:
    windows = toy_windows()
    windows.motion[1] = np.nan  # only folds 1 and 3 train on window 1 … 2
    folds = me_tst_folds("me_tst")
    folds = [replace(f, rows=f.rows[f.rows != 1]) if i != 1 else f for i, f in enumerate(folds)]
    with pytest.raises(TrainingError, match=r"fold-01, epoch 0"):
        fit_many(folds, windows, TRAIN.model_copy(update={"epochs": 1}))


def test_a_network_without_a_stacked_form_is_trained_fold_after_fold() -> None:
    class Other(type(me_tst_folds("me_tst")[0].network)):  # type: ignore[misc]
        pass

    config = TRAIN.model_copy(update={"epochs": 1})
    folds: list[FoldTraining] = []
    for fold in me_tst_folds("me_tst")[:2]:
        other = Other(fold.network.config)
        other.load_state_dict(fold.network.state_dict())
        folds.append(replace(fold, network=other))
    histories = fit_many(folds, toy_windows(), config)
    want = fit_many([me_tst_folds("me_tst")[1]], toy_windows(), config)[0]
    assert histories[1][0]["loss"] == pytest.approx(want[0]["loss"], rel=1e-6)
