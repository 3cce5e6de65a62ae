"""Where HSTA's class tokens look: their attention over the patches of both branches, to be drawn.

Per group and branch there are two maps: `own`, what the branch's class token attends to in the last
block of its branch, and `visit`, what the other branch's class token attends to when it visits this
branch in the exchange. A map's entries are shares of attention, averaged over heads; with the share
of the class token itself they sum to one. Attention shows what was mixed, not what decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from data.errors import InputError
from models.hsta.network import HSTA, SPECIAL, VIDEO, Block, ClassExchange, Group, SelfAttention
from models.layers.attention import attention_weights, single_query_weights

Shares = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClassAttention:
    """Maps of one branch: own and visit, each (B, groups, t, h, w) float32, shares of attention."""

    own: Shares
    visit: Shares


@torch.no_grad()
def class_attention(model: HSTA, clip: Tensor) -> tuple[ClassAttention, ClassAttention]:
    """Attention of the class tokens over (special, video) patches for clip (B, 3, F+2, H, W).

    Computed in eval mode from what really flowed through the network; the model is left as it was.
    """
    seen: dict[nn.Module, Tensor] = {}
    hooks = []
    for group in _groups(model):
        for branch in (SPECIAL, VIDEO):
            last, norm = _last_attention(group, branch), _exchange(group, branch).norm
            hooks.append(last.register_forward_pre_hook(lambda m, a: seen.update({m: a[0]})))
            hooks.append(norm.register_forward_hook(lambda m, _, out: seen.update({m: out})))
    was_training = model.training
    try:
        model.eval()(clip)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    maps = []
    for branch in (SPECIAL, VIDEO):
        own, visit = [], []
        for group in _groups(model):
            attention, exchange = _last_attention(group, branch), _exchange(group, 1 - branch)
            own.append(_own(attention, seen[attention]))
            visit.append(_visit(exchange, seen[exchange.norm]))
        grid = model.config.grid(branch)
        maps.append(ClassAttention(_stack(own, grid), _stack(visit, grid)))
    return maps[SPECIAL], maps[VIDEO]


def _groups(model: HSTA) -> list[Group]:
    return [cast(Group, group) for group in model.groups]


def _last_attention(group: Group, branch: int) -> SelfAttention:
    return cast(Block, cast(nn.Sequential, group.blocks[branch])[-1]).attention


def _exchange(group: Group, branch: int) -> ClassExchange:
    return cast(ClassExchange, group.exchange[branch])


def _own(attention: SelfAttention, tokens: Tensor) -> Tensor:
    query, key, _ = attention.heads(tokens)
    return attention_weights(query[:, :, :1], key).mean(dim=1)[:, 0, 1:]


def _visit(exchange: ClassExchange, tokens: Tensor) -> Tensor:
    query = exchange.query(tokens[:, 0]).unflatten(-1, (exchange.num_heads, -1))
    weights = single_query_weights(query, tokens, exchange.key.weight, exchange.key.bias)
    return weights.mean(dim=1)[:, 1:]


def _stack(rows: list[Tensor], grid: tuple[int, int, int]) -> Shares:
    maps = torch.stack(rows, dim=1).float().cpu()
    return np.asarray(maps.reshape(*maps.shape[:2], *grid).numpy())


def overlay(
    image: npt.NDArray[np.uint8], share: Shares, covered: float = 1.0, strength: float = 0.65
) -> npt.NDArray[np.uint8]:
    """Paint a map (h, w) over an image (H, W) or (H, W, 3): (H, W, 3) uint8, orange where it looks.

    The map is stretched over the upper left `covered` part of the sides (patches may not reach the
    right and lower edge) and scaled to its own largest share; the picture stays visible beneath.
    """
    if image.ndim not in (2, 3) or share.ndim != 2:
        raise InputError(
            "attention overlay",
            expected="an image (H, W[, 3]) and a map (h, w)",
            got=f"{image.shape} and {share.shape}",
        )
    height, width = image.shape[:2]
    rows, columns = round(height * covered), round(width * covered)
    grid = torch.from_numpy(np.ascontiguousarray(share, np.float32))[None, None]
    wide = nn.functional.interpolate(grid, (rows, columns), mode="bilinear", align_corners=False)
    alpha = np.zeros((height, width, 1), np.float32)
    alpha[:rows, :columns, 0] = wide[0, 0].numpy() / max(float(share.max()), 1e-12)
    base = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    colour = np.array(
        [230, 120, 0], np.float32
    )  # reads on grey faces, also without red-green sight
    mixed = base * (1 - strength * alpha) + colour * strength * alpha
    return np.asarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def covered_share(model: HSTA, branch: int) -> float:
    """Part of each side that the branch's patches cover."""
    config = model.config
    return config.grid(branch)[1] * config.patch_size[branch] / config.image_size
