"""Selective scan for NVIDIA GPUs: one fused Triton kernel forward, one backward.

Fifty tiny steps are launch-bound as separate operations; here one program walks all of them with
its (channels, states) block of the state in registers. As on the CPU, forward keeps one state per
segment of about sqrt(L) steps and backward recomputes the rest, into a scratch of one segment.
Sums over channels (dB, dC) and over the batch (dA) leave the kernel as partial sums and are added
in a fixed order, so that two runs give the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_CHANNELS = 16


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, delta, A, B, C, y, kept, length, width, states, batch, segment, rows,
    KEEP: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program (b, i): channels i * BLOCK_D ... of sample b, all frames; `rows` samples per A."""
    b = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < width, n < states
    in_dn = in_d[:, None] & in_n[None, :]
    at_dn = d[:, None] * states + n[None, :]
    a = tl.load(A + (b // rows) * width * states + at_dn, mask=in_dn, other=0.0)
    h = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    for t in range(length):
        if KEEP and t % segment == 0:
            row = (t // segment * batch + b).to(tl.int64) * width * states
            tl.store(kept + row + at_dn, h, mask=in_dn)
        frame = (b * length + t).to(tl.int64)
        dt = tl.load(delta + frame * width + d, mask=in_d, other=0.0)
        u = dt * tl.load(x + frame * width + d, mask=in_d, other=0.0)
        b_t = tl.load(B + frame * states + n, mask=in_n, other=0.0)
        c_t = tl.load(C + frame * states + n, mask=in_n, other=0.0)
        h = tl.exp(dt[:, None] * a) * h + u[:, None] * b_t[None, :]
        tl.store(y + frame * width + d, tl.sum(h * c_t[None, :], axis=1), mask=in_d)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, x, delta, A, B, C, kept, scratch, dx, ddelta, dA, dB, dC,
    length, width, states, batch, segment, segments, rows,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """As the forward program, frames reversed; the equations are in selective_scan_fast.py."""
    b, part = tl.program_id(0), tl.program_id(1)
    d = part * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < width, n < states
    in_dn = in_d[:, None] & in_n[None, :]
    at_dn = d[:, None] * states + n[None, :]
    a = tl.load(A + (b // rows) * width * states + at_dn, mask=in_dn, other=0.0)
    g = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    da = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    own = (b * segment).to(tl.int64) * width * states
    for s in range(segments):
        start = (segments - 1 - s) * segment
        steps = tl.minimum(segment, length - start)
        row = ((segments - 1 - s) * batch + b).to(tl.int64) * width * states
        h = tl.load(kept + row + at_dn, mask=in_dn, other=0.0)
        for i in range(steps):
            tl.store(scratch + own + i * width * states + at_dn, h, mask=in_dn)
            frame = (b * length + start + i).to(tl.int64)
            dt = tl.load(delta + frame * width + d, mask=in_d, other=0.0)
            u = dt * tl.load(x + frame * width + d, mask=in_d, other=0.0)
            b_t = tl.load(B + frame * states + n, mask=in_n, other=0.0)
            h = tl.exp(dt[:, None] * a) * h + u[:, None] * b_t[None, :]
        tl.debug_barrier()
        for r in range(steps):
            i = steps - 1 - r
            frame = (b * length + start + i).to(tl.int64)
            before = tl.load(scratch + own + i * width * states + at_dn, mask=in_dn, other=0.0)
            dt = tl.load(delta + frame * width + d, mask=in_d, other=0.0)
            x_t = tl.load(x + frame * width + d, mask=in_d, other=0.0)
            gy = tl.load(grad + frame * width + d, mask=in_d, other=0.0)
            b_t = tl.load(B + frame * states + n, mask=in_n, other=0.0)
            c_t = tl.load(C + frame * states + n, mask=in_n, other=0.0)
            u = dt * x_t
            decay = tl.exp(dt[:, None] * a)
            after = decay * before + u[:, None] * b_t[None, :]
            g += gy[:, None] * c_t[None, :]
            partial = ((part * batch + b) * length + start + i).to(tl.int64) * states + n
            tl.store(dC + partial, tl.sum(gy[:, None] * after, axis=0), mask=in_n)
            tl.store(dB + partial, tl.sum(g * u[:, None], axis=0), mask=in_n)
            du = tl.sum(g * b_t[None, :], axis=1)
            g = g * decay
            w = g * before
            da += w * dt[:, None]
            tl.store(dx + frame * width + d, du * dt, mask=in_d)
            tl.store(ddelta + frame * width + d, tl.sum(w * a, axis=1) + du * x_t, mask=in_d)
        tl.debug_barrier()
    tl.store(dA + b.to(tl.int64) * width * states + at_dn, da, mask=in_dn)


def scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """As `selective_scan_reference`, in fp32; fp64 tensors take the in-place recurrence.

    A: (D, N), or (F, D, N) where rows f·B/F … of the batch belong to fold f.
    """
    if x.dtype == torch.float64:
        from models.layers.selective_scan_fast import scan as fast_scan

        return fast_scan(x, delta, A, B, C)
    result: Tensor = _Scan.apply(x, delta, A, B, C)  # type: ignore[no-untyped-call]
    return result


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        x, delta, A, B, C = (tensor.contiguous() for tensor in inputs)
        batch, length, width = x.shape
        states, segment = A.shape[-1], max(1, math.isqrt(length))
        rows = batch // (len(A) if A.ndim == 3 else 1)
        keep = any(ctx.needs_input_grad)
        y = torch.empty_like(x)
        kept = x.new_empty(-(-length // segment) if keep else 0, batch, width, states)
        grid = (batch, triton.cdiv(width, BLOCK_CHANNELS))
        _forward_kernel[grid](
            x, delta, A, B, C, y, kept, length, width, states, batch, segment, rows,
            KEEP=keep, BLOCK_D=BLOCK_CHANNELS, BLOCK_N=triton.next_power_of_2(states),
        )  # fmt: skip
        ctx.save_for_backward(x, delta, A, B, C, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, delta, A, B, C, kept = ctx.saved_tensors
        batch, length, width = x.shape
        states, segment = A.shape[-1], max(1, math.isqrt(length))
        rows = batch // (len(A) if A.ndim == 3 else 1)
        parts = triton.cdiv(width, BLOCK_CHANNELS)
        dx, ddelta = torch.empty_like(x), torch.empty_like(x)
        dA = x.new_empty(batch, width, states)
        dB, dC = x.new_empty(2, parts, batch, length, states)
        scratch = x.new_empty(batch, segment, width, states)
        _backward_kernel[(batch, parts)](
            grad.contiguous(), x, delta, A, B, C, kept, scratch, dx, ddelta, dA, dB, dC,
            length, width, states, batch, segment, len(kept), rows,
            BLOCK_D=BLOCK_CHANNELS, BLOCK_N=triton.next_power_of_2(states),
        )  # fmt: skip
        return dx, ddelta, dA.unflatten(0, (-1, rows)).sum(1).view_as(A), dB.sum(0), dC.sum(0)
