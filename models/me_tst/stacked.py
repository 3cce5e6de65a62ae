"""ME-TST and ME-TST+ for F folds at once: the forward passes of network.py and plus.py, stacked.

`forward(net, motion)` with motion (F, B, C, k) gives spot probabilities (F, B, k) and class logits
(F, B, k, 5). `net.training` and `masks` decide about stochastic depth as the plain networks do.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.layers.stochastic_depth import DepthMasks, DropPath
from models.me_tst.network import MeTst
from models.me_tst.plus import STAGES, MeTstPlus, SlowFastTrunk
from models.stacked.mamba import mamba_block
from models.stacked.stack import Stack, from_channels, to_channels


def forward(net: Stack, motion: Tensor, masks: DepthMasks | None = None) -> tuple[Tensor, Tensor]:
    """Spot probability (F, B, k) and logits (F, B, k, 5) of motion (F, B, C, k)."""
    template = cast(MeTst | MeTstPlus, net.template)
    x = motion.transpose(0, 1).flatten(1, 2)
    for number in (0, 3):
        x = net.conv1d(f"stem.{number}", x, padding=1)
        x = torch.relu(net.batch_norm(f"stem.{number + 1}", x))
    trunk = slow_fast if isinstance(template, MeTstPlus) else plain_trunk
    features = [trunk(net, f"trunks.{i}", x, masks) for i in range(len(template.trunks))]
    spot = torch.sigmoid(net.linear("head_spot", features[0])).squeeze(-1)
    return spot, net.linear("head_recog", features[-1])


def plain_trunk(net: Stack, name: str, x: Tensor, masks: DepthMasks | None) -> Tensor:
    """ME-TST's blocks on the stem's (B, F·d, k): (F, B, k, d)."""
    return _blocks(net, name, from_channels(x, net.folds), masks)


def slow_fast(net: Stack, name: str, x: Tensor, masks: DepthMasks | None) -> Tensor:
    """ME-TST+'s two paths on the stem's (B, F·d, k): (F, B, k, 3d), slow path first."""
    slow = _halved(net, f"{name}.enter_slow", x)
    fast = from_channels(x, net.folds)
    for stage in range(STAGES):
        slow = _blocks(net, f"{name}.slow.{stage}", slow, masks)
        fast = _blocks(net, f"{name}.fast.{stage}", fast, masks)
        if stage < STAGES - 1:
            slow = slow + _halved(net, f"{name}.lateral.{stage}", to_channels(fast))
    return torch.cat([slow.repeat_interleave(2, dim=2), fast], dim=-1)


def drop_rates(network: nn.Module) -> list[float]:
    """Drop rates of a plain network's blocks in the order in which its forward pass meets them."""
    parts: list[nn.Module] = [network]
    if isinstance(network, MeTstPlus):
        trunks = [cast(SlowFastTrunk, trunk) for trunk in network.trunks]
        parts = [p[s] for t in trunks for s in range(STAGES) for p in (t.slow, t.fast)]
    found = (module for part in parts for module in part.modules())
    return [module.rate for module in found if isinstance(module, DropPath)]


def is_stackable(network: nn.Module) -> bool:
    """Whether `forward` knows this network."""
    return type(network) in (MeTst, MeTstPlus)


def biases_without_gradient(network: nn.Module) -> list[str]:
    """Biases of convolutions that a batch norm follows: it takes them out of every output again.

    Their gradient is rounding noise, which Adam turns into steps of full size: two trainings that
    agree in all else differ in them, and in the running means that absorb them.
    """
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            for number, (first, second) in enumerate(zip(module, list(module)[1:], strict=False)):
                if isinstance(first, nn.Conv1d) and isinstance(second, nn.BatchNorm1d):
                    found.append(f"{name}.{number}.bias")
    return found


def _halved(net: Stack, name: str, x: Tensor) -> Tensor:
    """Half the frames, another width: (B, F·d, k) -> (F, B, k/2, out)."""
    x = net.batch_norm(f"{name}.1", net.conv1d(f"{name}.0", x, stride=2, padding=1))
    return from_channels(torch.relu(x), net.folds)


def _blocks(net: Stack, name: str, x: Tensor, masks: DepthMasks | None) -> Tensor:
    for number in range(len(cast(nn.Sequential, net.template.get_submodule(name)))):
        x = mamba_block(net, f"{name}.{number}", x, masks)
    return x
