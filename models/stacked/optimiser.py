"""Adam and AdamW for F folds over one (F, P) buffer, each fold with its own rate, betas and step.

torch's optimisers have one step count and one momentum for all of a tensor; folds of unequal size
are at different places of their schedules. Here the scalars of a step are columns of a table that
is sent to the device once an epoch, and one update is about ten operations whatever the number of
parameters. A fold that sits a step out has a row that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.stacked.stack import Stack

CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class Moment:
    """One fold's part in one update: learning rate and betas; None instead: it sits out."""

    rate: float
    beta1: float
    beta2: float = 0.999


class FoldAdam:
    """torch.optim.Adam's arithmetic per fold; AdamW's with `decay`.

    `scale` (1, P) multiplies the learning rate and `decay` (1, P) is the decoupled weight decay of
    each parameter; `clip_norm` limits each fold's own gradient norm.
    """

    def __init__(
        self,
        net: Stack,
        *,
        eps: float = 1e-8,
        scale: Tensor | None = None,
        decay: Tensor | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.net, self.eps, self.scale, self.clip_norm = net, eps, scale, clip_norm
        self.decay = None if decay is None else decay if scale is None else decay * scale
        self.gradient = torch.zeros_like(net.flat)
        self.first, self.second = torch.zeros_like(net.flat), torch.zeros_like(net.flat)
        self.steps = [0] * net.folds
        self._table = torch.empty(0)

    def plan(self, epoch: Sequence[Sequence[Moment | None]]) -> None:
        """All updates of an epoch: epoch[s][f] is fold f's part in update s."""
        done, rows = list(self.steps), []
        for update in epoch:
            row = []
            for fold, moment in enumerate(update):
                if moment is None:  # weight of the new gradient 0, of the old moments 1, no step
                    row.append((0.0, 1.0, 0.0, 1.0, 0.0, 0.0))
                    continue
                done[fold] += 1
                size = moment.rate / (1 - moment.beta1 ** done[fold])
                root = (1 - moment.beta2 ** done[fold]) ** 0.5
                row.append(
                    (1 - moment.beta1, moment.beta2, 1 - moment.beta2, root, size, moment.rate)
                )
            rows.append(row)
        table = torch.tensor(rows, dtype=torch.float64).to(self.net.flat.dtype)
        if self.net.device.type == "cuda":
            table = table.pin_memory().to(self.net.device, non_blocking=True)
        self._plan, self._table = epoch, table

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Update `number` of the planned epoch, from `self.gradient`."""
        new, old2, new2, root, size, rate = self._table[number].unsqueeze(-1).unbind(1)
        gradient = self.gradient
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient = gradient * (self.clip_norm / (norm + CLIP_EPS)).clamp(max=1)
        if self.decay is not None:
            self.net.flat.addcmul_(self.net.flat, rate * self.decay, value=-1)
        self.first.lerp_(gradient, new)
        self.second.mul_(old2).addcmul_(gradient * new2, gradient)
        change = self.second.sqrt().div_(root).add_(self.eps)
        torch.div(self.first, change, out=change).mul_(size)
        if self.scale is not None:
            change.mul_(self.scale)
        self.net.flat.sub_(change)
        for fold, moment in enumerate(self._plan[number]):
            self.steps[fold] += moment is not None

    def state_of(self, fold: int, numbers: Mapping[str, int]) -> dict[str, Tensor]:
        """One fold's moments, named as `models.fitting.save_resume_point` names a torch Adam's.

        `numbers`: parameter name → its number in that optimiser.
        """
        found = {}
        for name, number in numbers.items():
            for key, flat in (("exp_avg", self.first), ("exp_avg_sq", self.second)):
                slot = self.net.slot(flat, name)[fold]
                found[f"optimiser.{number}.{key}"] = slot.detach().clone()
            found[f"optimiser.{number}.step"] = torch.tensor(float(self.steps[fold]))
        return found

    @torch.no_grad()
    def load(self, fold: int, state: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Take one fold's moments from what `state_of` or a torch Adam's resume point holds.

        Raises KeyError for a missing tensor, RuntimeError for a misshapen one.
        """
        for name, number in numbers.items():
            for key, flat in (("exp_avg", self.first), ("exp_avg_sq", self.second)):
                self.net.slot(flat, name)[fold].copy_(state[f"optimiser.{number}.{key}"])
            self.steps[fold] = int(state[f"optimiser.{number}.step"])
