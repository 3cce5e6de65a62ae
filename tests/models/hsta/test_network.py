"""The HSTA network's own properties: sizes, wiring, positions, stochastic depth, errors."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from data.errors import ConfigError, InputError
from models.hsta.network import (
    DEPTH_CHOICES,
    SPECIAL,
    VIDEO,
    HstaConfig,
    create,
    drop_path_rates,
    sinusoid_positions,
    variant,
)
from models.layers.attention import (
    attention,
    attention_reference,
    single_query_attention,
    split_heads,
)
from models.layers.stochastic_depth import add_dropping

SMALL = HstaConfig(
    image_size=28,
    num_frames=4,
    num_classes=3,
    patch_size=(12, 14),
    embed_dim=(16, 32),
    num_heads=(2, 4),
    depth=(1, 2, 0),
    num_groups=2,
    mlp_ratio=2,
)

# Trainable numbers the origin's model file has at these settings (its class instantiated).
PARAMETERS = [
    ({}, 81_887_623),
    ({"head_mode": 1}, 81_895_687),
    ({"num_classes": 3}, 81_879_552 + 3 * 1153),
    ({"num_frames": 16}, 81_887_623),
    ({"num_groups": 1}, 21.61e6),
    ({"num_groups": 2}, 41.71e6),
    ({"num_groups": 3}, 61.80e6),
    ({"num_groups": 6}, 122.07e6),
    ({"num_groups": 3, "depth": DEPTH_CHOICES[0]}, 104.32e6),
    ({"depth": DEPTH_CHOICES[1]}, 53.54e6),
    ({"depth": DEPTH_CHOICES[5]}, 88.98e6),
    ({"embed_dim": (192, 384), "num_heads": (6, 6)}, 20.89e6),
    ({"embed_dim": (96, 192), "num_heads": (3, 3)}, 5.43e6),
]


def model_and_clip(config=SMALL, batch=2, seed=0):
    torch.manual_seed(seed)
    model = create(config).eval()
    for parameter in model.parameters():  # as if trained: biases and class tokens away from zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    side = config.image_size
    return model, torch.randn(batch, 3, config.num_frames + 2, side, side)


@pytest.mark.parametrize(("changes", "expected"), PARAMETERS)
def test_number_of_parameters(changes, expected):
    with torch.device("meta"):
        model = create(HstaConfig(**changes))
    count = sum(p.numel() for p in model.parameters())
    assert count == expected if isinstance(expected, int) else abs(count - expected) < 5e3


def test_main_setting_sizes():
    config = HstaConfig()
    with torch.device("meta"):
        model = create(config)
        tokens = model.forward_tokens(torch.zeros(1, 3, 8, 224, 224))
    assert len(model.state_dict()) == 312
    assert [tuple(t.shape) for t in tokens] == [(1, 325, 384), (1, 589, 768)]
    assert (config.num_tokens(SPECIAL), config.num_tokens(VIDEO)) == (325, 589)


@pytest.mark.parametrize("depth", sorted(set(DEPTH_CHOICES.values())))
@pytest.mark.parametrize("head_mode", [1, 2, 4])
def test_every_depth_and_head_runs_and_learns(depth, head_mode):
    config = SMALL.model_copy(update={"depth": depth, "head_mode": head_mode})
    model, clip = model_and_clip(config)
    model.train()
    model(clip).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["base", "base_448", "small", "tiny", "9", "15", "18"])
def test_registered_sizes_build(name):
    config = variant(name)
    with torch.device("meta"):
        model = create(config)
    assert len(model.groups) == config.num_groups
    assert [len(b) for b in model.groups[0].blocks] == list(config.depth[:2])


def test_border_pixels_beyond_whole_patches():
    config = SMALL  # 28 = 2·12 + 4: the last 4 rows and columns of the special slots are unread
    model, clip = model_and_clip(config)
    with torch.no_grad():
        before = model(clip)
        special = clip.clone()
        special[:, :, -2:, 24:] += 5
        special[:, :, -2:, :, 24:] -= 5
        assert torch.equal(model(special), before)
        inside = clip.clone()
        inside[:, :, -2:, 23] += 5
        assert not torch.equal(model(inside), before)
        video = clip.clone()
        video[:, :, :-2, 24:] += 5
        assert not torch.equal(model(video), before)


@pytest.mark.parametrize("branch", [SPECIAL, VIDEO])
def test_embedding_equals_the_convolution_in_values_and_gradients(branch):
    model, clip = model_and_clip()
    embed = model.embed[branch]
    part = model.split(clip)[branch].requires_grad_()
    inputs = (part, embed.project.weight, embed.project.bias)
    ours = embed.patches(part)
    plain = embed.project(part).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, plain, atol=2e-6, rtol=1e-5)
    seed = torch.randn_like(plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(plain, inputs, seed),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


def test_order_of_frames_matters():
    model, clip = model_and_clip()
    with torch.no_grad():
        before = model(clip)
        assert (model(clip[:, :, [0, 1, 2, 3, 5, 4]]) - before).abs().max() > 1e-4
        assert (model(clip[:, :, [2, 3, 0, 1, 4, 5]]) - before).abs().max() > 1e-4


def test_exchange_leaves_patch_tokens_and_reads_the_same_tokens():
    model, clip = model_and_clip()
    group = model.groups[0]
    with torch.no_grad():
        special, video = (e(t) for e, t in zip(model.embed, model.split(clip), strict=True))
        inside = [group.blocks[SPECIAL](special), group.blocks[VIDEO](video)]
        after = group(special, video)
        for branch in (SPECIAL, VIDEO):
            assert torch.equal(after[branch][:, 1:], inside[branch][:, 1:])
            own, other = inside[branch][:, :1], inside[1 - branch][:, 1:]
            assert torch.equal(after[branch][:, :1], group.exchange[branch](own, other))
            assert (after[branch][:, 0] - inside[branch][:, 0]).abs().max() > 1e-3


def test_keys_of_self_attention_have_no_bias():
    model, _ = model_and_clip()
    block = model.groups[0].blocks[VIDEO][0].attention
    query, key, value = block.heads(torch.zeros(1, 2, SMALL.embed_dim[VIDEO]))
    assert key.abs().max() == 0 and query.abs().max() > 0 and value.abs().max() > 0


def test_positions():
    table = sinusoid_positions(50, 12)
    assert table[0].tolist() == [0, 1] * 6
    angle = 7 / 10000 ** (2 * 2 / 12)
    assert table[7, 4].item() == pytest.approx(torch.tensor(angle).sin().item(), abs=1e-6)
    assert table[7, 5].item() == pytest.approx(torch.tensor(angle).cos().item(), abs=1e-6)
    model, _ = model_and_clip()
    assert not [n for n in model.state_dict() if "position" in n]
    assert model.to(torch.float64).embed[0].positions.dtype == torch.float64


def test_attention_paths_agree_in_values_and_gradients():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7))
    fast, truth = attention(q, k, v), attention_reference(q, k, v)
    torch.testing.assert_close(fast, truth)
    fast_grads = torch.autograd.grad(fast.square().sum(), (q, k, v))
    truth_grads = torch.autograd.grad(truth.square().sum(), (q, k, v))
    torch.testing.assert_close(fast_grads, truth_grads)


def test_single_query_equals_the_reference_in_values_and_gradients():
    torch.manual_seed(0)
    heads, head_dim, width = 3, 4, 12
    inputs = [(2, heads, head_dim), (2, 9, width), (12, width), (12,), (12, width), (12,)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in inputs]
    query, tokens, kw, kb, vw, vb = inputs
    fast = single_query_attention(*inputs)
    key, value = split_heads(tokens @ kw.T + kb, heads), split_heads(tokens @ vw.T + vb, heads)
    truth = attention_reference(query[:, :, None], key, value).flatten(1)
    torch.testing.assert_close(fast, truth)
    fast_grads = torch.autograd.grad(fast.square().sum(), inputs)
    truth_grads = torch.autograd.grad(truth.square().sum(), inputs)
    torch.testing.assert_close(fast_grads, truth_grads)


def test_drop_path_rates():
    rates = drop_path_rates(HstaConfig())
    expected = [[0, 0.0286], [0.0571, 0.0857], [0.1143, 0.1429], [0.1714, 0.2]]
    assert all(a == pytest.approx(b, abs=5e-5) for a, b in zip(rates, expected, strict=True))
    deep_special = drop_path_rates(HstaConfig(depth=(3, 1, 0), num_groups=2, drop_path=0.5))
    assert deep_special == [pytest.approx([0, 0.1, 0.2]), pytest.approx([0.3, 0.4, 0.5])]
    model = create(SMALL)
    for group, row in zip(model.groups, drop_path_rates(SMALL), strict=True):
        for branch in (SPECIAL, VIDEO):
            assert [b.drop_rate for b in group.blocks[branch]] == row[: SMALL.depth[branch]]


def test_dropping_leaves_out_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.zeros(4000, 2, 3)
    assert torch.equal(add_dropping(x, lambda t: t + 2, 0.0), x + 2)
    sizes = []
    y = add_dropping(x, lambda t: sizes.append(len(t)) or t + 1, 0.3)
    assert y.unique().tolist() == [0, pytest.approx(1 / 0.7)]
    assert (y == y[:, :1, :1]).all() and sizes == [int((y[:, 0, 0] > 0).sum())]
    assert y.mean().item() == pytest.approx(1, abs=0.04)


def test_dropping_equals_multiplying_by_the_mask_in_values_and_gradients(monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    for seed in range(8):  # also a seed that drops every sample
        results = []
        for compiling in (False, True):  # the path of a GPU
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=compiling: value)
            torch.manual_seed(seed)
            y = add_dropping(x, lambda t: (t @ weight).sin(), 0.7)
            results.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, weight))))
        torch.testing.assert_close(*results)


def test_initial_weights():
    torch.manual_seed(0)
    state = create(HstaConfig(num_groups=1, embed_dim=(96, 192), num_heads=3)).state_dict()
    for name, tensor in state.items():
        if "norm" in name or name.endswith("bias"):
            constant = 1 if "norm" in name and name.endswith("weight") else 0
            if ".project.bias" not in name or "embed" not in name:  # Conv3d keeps torch's rule
                assert (tensor == constant).all(), name
        elif "class_token" in name or tensor.ndim == 2:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.3), name


def test_width_init_is_the_published_one_at_768_and_keeps_signals_alive():
    config = HstaConfig(num_groups=1, embed_dim=(48, 768), num_heads=4, init="width")
    torch.manual_seed(0)
    group = create(config).groups[0]
    narrow, wide = (group.blocks[b][0].attention.qkv.weight.std().item() for b in (0, 1))
    assert wide == pytest.approx(0.02, rel=0.01) and narrow == pytest.approx(0.08, rel=0.03)
    assert group.blocks[0][0].reduce.weight.std().item() == pytest.approx(0.04, rel=0.03)


def test_determinism_and_checkpointing():
    config = SMALL.model_copy(update={"dropout": 0.3, "drop_path": 0.4})
    model, clip = model_and_clip(config)
    model.train()
    results = []
    for checkpointing in (False, True, True):
        model.activation_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(3)
        loss = model(clip).square().sum()
        loss.backward()
        results.append([loss.detach()] + [p.grad.clone() for p in model.parameters()])
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )


def test_bfloat16_autocast_stays_near_float32():
    model, clip = model_and_clip()
    with torch.no_grad():
        truth = model(clip)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(clip)
    assert (low - truth).abs().max() < 0.05 * truth.abs().max() + 0.02


@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 28, 28), (2, 1, 6, 28, 28), (2, 3, 6, 28, 24), (3, 6, 28, 28)]
)
def test_wrong_input_shape_is_named(shape):
    model, _ = model_and_clip()
    with pytest.raises(InputError, match="HSTA input"):
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 5},
        {"embed_dim": (100, 768), "num_heads": (12, 12)},
        {"depth": (1, 2, 1)},
        {"depth": (0, 2, 0)},
        {"patch_size": (12, 300)},
        {"head_mode": 3},
        {"num_heads": (0, 12)},
        {"widths": (1, 2)},
        {"dropout": 1.0},
        {"depth": 2},
        {"depth": None},
        {"patch_size": None},
        {"num_heads": {"special": 2}},
        {"mlp_ratio": -1},
        {"mlp_ratio": float("inf")},
    ],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        HstaConfig(**changes)


def test_unknown_variant_lists_the_known():
    with pytest.raises(ConfigError, match="base_448"):
        variant("huge")
