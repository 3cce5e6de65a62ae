"""A fold trained beside others is the fold trained alone: unequal sizes, dropout on.

The fold alone is the plain network under torch's own optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import TrainingError
from models.hsta import many as hsta
from models.hsta import training as hsta_training
from models.hsta.input import HstaInputConfig
from models.hsta.training import HstaTrainConfig
from models.me_tst import fused as me_tst_fused
from models.me_tst.fused import predict_many
from models.me_tst.many import fit_many
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.training import FoldTraining, Windows, predict
from models.stacked.proof import TOLERANCE, compare
from models.stacked.stack import Stack
from models.stacked.trace import Trace
from tests.fakes.folds import ME_TST, ROWS, gap, hsta_folds, me_tst_folds, toy_bank, toy_windows

CPU = torch.device("cpu")
TRAIN = MeTstTrainConfig(epochs=40, max_lr=3e-4, batch_size=8)
CLIPS = HstaTrainConfig(
    epochs=60, batch_size=8, base_lr=0.01, warmup_epochs=1, precision="fp32", resume_every=1
)


def traced(folds: Sequence[Any], fold: int, steps: int) -> list[torch.Tensor]:
    """Losses of one of the folds over so many of its steps; the networks end there."""
    trace = Trace(fold, steps)
    # A hundred steps of a real fold are warm-up; beyond it these narrow networks are chaotic.
    config = TRAIN.model_copy(update={"epochs": 400}) if steps >= 100 else TRAIN
    fit_many(folds, toy_windows(), config, trace=trace)
    return trace.losses


@pytest.mark.parametrize(("kind", "steps"), [("me_tst", 25), ("me_tst_plus", 8)])
def test_me_tst_losses_and_logits_of_a_fold(kind: str, steps: int) -> None:
    prove_me_tst(kind, steps, fold=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["me_tst", "two_trunks"])
@pytest.mark.parametrize("fold", range(4))
def test_me_tst_every_fold_for_a_hundred_steps(kind: str, fold: int) -> None:
    prove_me_tst(kind, 100, fold)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(ME_TST))
@pytest.mark.parametrize("fold", range(4))
def test_me_tst_in_double_precision_for_a_hundred_steps(kind: str, fold: int) -> None:
    """The narrow ME-TST+ is chaotic: rounding grows a million times, in either precision."""
    assert double_gap(kind, fold, 100) < 1e-7


@pytest.mark.parametrize(("kind", "steps"), [("two_trunks", 12), ("me_tst_plus", 8)])
def test_me_tst_in_double_precision(kind: str, steps: int) -> None:
    assert double_gap(kind, 1, steps) < 1e-12


def double_gap(kind: str, fold: int, steps: int) -> float:
    """Largest difference of a fold's losses alone and beside others, all in float64."""
    found = toy_windows()
    windows = Windows(found.motion.astype(np.float64), found.spot.astype(np.float64), found.classes)
    traces = Trace(0, steps), Trace(fold, steps)
    for trace, chosen in zip(traces, (slice(fold, fold + 1), slice(None)), strict=True):
        folds = me_tst_folds(kind)[chosen]
        folds = [replace(one, network=one.network.double()) for one in folds]
        fit_many(folds, windows, TRAIN, trace=trace)
    assert traces[0].losses[0].dtype == torch.float64 and len(traces[1].losses) == steps
    return float((torch.stack(traces[0].losses) - torch.stack(traces[1].losses)).abs().max())


def prove_me_tst(kind: str, steps: int, fold: int) -> None:
    alone, beside = me_tst_folds(kind)[fold], me_tst_folds(kind)
    losses = traced([alone], 0, steps), traced(beside, fold, steps)
    motion = toy_windows(12, seed=9).motion  # unseen
    whole = [np.arange(12)] * 4
    outputs = (
        predict(alone.network, motion),
        predict_many([f.network for f in beside], motion, whole),
    )
    proof = compare(alone.who, 4, *losses, outputs[0], outputs[1][fold])
    assert proof.steps == steps and proof.holds, proof.sentence()
    assert gap(alone.network, me_tst_folds(kind)[fold].network) > 1e-3  # it was trained


CHANGES: list[dict[str, Any]] = [
    {},
    {
        "accumulate": 2,
        "clip_norm": 0.5,
        "class_weights": "inverse",
        "balanced": False,
        "label_smoothing": 0.1,
        "input": HstaInputConfig(
            pixels="motion",
            augment=True,
            max_amplitude=0.5,
            level=0.5,
            test_mirror=True,
            test_sampling="random",
            test_draws=2,
        ),
    },
]


@pytest.mark.parametrize(("changes", "steps"), [(CHANGES[0], 20), (CHANGES[1], 12)])
def test_hsta_losses_and_chances_of_a_fold(changes: dict[str, Any], steps: int) -> None:
    prove_hsta(changes, steps, fold=2)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("fold", range(4))
def test_hsta_every_fold_for_a_hundred_steps(changes: dict[str, Any], fold: int) -> None:
    prove_hsta(changes, 100, fold)


def prove_hsta(changes: dict[str, Any], steps: int, fold: int) -> None:
    config, bank = CLIPS.model_copy(update={**changes, "epochs": 120}), toy_bank()
    alone, beside = hsta_folds(bank, config)[fold], hsta_folds(bank, config)
    traces = Trace(0, steps), Trace(fold, steps)
    hsta.fit_many([alone], config, CPU, traces[0])
    hsta.fit_many(beside, config, CPU, traces[1])
    held_out = [[e for e in range(40) if e not in f.positions] for f in beside]
    chances = hsta.predict_many(
        [f.model for f in beside],
        bank,
        held_out,
        config,
        seeds=[f.seed for f in beside],
        device=CPU,
        scales=[f.scale for f in beside],
    )
    assert [len(c) for c in chances] == [len(h) for h in held_out]
    one = hsta_training.predict(
        alone.model, bank, held_out[fold], config, seed=alone.seed, device=CPU, scale=alone.scale
    )
    proof = compare(alone.who, 4, traces[0].losses, traces[1].losses, [one], [chances[fold]])
    assert proof.steps == steps and proof.holds, proof.sentence()


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


def test_a_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding that counts, masks of a neighbour: what a proof must find."""
    alone = traced([me_tst_folds("me_tst")[0]], 0, 6)

    def gap_of(fused: list[torch.Tensor]) -> float:
        return compare("fold-00", 4, alone, fused, [np.zeros(1)], [np.zeros(1)]).loss_gap

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "step", lambda self, counts, weight: None)
        assert gap_of(traced(me_tst_folds("me_tst"), 0, 6)) > TOLERANCE
    with monkeypatch.context() as patch:
        whole = me_tst_fused.fold_losses
        patch.setattr(
            me_tst_fused, "fold_losses", lambda *a: whole(*a[:-1], torch.ones_like(a[-1]))
        )
        assert gap_of(traced(me_tst_folds("me_tst"), 0, 6)) > TOLERANCE
    assert gap_of(traced(me_tst_folds("me_tst"), 0, 6)) < 1e-5


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
