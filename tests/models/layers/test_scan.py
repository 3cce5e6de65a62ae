"""Selective scan: every backend against the plain recurrence; the Mamba block around it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.errors import ConfigError, InputError, MissingExtraError
from models.layers import selective_scan_fast
from models.layers.mamba import DropPath, Mamba, MambaBlock, drop_path_rates, initialise
from models.layers.selective_scan import selective_scan, selective_scan_reference

SHAPES = [(2, 1, 3, 4), (1, 2, 5, 1), (3, 7, 4, 6), (2, 13, 8, 5), (1, 50, 6, 16), (5, 29, 1, 3)]


def make(batch: int, length: int, width: int, states: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(batch * 1000 + length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    delta = nn.functional.softplus(draw(batch, length, width))
    A = -torch.exp(draw(width, states))
    x, B, C = draw(batch, length, width), draw(batch, length, states), draw(batch, length, states)
    return [tensor.requires_grad_() for tensor in (x, delta, A, B, C)]


def numpy_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> np.ndarray:
    """Loops over everything, straight from the equations."""
    x_, d_, a_, b_, c_ = (tensor.detach().numpy() for tensor in (x, delta, A, B, C))
    y = np.zeros_like(x_)
    for i in range(x_.shape[0]):
        for d in range(x_.shape[2]):
            h = np.zeros(a_.shape[1])
            for t in range(x_.shape[1]):
                h = np.exp(d_[i, t, d] * a_[d]) * h + d_[i, t, d] * x_[i, t, d] * b_[i, t]
                y[i, t, d] = h @ c_[i, t]
    return y


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_is_the_equations(shape: tuple[int, int, int, int]) -> None:
    inputs = make(*shape, torch.float64)
    got = selective_scan_reference(*inputs).detach().numpy()
    np.testing.assert_allclose(got, numpy_scan(*inputs), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_equals_reference_with_gradients(shape: tuple[int, int, int, int]) -> None:
    inputs = make(*shape, torch.float64)
    weight = torch.randn(shape[:3], dtype=torch.float64)
    want = selective_scan_reference(*inputs)
    got = selective_scan_fast.scan(*inputs)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)
    grads_want = torch.autograd.grad(want, inputs, weight)
    grads_got = torch.autograd.grad(got, inputs, weight)
    for name, a, b in zip(["x", "delta", "A", "B", "C"], grads_got, grads_want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("elements", [1, 30, 100, 10**9])
def test_fast_does_not_depend_on_the_block(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make(3, 11, 5, 4, torch.float64)
    want = torch.autograd.grad(selective_scan_reference(*inputs).sum(), inputs)
    monkeypatch.setattr(selective_scan_fast, "BLOCK_ELEMENTS", elements)
    got = torch.autograd.grad(selective_scan_fast.scan(*inputs).sum(), inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("shape", [(2, 1, 2, 3), (2, 6, 3, 2), (1, 5, 2, 4)])
def test_gradcheck(shape: tuple[int, int, int, int]) -> None:
    inputs = make(*shape, torch.float64)
    skip = torch.randn(shape[2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *a: selective_scan(*a[:5], skip=a[5], backend="fast"), [*inputs, skip]
    )


def test_fast_without_gradients_is_the_same_and_keeps_nothing() -> None:
    inputs = make(2, 9, 4, 3, torch.float32)
    tracked = selective_scan(*inputs, backend="fast")
    with torch.no_grad():
        plain = selective_scan(*inputs, backend="fast")
    assert plain.grad_fn is None and tracked.grad_fn is not None
    assert torch.equal(plain, tracked.detach())


def test_fast_accepts_strided_inputs_and_partial_gradients() -> None:
    x, delta, A, B, C = make(2, 6, 4, 3, torch.float64)
    both = torch.cat([B, C], dim=-1).detach()
    got = selective_scan(x.detach(), delta.detach(), A, both[..., :3], both[..., 3:])
    want = selective_scan_reference(x, delta, A, B, C)
    torch.testing.assert_close(got, want)
    (a,), (b,) = torch.autograd.grad(got.sum(), [A]), torch.autograd.grad(want.sum(), [A])
    torch.testing.assert_close(a, b)


def test_decay_far_beyond_exp_range_stays_finite() -> None:
    """A of -64 and long steps: cumulative exponents near -6000 would overflow a closed form."""
    x, delta, _, B, C = make(2, 50, 3, 64, torch.float32)
    A = -torch.arange(1.0, 65).repeat(3, 1).requires_grad_()
    inputs = [x, (delta * 2).detach().requires_grad_(), A, B, C]
    y = selective_scan(*inputs, backend="fast")
    grads = torch.autograd.grad(y.sum(), inputs)
    assert all(torch.isfinite(t).all() for t in (y, *grads))
    torch.testing.assert_close(y, selective_scan_reference(*inputs), atol=1e-4, rtol=1e-5)


def test_half_precision_inputs_are_scanned_in_fp32() -> None:
    inputs = [t.detach().bfloat16() for t in make(2, 8, 4, 3, torch.float32)]
    got = selective_scan(*inputs)
    assert got.dtype == torch.bfloat16
    wide = selective_scan(*[t.float() for t in inputs])
    torch.testing.assert_close(got, wide.bfloat16())


def test_bad_shapes_and_backends() -> None:
    x, delta, A, B, C = make(2, 6, 4, 3, torch.float32)
    for bad in [(x[0], delta, A, B, C), (x, delta[:, :5], A, B, C), (x, delta, A.T, B, C)]:
        with pytest.raises(InputError, match="selective_scan"):
            selective_scan(*bad)
    with pytest.raises(InputError):
        selective_scan(x[:, :0], delta[:, :0], A, B[:, :0], C[:, :0])
    with pytest.raises(ConfigError, match="mamba_ssm"):
        selective_scan(x, delta, A, B, C, backend="cuda")  # type: ignore[arg-type]
    if find_spec("mamba_ssm") is None:
        with pytest.raises(MissingExtraError, match="mamba_ssm"):
            selective_scan(x, delta, A, B, C, backend="mamba_ssm")


TRITON_CHECK = """
import torch
from models.layers import selective_scan_triton as kernels
from models.layers.selective_scan import selective_scan_reference
for shape in [(2, 1, 3, 4), (2, 11, 5, 6), (1, 20, 40, 16)]:
    batch, length, width, states = shape
    torch.manual_seed(length)
    delta = torch.nn.functional.softplus(torch.randn(batch, length, width))
    inputs = [torch.randn(batch, length, width), delta, -torch.exp(torch.randn(width, states)),
              torch.randn(batch, length, states), torch.randn(batch, length, states)]
    inputs = [t.requires_grad_() for t in inputs]
    weight = torch.randn(batch, length, width)
    want, got = selective_scan_reference(*inputs), kernels.scan(*inputs)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    for a, b in zip(torch.autograd.grad(got, inputs, weight),
                    torch.autograd.grad(want, inputs, weight)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
# Two folds in one batch of the last shape, each with its own A.
x, delta, A, B, C = (t.detach() for t in inputs)
both = [torch.cat([x, x / 2]), torch.cat([delta, delta / 2]), torch.stack([A, 2 * A]),
        torch.cat([B, -B]), torch.cat([C, C / 3])]
both = [t.requires_grad_() for t in both]
got = kernels.scan(*both)
want = torch.cat([selective_scan_reference(both[0][f : f + 1], both[1][f : f + 1], both[2][f],
                                           both[3][f : f + 1], both[4][f : f + 1])
                  for f in range(2)])
torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
weight = torch.randn_like(want)
for a, b in zip(torch.autograd.grad(got, both, weight), torch.autograd.grad(want, both, weight)):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (extra kernels)")
def test_triton_kernels_in_the_interpreter() -> None:
    """The kernels' arithmetic without a GPU; a process of its own, as the switch is read once."""
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", TRITON_CHECK],
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(4, 50, 128, 64), (2, 13, 40, 16)])
def test_triton_equals_reference_on_the_gpu(shape: tuple[int, int, int, int]) -> None:
    inputs = [t.detach().cuda().requires_grad_() for t in make(*shape, torch.float32)]
    want = selective_scan_reference(*inputs)
    got = selective_scan(*inputs, backend="triton")
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, inputs, weight),
        torch.autograd.grad(want, inputs, weight),
        strict=True,
    ):
        assert (a - b).abs().max() <= 1e-3 * b.abs().max().clamp(min=1)


# --- several folds in one batch


def folded(folds: int, rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, delta, A, B, C, skip of `folds` folds with `rows` samples each, fold after fold."""
    g = torch.Generator().manual_seed(0)
    batch, length, width, states = folds * rows, 7, 5, 3

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    delta = nn.functional.softplus(draw(batch, length, width))
    A = -draw(folds, width, states).exp()
    B, C = draw(batch, length, states), draw(batch, length, states)
    return [draw(batch, length, width), delta, A, B, C, draw(folds, width)]


@pytest.mark.parametrize("backend", ["reference", "fast"])
@pytest.mark.parametrize("block", [1, 2**18])
def test_every_fold_has_its_own_decays(
    backend: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selective_scan_fast, "BLOCK_ELEMENTS", block)
    inputs = [t.requires_grad_() for t in folded(3, 4)]
    x, delta, A, B, C, skip = inputs
    got = selective_scan(*inputs, backend=backend)
    want = torch.cat(
        [
            selective_scan(x[r], delta[r], A[f], B[r], C[r], skip[f], backend="reference")
            for f, r in enumerate(slice(4 * n, 4 * n + 4) for n in range(3))
        ]
    )
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    slopes = (torch.autograd.grad(y, inputs, weight) for y in (got, want))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_batch_that_folds_do_not_divide_is_refused() -> None:
    x, delta, A, B, C, skip = folded(3, 4)
    with pytest.raises(InputError, match="selective_scan"):
        selective_scan(x[:11], delta[:11], A, B[:11], C[:11], skip)
    with pytest.raises(InputError, match="selective_scan"):
        selective_scan(x, delta, A, B, C, skip[0])


# --- the block


def plain_mamba(m: Mamba, u: Tensor) -> Tensor:
    """One sample (L, dim), frame by frame, from the published equations."""
    xz = u @ m.in_proj.weight.T
    inner = xz.shape[1] // 2
    x, z = xz[:, :inner], xz[:, inner:]
    taps = m.conv1d.weight[:, 0]
    rows = []
    for t in range(len(x)):
        value = m.conv1d.bias.clone()
        for j in range(taps.shape[1]):
            source = t - (taps.shape[1] - 1) + j
            if source >= 0:
                value = value + taps[:, j] * x[source]
        rows.append(value * torch.sigmoid(value))
    x = torch.stack(rows)
    r, n = m.dt_rank, m.d_state
    proj = x @ m.x_proj.weight.T
    delta = torch.log1p(torch.exp(proj[:, :r] @ m.dt_proj.weight.T + m.dt_proj.bias))
    B, C, A = proj[:, r : r + n], proj[:, r + n :], -torch.exp(m.A_log)
    h, out = torch.zeros(inner, n, dtype=u.dtype), []
    for t in range(len(x)):
        h = torch.exp(delta[t][:, None] * A) * h + (delta[t] * x[t])[:, None] * B[t][None]
        y = h @ C[t] + m.D * x[t]
        out.append((y * z[t] * torch.sigmoid(z[t])) @ m.out_proj.weight.T)
    return torch.stack(out)


@pytest.mark.parametrize("sizes", [(16, 8, 4, 2), (20, 5, 3, 1), (8, 4, 1, 2)])
def test_mamba_is_the_published_block(sizes: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    module = Mamba(*sizes).double()
    for p in module.parameters():
        nn.init.normal_(p, std=0.4)
    u = torch.randn(2, 9, sizes[0], dtype=torch.float64)
    with torch.no_grad():
        got = module(u)
        want = torch.stack([plain_mamba(module, one) for one in u])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_mamba_is_causal() -> None:
    torch.manual_seed(0)
    module = Mamba(8, 4)
    u = torch.randn(1, 12, 8)
    changed = u.clone()
    changed[:, 7] += 1
    a, b = module(u), module(changed)
    assert torch.equal(a[:, :7], b[:, :7]) and not torch.equal(a[:, 7:], b[:, 7:])


def test_block_has_a_norm_on_both_sides_of_the_branch() -> None:
    torch.manual_seed(0)
    block = MambaBlock(8, 0.5, 4).eval()
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(block(x), x + block.norm_out(block.mamba(block.norm_in(x))))


def test_drop_path_drops_whole_samples_and_rescales() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = layer(x)
    kept = y[:, 0, 0] > 0
    assert torch.equal(y, torch.where(kept[:, None, None], 1 / 0.75, 0.0).expand_as(y))
    assert abs(kept.float().mean().item() - 0.75) < 0.03
    assert torch.equal(layer.eval()(x), x)


def test_drop_path_rates_are_the_authors() -> None:
    want = [0, 0, 0.0182, 0.0364, 0.0545, 0.0727, 0.0909, 0.1091, 0.1273, 0.1455, 0.1636, 0.1818]
    assert drop_path_rates(12, 0.2) == pytest.approx(want, abs=5e-5)
    assert drop_path_rates(4, 0.2) == pytest.approx([0, 0, 0.0667, 0.1333], abs=5e-5)
    assert drop_path_rates(1, 0.2) == [0.0]


def test_initialisations() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(MambaBlock(64, 0.0) for _ in range(3)), nn.Linear(64, 5))
    initialise(network, "authors", depth=3)
    for block in network[:3]:
        m = block.mamba
        assert (m.dt_proj.bias == 0).all()
        for linear in (m.in_proj, m.x_proj, m.dt_proj):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert m.out_proj.weight.abs().max() <= 0.5 / 128**0.5
        assert m.out_proj.weight.abs().max() > 0.45 / 128**0.5
        assert torch.equal(m.D, torch.ones(128))
        torch.testing.assert_close(m.A_log.exp()[5], torch.arange(1.0, 65))
    assert (network[3].bias == 0).all() and network[3].weight.std() < 0.03
    initialise(network, "mamba", depth=3)
    steps = nn.functional.softplus(network[0].mamba.dt_proj.bias)
    assert steps.min() >= 1e-3 * 0.99 and steps.max() <= 0.1 * 1.01
    assert steps.log().std() > 1.0
