"""Attention cores: the fused path, a single-query path, and the plain reference beside them.

Queries, keys and values are `(batch, heads, tokens, head_dim)`; softmax runs over the keys and the
scale is `head_dim ** -0.5`. `attention_reference` states the arithmetic; `attention` computes the
same with `scaled_dot_product_attention`, without ever holding the (tokens, tokens) matrix.

`single_query_attention` uses that one query needs no projected keys or values. With W_k, W_v the
projections of a head, `q·(W_k z) = (W_kᵀ q)·z` and `Σ p (W_v z) = W_v (Σ p z)`: the cost falls
from two (tokens, width, width) products to two (heads, tokens, width) ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.choices import AttentionPath


def attention_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v, written out. Returns the shape of `query`."""
    return attention_weights(query, key) @ value


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """The softmax matrix (batch, heads, queries, keys); each row sums to one."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return torch.softmax(scores, dim=-1)


def attention(query: Tensor, key: Tensor, value: Tensor, path: AttentionPath = "fused") -> Tensor:
    """Attention by the chosen path; both paths agree to rounding. Shape of `query`."""
    if path == "plain":
        return attention_reference(query, key, value)
    fused: Tensor = F.scaled_dot_product_attention(query, key, value)
    return fused


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """(batch, tokens, heads * head_dim), head-major -> (batch, heads, tokens, head_dim)."""
    return tokens.reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, heads * head_dim), head-major."""
    return tokens.transpose(1, 2).flatten(2)


def single_query_weights(
    query: Tensor, tokens: Tensor, key_weight: Tensor, key_bias: Tensor
) -> Tensor:
    """Where one projected query looks: (batch, heads, tokens), rows sum to one.

    `query` (batch, heads, head_dim) unscaled; `tokens` (batch, tokens, width); `key_weight`
    (heads * head_dim, width) and `key_bias` (heads * head_dim), head-major.
    """
    heads, head_dim = query.shape[1:]
    scaled = query * head_dim**-0.5
    folded = torch.einsum("bhd,hdw->bhw", scaled, key_weight.view(heads, head_dim, -1))
    # The bias shifts all scores of a head alike and softmax drops it: it changes nothing.
    shift = (scaled * key_bias.view(heads, head_dim)).sum(-1, keepdim=True)
    return torch.softmax(folded @ tokens.transpose(1, 2) + shift, dim=-1)


def single_query_attention(
    query: Tensor,
    tokens: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
) -> Tensor:
    """One query over `tokens`, keys and values never formed. (batch, heads * head_dim).

    Equals `attention_reference(q, split(W_k z + b_k), split(W_v z + b_v))` for a single query.
    """
    heads, head_dim = query.shape[1:]
    weights = single_query_weights(query, tokens, key_weight, key_bias)
    context = weights.to(tokens.dtype) @ tokens
    mixed = torch.einsum("bhw,hdw->bhd", context, value_weight.view(heads, head_dim, -1))
    return mixed.flatten(1) + value_bias
