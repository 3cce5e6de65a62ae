"""Selective scan for CPUs: sequential over time, in place, with a hand-written backward.

At L = 50 a parallel scan loses: the work is bound by memory traffic and it makes log2(L) passes.
Here everything is time-major and a step touches whole contiguous (B, N, D) blocks (N before D makes
both reductions of the forward fast); a block of batch rows is chosen to stay in cache. Forward
keeps one state per segment of about sqrt(L) steps; backward recomputes decays and states segment by
segment, which costs less than reading them back.

With a_t = exp(delta_t A) and u_t = delta_t x_t, and G_t = dL/dh_t:

    G_t = gy_t C_t + a_{t+1} G_{t+1}        dC_t = sum_d gy_t h_t        dB_t = sum_d G_t u_t
    du_t = sum_n G_t B_t                    W_t = G_t a_t h_{t-1}
    d(delta_t) = sum_n W_t A + du_t x_t     dA = sum_{b,t} W_t delta_t   dx_t = du_t delta_t

With A of several folds, (F, D, N), the batch is F equal runs of rows, fold after fold; a block
never spans two folds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one (rows, N, D) block: measured best near the size of an L2 cache, and flat around.
BLOCK_ELEMENTS = 2**18


def scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """As `selective_scan_reference`: x, delta (B, L, D), B, C (B, L, N) -> (B, L, D).

    A: (D, N), or (F, D, N) where rows f·B/F … of the batch belong to fold f.
    """
    inputs = (x, delta, A, B, C)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        result: Tensor = _Scan.apply(*inputs)  # type: ignore[no-untyped-call]
        return result
    y, _ = _forward(*_time_major(*inputs), keep=False)
    return y.transpose(0, 1)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        tensors = _time_major(x, delta, A, B, C)
        y, kept = _forward(*tensors, keep=True)
        ctx.save_for_backward(*tensors, kept)
        return y.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, delta, A, B, C, kept = ctx.saved_tensors
        dx, ddelta, dA, dB, dC = _backward(
            grad.transpose(0, 1).contiguous(), x, delta, A, B, C, kept
        )
        dx, ddelta, dB, dC = (tensor.transpose(0, 1) for tensor in (dx, ddelta, dB, dC))
        return dx, ddelta, dA, dB, dC


def _time_major(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, delta, B, C = (tensor.transpose(0, 1).contiguous() for tensor in (x, delta, B, C))
    return x, delta, A.transpose(-1, -2).contiguous(), B, C


def _frames(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of each frame, made at once: indexing one by one costs as much as a small step."""
    return tensor.unbind(0)


def _segment(length: int) -> int:
    return max(1, math.isqrt(length))


def _blocks(batch: int, folds: int, states: int, width: int) -> list[tuple[int, slice]]:
    """Runs of batch rows to work on at once, each with its fold."""
    rows, own = max(1, BLOCK_ELEMENTS // (width * states)), batch // folds
    return [
        (fold, slice(start, min((fold + 1) * own, start + rows)))
        for fold in range(folds)
        for start in range(fold * own, (fold + 1) * own, rows)
    ]


def _forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """Time-major y (L, B, D), and the state before each segment (segments, B, N, D) if kept."""
    length, batch, width = x.shape
    A = A.reshape(-1, *A.shape[-2:])  # one per fold
    states, segment = A.shape[1], _segment(length)
    u, y = x * delta, torch.empty_like(x)
    kept = x.new_empty(-(-length // segment) if keep else 0, batch, states, width)
    for fold, rows in _blocks(batch, len(A), states, width):
        h = x.new_zeros(rows.stop - rows.start, states, width)
        decay, A_rows = torch.empty_like(h), A[fold].expand_as(h).contiguous()
        delta_t, u_t, y_t = (_frames(tensor[:, rows, None]) for tensor in (delta, u, y))
        B_t, C_t = _frames(B[:, rows, :, None]), _frames(C[:, rows, None])
        for t in range(length):
            if keep and t % segment == 0:
                kept[t // segment, rows] = h
            torch.mul(A_rows, delta_t[t], out=decay).exp_()
            h.mul_(decay).addcmul_(u_t[t], B_t[t])
            torch.bmm(C_t[t], h, out=y_t[t])
    return y, kept


def _backward(
    grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, delta, A, B, C, time-major, from grad = dL/dy (L, B, D)."""
    length, batch, width = x.shape
    shape_of_A, A = A.shape, A.reshape(-1, *A.shape[-2:])
    states, segment = A.shape[1], _segment(length)
    u = x * delta
    du, ddelta, dA = torch.empty_like(u), torch.empty_like(u), torch.zeros_like(A)
    dB, dC = torch.empty_like(B), torch.empty_like(C)
    for fold, rows in _blocks(batch, len(A), states, width):
        shape = (rows.stop - rows.start, states, width)
        G, dA_rows, W = x.new_zeros(shape), x.new_zeros(shape), x.new_empty(shape)
        A_rows = A[fold].expand(shape).contiguous()  # broadcasting both factors is 6 times slower
        h, decay = (
            x.new_empty(segment + 1, *shape).unbind(0),
            x.new_empty(segment, *shape).unbind(0),
        )
        delta_t, u_t, gy_t = (_frames(tensor[:, rows, None]) for tensor in (delta, u, grad))
        B_t, C_t = _frames(B[:, rows, :, None]), _frames(C[:, rows, :, None])
        B_row, du_t = _frames(B[:, rows, None]), _frames(du[:, rows, None])
        dB_t, dC_t, ddelta_t = (_frames(tensor[:, rows]) for tensor in (dB, dC, ddelta))
        for start in range((length - 1) // segment * segment, -1, -segment):
            steps = range(min(segment, length - start))
            h[0].copy_(kept[start // segment, rows])
            for i in steps:
                t = start + i
                torch.mul(A_rows, delta_t[t], out=decay[i]).exp_()
                torch.mul(h[i], decay[i], out=h[i + 1]).addcmul_(u_t[t], B_t[t])
            for i in reversed(steps):
                t = start + i
                G.addcmul_(gy_t[t], C_t[t])
                torch.sum(torch.mul(h[i + 1], gy_t[t], out=W), 2, out=dC_t[t])
                torch.sum(torch.mul(G, u_t[t], out=W), 2, out=dB_t[t])
                torch.bmm(B_row[t], G, out=du_t[t])
                torch.mul(G.mul_(decay[i]), h[i], out=W)
                dA_rows.addcmul_(W, delta_t[t])
                torch.sum(W.mul_(A_rows), 1, out=ddelta_t[t])
        dA[fold] += dA_rows.sum(0)
    ddelta.addcmul_(du, x)
    return du.mul_(delta), ddelta, dA.view(shape_of_A).transpose(-1, -2), dB, dC
