"""HSTA for F folds at once: the forward pass of network.py, stacked.

`forward(net, clip)` with clip (F, B, 3, F+2, H, W) gives logits (F, B, classes). Attention knows no
weights, so it sees the folds as more rows of one batch.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hsta.network import (
    HSTA,
    NORM_EPS,
    SPECIAL,
    VIDEO,
    Block,
    ClassExchange,
    SelfAttention,
    TubeletEmbedding,
)
from models.layers.attention import attention, merge_heads, split_heads
from models.layers.dropout import Dropout, FoldDraws
from models.stacked.stack import Stack, by_fold


def forward(net: Stack, clip: Tensor, draws: FoldDraws | None = None) -> Tensor:
    """Logits (F, B, classes); `draws` decides about dropout and stochastic depth in training."""
    pass_ = _Pass(net, draws if net.training else None)
    return pass_.logits(clip)


class _Pass:
    """One forward pass: the stacked state and, in training, the folds' draws."""

    def __init__(self, net: Stack, draws: FoldDraws | None) -> None:
        self.net, self.draws = net, draws
        self.model = cast(HSTA, net.template)

    def logits(self, clip: Tensor) -> Tensor:
        parts = self.model.split(clip.flatten(0, 1))
        special, video = (
            self.embed(f"embed.{b}", by_fold(part, len(clip)))
            for b, part in zip((SPECIAL, VIDEO), parts, strict=True)
        )
        for group in range(len(self.model.groups)):
            special, video = self.group(f"groups.{group}", special, video)
        special = self.net.layer_norm(f"norm.{SPECIAL}", special, NORM_EPS)
        video = self.net.layer_norm(f"norm.{VIDEO}", video, NORM_EPS)
        rows = (special.flatten(0, 1), video.flatten(0, 1))
        pooled = by_fold(self.model.pool(*rows), len(clip))
        return self.net.linear("head", self.dropout(pooled, self.model.head_dropout))

    def dropout(self, x: Tensor, layer: nn.Module) -> Tensor:
        return x if self.draws is None else self.draws.dropout(x, cast(Dropout, layer).rate)

    def embed(self, name: str, clip: Tensor) -> Tensor:
        """Tokens (F, B, 1 + t·h·w, D) of (F, B, 3, T, H, W)."""
        layer = cast(TubeletEmbedding, self.net.template.get_submodule(name))
        folds, batch = clip.shape[:2]
        rows = by_fold(layer.tubelets(clip.flatten(0, 1)), folds)
        weight = self.net.parameters[f"{name}.project.weight"].flatten(2)
        patches = self.net.affine(rows, weight, self.net.parameters[f"{name}.project.bias"])
        token = self.net.parameters[f"{name}.class_token"].expand(-1, batch, -1, -1)
        tokens = torch.cat([token, patches], dim=2)
        return self.dropout(tokens + layer.positions, layer.dropout)

    def group(self, name: str, special: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        special = self.blocks(f"{name}.blocks.{SPECIAL}", special)
        video = self.blocks(f"{name}.blocks.{VIDEO}", video)
        special_class = self.exchange(
            f"{name}.exchange.{SPECIAL}", special[:, :, :1], video[:, :, 1:]
        )
        video_class = self.exchange(f"{name}.exchange.{VIDEO}", video[:, :, :1], special[:, :, 1:])
        return (
            torch.cat([special_class, special[:, :, 1:]], dim=2),
            torch.cat([video_class, video[:, :, 1:]], dim=2),
        )

    def blocks(self, name: str, tokens: Tensor) -> Tensor:
        for number in range(len(cast(nn.Sequential, self.net.template.get_submodule(name)))):
            tokens = self.block(f"{name}.{number}", tokens)
        return tokens

    def block(self, name: str, tokens: Tensor) -> Tensor:
        net, layer = self.net, cast(Block, self.net.template.get_submodule(name))

        def attend(x: Tensor) -> Tensor:
            normed = net.layer_norm(f"{name}.norm_attention", x, NORM_EPS)
            return self.attention(f"{name}.attention", normed)

        def mlp(x: Tensor) -> Tensor:
            hidden = F.gelu(
                net.linear(f"{name}.expand", net.layer_norm(f"{name}.norm_mlp", x, NORM_EPS))
            )
            hidden = self.dropout(hidden, layer.dropout)
            return self.dropout(net.linear(f"{name}.reduce", hidden), layer.dropout)

        for part in (attend, mlp):
            if self.draws is None:
                tokens = tokens + part(tokens)
            else:
                tokens = self.draws.add_dropping(tokens, part, layer.drop_rate)
        return tokens

    def attention(self, name: str, tokens: Tensor) -> Tensor:
        net, layer = self.net, cast(SelfAttention, self.net.template.get_submodule(name))
        query_bias, value_bias = (net.parameters[f"{name}.{k}_bias"] for k in ("query", "value"))
        bias = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias], dim=1)
        projected = net.affine(tokens, net.parameters[f"{name}.qkv.weight"], bias)
        rows = projected.flatten(0, 1).chunk(3, dim=-1)
        query, key, value = (split_heads(part, layer.num_heads) for part in rows)
        mixed = by_fold(merge_heads(attention(query, key, value, layer.path)), len(tokens))
        return self.dropout(net.linear(f"{name}.project", mixed), layer.dropout)

    def exchange(self, name: str, class_token: Tensor, other_patches: Tensor) -> Tensor:
        """(F, B, 1, own width) from the branch's class token and the other branch's patches."""
        net, layer = self.net, cast(ClassExchange, self.net.template.get_submodule(name))
        entering = F.gelu(net.layer_norm(f"{name}.leave_norm", class_token, NORM_EPS))
        visitor = net.linear(f"{name}.leave", entering)
        both = torch.cat([visitor, other_patches], dim=2)
        tokens = net.layer_norm(f"{name}.norm", both, NORM_EPS)
        mixed = self._single_query(name, tokens, layer.num_heads)
        visitor = visitor + self.dropout(net.linear(f"{name}.project", mixed), layer.dropout)
        normed = net.layer_norm(f"{name}.enter_norm", visitor, NORM_EPS)
        return net.linear(f"{name}.enter", F.gelu(normed))

    def _single_query(self, name: str, tokens: Tensor, heads: int) -> Tensor:
        """Token 0's attention over all tokens, keys and values never formed: (F, B, 1, width).

        As models.layers.attention.single_query_attention. The key bias is left out: it shifts all
        scores of a query alike, and softmax takes it out again.
        """
        key, value = (
            weight.view(len(weight), heads, -1, weight.shape[-1])
            for weight in (self.net.parameters[f"{name}.{k}.weight"] for k in ("key", "value"))
        )
        query = self.net.linear(f"{name}.query", tokens[:, :, 0])
        query = query.view(*query.shape[:2], heads, -1) * key.shape[2] ** -0.5
        folded = torch.einsum("fbhd,fhdw->fbhw", query, key.to(query.dtype))
        weights = torch.softmax(folded @ tokens.transpose(-2, -1), dim=-1)
        context = weights.to(tokens.dtype) @ tokens
        mixed = torch.einsum("fbhw,fhdw->fbhd", context, value.to(context.dtype))
        bias = self.net.parameters[f"{name}.value.bias"]
        return (mixed.flatten(2) + bias[:, None])[:, :, None]


def biases_without_gradient(network: nn.Module) -> list[str]:
    """Biases of keys that a single query meets: softmax takes them out of every output again.

    The plain network's optimiser moves them by rounding noise; here they stay as they are.
    """
    return [
        f"{name}.key.bias"
        for name, module in network.named_modules()
        if isinstance(module, ClassExchange)
    ]
