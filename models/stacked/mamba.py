"""The Mamba block of models/layers/mamba.py for F folds at once: (F, B, L, dim) -> the same."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.mamba import Mamba, MambaBlock
from models.layers.selective_scan import selective_scan, wide
from models.layers.stochastic_depth import DepthMasks
from models.stacked.stack import Stack, from_channels, to_channels


def mamba(net: Stack, name: str, u: Tensor) -> Tensor:
    """Selective state space mixing along L, each fold with its own weights."""
    module = cast(Mamba, net.template.get_submodule(name))
    x, z = net.linear(f"{name}.in_proj", u).chunk(2, dim=-1)
    taps, length = module.conv1d.kernel_size[0], x.shape[2]
    mixed = net.conv1d(
        f"{name}.conv1d", to_channels(x), padding=taps - 1, groups=module.conv1d.groups
    )
    x = F.silu(from_channels(mixed[..., :length], net.folds))
    sizes = [module.dt_rank, module.d_state, module.d_state]
    dt, B, C = torch.split(net.linear(f"{name}.x_proj", x), sizes, dim=-1)
    delta = F.softplus(net.linear(f"{name}.dt_proj", dt))
    A = -torch.exp(wide(net.parameters[f"{name}.A_log"]))
    x, delta, B, C = (tensor.flatten(0, 1) for tensor in (x, delta, B, C))
    y = selective_scan(x, delta, A, B, C, net.parameters[f"{name}.D"], module.scan)
    return net.linear(f"{name}.out_proj", y.view_as(z) * F.silu(z))


def mamba_block(net: Stack, name: str, x: Tensor, masks: DepthMasks | None) -> Tensor:
    """x + DropPath(norm_out(Mamba(norm_in(x)))); the masks say which samples keep the branch."""
    rate = cast(MambaBlock, net.template.get_submodule(name)).drop_path.rate
    branch = mamba(net, f"{name}.mamba", net.layer_norm(f"{name}.norm_in", x))
    branch = net.layer_norm(f"{name}.norm_out", branch)
    if net.training and rate and masks is not None:
        branch = branch * net.per_sample(masks.next(rate, x.shape[1]) / (1 - rate), x)
    return x + branch
