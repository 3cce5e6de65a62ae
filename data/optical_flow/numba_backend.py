"""The CPU backend: numba kernels, one thread per pair, compiled once and kept on disk.

Pairs are independent and each is solved by one thread from start to end, so the result has the same
bytes for any number of threads and any split into batches.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import ConfigError
from data.optical_flow.settings import SolverSettings

Array = npt.NDArray[Any]
_KERNEL_FILES = ("simd.py", "median.py", "kernels.py", "storing.py")
_lock = threading.Lock()
_thread = threading.local()
_module: ModuleType | None = None


def cache_folder() -> Path:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR if set, else the user's cache folder.

    A user without a home, as some containers make them, keeps them under the temporary folder.

    The last part of the path is a digest of the kernels' source, so that an edited or updated
    checkout never meets old machine code (numba itself looks at one file only).
    """
    digest = hashlib.sha256()
    for name in _KERNEL_FILES:
        digest.update((Path(__file__).parent / name).read_bytes())
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "apexflow"
    except RuntimeError:
        base = _temporary_folder()
    return Path(chosen or base) / f"tvl1-{digest.hexdigest()[:12]}"


def _temporary_folder() -> Path:
    """This user's folder under the temporary folder, whether it exists or not."""
    return Path(tempfile.gettempdir()) / f"apexflow-{os.getuid()}"


def usable_folder() -> Path:
    """The cache folder, or one for this user under the temporary folder if that is read-only.

    What lies in it is run: a folder there that another user made is not taken, a new one is.
    """
    folder, base = cache_folder(), _temporary_folder()
    if folder.parent != base:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            pass
    base.mkdir(exist_ok=True, mode=0o700)
    if base.lstat().st_uid != os.getuid():
        base = Path(tempfile.mkdtemp(prefix="apexflow-"))
    fallback = base / folder.name
    fallback.mkdir(exist_ok=True)
    return fallback


def kernels() -> ModuleType:
    """The module of compiled functions, imported on first use with its cache folder in force."""
    global _module
    with _lock:
        if _module is None:
            import numba

            if numba.config.DISABLE_JIT:
                raise ConfigError(
                    "tvl1(backend='numba')",
                    expected="numba with its compiler",
                    got="NUMBA_DISABLE_JIT",
                    todo="Unset it, or take backend='torch'.",
                )
            before = numba.config.CACHE_DIR
            numba.config.CACHE_DIR = str(usable_folder())
            try:
                from data.optical_flow import kernels as module
                from data.optical_flow import storing  # noqa: F401 (bound to the same folder)
            finally:
                numba.config.CACHE_DIR = before
            _module = module
    return _module


def warm_up() -> float:
    """Compile the kernels, or load them from disk; returns the seconds it took.

    Call it once in a parent process before workers start, so that none of them compiles.
    """
    began = time.perf_counter()
    image = np.zeros((16, 16), np.float32)
    fields = np.zeros((1, 16, 16, 2), np.float32)
    solve(image[None], image[None], SolverSettings(), None, fields, 1)
    strain_and_half(fields)
    return time.perf_counter() - began


class Plan:
    """Level geometry and scratch memory for pairs of one size; used by one thread at a time."""

    def __init__(self, height: int, width: int, settings: SolverSettings) -> None:
        module = kernels()
        sizes = settings.level_sizes(height, width)
        self.settings = settings
        self.heights, self.widths = np.array(sizes, np.int64).T.copy()
        padded = -(-self.widths // 16) * 16
        strides = padded + 2 * module.PAD_X
        areas = strides * (self.heights + 2 * module.PAD_Y)
        ends = np.cumsum(areas)
        self.starts = ends - areas + module.PAD_Y * strides + module.PAD_X
        self._pyramid_size = int(ends[-1]) + 64
        plane = (int(self.heights.max()) + 2) * (int(padded.max()) + 16) + 80
        self.state = _aligned((10, -(-plane // 16) * 16))
        work = max(62 * int(padded.max()) + 64, 36 * 16)
        self.scratch = _aligned((2 * self.state.shape[1] + work,))
        self.image = np.empty((height, width), np.float32)
        self.pyramids = [self.new_pyramid(), self.new_pyramid()]
        self.nothing = np.zeros((2, *sizes[-1]), np.float32)

    def new_pyramid(self) -> Array:
        """Planes I, Ix, Iy of all levels, margins 0."""
        return _aligned((3, -(-self._pyramid_size // 16) * 16))

    def build(self, frame: Array, gain: float, planes: Array, gradients: bool) -> None:
        """Fill `planes` from one frame (H,W); gain brings its values to 0–255."""
        np.multiply(frame, np.float32(gain), out=self.image, casting="unsafe")
        s = self.settings
        kernels().build_pyramid(
            self.image, planes, self.heights, self.widths, self.starts, float(s.step), gradients
        )

    def solve(
        self, first: Array, second: Array, flow: Array, init: Array | None
    ) -> tuple[Array, Array]:
        """Flow (H,W,2) from one built pyramid to another; returns steps and errors per level."""
        s = self.settings
        steps, errors = np.zeros(len(self.heights), np.int64), np.zeros(len(self.heights))
        initial = self.nothing if init is None else self._shrunk(init)
        kernels().solve_pair(
            first, second, self.heights, self.widths, self.starts, self.state, self.scratch,
            initial, flow, float(s.lam), float(s.theta), float(s.tau), float(s.step), s.warps,
            float(s.eps), s.inner, s.outer, s.median, steps, errors,
        )  # fmt: skip
        return steps, errors

    def _shrunk(self, flow: Array) -> Array:
        """A flow (H,W,2) as planes (2,h,w) of the coarsest level, resized level by level."""
        scale = 1 / self.settings.step
        planes = np.moveaxis(flow, -1, 0)
        for h, w in zip(self.heights[1:], self.widths[1:], strict=True):
            planes = _resize(_resize(planes, h, scale, 1), w, scale, 2)
            planes = planes * np.float32(self.settings.step)
        return np.ascontiguousarray(planes, np.float32)


def _resize(planes: Array, size: int, scale: float, axis: int) -> Array:
    """Linear resize along one axis: source = (target + ½)·scale − ½, clamped to the edge."""
    last = planes.shape[axis] - 1
    at = np.clip((np.arange(size) + 0.5) * scale - 0.5, 0, last)
    low = np.floor(at).astype(int)
    part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    near, far = planes.take(low, axis), planes.take(np.minimum(low + 1, last), axis)
    return near + (far - near) * part


def strain_and_half(fields: Array) -> tuple[Array, Array, float]:
    """Of flows (P,H,W,2) float32: float16 flows, float16 strain (P,H,W), largest loss of the flows.

    The loss is infinite where a value is too large for float16.
    """
    kernels()
    from data.optical_flow import storing

    fields = np.ascontiguousarray(fields)
    strain = np.empty(fields.shape[:3], np.float32)
    storing.strain_of(fields, strain)
    half, loss = _half(fields, storing.round_to_half)
    return half, _half(strain, storing.round_to_half)[0], loss


def _half(values: Array, convert: Callable[[Array, Array], float]) -> tuple[Array, float]:
    """float16 copy of a contiguous float32 array and the largest change; NumPy does the rest."""
    flat, half = values.reshape(-1), np.empty(values.size, np.float16)
    whole = flat.size // 16 * 16 if _compiles_halves() else 0
    loss = float(convert(flat[:whole], half[:whole].view(np.uint16))) if whole else 0.0
    with np.errstate(over="ignore"):  # the loss tells
        half[whole:] = flat[whole:]
    rest = np.abs(half[whole:].astype(np.float32) - flat[whole:])
    return half.reshape(values.shape), max(abs(loss), float(rest.max(initial=0)))


@cache
def _compiles_halves() -> bool:
    """Whether compiled code may round to float16: an x86 without F16C would call what is absent.

    Such are processors before 2012 and plain virtual ones; numba may also be told to compile for
    another processor than this.
    """
    import llvmlite.binding as llvm
    import numba

    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return "+f16c" in (numba.config.CPU_FEATURES or "")
    return platform.machine() not in ("x86_64", "AMD64") or bool(
        llvm.get_host_cpu_features().get("f16c", False)
    )


def plan_for(height: int, width: int, settings: SolverSettings) -> Plan:
    """This thread's plan for the size: the last one again if it fits, for memory is slow to get.

    Nothing that a result depends on survives in it: margins stay 0, all else is written first.
    """
    kept: Plan | None = getattr(_thread, "plan", None)
    if kept is None or kept.image.shape != (height, width) or kept.settings != settings:
        kept = _thread.plan = Plan(height, width, settings)
    return kept


def _aligned(shape: tuple[int, ...]) -> Array:
    """Zeros whose first element begins a 64-byte line."""
    size = int(np.prod(shape))
    raw = np.zeros(size + 16, np.float32)
    offset = (-raw.ctypes.data % 64) // 4
    return raw[offset : offset + size].reshape(shape)


def solve(
    i0: Array, i1: Array, settings: SolverSettings, init: Array | None, out: Array, threads: int,
    gain: float = 1.0, consecutive: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """Flow of N pairs into out (N,H,W,2); i0 is (1,H,W) (one reference for all) or (N,H,W).

    consecutive: i0 is i1 shifted by one frame (both views of one (N+1,H,W) array); each frame's
    pyramid is then built once. Returns steps (N,levels) and last RMS change (N,levels).
    """
    count = len(i1)
    levels = len(settings.level_sizes(*i1.shape[1:]))
    steps, errors = np.zeros((count, levels), np.int64), np.zeros((count, levels))

    def work(first: int, last: int) -> None:
        plan = plan_for(i1.shape[1], i1.shape[2], settings)
        before, after = plan.pyramids
        for n in range(first, last):
            if consecutive:
                if n == first:
                    plan.build(i0[n], gain, before, False)
                else:
                    before, after = after, before
            elif len(i0) > 1 or n == first:
                plan.build(i0[n if len(i0) > 1 else 0], gain, before, False)
            plan.build(i1[n], gain, after, True)
            steps[n], errors[n] = plan.solve(
                before, after, out[n], None if init is None else init[n]
            )

    _share(count, threads, work)
    return steps, errors


def _share(count: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Runs of neighbouring pairs handed to threads as they become free."""
    threads = max(1, min(threads, count))
    if threads == 1:
        if count:
            work(0, count)
        return
    kernels()
    run = max(1, -(-count // (4 * threads)))
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work, i, min(i + run, count)) for i in range(0, count, run)]
        for job in jobs:
            job.result()
