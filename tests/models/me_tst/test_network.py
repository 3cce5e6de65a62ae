"""ME-TST and ME-TST+: counts, parity with a plain transcription in the authors' layout, causality.

The transcription below works on a state dict in the authors' names (written out from the released
layouts' tables) and shares no code with the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import ConfigError, InputError
from models.me_tst import network as me_tst
from models.me_tst import plus as me_tst_plus
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.plus import MeTstPlus, MeTstPlusConfig

LOGITS, PROBABILITIES = 5e-4, 1e-4
Transcription = Callable[[Tensor], tuple[Tensor, Tensor]]

# --- authors' layouts, from their tables


def norm_tensors(name: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return {**shapes, f"{name}.num_batches_tracked": ()}


def conv_tensors(name: str, out: int, inside: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.0.weight": (out, inside, 3),
        f"{name}.0.bias": (out,),
        **norm_tensors(f"{name}.1", out),
    }


def block_tensors(name: str, d: int, n: int) -> dict[str, tuple[int, ...]]:
    inner, rank = 2 * d, -(-d // 16)
    m = f"{name}.attn.mamba"
    norms = {
        f"{name}.{norm}.{part}": (d,)
        for norm in ("norm1", "norm2", "attn.norm")
        for part in ("weight", "bias")
    }
    return {
        **norms,
        f"{m}.A_log": (inner, n),
        f"{m}.D": (inner,),
        f"{m}.in_proj.weight": (2 * inner, d),
        f"{m}.conv1d.weight": (inner, 1, 4),
        f"{m}.conv1d.bias": (inner,),
        f"{m}.x_proj.weight": (rank + 2 * n, inner),
        f"{m}.dt_proj.weight": (inner, rank),
        f"{m}.dt_proj.bias": (inner,),
        f"{m}.out_proj.weight": (d, inner),
    }


def stem_tensors(d: int, channels: int) -> dict[str, tuple[int, ...]]:
    first = conv_tensors("Stem", d, channels)
    second = {
        "Stem.3.weight": (d, d, 3),
        "Stem.3.bias": (d,),
        **norm_tensors("Stem.4", d),
    }
    return {**first, **second}


def heads(d: int, suffix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"fc_spot{suffix}.weight": (1, d),
        f"fc_spot{suffix}.bias": (1,),
        f"fc_recog{suffix}.weight": (5, d),
        f"fc_recog{suffix}.bias": (5,),
    }


def layout_c1(d: int = 64, n: int = 64, blocks: int = 12, channels: int = 10) -> dict:
    shapes = {**stem_tensors(d, channels), **heads(d, ".0")}
    for branch in ("blocks_spot", "blocks_recog"):
        for i in range(blocks):
            shapes |= block_tensors(f"{branch}.{i}", d, n)
    return shapes


def layout_c2(d: int = 128, n: int = 64, blocks: int = 12, channels: int = 10) -> dict:
    shapes = {**stem_tensors(d, channels), **heads(d, "")}
    for branch in ("spot_pathway.block", "recog_pathway.block"):
        for i in range(blocks):
            shapes |= block_tensors(f"{branch}.{i}", d, n)
    return shapes


def layout_sf(d: int = 128, n: int = 64, blocks: int = 4, channels: int = 36) -> dict:
    shapes = {**stem_tensors(d, channels), **heads(3 * d, "")}
    for path in ("spot_pathway", "recog_pathway"):
        shapes |= conv_tensors(f"{path}.Stem_slow", 2 * d, d)
        for stage in (1, 2, 3):
            for i in range(blocks):
                shapes |= block_tensors(f"{path}.block{stage}.{i}", 2 * d, n)
                shapes |= block_tensors(f"{path}.block{stage}_fast.{i}", d, n)
        for stage in (1, 2):
            shapes |= conv_tensors(f"{path}.fuse_{stage}.conv", 2 * d, d)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random weights; the branch of each block is damped, or 12 of them amplify rounding noise."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=g)
        elif name.endswith("A_log"):
            state[name] = torch.log(torch.arange(1.0, shape[1] + 1)).repeat(shape[0], 1)
            state[name] += 0.2 * torch.randn(shape, generator=g)
        else:
            fan = int(np.prod(shape[1:])) if len(shape) > 1 else 10
            state[name] = torch.randn(shape, generator=g) * fan**-0.5
            if "norm" in name and name.endswith("weight"):
                state[name] = (1 + state[name]) * (0.3 if ".norm1." in name else 1.0)
    return state


def cast(state: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    return {name: tensor.to(like.dtype) for name, tensor in state.items()}


# --- the plain transcription


def t_norm(s: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]


def t_conv_bn(s: dict[str, Tensor], conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
    x = F.conv1d(x, s[f"{conv}.weight"], s[f"{conv}.bias"], stride=stride, padding=1)
    mean, var = s[f"{bn}.running_mean"][:, None], s[f"{bn}.running_var"][:, None]
    x = (x - mean) / torch.sqrt(var + 1e-5)
    return torch.relu(x * s[f"{bn}.weight"][:, None] + s[f"{bn}.bias"][:, None])


def t_mamba(s: dict[str, Tensor], m: str, u: Tensor) -> Tensor:
    inner, n = s[f"{m}.A_log"].shape
    rank = s[f"{m}.dt_proj.weight"].shape[1]
    xz = u @ s[f"{m}.in_proj.weight"].T
    x, z = xz[..., :inner], xz[..., inner:]
    length = x.shape[1]
    conv = F.conv1d(
        x.transpose(1, 2), s[f"{m}.conv1d.weight"], s[f"{m}.conv1d.bias"], padding=3, groups=inner
    )
    x = F.silu(conv[..., :length].transpose(1, 2))
    proj = x @ s[f"{m}.x_proj.weight"].T
    delta = F.softplus(proj[..., :rank] @ s[f"{m}.dt_proj.weight"].T + s[f"{m}.dt_proj.bias"])
    A, h, ys = -torch.exp(s[f"{m}.A_log"]), torch.zeros(len(x), inner, n, dtype=u.dtype), []
    for t in range(length):
        B, C = proj[:, t, rank : rank + n], proj[:, t, rank + n :]
        h = torch.exp(delta[:, t, :, None] * A) * h
        h = h + (delta[:, t] * x[:, t])[..., None] * B[:, None, :]
        ys.append((h * C[:, None, :]).sum(-1) + s[f"{m}.D"] * x[:, t])
    return (torch.stack(ys, 1) * F.silu(z)) @ s[f"{m}.out_proj.weight"].T


def t_block(s: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    inside = t_mamba(s, f"{name}.attn.mamba", t_norm(s, f"{name}.attn.norm", x))
    return x + t_norm(s, f"{name}.norm1", inside)


def t_stem(s: dict[str, Tensor], motion: Tensor) -> Tensor:
    x = t_conv_bn(s, "Stem.0", "Stem.1", motion[:, 0])
    return t_conv_bn(s, "Stem.3", "Stem.4", x)


def t_me_tst(
    s: dict[str, Tensor], motion: Tensor, path: str, blocks: int, head: str
) -> tuple[Tensor, Tensor]:
    """Their forward: the spot list for the spotting head, and once more for recognition."""
    x = t_stem(s, motion).transpose(1, 2)
    spot, recog = x, x
    for i in range(blocks):
        spot = t_block(s, f"{path}.{i}", spot)
    for i in range(blocks):
        recog = t_block(s, f"{path}.{i}", recog)
    probability = torch.sigmoid(spot @ s[f"fc_spot{head}.weight"].T + s[f"fc_spot{head}.bias"])
    return probability[..., 0], recog @ s[f"fc_recog{head}.weight"].T + s[f"fc_recog{head}.bias"]


def t_plus(s: dict[str, Tensor], motion: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    x, out = t_stem(s, motion), []
    for path in ("spot_pathway", "recog_pathway"):
        slow_in = t_conv_bn(s, f"{path}.Stem_slow.0", f"{path}.Stem_slow.1", x, stride=2)
        slow, fast = slow_in.transpose(1, 2), x.transpose(1, 2)
        for stage in (1, 2, 3):
            for i in range(blocks):
                slow = t_block(s, f"{path}.block{stage}.{i}", slow)
                fast = t_block(s, f"{path}.block{stage}_fast.{i}", fast)
            if stage < 3:
                name = f"{path}.fuse_{stage}.conv"
                side = t_conv_bn(s, f"{name}.0", f"{name}.1", fast.transpose(1, 2), stride=2)
                slow = slow + side.transpose(1, 2)
        up = F.interpolate(slow.transpose(1, 2), scale_factor=2, mode="nearest").transpose(1, 2)
        out.append(torch.cat([up, fast], -1))
    probability = torch.sigmoid(out[0] @ s["fc_spot.weight"].T + s["fc_spot.bias"])
    return probability[..., 0], out[1] @ s["fc_recog.weight"].T + s["fc_recog.bias"]


def assert_same(model: MeTst | MeTstPlus, motion: Tensor, transcription: Transcription) -> None:
    """Equal to the plain transcription: in fp32 within the stated bounds, in fp64 to rounding."""
    with torch.no_grad():
        (spot, logits), (want_spot, want_logits) = model(motion), transcription(motion)
        assert (spot - want_spot).abs().max() <= PROBABILITIES
        assert (logits - want_logits).abs().max() <= LOGITS
        assert want_logits.std() > 0.1 and want_spot.std() > 0.01
        exact, want = model.double()(motion.double()), transcription(motion.double())
        model.float()
    assert max((a - b).abs().max() for a, b in zip(exact, want, strict=True)) < 1e-9


# --- counts


def numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(int(np.prod(s)) for name, s in shapes.items() if not name.endswith(buffers))


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts() -> None:
    assert parameters(MeTst(MeTstConfig())) == 630_918
    assert numbers(layout_c1()) == 1_249_926 and len(layout_c1()) == 378
    assert numbers(layout_c2()) == 3_753_222
    assert numbers(layout_sf()) == 16_671_750 and len(layout_sf()) == 780
    dead = 2 * 24 * 128
    assert parameters(MeTst(MeTstConfig(share_trunk=False))) == 1_249_926 - dead // 2
    assert parameters(MeTst(MeTstConfig(dim=128))) == 3_753_222 - 12 * 154_112 - 12 * 256
    plus = MeTstPlus(MeTstPlusConfig())
    assert parameters(plus) == 16_671_750 - 2 * 12 * 2 * (256 + 128)
    assert len(plus.state_dict()) == 780 - 2 * 24 * 2


# --- parity


@pytest.mark.parametrize("prefix", ["", "module."])
def test_first_release_full_size(prefix: str) -> None:
    state = random_state(layout_c1())
    model = me_tst.load_authors_checkpoint({prefix + k: v for k, v in state.items()})
    assert not model.training and model.config == MeTstConfig()
    motion = torch.randn(2, 1, 10, 50, generator=torch.Generator().manual_seed(1))
    assert_same(model, motion, lambda m: t_me_tst(cast(state, m), m, "blocks_spot", 12, ".0"))
    unused = set(model.unused_tensors)
    assert unused == {k for k in state if k.startswith("blocks_recog.") or ".norm2." in k}


def test_second_release() -> None:
    state = random_state(layout_c2(d=32, n=8, blocks=3), seed=2)
    model = me_tst.load_authors_checkpoint(state)
    assert (model.config.dim, model.config.blocks, model.config.d_state) == (32, 3, 8)
    motion = torch.randn(2, 1, 10, 30)
    assert_same(model, motion, lambda m: t_me_tst(cast(state, m), m, "spot_pathway.block", 3, ""))
    assert {k for k in state if k.startswith("recog_pathway.") or ".norm2." in k} == set(
        model.unused_tensors
    )


def test_slow_fast_release() -> None:
    state = random_state(layout_sf(d=32, n=8, blocks=2), seed=3)
    model = me_tst_plus.load_authors_checkpoint({"module." + k: v for k, v in state.items()})
    assert (model.config.dim, model.config.blocks, model.config.in_channels) == (32, 2, 36)
    for k in (30, 50):
        motion = torch.randn(2, 1, 36, k)
        assert_same(model, motion, lambda m: t_plus(cast(state, m), m, 2))
    assert set(model.unused_tensors) == {k for k in state if ".norm2." in k}


def test_checkpoint_files_load_weights_only(tmp_path: Path) -> None:
    state = random_state(layout_c1(d=16, n=4, blocks=2))
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "subject_006.pkl")
    model = me_tst.load_authors_checkpoint(tmp_path / "subject_006.pkl")
    again = me_tst.load_authors_checkpoint(state)
    motion = torch.randn(1, 1, 10, 30)
    assert torch.equal(model(motion)[1], again(motion)[1])


def test_separate_trunks_both_start_from_the_trained_one() -> None:
    state = random_state(layout_c1(d=16, n=4, blocks=2))
    motion = torch.randn(1, 1, 10, 30)
    split = me_tst.load_authors_checkpoint(state, share_trunk=False)
    assert len(split.trunks) == 2
    shared = me_tst.load_authors_checkpoint(state)
    assert torch.equal(split(motion)[1], shared(motion)[1])


@pytest.mark.parametrize("release", ["c1", "c2", "sf"])
def test_damaged_checkpoints_are_named(release: str) -> None:
    small = {"d": 16, "n": 4, "blocks": 2}
    shapes = {"c1": layout_c1, "c2": layout_c2, "sf": layout_sf}[release](**small)
    load = (me_tst_plus if release == "sf" else me_tst).load_authors_checkpoint
    state = random_state(shapes)
    missing = {k: v for k, v in state.items() if k != "Stem.4.weight"}
    with pytest.raises(InputError, match=r"Stem\.4\.weight"):
        load(missing)
    name = next(k for k in state if k.endswith(".out_proj.weight"))
    with pytest.raises(InputError, match="out_proj"):
        load({**state, name: state[name].T.contiguous()})
    with pytest.raises(InputError, match=r"extra\.weight"):
        load({**state, "extra.weight": torch.zeros(3)})
    with pytest.raises(ConfigError, match="dim"):
        load(state, dim=17)
    with pytest.raises(ConfigError, match="drop_path"):
        load(state, drop_path=2.0)


def test_releases_are_not_mixed_up() -> None:
    small = {"d": 16, "n": 4, "blocks": 2}
    with pytest.raises(InputError):
        me_tst.load_authors_checkpoint(random_state(layout_sf(**small)))
    with pytest.raises(InputError):
        me_tst_plus.load_authors_checkpoint(random_state(layout_c1(**small)))
    with pytest.raises(ConfigError, match="share_trunk"):
        me_tst_plus.load_authors_checkpoint(random_state(layout_sf(**small)), share_trunk=True)


# --- behaviour


def small_me_tst(**kwargs: object) -> MeTst:
    torch.manual_seed(0)
    return me_tst.create(MeTstConfig(dim=16, blocks=3, d_state=8, **kwargs)).eval()


def test_only_the_stem_looks_ahead_by_two_frames() -> None:
    torch.manual_seed(0)
    model = small_me_tst()
    a = torch.randn(1, 1, 10, 30)
    b = a.clone()
    b[..., 15] += 1
    with torch.no_grad():
        (p, q), (r, s) = model(a), model(b)
        (_, long), (_, other) = model.double()(a.double()), model(b.double())
    assert torch.equal(p[:, :13], r[:, :13]) and torch.equal(q[:, :13], s[:, :13])
    assert not torch.equal(p[:, 13], r[:, 13])
    assert not torch.equal(long[:, 29], other[:, 29])  # small: single precision may round it off


def test_samples_of_a_batch_do_not_mix_in_eval() -> None:
    torch.manual_seed(0)
    plus = MeTstPlus(MeTstPlusConfig(dim=8, blocks=1, d_state=4)).eval()
    for model, channels in ((small_me_tst(), 10), (plus, 36)):
        motion = torch.randn(5, 1, channels, 20)
        with torch.no_grad():
            whole = model(motion)
            alone = [model(one[None]) for one in motion]
        for i in range(2):
            torch.testing.assert_close(
                whole[i], torch.cat([pair[i] for pair in alone]), atol=1e-6, rtol=1e-5
            )


@pytest.mark.parametrize("init", ["authors", "mamba"])
@pytest.mark.parametrize("share", [True, False])
def test_every_parameter_learns(init: str, share: bool) -> None:
    torch.manual_seed(0)
    networks = [
        (MeTst(MeTstConfig(dim=16, blocks=2, d_state=4, init=init, share_trunk=share)), 10),
        (MeTstPlus(MeTstPlusConfig(dim=16, blocks=2, d_state=4, init=init, share_trunk=share)), 36),
    ]
    for network, channels in networks:
        for block in network.modules():
            if hasattr(block, "drop_path") and hasattr(block.drop_path, "rate"):
                block.drop_path.rate = 0.0
        spot, logits = network(torch.randn(3, 1, channels, 20))
        assert spot.shape == (3, 20) and logits.shape == (3, 20, 5)
        assert ((spot > 0) & (spot < 1)).all()
        (spot.square().mean() + logits.square().mean()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_same_seed_same_network() -> None:
    a, b = small_me_tst(), small_me_tst()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(2, 10, 30), (2, 1, 9, 30), (2, 2, 10, 30)])
def test_bad_inputs_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="ME-TST"):
        small_me_tst()(torch.zeros(shape))
    plus = MeTstPlus(MeTstPlusConfig(dim=8, blocks=1, d_state=4)).eval()
    with pytest.raises(InputError, match="even"):
        plus(torch.zeros(1, 1, 36, 25))
