"""Stochastic depth (Huang et al., arXiv 1603.09382): parts left out at random, per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from data.errors import InputError


class DepthMasks:
    """Which samples keep each part, for all steps of an epoch, from the folds' own generators.

    Generators live on the CPU whatever the device, so the masks of a fold are the same on every
    device, alone or beside other folds; they reach a GPU in one copy an epoch. `rates` are the drop
    rates of the network's parts in the order in which a forward pass meets them.
    """

    def __init__(self, rates: Sequence[float], device: torch.device) -> None:
        self.rates = [rate for rate in rates if rate > 0]
        self.device = device
        self._table = torch.empty(0)
        self._step = self._part = 0

    def draw(self, sizes: Sequence[Sequence[int]], generators: Sequence[torch.Generator]) -> None:
        """Masks of an epoch: sizes[f] are the numbers of samples in the steps of fold f."""
        steps = max((len(own) for own in sizes), default=0)
        most = max((size for own in sizes for size in own), default=0)
        table = torch.zeros(steps, len(self.rates), len(sizes), most)
        for f, (own, generator) in enumerate(zip(sizes, generators, strict=True)):
            for step, size in enumerate(own):
                for part, rate in enumerate(self.rates):
                    table[step, part, f, :size].bernoulli_(1 - rate, generator=generator)
        if self.device.type == "cuda":
            table = table.pin_memory().to(self.device, non_blocking=True)
        self._table = table

    def start(self, step: int) -> None:
        """The forward pass of this step of the epoch comes next."""
        self._step, self._part = step, 0

    def next(self, rate: float, samples: int) -> Tensor:
        """1 (kept) or 0 of the next part's samples, (folds, samples).

        Raises InputError when the network meets another part than the masks were drawn for.
        """
        known = self.rates[self._part] if self._part < len(self.rates) else None
        if known != rate:
            raise InputError("stochastic depth", expected=f"part with rate {known}", got=str(rate))
        mask = self._table[self._step, self._part, :, :samples]
        self._part += 1
        return mask


class DropPath(nn.Module):
    """Zero a sample's residual branch with probability `rate` in training, rescaled.

    `masks`, where a trainer sets it, says which; else torch's global generator does.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.masks: DepthMasks | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Any (B, ...) tensor."""
        if not self.training or self.rate == 0:
            return x
        keep, shape = 1 - self.rate, (x.shape[0], *[1] * (x.ndim - 1))
        if self.masks is None:
            mask = x.new_empty(shape).bernoulli_(keep)
        else:
            mask = self.masks.next(self.rate, len(x))[0].view(shape)
        return x * (mask / keep)


def set_masks(network: nn.Module, masks: DepthMasks | None) -> None:
    """Let every DropPath of a network draw from `masks`, or from torch's generator again."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.masks = masks


def add_dropping(
    tokens: Tensor,
    part: Callable[[Tensor], Tensor],
    rate: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """tokens + part(tokens), the part left out per sample with probability `rate` and else scaled.

    tokens (B, N, D). Eager on a CPU, a sample that drops the part is not sent through it. On a GPU,
    where picking samples would wait for the device, all go through and the dropped are multiplied
    by 0.
    """
    if rate == 0:
        return tokens + part(tokens)
    weight = tokens.new_empty(len(tokens)).bernoulli_(1 - rate, generator=generator) / (1 - rate)
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return tokens + part(tokens) * weight[:, None, None]
    kept = kept_rows(weight)
    update = part(tokens[kept]) * weight[kept, None, None]
    return tokens.index_add(0, kept, update.to(tokens.dtype))


def kept_rows(weight: Tensor) -> Tensor:
    """Rows with weight; the first one where none has, so that every parameter has a gradient."""
    kept = weight.nonzero().flatten()
    return kept if len(kept) else torch.zeros(1, dtype=torch.long)
