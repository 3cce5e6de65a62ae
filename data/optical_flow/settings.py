"""TV-L1's parameters, the two presets, and the sizes of the image pyramid."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from data.errors import ConfigError

SMALLEST_LEVEL = 16  # pixels; a coarser level than this is not used
SMALLEST_IMAGE = 3


@dataclass(frozen=True)
class SolverSettings:
    """Parameters by the names of the paper and of OpenCV's DualTVL1; the defaults are OpenCV's.

    lam, theta, tau: data weight λ (for a 0–255 range), coupling θ, dual time step τ.
    levels, step: at most so many pyramid levels, each `step` times the finer one's size.
    warps, outer, inner: warps per level; passes per warp, each begun by a median filter; inner
    steps per pass. eps: a warp ends when the RMS change of the flow in one inner step is at most
    eps pixels of its level (0: never, unless nothing changes). median: window 1 (none), 3 or 5.
    """

    lam: float = 0.15
    theta: float = 0.3
    tau: float = 0.25
    levels: int = 5
    step: float = 0.8
    warps: int = 5
    eps: float = 0.01
    inner: int = 30
    outer: int = 10
    median: int = 5

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each level, finest first; the finest is always there."""
        sizes = [(height, width)]
        while len(sizes) < self.levels:
            h, w = (round(side * self.step) for side in sizes[-1])
            if min(h, w) < SMALLEST_LEVEL:
                break
            sizes.append((h, w))
        return sizes


PRESETS = {
    "opencv": SolverSettings(),
    "fast": SolverSettings(levels=4, step=0.7, warps=3, eps=0.015),
}


def make_settings(preset: str, **changes: Any) -> SolverSettings:
    """The preset with every change that is not None, checked."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError("tvl1(preset=…)", expected=f"one of {sorted(PRESETS)}", got=repr(preset))
    known = [field.name for field in fields(SolverSettings)]
    for name in changes:
        if name not in known:
            raise ConfigError(f"tvl1({name}=…)", expected=f"one of {known}", got=repr(name))
    given: dict[str, Any] = {
        name: _checked(name, value) for name, value in changes.items() if value is not None
    }
    return replace(PRESETS[preset], **given)


_BOUNDS: dict[str, tuple[float, float]] = {  # products and ratios of two fit single precision
    "lam": (1e-9, 1e9),
    "theta": (1e-9, 1e9),
    "tau": (1e-9, 1e9),  # the scheme converges up to 0.25
    "levels": (1, 64),
    "step": (0.1, 0.98),
    "warps": (1, 1000),
    "eps": (0, 1e9),
    "inner": (1, 100000),
    "outer": (1, 100000),
}


def _checked(name: str, value: Any) -> int | float:
    """One parameter, Python's or NumPy's number (not a truth value), if inside its bounds."""
    whole = name in ("levels", "warps", "inner", "outer", "median")
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if name == "median":
        good, expected = number and value in (1, 3, 5), "1 (no filter), 3 or 5"
    else:
        low, high = _BOUNDS[name]
        good = number and low <= value <= high
        expected = f"a {'whole ' if whole else ''}number from {low:g} to {high:g}"
    if not good:
        raise ConfigError(f"tvl1({name}=…)", expected=expected, got=repr(value))
    return int(value) if whole else float(value)
