"""HSTA against a second, plain transcription of its definition on the authors' tensor layout.

The transcription below is written from the network's description alone: a function of a state dict,
explicit softmax, no modules, nothing shared with `models/`. It is slow and it is the truth here.
"""

from __future__ import annotations

import argparse
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from data.errors import ConfigError, InputError
from models.hsta.network import HSTA, HstaConfig, authors_name, create, load_authors_checkpoint

TOLERANCE = 1e-5
TINY = {
    "image_size": 40,
    "num_frames": 4,
    "num_classes": 5,
    "patch_size": (12, 8),
    "embed_dim": (24, 48),
    "num_heads": (3, 4),
    "depth": (2, 1, 0),
    "num_groups": 2,
    "mlp_ratio": (2.0, 3.0),
}
TOLD = ("image_size", "num_frames", "num_heads", "head_mode", "tubelet_size")


def reference_logits(state, clip, num_heads, head_mode=2):
    """Logits of an authors'-layout state dict, fp32, for clip (B, 3, F+2, H, W)."""

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        scaled = (x - mean) / torch.sqrt(variance + 1e-6)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    def attend(query, key, value, heads):
        size = query.shape[-1] // heads
        outputs = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(size)
            exponent = torch.exp(scores - scores.amax(-1, keepdim=True))
            outputs.append(exponent / exponent.sum(-1, keepdim=True) @ value[..., part])
        return torch.cat(outputs, -1)

    def embed(frames, branch):
        weight = state[f"patch_embed.{branch}.proj.weight"]
        width, _, tubelet, patch, _ = weight.shape
        rows = []
        for t in range(0, frames.shape[2] - tubelet + 1, tubelet):
            for y in range(0, frames.shape[3] - patch + 1, patch):
                for x in range(0, frames.shape[4] - patch + 1, patch):
                    block = frames[:, :, t : t + tubelet, y : y + patch, x : x + patch]
                    rows.append(block.flatten(1) @ weight.flatten(1).T)
        tokens = torch.stack(rows, 1) + state[f"patch_embed.{branch}.proj.bias"]
        tokens = torch.cat([state[f"cls_token.{branch}"].expand(len(frames), 1, width), tokens], 1)
        for position in range(tokens.shape[1]):
            for j in range(width):
                angle = position / 10000 ** (2 * (j // 2) / width)
                tokens[:, position, j] += math.cos(angle) if j % 2 else math.sin(angle)
        return tokens

    def block(x, name, heads):
        y = norm(x, f"{name}.norm1")
        q, k, v = (y @ w.T for w in state[f"{name}.attn.qkv.weight"].chunk(3))
        y = attend(q + state[f"{name}.attn.q_bias"], k, v + state[f"{name}.attn.v_bias"], heads)
        x = x + linear(y, f"{name}.attn.proj")
        y = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        return x + linear(gelu(y), f"{name}.mlp.fc2")

    def exchange(own, other, name, branch, heads):
        start = linear(
            gelu(norm(own[:, :1], f"{name}.projs.{branch}.0")), f"{name}.projs.{branch}.2"
        )
        fusion = f"{name}.fusion.{branch}"
        z = norm(torch.cat([start, other[:, 1:]], 1), f"{fusion}.norm1")
        q, k, v = (linear(z, f"{fusion}.attn.w{letter}") for letter in "qkv")
        u = start + linear(attend(q, k, v, heads)[:, :1], f"{fusion}.attn.proj")
        u = gelu(norm(u, f"{name}.revert_projs.{branch}.0"))
        return torch.cat([linear(u, f"{name}.revert_projs.{branch}.2"), own[:, 1:]], 1)

    def depth(prefix):
        names = {n[len(prefix) :].split(".")[0] for n in state if n.startswith(prefix)}
        return len(names)

    special = embed(torch.stack([clip[:, :, -2], clip[:, :, -1]], 2), 0)
    video = embed(clip[:, :, :-2], 1)
    for g in range(depth("blocks.")):
        for layer in range(depth(f"blocks.{g}.blocks.0.")):
            special = block(special, f"blocks.{g}.blocks.0.{layer}", num_heads[0])
        for layer in range(depth(f"blocks.{g}.blocks.1.")):
            video = block(video, f"blocks.{g}.blocks.1.{layer}", num_heads[1])
        special, video = (
            exchange(special, video, f"blocks.{g}", 0, num_heads[1]),
            exchange(video, special, f"blocks.{g}", 1, num_heads[0]),
        )
    special, video = norm(special, "norm.0"), norm(video, "norm.1")
    if head_mode == 4:
        return linear(torch.cat([special.mean(1), video.mean(1)], 1), "head")
    features = [special[:, 0], video[:, 0]]
    if head_mode == 1:
        features += [special[:, -1], video[:, -1]]
    return linear(torch.cat(features, 1), "head")


def authors_state(seed=0, **config):
    """A random state dict in the authors' layout, no tensor at 0 or 1: each one counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {
            authors_name(n): t.shape for n, t in create(HstaConfig(**config)).state_dict().items()
        }
    state = {}
    for name, shape in shapes.items():
        fan_in = max(1, math.prod(shape[1:]))
        scale = 0.3 if len(shape) == 1 else 1 / math.sqrt(fan_in)
        state[name] = torch.randn(shape, generator=generator) * scale
        if len(shape) == 1 and name.endswith("weight"):  # a norm's scale
            state[name] += 1
    return state


def clips(config, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, config.num_frames + 2, config.image_size, config.image_size)
    return torch.randn(shape, generator=generator)


def told(**config):
    return {k: v for k, v in config.items() if k in TOLD}


@pytest.mark.parametrize("attention", ["fused", "plain"])
@pytest.mark.parametrize("head_mode", [1, 2, 4])
def test_logits_equal_the_transcription(head_mode, attention):
    config = {**TINY, "head_mode": head_mode}
    state = authors_state(**config)
    model = load_authors_checkpoint(state, attention=attention, **told(**config))
    assert not model.training and model.unused_tensors == ()
    assert model.config.model_dump(exclude={"attention"}) == HstaConfig(**config).model_dump(
        exclude={"attention"}
    )
    clip = clips(model.config)
    with torch.no_grad():
        ours, truth = model(clip), reference_logits(state, clip, TINY["num_heads"], head_mode)
    assert truth.std() > 0.05
    torch.testing.assert_close(ours, truth, rtol=0, atol=TOLERANCE)


def test_tubelet_of_one_equals_the_transcription():
    config = {**TINY, "tubelet_size": 1, "num_frames": 3}
    state = authors_state(**config)
    model = load_authors_checkpoint(state, **told(**config))
    clip = clips(model.config)
    with torch.no_grad():
        truth = reference_logits(state, clip, TINY["num_heads"])
        torch.testing.assert_close(model(clip), truth, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("head_mode", [1, 2, 4])
def test_main_setting_equals_the_transcription(head_mode):
    state = authors_state(head_mode=head_mode)
    model = load_authors_checkpoint(state, head_mode=head_mode)
    clip = clips(model.config, batch=1)
    with torch.no_grad():
        truth = reference_logits(state, clip, (12, 12), head_mode)
        torch.testing.assert_close(model(clip), truth, rtol=0, atol=TOLERANCE)


def test_gradients_equal_the_transcription():
    state = authors_state(**TINY)
    model = load_authors_checkpoint(state, **told(**TINY)).double()
    state = {n: t.double().requires_grad_() for n, t in state.items()}
    clip = clips(model.config).double()
    reference_logits(state, clip, TINY["num_heads"]).square().sum().backward()
    model(clip).square().sum().backward()
    for name, parameter in model.named_parameters():
        truth = state[authors_name(name)].grad
        scale = truth.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(parameter.grad / scale, truth / scale, rtol=0, atol=1e-6)


def test_published_layout_names_and_shapes():
    with torch.device("meta"):
        own = create(HstaConfig()).state_dict()
    shapes = {authors_name(n): tuple(t.shape) for n, t in own.items()}
    expected = {
        "patch_embed.0.proj.weight": (384, 3, 2, 12, 12),
        "patch_embed.1.proj.bias": (768,),
        "cls_token.0": (1, 1, 384),
        "blocks.3.blocks.1.1.attn.qkv.weight": (2304, 768),
        "blocks.0.blocks.0.0.attn.q_bias": (384,),
        "blocks.0.blocks.0.0.attn.v_bias": (384,),
        "blocks.0.blocks.0.0.attn.proj.weight": (384, 384),
        "blocks.2.blocks.1.0.norm2.bias": (768,),
        "blocks.2.blocks.1.0.mlp.fc1.weight": (3072, 768),
        "blocks.2.blocks.1.0.mlp.fc2.weight": (768, 3072),
        "blocks.1.projs.0.0.weight": (384,),
        "blocks.1.projs.0.2.weight": (768, 384),
        "blocks.1.fusion.0.norm1.weight": (768,),
        "blocks.1.fusion.0.attn.wq.weight": (768, 768),
        "blocks.1.fusion.0.attn.wk.bias": (768,),
        "blocks.1.fusion.1.attn.wv.weight": (384, 384),
        "blocks.1.fusion.1.attn.proj.bias": (384,),
        "blocks.1.revert_projs.0.0.bias": (768,),
        "blocks.1.revert_projs.0.2.weight": (384, 768),
        "norm.1.weight": (768,),
        "head.weight": (7, 1152),
    }
    assert len(shapes) == len(own) == 312
    assert {n: shapes.get(n) for n in expected} == expected


def test_wrappers_and_prefixes_are_stripped(tmp_path):
    state = authors_state(**TINY)
    clip = clips(HstaConfig(**TINY), batch=1)
    bare = load_authors_checkpoint(state, **told(**TINY))(clip)
    arguments = argparse.Namespace(lr=5e-4, model="cross_uni_hsta_base_224", opt_betas=[0.9, 0.999])
    for wrapper, prefix in [("model", ""), ("module", "backbone."), ("model", "module.encoder.")]:
        path = tmp_path / f"{wrapper}{len(prefix)}.pth"
        content = {wrapper: {prefix + n: t for n, t in state.items()}, "epoch": 3}
        torch.save({**content, "args": arguments, "optimizer": {"state": {}}, "scaler": {}}, path)
        loaded = load_authors_checkpoint(path, **told(**TINY))
        assert isinstance(loaded, HSTA) and loaded.unused_tensors == ()
        assert torch.equal(loaded(clip), bare)
    save_file(state, tmp_path / "bare.safetensors")
    assert torch.equal(
        load_authors_checkpoint(tmp_path / "bare.safetensors", **told(**TINY))(clip), bare
    )


def test_missing_and_misshapen_tensors_are_named():
    state = authors_state(**TINY)
    for name in ("blocks.1.fusion.0.attn.wk.bias", "patch_embed.1.proj.weight", "head.weight"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
            load_authors_checkpoint({k: v for k, v in state.items() if k != name}, **told(**TINY))
        assert caught.value.code == "bad_checkpoint"
    for name in ("blocks.1.fusion.0.attn.wk.bias", "norm.1.weight", "cls_token.0"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_authors_checkpoint({**state, name: torch.zeros(1, 3, 3)}, **told(**TINY))


def test_the_misshapen_tensor_is_named_and_not_its_neighbour():
    state = authors_state(**TINY)
    for turn, (name, tensor) in enumerate(state.items()):  # each name, with one damage of three
        bad = (torch.cat([tensor, tensor[:1]]), tensor[:0], tensor[None])[turn % 3]
        with pytest.raises(InputError, match=re.escape(name)) as caught:
            load_authors_checkpoint({**state, name: bad}, **told(**TINY))
        assert caught.value.code == "bad_checkpoint"


def test_tensors_not_used_are_named(caplog):
    state = {**authors_state(**TINY), "ema.decay": torch.zeros(1), "note": "text"}
    model = load_authors_checkpoint(state, **told(**TINY))
    assert model.unused_tensors == ("ema.decay", "note")
    assert "ema.decay" in caplog.text
    for name in ("blocks.0.blocks.0.0.gamma_1", "blocks.0.fusion.0.1.attn.wq.weight", "pos_embed"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_authors_checkpoint({**state, name: torch.zeros(1)}, **told(**TINY))


def test_settings_the_tensors_contradict_are_refused():
    state = authors_state(**TINY)
    with pytest.raises(InputError, match=r"head\.weight"):
        load_authors_checkpoint(state, **{**told(**TINY), "head_mode": 1})
    with pytest.raises(InputError, match=r"proj\.weight"):
        load_authors_checkpoint(state, **{**told(**TINY), "tubelet_size": 1})
    with pytest.raises(ConfigError, match="num_heads"):
        load_authors_checkpoint(state, **{**told(**TINY), "num_heads": (5, 4)})
    with pytest.raises(ConfigError, match="heads"):
        load_authors_checkpoint(state, heads=3)


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"model": authors_state(**TINY), "args": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth"):
        load_authors_checkpoint(tmp_path / "evil.pth", **told(**TINY))
    with pytest.raises(InputError) as caught:
        load_authors_checkpoint(tmp_path / "evil.pth", **told(**TINY))
    assert "exec" in str(caught.value) and "to `False`" not in str(caught.value)
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "short.pth").write_bytes(b"\x80\x02.")
    with pytest.raises(InputError, match=r"short\.pth"):
        load_authors_checkpoint(tmp_path / "short.pth")
    round_and_round = {}
    round_and_round["model"] = round_and_round
    with pytest.raises(InputError, match="tensors by name"):
        load_authors_checkpoint(round_and_round)
    for name in ("noise.pth", "absent.pth"):
        with pytest.raises(InputError, match=name):
            load_authors_checkpoint(tmp_path / name)
