"""What HSTA reads: frame sampling, special data, normalisation, augmentation, batches from stores.

A clip is F frames of an event's onset .. offset, then the two special slots (onset and apex frames,
or two flow fields). Frames stay uint8 until they are on the training device; normalising and
augmenting happen there, on whole batches. Frame indices are zero-based positions in the event's
video, inclusive.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from data.config import Settings
from data.errors import InputError

Indices = npt.NDArray[np.int64]
Padding = Literal["edge", "zeros"]
BLACK = -1  # stands for a black frame in a list of frame indices

# The origin's pixel normalisation (ImageNet statistics, RGB, of values in 0 .. 1).
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class HstaInputConfig(Settings):
    """How clips are made from the stores."""

    max_span: int = Field(
        50, ge=1, title="Longest span", description="Frames are drawn from onset .. onset + this."
    )
    padding: Padding = Field(
        "edge",
        title="Short clips",
        description="edge repeats the first and last frame; zeros appends black frames.",
    )
    test_sampling: Literal["even", "random"] = Field(
        "even",
        title="Frames at evaluation",
        description="even: one fixed draw; random: the origin's random draw, seeded.",
    )
    test_draws: int = Field(
        1, ge=1, le=64, title="Draws at evaluation", description="Logits are averaged over them."
    )
    augment: bool = Field(
        False,
        title="Augment",
        description="Small shift, scale, mirror and light changes, one per clip. Not in the paper.",
    )
    max_shift: float = Field(0.04, ge=0, le=0.3, description="Augment: shift, share of the side.")
    max_scale: float = Field(0.05, ge=0, le=0.3, description="Augment: relative size change.")
    max_light: float = Field(0.1, ge=0, le=0.5, description="Augment: gain and offset change.")
    mirror: float = Field(0.5, ge=0, le=1, description="Augment: probability of a mirror image.")
    cache_mb: int = Field(
        2048,
        ge=0,
        title="Memory for clips, MB",
        description="Above it the decoded clips lie in a memory-mapped file.",
    )


# ------------------------------------------------------------------------------------------ sampling


def repair_interval(onset: int, apex: int, offset: int) -> tuple[int, int, int]:
    """The origin's repair of an annotation: onset <= apex <= offset afterwards."""
    apex, offset = max(apex, onset), max(offset, onset)
    if apex > offset:
        apex = (onset + offset) // 2
    return onset, apex, offset


def span_indices(onset: int, offset: int, num_frames: int, max_span: int = 50) -> Indices:
    """Indices onset .. min(offset, onset + max_span) that lie inside the video."""
    end = min(offset, onset + max_span, num_frames - 1)
    return np.arange(max(onset, 0), end + 1, dtype=np.int64)


def sample_frame_indices(
    available: Indices,
    count: int,
    *,
    rng: np.random.Generator | None = None,
    padding: Padding = "edge",
) -> Indices:
    """Choose `count` of the `available` frame indices, in time order; BLACK marks a black frame.

    With at least `count` available: `count` distinct ones, at random with `rng`, else evenly spaced
    (rounded). With fewer: all of them, padded at both ends ("edge") or with black ones at the end.
    """
    n = len(available)
    if n >= count:
        if rng is None:
            chosen = np.rint(np.linspace(0, n - 1, count)).astype(np.int64)
        else:
            chosen = np.sort(rng.choice(n, count, replace=False))
        return np.asarray(available)[chosen]
    short = count - n
    if n == 0 or padding == "zeros":
        return np.concatenate([available, np.full(short, BLACK)]).astype(np.int64)
    before, after = short // 2, short - short // 2
    edges = np.repeat(available[:1], before), np.repeat(available[-1:], after)
    return np.concatenate([edges[0], available, edges[1]]).astype(np.int64)
