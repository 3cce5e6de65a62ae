"""What `tvl1` accepts: shapes, types, value ranges; everything else is an `InputError`.

Written for anything with shape, dtype, min and max: NumPy arrays and torch tensors alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.optical_flow.settings import SMALLEST_IMAGE

Array = npt.NDArray[Any]
_SHAPES = "(H,W) and (H,W), (N,H,W) and (N,H,W), or (H,W) and (N,H,W)"


@dataclass(frozen=True)
class Pairs:
    """Checked input. first is (1,H,W) or (N,H,W), second (N,H,W); values times gain are 0–255."""

    first: Any
    second: Any
    init: Any
    gain: float
    single: bool

    def apart_from(self, out: Array) -> Pairs:
        """The same, with copies of what lies in the memory of `out`; NumPy arrays only.

        A pair's result may be written before another pair is read.
        """
        parts = {"first": self.first, "second": self.second, "init": self.init}
        return replace(self, **{name: keep_apart(part, out) for name, part in parts.items()})


def keep_apart(array: Any, out: Array) -> Any:
    """The array (or None), copied if writing to `out` may change it."""
    return array if array is None or not np.may_share_memory(array, out) else array.copy()


def check_pairs(i0: Any, i1: Any, value_range: float | None, init: Any, who: str = "tvl1") -> Pairs:
    """Turn the caller's arrays into pairs or raise InputError."""
    first, second = _check_images(i0, f"{who}(i0)"), _check_images(i1, f"{who}(i1)")
    good = first.shape == second.shape or (first.ndim == 2 and second.shape[1:] == first.shape)
    if not good:
        raise InputError(
            f"{who}(i0, i1)",
            expected=_SHAPES,
            got=f"{tuple(first.shape)} and {tuple(second.shape)}",
        )
    if first.dtype != second.dtype:
        raise InputError(
            f"{who}(i0, i1)",
            expected="both uint8 or both float32",
            got=f"{first.dtype} and {second.dtype}",
        )
    gain = check_range((first, second), value_range, who)
    if init is not None:
        init = _check_field(init, second, f"{who}(init)")
    single = second.ndim == 2
    if single:
        second = second[None]
        init = None if init is None else init[None]
    return Pairs(first if first.ndim == 3 else first[None], second, init, gain, single)


def check_frames(frames: Array, value_range: float | None) -> tuple[Array, float]:
    """A clip (T,H,W) with T ≥ 1, and the gain that brings its values to 0–255."""
    clip = _check_images(frames, "tvl1_sequence(frames)")
    if clip.ndim != 3 or len(clip) == 0:
        raise InputError(
            "tvl1_sequence(frames)", expected="(T,H,W) with T of at least 1", got=f"{clip.shape}"
        )
    return clip, check_range((clip,), value_range, "tvl1_sequence")


def check_output(out: Any, shape: tuple[int, ...], like: Any = None) -> Any:
    """The caller's array to write to, or new zeros; float32, contiguous, writable.

    With `like`, a torch tensor, the result is a tensor on its device.
    """
    if out is None:
        if like is None:
            return np.zeros(shape, np.float32)
        return like.new_zeros(shape).float()
    good = tuple(getattr(out, "shape", ())) == shape and _dtype(out) == "float32"
    if good and like is None:
        good = isinstance(out, np.ndarray) and out.flags.c_contiguous and out.flags.writeable
    elif good:
        good = not isinstance(out, np.ndarray)
        good = good and bool(out.is_contiguous()) and out.device == like.device
    if not good:
        where = "" if like is None else f" on {like.device}"
        raise InputError(
            "tvl1(out)",
            expected=f"a writable, contiguous float32 array of shape {shape}{where}",
            got=f"{type(out).__name__} {_dtype(out)} {tuple(getattr(out, 'shape', ()))}",
        )
    return out


def check_range(images: tuple[Any, ...], value_range: float | None, who: str) -> float:
    """The factor to 0–255; raises where the stated range and the values cannot belong together."""
    if _dtype(images[0]) == "uint8":
        if not _is_one_of(value_range, None, 255):
            raise InputError(
                f"{who}(value_range)",
                expected="None or 255 for uint8 images",
                got=repr(value_range),
                todo="Integer images are 0–255; pass float32 for 0–1.",
            )
        return 1.0
    if value_range is None or not _is_one_of(value_range, 1, 255):
        raise InputError(
            f"{who}(value_range)",
            expected="1 or 255 with float32 images",
            got=repr(value_range),
            todo="Say which value is white; the data weight is for 0–255, so a mix-up is a "
            "different optimisation problem.",
        )
    ends = [tuple(map(float, _ends(image))) for image in images if 0 not in image.shape]
    if not np.isfinite(ends).all():
        raise InputError(
            f"{who}(images)",
            expected="finite values",
            got="NaN or infinity",
            code="not_finite",
            todo="One bad pixel would spread over the whole field.",
        )
    for low, high in ends:  # each by itself: i0 in 0–1 against i1 in 0–255 is a mix-up too
        if high > 1.5 * value_range or low < -0.5 * value_range:
            raise InputError(
                f"{who}(value_range)",
                expected=f"values of about 0–{value_range:g}",
                got=f"{low:g} to {high:g}",
                todo="Pass value_range=255 for 0–255 images.",
            )
        if value_range == 255 and low < high <= 1.0:
            raise InputError(
                f"{who}(value_range)",
                expected="values of about 0–255",
                got=f"{low:g} to {high:g}",
                todo="Pass value_range=1 for 0–1 images, and the same range for both.",
            )
    return 255.0 / value_range


def _is_one_of(value: Any, *allowed: float | None) -> bool:
    """Whether the value is one of these; an array or a truth value is none of them."""
    return not np.ndim(value) and not isinstance(value, (bool, np.bool_)) and value in allowed


def _ends(image: Any) -> tuple[Any, Any]:
    """Smallest and largest value; NaN if there is one."""
    return image.min(), image.max()


def _dtype(value: Any) -> str:
    """Name of an array's or a tensor's element type."""
    return str(getattr(value, "dtype", type(value).__name__)).rsplit(".", 1)[-1]


def _check_images(images: Any, who: str) -> Any:
    """uint8 or float32, one channel, at least 3 × 3 pixels."""
    if _dtype(images) not in ("uint8", "float32") or not hasattr(images, "ndim"):
        raise InputError(
            who,
            expected="a uint8 or float32 array",
            got=_dtype(images),
            todo="Cast it, and state value_range if it is float32.",
        )
    images = _plain(images, who)
    shape = tuple(images.shape)
    colour = len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) >= 8
    if len(shape) not in (2, 3) or colour:
        raise InputError(
            who,
            expected="grey images (H,W) or (N,H,W)",
            got=f"shape {shape}" + (", which looks like one colour image" if colour else ""),
            todo="Convert colour images to grey first.",
        )
    if min(shape[-2:]) < SMALLEST_IMAGE:
        raise InputError(
            who, expected=f"at least {SMALLEST_IMAGE}×{SMALLEST_IMAGE} pixels", got=f"shape {shape}"
        )
    return images


def _check_field(field: Any, images: Any, who: str) -> Any:
    """A finite float flow for these images, as float32; array for arrays, tensor for tensors."""
    shape = (*images.shape, 2)
    got = tuple(getattr(field, "shape", ()))
    if got != shape or not _dtype(field).startswith("float"):
        raise InputError(
            who, expected=f"a float array of shape {shape}", got=f"{_dtype(field)} {got}"
        )
    field = _plain(field, who)
    if isinstance(field, np.ndarray) != isinstance(images, np.ndarray):
        kind = type(images).__name__
        raise InputError(who, expected=f"{kind}, as the images are", got=type(field).__name__)
    if isinstance(field, np.ndarray):
        with np.errstate(over="ignore"):  # told below
            field = np.ascontiguousarray(field, np.float32)
    else:
        field = field.float()
    with np.errstate(invalid="ignore"):
        finite = bool((field - field == 0).all())
    if not finite:
        raise InputError(
            who, expected="values finite in float32", got="NaN or infinity", code="not_finite"
        )
    return field


def _plain(value: Any, who: str) -> Any:
    """The array, or the tensor without its gradient; files' arrays and subclasses as ndarray."""
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            who,
            expected="an array without a mask",
            got="a masked array",
            todo="Every pixel counts: fill the masked ones, or pass .data.",
        )
    if type(value).__module__.split(".")[0] != "torch":
        return np.asarray(value)
    if str(value.layout) != "torch.strided" or value.device.type == "meta":
        got = f"{value.layout} on {value.device}"
        raise InputError(who, expected="a dense tensor that holds values", got=got)
    return value.detach()
