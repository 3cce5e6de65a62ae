"""Selective scan of Mamba-1: one function, several backends.

For every batch element, channel d and state n, with h before the first frame = 0:

    h[t, d, n] = exp(delta[t, d] A[d, n]) h[t-1, d, n] + delta[t, d] x[t, d] B[t, n]
    y[t, d]    = sum_n h[t, d, n] C[t, n]  +  skip[d] x[t, d]

(A by zero-order hold, B by its Euler simplification; Gu & Dao, arXiv 2312.00752, section 3.)
The recurrence runs in fp32 whatever the inputs, fp64 for fp64. `selective_scan_reference` is the
slow truth; `fast` is the CPU path (in-place recurrence, hand-written backward), `triton` one fused
kernel each way for NVIDIA GPUs, `mamba_ssm` the compiled package where someone has it.
Closed forms with exp of cumulative sums overflow here (A reaches -64): the recurrence stays.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from data.errors import ConfigError, InputError, MissingExtraError
from models.layers.choices import ScanBackend

BACKENDS: tuple[ScanBackend, ...] = ("auto", "reference", "fast", "triton", "mamba_ssm")


def selective_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None = None,
    backend: ScanBackend = "auto",
) -> Tensor:
    """Scan (B, L, D) inputs to (B, L, D) outputs in the dtype of `x`.

    x, delta: (B, L, D), delta > 0 (after softplus). A: (D, N), negative. B, C: (B, L, N).
    skip: (D,) or None. Differentiable in all of them. With A (F, D, N) and skip (F, D) the batch
    holds F folds, B / F rows each, one after another, and each has its own A and skip. "auto" is
    `triton` for CUDA tensors where Triton is installed, else `fast`. Raises `InputError` for shapes
    that do not fit, `ConfigError` for an unknown backend, `MissingExtraError` for one that is not
    installed.
    """
    _check(x, delta, A, B, C, skip)
    inputs = [wide(tensor) for tensor in (x, delta, A, B, C)]
    chosen = _choose(backend, x.device)
    if chosen == "reference":
        y = _of_folds(selective_scan_reference, inputs)
    elif chosen == "fast":
        from models.layers.selective_scan_fast import scan

        y = scan(*inputs)
    elif chosen == "triton":
        from models.layers.selective_scan_triton import scan as triton_scan

        y = triton_scan(*inputs)
    else:
        y = _of_folds(_mamba_ssm, inputs)
    if skip is not None:
        own = inputs[0] if skip.ndim == 1 else inputs[0].view(len(skip), -1, *x.shape[1:])
        y = y + (own * wide(skip)[..., None, None, :]).view_as(y)
    return y.to(x.dtype)


def selective_scan_reference(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The equations above, literally, without `skip`: the truth the other backends are tested on.

    Same shapes as `selective_scan`. Autograd keeps every decay and state: use it on small sizes.
    """
    decay = torch.exp(torch.einsum("bld,dn->bdln", delta, A))
    drive = torch.einsum("bld,bln,bld->bdln", delta, B, x)
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])
    outputs = []
    for t in range(x.shape[1]):
        h = decay[:, :, t] * h + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
    return torch.stack(outputs, dim=1)


def _of_folds(scan: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    """One call per fold of a scan that knows a single A."""
    x, delta, A, B, C = inputs
    if A.ndim == 2:
        return scan(*inputs)
    parts = zip(
        *(t.chunk(len(A)) for t in (x, delta)), A, *(t.chunk(len(A)) for t in (B, C)), strict=True
    )
    return torch.cat([scan(*part) for part in parts])


def _mamba_ssm(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The compiled kernel of the `mamba_ssm` package, whose tensors are (batch, channel, time)."""
    if find_spec("mamba_ssm") is None:
        raise MissingExtraError(
            'selective_scan(backend="mamba_ssm")',
            expected="the mamba_ssm package",
            got="no such package",
            todo='Install it for your CUDA version, or use backend="auto".',
        )
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    by_channel = [tensor.transpose(1, 2).contiguous() for tensor in (x, delta, B, C)]
    y: Tensor = selective_scan_fn(by_channel[0], by_channel[1], A, by_channel[2], by_channel[3])
    return y.transpose(1, 2)


def _choose(backend: ScanBackend, device: torch.device) -> ScanBackend:
    if backend not in BACKENDS:
        raise ConfigError(
            "selective_scan backend", expected=f"one of {', '.join(BACKENDS)}", got=repr(backend)
        )
    if backend != "auto":
        return backend
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "fast"


def wide(tensor: Tensor) -> Tensor:
    """fp32, or fp64 as it is: what decays are computed in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None) -> None:
    batch, length, width = x.shape if x.ndim == 3 else (-1, 0, -1)
    states, folds = A.shape[-1], A.shape[:-2]
    fits = (
        length > 0
        and delta.shape == x.shape
        and A.ndim in (2, 3)
        and A.shape[-2] == width
        and batch % (folds[0] if folds else 1) == 0
        and B.shape == C.shape == (batch, length, states)
        and (skip is None or skip.shape == (*folds, width))
    )
    if not fits:
        got = ", ".join(str(tuple(tensor.shape)) for tensor in (x, delta, A, B, C))
        raise InputError(
            "selective_scan",
            expected="x, delta (B, L, D), A ([F,] D, N), B, C (B, L, N), skip ([F,] D), L >= 1",
            got=got,
        )
