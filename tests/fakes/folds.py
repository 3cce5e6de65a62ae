"""Small networks and unequal folds for the tests that train folds alone and together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from models.hsta.clips import ClipBank
from models.hsta.network import create
from models.hsta.training import FoldTraining as HstaFold
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.plus import MeTstPlus, MeTstPlusConfig
from models.me_tst.stacked import biases_without_gradient
from models.me_tst.training import FoldTraining, Windows
from tests.fakes.hsta_small import SMALL

ME_TST: dict[str, Callable[[], nn.Module]] = {
    "me_tst": lambda: MeTst(MeTstConfig(dim=16, blocks=3, d_state=4, drop_path=0.3)),
    "two_trunks": lambda: MeTst(
        MeTstConfig(dim=16, blocks=3, d_state=4, drop_path=0.3, share_trunk=False)
    ),
    "me_tst_plus": lambda: MeTstPlus(
        MeTstPlusConfig(in_channels=10, dim=4, blocks=2, d_state=2, drop_path=0.3, share_trunk=True)
    ),
}
DROPPING = SMALL.model_copy(
    update={"dropout": 0.2, "drop_path": 0.3, "head_dropout": 0.2, "depth": (1, 2, 0)}
)
# Four folds of unequal size: 3, 3, 4 and 2 steps of 8, three with a smaller last one.
ROWS = [np.arange(3, 26), np.arange(0, 17), np.arange(10, 40), np.arange(0, 40, 3)]


def me_tst_folds(kind: str, **changes: object) -> list[FoldTraining]:
    """Fresh folds; the same call gives the same weights. Noise biases are frozen."""
    folds = []
    for number, rows in enumerate(ROWS):
        torch.manual_seed(number)
        network = ME_TST[kind]()
        freeze(network)
        folds.append(FoldTraining(network, rows, seed=number, who=f"fold-{number:02d}", **changes))
    return folds


def freeze(network: nn.Module) -> nn.Module:
    """Leave biases alone whose gradient is rounding noise."""
    for name in biases_without_gradient(network):
        network.get_parameter(name).requires_grad_(False)
    return network


def hsta_folds(bank: ClipBank, config: object, model: object = DROPPING, **changes: object) -> list:
    """Fresh folds of HSTA over the bank's events; the second has fewer clips than a batch."""
    folds = []
    for number, rows in enumerate([ROWS[0], ROWS[1][:6], ROWS[2], ROWS[3]]):
        torch.manual_seed(number)
        scale = bank.scale(rows, config.input.pixels)
        fold = HstaFold(
            create(model), bank, rows.tolist(), scale, number, f"fold-{number:02d}", **changes
        )
        folds.append(fold)
    return folds


def toy_windows(n: int = 40, k: int = 8, seed: int = 0) -> Windows:
    """Noise with a bump of motion in one channel pair per emotion, in every second window."""
    rng = np.random.default_rng(seed)
    motion = rng.normal(0, 0.2, (n, 10, k)).astype(np.float32)
    spot, classes = np.zeros((n, k), np.float32), np.full((n, k), 4, np.int64)
    for i in range(0, n, 2):
        start, emotion = int(rng.integers(1, k - 4)), i // 2 % 4
        spot[i, start : start + 4], classes[i, start : start + 4] = 1, emotion
        motion[i, 2 * emotion : 2 * emotion + 2, start : start + 4] += 2
    return Windows(motion, spot, classes)


def toy_bank(num_events: int = 40, side: int = 16, seed: int = 0) -> ClipBank:
    """Clips whose class is the direction of motion in the flow slots; frames are noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_events) % 2
    special = rng.normal(0, 0.3, (num_events, 2, 3, side, side)).astype(np.float32)
    special[:, :, 0] += np.where(labels == 1, 1.0, -1.0)[:, None, None, None]
    return ClipBank(
        frames=rng.integers(0, 256, (num_events * 6, side, side, 1), dtype=np.uint8),
        start=np.arange(num_events) * 6,
        count=np.full(num_events, 4),
        special=special,
        names=tuple(f"d:e{i}" for i in range(num_events)),
        labels=labels,
    )


def gap(ours: nn.Module, theirs: nn.Module, without: tuple[str, ...] = ()) -> float:
    """Largest difference of two networks' states, but for tensors whose name ends in `without`."""
    other = theirs.state_dict()
    differences = [
        float((tensor.double() - other[name].double()).abs().max())
        for name, tensor in ours.state_dict().items()
        if not name.endswith(without or ("\0",))
    ]
    return max(differences)
