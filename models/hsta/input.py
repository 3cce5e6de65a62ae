"""What HSTA reads, on arrays: frame sampling, annotation repair, normalisation, augmentation.

A clip is F frames of an event's onset .. offset, then the two special slots (onset and apex frames,
or two flow fields). Frame indices are zero-based positions in the event's video, inclusive. Rules
are the origin's (see `models/hsta/network.py`); augmentation is ours and off unless asked for.
`models/hsta/clips.py` applies these to stores and batches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import InputError
from models.hsta.settings import HstaInputConfig, Padding

Indices = npt.NDArray[np.int64]
BLACK = -1  # stands for a black frame in a list of frame indices

# The origin's pixel normalisation (ImageNet statistics, RGB, of values in 0 .. 1).
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

FLAT = 1e-3  # squared grey per px (grey 0 .. 1): a slope this small tells no shift from noise


# ----------------------------------------------------------------------------------------- sampling


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


# ------------------------------------------------------------------------------------- pixel arrays


def resize_planes(planes: Tensor, side: int) -> Tensor:
    """(N, C, H, W) float -> (N, C, side, side), bilinear, widened when shrinking (no aliasing)."""
    if planes.shape[-2:] == (side, side):
        return planes
    size = (side, side)
    return F.interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)


def resize_crops(crops: npt.NDArray[np.uint8], side: int, channels: int) -> npt.NDArray[np.uint8]:
    """(T, H, W) or (T, H, W, 3) uint8 -> (T, side, side, channels) uint8, grey repeated to 3."""
    if crops.ndim not in (3, 4):
        raise InputError("crops", expected="(T, H, W) or (T, H, W, 3)", got=str(crops.shape))
    planes = torch.from_numpy(crops.reshape(*crops.shape[:3], -1)).permute(0, 3, 1, 2)
    small = resize_planes(planes.float(), side).round_().clamp_(0, 255).to(torch.uint8)
    return np.asarray(small.expand(-1, channels, -1, -1).permute(0, 2, 3, 1).numpy())


def normalise_frames(frames: Tensor) -> Tensor:
    """(B, T, H, W, 1 or 3) in 0 .. 1 -> (B, 3, T, H, W), by ImageNet's statistics."""
    mean = frames.new_tensor(PIXEL_MEAN).view(3, 1, 1, 1)
    std = frames.new_tensor(PIXEL_STD).view(3, 1, 1, 1)
    return (frames.permute(0, 4, 1, 2, 3) - mean) / std


def motion_planes(frames: Tensor) -> Tensor:
    """(B, T, S, S, C) in 0 .. 1, the onset at T - 2 -> (B, 3, T, S, S): shift x, shift y, change.

    A change d of grey since the onset, where the picture's slope is g, is a shift of -d g / |g|² px
    along g (normal flow: what one pixel can know of motion). x is right, y down; colours are
    averaged; the onset's own planes are zero, as are shifts on the outermost pixels.
    """
    grey = frames.mean(dim=-1)
    onset = grey[:, -2:-1]
    change, picture = grey - onset, (grey + onset) / 2
    slope_x = F.pad((picture[..., 2:] - picture[..., :-2]) / 2, (1, 1, 0, 0))
    slope_y = F.pad((picture[..., 2:, :] - picture[..., :-2, :]) / 2, (0, 0, 1, 1))
    along = -change / (slope_x.square() + slope_y.square() + FLAT)
    return torch.stack([along * slope_x, along * slope_y, change], dim=1)


def level_flow(special: Tensor, power: float) -> Tensor:
    """(B, 3, 2, S, S) scaled flow, each clip divided by its u and v's root mean square ^ power."""
    rms = special[:, :2].square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
    return special * rms.clamp_min(1e-3).pow(-power)


# ------------------------------------------------------------------------------------- augmentation

MIRROR = (-1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0)  # a draw that mirrors and does nothing else


def draw_changes(
    count: int, config: HstaInputConfig, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Per clip: side (1, or -1 mirrored), shift x, shift y, zoom, gain, light, amplitude."""
    uniform = rng.uniform(-1, 1, (count, 6))
    side = np.where(rng.random(count) < config.mirror, -1.0, 1.0)
    shift = 2 * config.max_shift * uniform[:, :2]  # grid units: the side is 2 wide
    zoom = 1 + config.max_scale * uniform[:, 2]
    gain, light = 1 + config.max_light * uniform[:, 3], config.max_light * uniform[:, 4]
    amplitude = np.exp(config.max_amplitude * uniform[:, 5])
    return np.column_stack([side, shift, zoom, gain, light, amplitude]).astype(np.float32)


def apply_changes(
    frames: Tensor, special: Tensor | None, change: Tensor
) -> tuple[Tensor, Tensor | None]:
    """One geometric and one light change per clip, the same on all its frames and fields.

    frames (B, T, S, S, C) in 0 .. 1, special (B, 3, 2, S, S) or None, change (B, 7). A mirror image
    negates u; zoom scales u and v; light leaves flow alone, amplitude the frames.
    """
    side, shift_x, shift_y, zoom, gain, light, amplitude = change.unbind(1)
    theta = change.new_zeros(len(change), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = side / zoom, shift_x
    theta[:, 1, 1], theta[:, 1, 2] = 1 / zoom, shift_y

    def warp(planes: Tensor) -> Tensor:
        grid = F.affine_grid(theta, [len(planes), 1, *planes.shape[-2:]], align_corners=False)
        flat = planes.flatten(1, -3)
        moved = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return moved.view_as(planes)

    moved = warp(frames.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
    shape = (-1, 1, 1, 1, 1)
    moved = (moved * gain.view(shape) + light.view(shape)).clamp(0, 1)
    if special is None:
        return moved, None
    factor = amplitude * torch.stack([side * zoom, zoom, torch.ones_like(zoom)])
    return moved, warp(special) * factor.T[..., None, None, None]
