"""TV-L1 optical flow with the arithmetic of OpenCV's DualTVL1, on every core or on a GPU.

    flow = tvl1(onset, apex)                    # (H,W) uint8 → (H,W,2) float32, (dx, dy) pixels
    flows = tvl1(onset, clip)                   # (H,W) against (N,H,W) → (N,H,W,2)
    flows = tvl1_sequence(clip)                 # (T,H,W) → (T-1,H,W,2), each frame to the next

The convention is i0(x, y) ≈ i1(x + dx, y + dy), x right, y down. Backends: `numba` (CPU), `torch`
(CPU or GPU, the plain reference), `triton` (GPU), `opencv` (the peer). All functions are stateless
and may be called from several threads at once.

Sources: Zach, Pock, Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007;
Sánchez, Meinhardt-Llopis, Facciolo, "TV-L1 optical flow estimation", IPOL 2013; the order of
operations, borders and defaults are those of opencv_contrib's optflow module, version 5.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy.typing as npt

from data.errors import ConfigError, InputError
from data.optical_flow.checks import Pairs, check_frames, check_output, check_pairs, keep_apart
from data.optical_flow.numba_backend import cache_folder, warm_up
from data.optical_flow.settings import PRESETS, SolverSettings, make_settings

__all__ = [
    "PRESETS",
    "Choice",
    "FlowInfo",
    "SolverSettings",
    "cache_folder",
    "choose_backend",
    "make_settings",
    "tvl1",
    "tvl1_sequence",
    "warm_up",
]

Array = npt.NDArray[Any]
BACKENDS = ("numba", "torch", "triton", "opencv")


@dataclass(frozen=True)
class BackendChoice:
    """A backend and the reason for it."""

    backend: str
    why: str


@dataclass(frozen=True)
class FlowInfo:
    """How a result came about.

    steps (N,levels): inner steps done at each level, finest first; error (N,levels): RMS change of
    the flow in the last of them, in pixels of that level. Both are None for OpenCV, which does not
    tell.
    """

    backend: str
    why: str
    settings: SolverSettings
    steps: Array | None
    error: Array | None


def choose_backend(backend: str = "auto", *, device: str = "cpu") -> BackendChoice:
    """The backend that `tvl1` takes for images that lie on `device` ("cpu" or "cuda…").

    Named backends are returned as asked. Raises ConfigError for an unknown name.
    """
    if backend in BACKENDS:
        return BackendChoice(backend, "asked for")
    if backend != "auto":
        raise ConfigError(
            "tvl1(backend=…)", expected=f"one of {('auto', *BACKENDS)}", got=repr(backend)
        )
    if device.startswith("cuda"):
        if _installed("triton"):
            return BackendChoice("triton", f"the images are on {device} and triton is installed")
        return BackendChoice("torch", f"the images are on {device} and triton is not installed")
    if _installed("numba"):
        return BackendChoice(
            "numba", "the images are in main memory: compiled kernels, a thread a pair"
        )
    if _installed("torch"):
        return BackendChoice("torch", "the images are in main memory and numba is not installed")
    return BackendChoice("opencv", "neither numba nor torch is installed")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def tvl1(
    i0: Any,
    i1: Any,
    *,
    preset: str = "opencv",
    backend: str = "auto",
    threads: int | None = None,
    value_range: float | None = None,
    init: Any = None,
    out: Any = None,
    return_info: bool = False,
    **changes: float | None,
) -> Any:
    """TV-L1 flow from i0 to i1.

    i0, i1: grey images, uint8, or float32 with value_range (the value of white, 1 or 255); NumPy
    arrays or torch tensors (then the result is a tensor on their device). (H,W) with (H,W) gives
    (H,W,2); (N,H,W) with (N,H,W), or one reference (H,W) against a clip (N,H,W), gives (N,H,W,2):
    float32, last axis (dx, dy), pixels of the input, i0(x) ≈ i1(x + flow).

    preset: "opencv", OpenCV's defaults; "fast", a third to a half of the time at about the same
    true error. threads: for the numba backend, default every core this process may use; the result
    does not depend on it. init: flow to start from, of the result's shape. out: array to write to.
    return_info: return (flow, `FlowInfo`). changes replace single values of the preset, by the
    paper's names: lam (data weight λ for a 0–255 range), theta (coupling θ), tau (dual time step),
    levels and step (of the pyramid), warps, outer, inner (iterations), eps (stopping test, px),
    median (window 1, 3 or 5); `SolverSettings` has the defaults.

        flow = tvl1(onset, apex, preset="fast", eps=0.01)     # (H,W) uint8 → (H,W,2)

    Raises InputError for images it cannot use (shape, type, range, NaN), ConfigError for settings.
    """
    settings = make_settings(preset, **changes)
    if _is_tensor(i0) or _is_tensor(i1):
        from data.optical_flow.torch_backend import solve_tensors

        device = str(getattr(i1 if _is_tensor(i1) else i0, "device", "cpu"))
        choice = choose_backend(backend, device=device)
        if choice.backend in ("numba", "opencv"):
            if device != "cpu":
                raise InputError(
                    f"tvl1(backend={choice.backend!r})",
                    expected="images in main memory",
                    got=f"tensors on {device}",
                    todo="Call .cpu() on them, or take backend 'torch' or 'triton'.",
                )
            flow, steps, error = _solve_as_arrays(
                i0, i1, choice, settings, value_range, init, out, threads
            )
        else:
            flow, steps, error = solve_tensors(
                i0, i1, settings, value_range, init, out, choice.backend
            )
    else:
        choice = choose_backend(backend)
        pairs = check_pairs(i0, i1, value_range, init)
        shape = (*pairs.second.shape, 2)
        flow = check_output(out, shape[1:] if pairs.single else shape)
        steps, error = _solve(choice.backend, pairs, settings, flow.reshape(shape), threads)
    if return_info:
        return flow, FlowInfo(choice.backend, choice.why, settings, steps, error)
    return flow


def tvl1_sequence(
    frames: Array,
    *,
    preset: str = "opencv",
    backend: str = "auto",
    threads: int | None = None,
    value_range: float | None = None,
    out: Array | None = None,
    **changes: Any,
) -> Array:
    """Flow of each frame to the next: (T,H,W) gives (T-1,H,W,2); a frame's pyramid is built once.

    Arguments and errors as for `tvl1`, the result is a NumPy array; `changes` are its lam … median.
    """
    settings = make_settings(preset, **changes)
    choice = choose_backend(backend)
    clip, gain = check_frames(_as_array(frames, "tvl1_sequence(frames)"), value_range)
    out = check_output(out, (len(clip) - 1, *clip.shape[1:], 2))
    clip = keep_apart(clip, out)
    if choice.backend == "numba":
        from data.optical_flow import numba_backend

        numba_backend.solve(
            clip[:-1], clip[1:], settings, None, out, _threads(threads), gain, consecutive=True
        )
    else:
        pairs = Pairs(clip[:-1], clip[1:], None, gain, False)
        _solve(choice.backend, pairs, settings, out, threads)
    return out


def _solve(
    backend: str, pairs: Pairs, settings: SolverSettings, out: Array, threads: int | None
) -> tuple[Array | None, Array | None]:
    """Run one backend on checked NumPy pairs; returns steps and errors if it tells them."""
    count = _threads(threads)
    pairs = pairs.apart_from(out)
    if backend == "opencv":
        from data.optical_flow import opencv_backend

        opencv_backend.solve(pairs.first, pairs.second, settings, pairs.init, out, pairs.gain)
        return None, None
    if backend == "numba":
        from data.optical_flow import numba_backend

        return numba_backend.solve(
            pairs.first, pairs.second, settings, pairs.init, out, count, pairs.gain
        )
    from data.optical_flow.torch_backend import solve_arrays

    return solve_arrays(pairs, settings, out, backend)


def _solve_as_arrays(
    i0: Any, i1: Any, choice: BackendChoice, settings: SolverSettings, value_range: float | None,
    init: Any, out: Any, threads: int | None,
) -> tuple[Any, Array | None, Array | None]:  # fmt: skip
    """Tensors in main memory, seen as arrays by an array backend; the result is a tensor."""
    from data.optical_flow.torch_backend import as_tensor

    named = {"i0": i0, "i1": i1, "init": init, "out": out}
    arrays = {name: _as_array(value, f"tvl1({name})") for name, value in named.items()}
    pairs = check_pairs(arrays["i0"], arrays["i1"], value_range, arrays["init"])
    shape = (*pairs.second.shape, 2)
    whole = check_output(arrays["out"], shape[1:] if pairs.single else shape)
    steps, error = _solve(choice.backend, pairs, settings, whole.reshape(shape), threads)
    return out if out is not None else as_tensor(whole), steps, error


def _as_array(value: Any, who: str) -> Any:
    """A tensor in main memory as the array it is made of; anything else as it is."""
    try:
        return value.detach().numpy() if _is_tensor(value) else value
    except (TypeError, RuntimeError) as wrong:  # bfloat16, sparse, on a GPU
        raise InputError(
            who,
            expected="a dense tensor in main memory, uint8 or float32",
            got=f"{value.dtype}, {value.layout}, on {value.device}",
        ) from wrong


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torch"


def _threads(threads: int | None) -> int:
    """Threads to use: as asked, else one for every core this process may run on."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if isinstance(threads, bool) or not isinstance(threads, Integral) or threads < 1:
        raise ConfigError("tvl1(threads=…)", expected="a whole number ≥ 1", got=repr(threads))
    return int(threads)
