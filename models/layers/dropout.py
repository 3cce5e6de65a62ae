"""Dropout whose draws can come from a generator of its own.

A fold trained beside others must draw what it draws alone. torch's dropout knows only the device's
global generator; with `generator` set, masks come from that, by the same arithmetic. Without, this
is torch's own, fused on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.stochastic_depth import kept_rows


class Dropout(nn.Module):
    """`nn.Dropout` with an optional generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Any tensor; zeros with probability `rate` in training, the rest rescaled."""
        if not self.training or self.rate == 0 or self.generator is None:
            return F.dropout(x, self.rate, self.training)
        return x * torch.empty_like(x).bernoulli_(1 - self.rate, generator=self.generator).div_(
            1 - self.rate
        )


class FoldDraws:
    """Dropout and stochastic depth of F folds at once, each fold's from its own generator.

    Draws are those of the plain layers, in number and order: for the fold's own samples only, and
    on a CPU inside a part that samples may skip for those that do not (`kept_rows`).
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)
        self._rows: list[Tensor | slice] = []

    def start(self, sizes: Sequence[int]) -> None:
        """The next pass has sizes[f] real samples of fold f; the rows after them are padding."""
        self.sizes = list(sizes)
        self._rows = [slice(0, size) for size in sizes]

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        """x (F, B, ...), dropped out by each fold's generator."""
        if rate == 0:
            return x
        mask = torch.zeros_like(x)
        for fold, (rows, generator) in enumerate(zip(self._rows, self.generators, strict=True)):
            if not self.sizes[fold]:
                continue
            if isinstance(rows, slice):
                mask[fold, rows].bernoulli_(1 - rate, generator=generator)
            else:
                drawn = x.new_empty(len(rows), *x.shape[2:])
                mask[fold, rows] = drawn.bernoulli_(1 - rate, generator=generator)
        return x * mask.div_(1 - rate)

    def add_dropping(self, x: Tensor, part: Callable[[Tensor], Tensor], rate: float) -> Tensor:
        """x (F, B, N, D) + part(x), the part left out per sample; as the plain `add_dropping`."""
        if rate == 0:
            return x + part(x)
        weight = x.new_zeros(x.shape[:2])
        for fold, (size, generator) in enumerate(zip(self.sizes, self.generators, strict=True)):
            if size:
                weight[fold, :size].bernoulli_(1 - rate, generator=generator)
        weight /= 1 - rate
        whole = self._rows
        if x.device.type == "cpu":
            self._rows = [kept_rows(weight[f, :n]) for f, n in enumerate(self.sizes)]
        update = part(x) * weight[:, :, None, None]
        self._rows = whole
        return x + update


def set_generator(network: nn.Module, generator: torch.Generator | None) -> None:
    """Let all dropout and stochastic depth of a network draw from `generator`; None: torch's."""
    for module in network.modules():
        if hasattr(module, "generator"):
            setattr(module, "generator", generator)  # noqa: B010 (unknown to nn.Module's types)
