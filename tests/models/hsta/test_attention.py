"""Maps of the class tokens' attention: shares of what flowed, and their picture."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import InputError
from models.hsta.attention import class_attention, covered_share, overlay
from models.hsta.clips import ClipBank
from models.hsta.fold import TrainedHsta
from models.hsta.network import SPECIAL, VIDEO, HstaConfig, create
from models.hsta.training import HstaTrainConfig
from models.report import attention as report_attention

CONFIG = HstaConfig(
    image_size=28,
    num_frames=4,
    num_classes=3,
    patch_size=(12, 7),
    embed_dim=(16, 32),
    num_heads=(2, 4),
    num_groups=2,
    mlp_ratio=2,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = create(CONFIG)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def test_maps_are_shares_on_the_branch_grid(model):
    clip = torch.randn(2, 3, 6, 28, 28)
    special, video = class_attention(model, clip)
    for maps, branch in ((special, SPECIAL), (video, VIDEO)):
        for values in (maps.own, maps.visit):
            assert values.shape == (2, 2, *CONFIG.grid(branch))
            total = values.sum(axis=(2, 3, 4))
            assert (values >= 0).all() and (total < 1).all() and (total > 0.3).all()
    assert model.training  # left as it was
    model.train(False)
    before = model(clip)
    class_attention(model, clip)
    assert torch.equal(model(clip), before) and not model.groups[0].exchange[0].norm._forward_hooks


@pytest.mark.parametrize("path", ["fused", "plain"])
def test_own_map_is_the_weight_the_class_token_used(path):
    """With values that mark one patch, the block's class output is that patch's share."""
    torch.manual_seed(0)
    model = create(
        CONFIG.model_copy(update={"attention": path, "num_groups": 1, "depth": (1, 1, 0)})
    )
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    clip = torch.randn(1, 3, 6, 28, 28)
    special, _ = class_attention(model, clip)
    attention = model.groups[0].blocks[SPECIAL][0].attention
    seen = {}
    attention.register_forward_pre_hook(lambda m, a: seen.update(tokens=a[0]))
    model.eval()(clip)
    query, key, _ = attention.heads(seen["tokens"])
    scores = torch.einsum("bhd,bhnd->bhn", query[:, :, 0], key) / 8**0.5
    truth = scores.exp() / scores.exp().sum(-1, keepdim=True)
    expected = truth.mean(1)[0, 1:].detach().numpy().reshape(CONFIG.grid(SPECIAL))
    np.testing.assert_allclose(special.own[0, 0], expected, atol=1e-6)


def test_visit_map_is_the_weight_the_exchange_used(model):
    clip = torch.randn(1, 3, 6, 28, 28)
    _, video = class_attention(model, clip)
    exchange, seen = model.eval().groups[1].exchange[SPECIAL], {}
    hook = exchange.norm.register_forward_hook(lambda m, a, out: seen.update(tokens=out))
    model(clip)
    hook.remove()
    heads = CONFIG.num_heads[VIDEO]
    with torch.no_grad():
        query = exchange.query(seen["tokens"][0, 0]).view(heads, -1)
        key = exchange.key(seen["tokens"][0]).view(-1, heads, query.shape[1])
    scores = torch.einsum("hd,nhd->hn", query, key) / query.shape[1] ** 0.5
    truth = (scores.exp() / scores.exp().sum(-1, keepdim=True)).mean(0)[1:]
    expected = truth.numpy().reshape(CONFIG.grid(VIDEO))
    np.testing.assert_allclose(video.visit[0, 1], expected, atol=1e-6)


def test_overlay_paints_the_upper_left_covered_part(model):
    assert covered_share(model, SPECIAL) == pytest.approx(24 / 28)
    image = np.full((56, 56), 100, np.uint8)
    share = np.zeros((2, 2), np.float32)
    share[0, 0] = 0.4
    picture = overlay(image, share, covered=24 / 28)
    assert picture.shape == (56, 56, 3) and picture.dtype == np.uint8
    assert picture[2, 2, 0] > 150 and picture[2, 2, 2] < 60
    assert (picture[48:] == 100).all() and (picture[:, 48:] == 100).all()
    assert (overlay(image, np.zeros((2, 2), np.float32)) == 100).all()
    with pytest.raises(InputError, match="overlay"):
        overlay(image, np.zeros(4, np.float32))


@pytest.mark.parametrize("special", ["frames", "flow"])
def test_a_strip_without_leave_shows_no_face(monkeypatch, special):
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"special": special})
    network = create(config).eval()
    side, count = config.image_size, 9
    rng = np.random.default_rng(0)
    bank = ClipBank(
        frames=rng.integers(0, 200, (count, side, side, 1), dtype=np.uint8),
        start=np.array([0]),
        count=np.array([count - 2]),
        special=rng.normal(size=(1, 2, 3, side, side)).astype(np.float32),
        names=("toy:a",),
        labels=np.array([0]),
    )
    bank = replace(bank, special=bank.special if special == "flow" else None)
    fold = TrainedHsta(network, HstaTrainConfig(), ("x", "y"), (1.0,) * 5, 0)
    monkeypatch.setattr("models.hsta.fold.load_fold", lambda _: fold)
    monkeypatch.setattr("models.hsta.clips.read_clips", lambda *_, **__: bank)
    row = namedtuple("Row", "dataset event")("toy", "a")
    run = SimpleNamespace(workspace=None, keys=None)
    shown, hidden = (report_attention._strip(run, Path(), row, face) for face in (True, False))
    assert shown.shape == hidden.shape and shown.ndim == 3
    assert hidden[..., 0].min() >= 230  # between an empty 235 and orange's 230: no picture
    assert shown[..., 0].min() < 100
