"""Stochastic depth (Huang et al., arXiv 1603.09382): parts left out at random, per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def add_dropping(tokens: Tensor, part: Callable[[Tensor], Tensor], rate: float) -> Tensor:
    """tokens + part(tokens), the part left out per sample with probability `rate` and else scaled.

    tokens (B, N, D). Eager on a CPU, a sample that drops the part is not sent through it. On a GPU,
    where picking samples would wait for the device, all go through and the dropped are multiplied
    by 0.
    """
    if rate == 0:
        return tokens + part(tokens)
    weight = tokens.new_empty(len(tokens)).bernoulli_(1 - rate) / (1 - rate)
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return tokens + part(tokens) * weight[:, None, None]
    kept = weight.nonzero().flatten()
    if not len(kept):  # one sample at weight 0, so that every parameter has a gradient
        kept = torch.zeros(1, dtype=torch.long)
    update = part(tokens[kept]) * weight[kept, None, None]
    return tokens.index_add(0, kept, update.to(tokens.dtype))
