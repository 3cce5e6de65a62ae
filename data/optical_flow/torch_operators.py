"""Finite differences on batches (N, H, W) of float32, for the torch and triton backends.

This module imports torch: import it inside functions only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def central_gradient(image: Tensor) -> tuple[Tensor, Tensor]:
    """½(I[x+1] − I[x−1]) and the same down the rows, indices clamped at the border."""
    wide = torch.cat([image[:, :, :1], image, image[:, :, -1:]], 2)
    tall = torch.cat([image[:, :1], image, image[:, -1:]], 1)
    return (wide[:, :, 2:] - wide[:, :, :-2]) * 0.5, (tall[:, 2:] - tall[:, :-2]) * 0.5


def forward_gradient(u: Tensor) -> tuple[Tensor, Tensor]:
    """u[x+1] − u[x] and the same down the rows; 0 in the last column and row."""
    dx, dy = torch.zeros_like(u), torch.zeros_like(u)
    dx[:, :, :-1] = u[:, :, 1:] - u[:, :, :-1]
    dy[:, :-1] = u[:, 1:] - u[:, :-1]
    return dx, dy


def divergence(p1: Tensor, p2: Tensor) -> Tensor:
    """Backward differences, the adjoint of `forward_gradient`; a missing neighbour is 0."""
    dx, dy = p1.clone(), p2.clone()
    dx[:, :, 1:] -= p1[:, :, :-1]
    dy[:, 1:] -= p2[:, :-1]
    return dx + dy
