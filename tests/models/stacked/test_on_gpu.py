"""Folds at once on a GPU: the proof with Triton's scan, batched products and device generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.fitting import exact_products
from models.hsta import many as hsta
from models.hsta import training as hsta_training
from models.hsta.settings import HstaTrainConfig
from models.me_tst.fused import predict_many
from models.me_tst.many import fit_many
from models.me_tst.settings import MeTstTrainConfig
from models.me_tst.training import predict
from models.stacked.proof import compare
from models.stacked.trace import Trace
from tests.fakes.folds import ME_TST, hsta_folds, me_tst_folds, toy_bank, toy_windows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA, STEPS = torch.device("cuda"), 100


@pytest.mark.parametrize("kind", list(ME_TST))
def test_me_tst_fold_beside_others_is_the_fold_alone(kind: str) -> None:
    config = MeTstTrainConfig(epochs=40, max_lr=3e-4, batch_size=8)
    alone, beside = me_tst_folds(kind)[2], me_tst_folds(kind)
    traces = Trace(0, STEPS), Trace(2, STEPS)
    motion = toy_windows(12, seed=9).motion
    with exact_products():
        fit_many([alone], toy_windows(), config, device="cuda", trace=traces[0])
        fit_many(beside, toy_windows(), config, device="cuda", trace=traces[1])
        one = predict(alone.network, motion, device="cuda")
        networks, rows = [fold.network for fold in beside], [np.arange(12)] * 4
        many = predict_many(networks, motion, rows, device="cuda")[2]
    proof = compare("fold-02", 4, traces[0].losses, traces[1].losses, one, many)
    assert proof.steps == STEPS and proof.holds, proof.sentence()


def test_hsta_fold_beside_others_is_the_fold_alone() -> None:
    config = HstaTrainConfig(
        epochs=60, batch_size=8, base_lr=0.01, warmup_epochs=1, precision="fp32", resume_every=0
    )
    bank = toy_bank()
    alone, beside = hsta_folds(bank, config)[2], hsta_folds(bank, config)
    traces = Trace(0, STEPS), Trace(2, STEPS)
    with exact_products():
        hsta.fit_many([alone], config, CUDA, traces[0])
        hsta.fit_many(beside, config, CUDA, traces[1])
        arguments = {"seed": 2, "device": CUDA, "scale": alone.scale}
        chances = [
            hsta_training.predict(fold.model, bank, range(12), config, **arguments)
            for fold in (alone, beside[2])
        ]
    proof = compare("fold-02", 4, traces[0].losses, traces[1].losses, chances[:1], chances[1:])
    assert proof.steps == STEPS and proof.holds, proof.sentence()
