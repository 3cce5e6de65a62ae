"""F networks of one shape as one: their state along a leading fold axis, and layers written on it.

A stacked network is the state dict of the plain one with a fold axis in front, and a forward pass
written on the layers here (models/me_tst/stacked.py, models/hsta/stacked.py). Names are those of
the plain network, so a fold's slice is its network's state dict. All parameters lie in one (F, P)
buffer, which is what `models.stacked.optimiser.FoldAdam` updates.

Activations are (F, B, ...), or (B, F·C, L) between convolutions, where a convolution of F folds is
a grouped one and a batch norm one over folds × channels. Folds may bring fewer samples than the
others to a step: the rest of their rows is padding, which `step` marks; statistics and losses count
none of it. Nothing is ever reduced over the fold axis, so a fold's numbers do not depend on its
neighbours but for rounding.

Why not torch.vmap: hand-written kernels (scan, oneDNN) would each need a batching rule, dropout
would draw from another stream than the fold alone, and an optimiser has one step count. It is what
the tests compare these layers with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import InputError
from models.layers.linear import linear as plain_linear
from models.layers.selective_scan import wide

ALIGN = 4  # floats: rows of 16 bytes, what vectorised kernels want


class Stack:
    """The state of F networks that differ in values only; see the module's docstring.

    `parameters`: name → (F, ...) leaf of autograd, a view of `flat` (F, P). `buffers`: name →
    (F, ...), those of the state dict. Raises InputError for networks of different shapes.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device) -> None:
        self.template, self.folds, self.device = networks[0], len(networks), device
        self.training = True
        self.weight: Tensor | None = None  # (F, B), 1 real, 0 padding; None without padding
        self.spans: dict[str, tuple[int, int]] = {}
        states = [dict(network.state_dict()) for network in networks]
        shapes = [{name: t.shape for name, t in state.items()} for state in states]
        if any(own != shapes[0] for own in shapes[1:]):
            raise InputError("stacked folds", expected="networks of one shape", got="several")
        own, end = dict(self.template.named_parameters()), 0
        for name, parameter in own.items():
            self.spans[name] = (end, end + parameter.numel())
            end += -(-parameter.numel() // ALIGN) * ALIGN
        kind = next(iter(own.values())).dtype
        self.flat = torch.zeros(self.folds, end, device=device, dtype=kind)
        self.parameters: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, parameter in own.items():
                leaf = self.slot(self.flat, name, parameter.shape)
                leaf.copy_(torch.stack([state[name].to(device) for state in states]))
                self.parameters[name] = leaf.detach().requires_grad_(parameter.requires_grad)
        self.buffers = {
            name: torch.stack([state[name].to(device) for state in states])
            for name in states[0]
            if name not in own
        }

    def slot(self, flat: Tensor, name: str, shape: Sequence[int] | None = None) -> Tensor:
        """The part of an (F, P) buffer that belongs to a parameter, as (F, *its shape)."""
        start, stop = self.spans[name]
        shape = self.parameters[name].shape[1:] if shape is None else shape
        return flat[:, start:stop].view(self.folds, *shape)

    # --------------------------------------------------------------------------- state of a fold

    def state_of(self, fold: int) -> dict[str, Tensor]:
        """The state dict of one fold's plain network, copied."""
        found = {**self.parameters, **self.buffers}
        return {name: t[fold].detach().clone() for name, t in found.items()}

    @torch.no_grad()
    def load(self, fold: int, state: Mapping[str, Tensor]) -> None:
        """Set one fold's slice from its plain network's state dict."""
        for name, tensor in {**self.parameters, **self.buffers}.items():
            tensor.data[fold].copy_(state[name])

    def store(self, networks: Sequence[nn.Module]) -> None:
        """Write every fold's slice into its plain network."""
        for fold, network in enumerate(networks):
            network.load_state_dict(self.state_of(fold))

    # ------------------------------------------------------------------------------------- steps

    def step(self, counts: Sequence[int], weight: Tensor) -> None:
        """The next pass sees counts[f] real samples, marked by 1 in weight (F, B)."""
        full = all(count == weight.shape[1] for count in counts)
        self.weight = None if full else weight

    def train(self, mode: bool = True) -> Stack:
        """As nn.Module.train; evaluation knows no padding."""
        self.training = mode
        self.weight = None
        return self

    def gradients(self, into: Tensor, add: bool = False) -> None:
        """Move the parameters' gradients to an (F, P) buffer and clear them; absent ones are 0."""
        pieces, end = [], 0
        for name, parameter in self.parameters.items():
            start, stop = self.spans[name]
            if start > end:
                pieces.append(into.new_zeros(self.folds, start - end))
            found = parameter.grad
            empty = into.new_zeros(self.folds, stop - start) if found is None else found
            pieces.append(empty.reshape(self.folds, -1))
            parameter.grad, end = None, stop
        if end < into.shape[1]:
            pieces.append(into.new_zeros(self.folds, into.shape[1] - end))
        whole = torch.cat(pieces, dim=1)  # one launch for a hundred tensors
        into.copy_(into + whole if add else whole)

    def per_sample(self, weight: Tensor, x: Tensor) -> Tensor:
        """(F, B) against x (F, B, ...)."""
        return weight.view(*weight.shape, *[1] * (x.ndim - 2))

    # ------------------------------------------------------------------------------------ layers

    def linear(self, name: str, x: Tensor) -> Tensor:
        """x (F, ..., inputs) through each fold's own linear map: (F, ..., outputs)."""
        return self.affine(
            x, self.parameters[f"{name}.weight"], self.parameters.get(f"{name}.bias")
        )

    def affine(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (F, ..., i) · weight (F, o, i)ᵀ + bias (F, o)."""
        rows = x.reshape(self.folds, -1, x.shape[-1])
        if rows.device.type == "cpu":
            # A CPU is as fast with one product per fold, which may use oneDNN.
            own = [None] * self.folds if bias is None else bias.unbind(0)
            product = torch.stack(
                [plain_linear(*part) for part in zip(rows, weight.unbind(0), own, strict=True)]
            )
        elif bias is None:
            product = torch.bmm(rows, weight.transpose(1, 2))
        else:
            product = torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))
        return product.view(*x.shape[:-1], weight.shape[1])

    def layer_norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        """Layer norm over the last axis of x (F, ..., D)."""
        shape = (self.folds, *[1] * (x.ndim - 2), x.shape[-1])
        normed = F.layer_norm(x, x.shape[-1:], eps=eps)
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return torch.addcmul(bias.view(shape), normed, weight.view(shape))

    def conv1d(
        self, name: str, x: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> Tensor:
        """x (B, F·C, L) -> (B, F·out, L'): the folds are groups of one convolution."""
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return F.conv1d(
            x, weight.flatten(0, 1), bias.flatten(), stride, padding, groups=self.folds * groups
        )

    def batch_norm(self, name: str, x: Tensor, eps: float = 1e-5, momentum: float = 0.1) -> Tensor:
        """Batch norm of x (B, F·C, L), each fold by its own samples and running statistics."""
        mean, var = (self.buffers[f"{name}.running_{kind}"] for kind in ("mean", "var"))
        weight = self.parameters[f"{name}.weight"].flatten()
        bias = self.parameters[f"{name}.bias"].flatten()
        if not self.training or self.weight is None:
            if self.training:
                self.buffers[f"{name}.num_batches_tracked"] += 1
            return F.batch_norm(
                x, mean.view(-1), var.view(-1), weight, bias, self.training, momentum, eps
            )
        apart = wide(x.view(len(x), self.folds, -1, x.shape[-1]))
        weight_of = self.weight.to(apart.dtype)  # counts and their ratios as exact as the values
        real = weight_of.t()[:, :, None, None]  # (B, F, 1, 1)
        own = weight_of.sum(1) * x.shape[-1]
        number = own.clamp(min=1)[None, :, None, None]
        centre = (apart * real).sum((0, 3), keepdim=True) / number
        apart = apart - centre
        spread = (apart.square() * real).sum((0, 3), keepdim=True) / number
        with torch.no_grad():
            active = (own > 0)[:, None].to(mean.dtype)
            unbiased = spread * (number / (number - 1).clamp(min=1))
            for running, seen in ((mean, centre), (var, unbiased)):
                running.lerp_(seen.view_as(running), momentum * active)
            self.buffers[f"{name}.num_batches_tracked"] += (own > 0).long()
        normed = (apart * torch.rsqrt(spread + eps)).flatten(1, 2)
        return torch.addcmul(bias[:, None], normed, weight[:, None])

    def __iter__(self) -> Iterator[str]:
        """Names of the parameters, in the plain network's order."""
        return iter(self.parameters)


def to_channels(x: Tensor) -> Tensor:
    """(F, B, L, C) -> (B, F·C, L), as convolutions take it."""
    return x.permute(1, 0, 3, 2).flatten(1, 2)


def from_channels(x: Tensor, folds: int) -> Tensor:
    """(B, F·C, L) -> (F, B, L, C)."""
    return x.view(len(x), folds, -1, x.shape[-1]).permute(1, 0, 3, 2)


def by_fold(x: Tensor, folds: int) -> Tensor:
    """(F·B, ...) -> (F, B, ...)."""
    return x.reshape(folds, -1, *x.shape[1:])
