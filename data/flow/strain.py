"""Optical strain of a flow field, and the channels that networks derive from one.

The infinitesimal strain tensor of a displacement (u, v) is (Shreve et al., "Macro- and
micro-expression spotting in long videos using spatio-temporal strain", FG 2011)

    e_xx = ∂u/∂x    e_yy = ∂v/∂y    e_xy = e_yx = ½ (∂u/∂y + ∂v/∂x)

and its magnitude, sqrt(e_xx² + e_yy² + e_xy² + e_yx²), is what a rigid shift of the head does not
change. Derivatives are central differences, one-sided at the border, in pixels per pixel: no unit.
x is right, y down.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data.errors import ConfigError, InputError

Array = npt.NDArray[np.float32]
Normalisation = Literal["none", "peak", "rms"]
CHANNELS = ("u", "v", "strain", "magnitude")


def strain_tensor(flow: npt.NDArray[Any]) -> tuple[Array, Array, Array]:
    """e_xx, e_yy, e_xy, each (…,H,W) float32, of a flow (…,H,W,2) with H, W ≥ 2."""
    field = _check(flow, "strain_tensor(flow)")
    u, v = (np.ascontiguousarray(field[..., component]) for component in (0, 1))
    shear = _difference(u, -2)
    shear += _difference(v, -1)
    shear *= np.float32(0.5)
    return _difference(u, -1), _difference(v, -2), shear


def optical_strain(flow: npt.NDArray[Any]) -> Array:
    """Strain magnitude (…,H,W) float32 of a flow (…,H,W,2), dx and dy in pixels.

    Raises InputError unless the last axis has two components and H, W are at least 2.
    """
    xx, yy, xy = strain_tensor(flow)
    xx *= xx
    yy *= yy
    xy *= xy
    xx += yy
    xx += xy
    xx += xy
    return np.sqrt(xx, out=xx)


def flow_channels(
    flow: npt.NDArray[Any],
    channels: tuple[str, ...] = ("u", "v", "strain"),
    normalise: Normalisation = "none",
) -> Array:
    """The named channels of a flow (…,H,W,2) as (…,C,H,W) float32, in the order asked for.

    u, v: dx, dy; magnitude: sqrt(u² + v²), all in pixels; strain: `optical_strain`. ("u", "v",
    "strain") is what STSTNet-like networks and HSTA's special slot take.

    normalise, per field: "none"; "peak": u, v and magnitude are divided by the largest magnitude
    of the field (one factor, so that directions stay), strain by its own largest value, giving
    −1…1 and 0…1; "rms": the same with root mean squares. A field without motion stays 0.
    """
    field = _check(flow, "flow_channels(flow)")
    names = channels if isinstance(channels, (tuple, list)) else (channels,)
    unknown = [name for name in names if name not in CHANNELS]
    if unknown or not names:
        raise ConfigError(
            "flow_channels(channels)", expected=f"some of {CHANNELS}", got=repr(channels)
        )
    if not isinstance(normalise, str) or normalise not in ("none", "peak", "rms"):
        raise ConfigError(
            "flow_channels(normalise)", expected="none, peak or rms", got=repr(normalise)
        )
    planes = {"u": field[..., 0], "v": field[..., 1]}
    if "magnitude" in names or normalise != "none":
        planes["magnitude"] = np.hypot(planes["u"], planes["v"])
    if "strain" in names:
        planes["strain"] = optical_strain(field)
    parts = []
    for name in names:
        plane = planes[name]
        if normalise != "none":
            plane = plane / _size(planes["strain" if name == "strain" else "magnitude"], normalise)
        parts.append(plane)
    return np.stack(parts, axis=-3)


def _size(plane: Array, normalise: Normalisation) -> Array:
    """Peak or root mean square over (H,W), kept as axes; 1 where it is 0."""
    if normalise == "peak":
        size = plane.max(axis=(-2, -1), keepdims=True)
    else:
        size = np.sqrt(np.mean(plane * plane, axis=(-2, -1), keepdims=True))
    return np.where(size > 0, size, np.float32(1))


def _difference(plane: Array, axis: int) -> Array:
    """Central differences along axis −1 (x) or −2 (y), one-sided at both ends."""
    out = np.empty(plane.shape, np.float32)
    source, target = (np.moveaxis(a, axis, 0) for a in (plane, out))
    np.subtract(source[2:], source[:-2], out=target[1:-1])
    target[1:-1] *= np.float32(0.5)
    np.subtract(source[1], source[0], out=target[0])
    np.subtract(source[-1], source[-2], out=target[-1])
    return out


def _check(flow: npt.NDArray[Any], who: str) -> Array:
    """The flow as float32 array; InputError unless it is (…,H,W,2) of real numbers, unmasked."""
    try:
        field = np.asarray(flow)
    except (TypeError, ValueError, RuntimeError) as wrong:  # ragged lists, tensors with a gradient
        raise InputError(who, expected="an array (…,H,W,2)", got=str(wrong)) from wrong
    shape = field.shape
    if len(shape) < 3 or shape[-1] != 2 or min(shape[-3:-1]) < 2:
        raise InputError(who, expected="(…,H,W,2) with H, W of at least 2", got=f"shape {shape}")
    masked = isinstance(flow, np.ma.MaskedArray)
    if field.dtype.kind not in "fiu" or masked:
        got = "a masked array" if masked else str(field.dtype)
        raise InputError(who, expected="real numbers, each of them counting", got=got)
    return np.asarray(field, np.float32)
