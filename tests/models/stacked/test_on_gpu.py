"""Folds at once on a GPU: the proof with Triton's scan, batched products and device generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.hsta import many as hsta
from models.hsta.settings import HstaTrainConfig
from models.me_tst import many as me_tst
from models.me_tst.settings import MeTstTrainConfig
from models.stacked.proof import prove
from tests.fakes.folds import ME_TST, hsta_folds, me_tst_folds, toy_bank, toy_windows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA, STEPS = torch.device("cuda"), 100


@pytest.mark.parametrize("kind", list(ME_TST))
def test_me_tst_fold_beside_others_is_the_fold_alone(kind: str) -> None:
    config = MeTstTrainConfig(epochs=40, max_lr=3e-4, batch_size=8)
    asked = [np.arange(24, 36)] * 4
    proof = prove(
        "fold-02",
        4,
        lambda of: me_tst.rivals(
            me_tst_folds(kind), 2, toy_windows(), config, asked, device="cuda", kind=of
        ),
        STEPS,
    )
    assert proof.free_double.steps == STEPS and proof.holds, proof.sentence()


def test_hsta_fold_beside_others_is_the_fold_alone() -> None:
    config = HstaTrainConfig(
        epochs=60, batch_size=8, base_lr=0.01, warmup_epochs=1, precision="fp32", resume_every=0
    )
    bank, asked = toy_bank(), [range(12)] * 4
    proof = prove(
        "fold-02",
        4,
        lambda of: hsta.rivals(hsta_folds(bank, config), 2, config, asked, CUDA, of),
        STEPS,
    )
    assert proof.free_double.steps == STEPS and proof.holds, proof.sentence()
