"""TV-L1 in plain PyTorch: the reference to read beside the paper, on CPU or GPU.

Everything is a batch (N, H, W) of float32, one image operation a line, no blocking and no padding
tricks. The equations are those of Zach, Pock, Bischof 2007 in the notation of the IPOL article
(Sánchez et al. 2013, Algorithm 1); what OpenCV adds is marked so. Pairs stop independently through
masks, and sums have a fixed order, so a pair's result does not depend on its batch.

This module imports torch: import it inside functions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.errors import ApexflowError
from data.optical_flow.checks import Pairs, check_output, check_pairs
from data.optical_flow.settings import SolverSettings
from data.optical_flow.torch_operators import central_gradient, divergence, forward_gradient

CUBIC = -0.75
FLAT = 1.19209290e-7
CHUNK_PIXELS = {"cpu": 1 << 17, "cuda": 1 << 24, "triton": 1 << 26}  # of level 0, at once
BYTES_PER_PIXEL = 256  # of GPU memory the triton backend is reckoned to need
LevelSolver = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
LOOK_EVERY = 8  # steps between looks at whether any pair is still moving (a look waits for the GPU)


def resize(image: Tensor, height: int, width: int, scale_y: float, scale_x: float) -> Tensor:
    """Bilinear (N,H,W) → (N,height,width); source = (target + ½)·scale − ½, clamped to the edge."""

    def positions(size: int, source: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        at = (torch.arange(size, dtype=torch.float64) + 0.5) * scale - 0.5
        at = at.to(torch.float32).clamp(0, source - 1).to(image.device)
        low = at.floor().long()
        return low, (low + 1).clamp(max=source - 1), at - low

    top, bottom, part_y = positions(height, image.shape[1], scale_y)
    left, right, part_x = positions(width, image.shape[2], scale_x)
    above, below = image[:, top], image[:, bottom]
    rows = above + (below - above) * part_y[:, None]
    first, second = rows[:, :, left], rows[:, :, right]
    return first + (second - first) * part_x


def pyramid(images: Tensor, settings: SolverSettings) -> list[Tensor]:
    """Levels of (N,H,W), finest first. OpenCV: no smoothing, sampling scale exactly 1/step."""
    levels = [images]
    sizes = settings.level_sizes(*images.shape[1:])
    for height, width in sizes[1:]:
        levels.append(resize(levels[-1], height, width, 1 / settings.step, 1 / settings.step))
    return levels


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys' bicubic kernel with a = −0.75 at the taps −1, 0, 1, 2."""
    s = 1 - t
    w0, w3 = CUBIC * t * s * s, CUBIC * s * t * t
    w1 = ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1
    return w0, w1, 1 - w0 - w1 - w3, w3


def warp(images: tuple[Tensor, ...], u1: Tensor, u2: Tensor) -> list[Tensor]:
    """Each image sampled at (x + u1, y + u2), bicubic; OpenCV: taps outside the image are 0."""
    n, h, w = u1.shape
    x = torch.arange(w, device=u1.device, dtype=torch.float32) + u1
    y = torch.arange(h, device=u1.device, dtype=torch.float32)[:, None] + u2
    x_low, y_low = x.floor(), y.floor()
    weights_x, weights_y = cubic_weights(x - x_low), cubic_weights(y - y_low)
    results = [torch.zeros_like(u1) for _ in images]
    for j in range(4):
        rows = [torch.zeros_like(u1) for _ in images]
        row = y_low + (j - 1)
        for i in range(4):
            column = x_low + (i - 1)
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            index = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long().view(n, -1)
            weight = torch.where(inside, weights_x[i], 0.0)
            for part, image in zip(rows, images, strict=True):
                part += weight * image.reshape(n, -1).gather(1, index).view(n, h, w)
        for result, part in zip(results, rows, strict=True):
            result += weights_y[j] * part
    return results


def median_filter(u: Tensor, size: int) -> Tensor:
    """size × size median of (N,H,W), edges repeated. OpenCV's addition to the algorithm."""
    margin = size // 2
    padded = torch.nn.functional.pad(u[:, None], (margin,) * 4, mode="replicate")[:, 0]
    windows = padded.unfold(1, size, 1).unfold(2, size, 1).flatten(3)
    return windows.median(3).values


def ordered_sum(values: Tensor) -> Tensor:
    """Sum over (H,W) by halving, so that its rounding does not depend on N, threads or device."""
    flat = values.flatten(1)
    flat = torch.nn.functional.pad(
        flat, (0, (1 << (flat.shape[1] - 1).bit_length()) - flat.shape[1])
    )
    while flat.shape[1] > 1:
        half = flat.shape[1] // 2
        flat = flat[:, :half] + flat[:, half:]
    return flat[:, 0]


def solve_level(
    i0: Tensor, i1: Tensor, u1: Tensor, u2: Tensor, settings: SolverSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One pyramid level from the flow (u1, u2); returns it improved, inner steps, RMS change."""
    n, h, w = i1.shape
    lam, theta, tau = settings.lam, settings.theta, settings.tau
    i1x, i1y = central_gradient(i1)
    p11, p12, p21, p22 = (torch.zeros_like(u1) for _ in range(4))
    steps = torch.zeros(n, dtype=torch.int64, device=u1.device)
    change = torch.zeros(n, device=u1.device)
    limit = settings.eps**2 * h * w
    for _ in range(settings.warps):
        warped, ix, iy = warp((i1, i1x, i1y), u1, u2)
        square = ix * ix + iy * iy  # |∇I1(x+u0)|²
        constant = warped - ix * u1 - iy * u2 - i0  # ρ without its term linear in u
        inverse = torch.where(square > FLAT, 1 / square, 0.0)
        change.fill_(math.inf)
        for _ in range(settings.outer):
            moving = (change > limit)[:, None, None]
            if not moving.any():
                break
            if settings.median > 1:
                u1 = torch.where(moving, median_filter(u1, settings.median), u1)
                u2 = torch.where(moving, median_filter(u2, settings.median), u2)
            for inner in range(settings.inner):
                moving = (change > limit)[:, None, None]
                if inner % LOOK_EVERY == 0 and not moving.any():
                    break
                # v: the data term solved pointwise by thresholding ρ (article's equation 12)
                rho = constant + ix * u1 + iy * u2
                f = (-rho * inverse).clamp(-lam * theta, lam * theta)
                # u = v + θ div p (equation 13)
                new1 = u1 + f * ix + theta * divergence(p11, p12)
                new2 = u2 + f * iy + theta * divergence(p21, p22)
                step_change = ordered_sum((new1 - u1) ** 2 + (new2 - u2) ** 2)
                # p: projected gradient step on the dual (equation 14)
                d1x, d1y = forward_gradient(new1)
                d2x, d2y = forward_gradient(new2)
                ratio = tau / theta
                shrink1 = 1 + ratio * torch.sqrt(d1x * d1x + d1y * d1y)
                shrink2 = 1 + ratio * torch.sqrt(d2x * d2x + d2y * d2y)
                p11 = torch.where(moving, (p11 + ratio * d1x) / shrink1, p11)
                p12 = torch.where(moving, (p12 + ratio * d1y) / shrink1, p12)
                p21 = torch.where(moving, (p21 + ratio * d2x) / shrink2, p21)
                p22 = torch.where(moving, (p22 + ratio * d2y) / shrink2, p22)
                u1, u2 = torch.where(moving, new1, u1), torch.where(moving, new2, u2)
                steps += moving[:, 0, 0]
                change = torch.where(moving[:, 0, 0], step_change, change)
    return u1, u2, steps, torch.sqrt(change / (h * w))


def initial_flow(
    init: Tensor | None, images: list[Tensor], settings: SolverSettings
) -> list[Tensor]:
    """u1, u2 at the coarsest level: 0, or the given (N,H,W,2) shrunk as the images are."""
    if init is None:
        return [torch.zeros_like(images[-1]) for _ in range(2)]
    fields = [init[..., 0], init[..., 1]]
    for level in images[1:]:
        h, w = level.shape[1:]
        scale = 1 / settings.step
        fields = [resize(u, h, w, scale, scale) * settings.step for u in fields]
    return fields


def solve_batch(
    i0: Tensor,
    i1: Tensor,
    settings: SolverSettings,
    init: Tensor | None,
    level: LevelSolver = solve_level,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flow (N,H,W,2), steps (N,levels), RMS change (N,levels) of float images 0–255 (N,H,W)."""
    first, second = pyramid(i0, settings), pyramid(i1, settings)
    u1, u2 = initial_flow(init, second, settings)
    steps: list[Tensor] = []
    errors: list[Tensor] = []
    for s in reversed(range(len(second))):
        h, w = second[s].shape[1:]
        if s < len(second) - 1:
            scales = u1.shape[1] / h, u1.shape[2] / w
            u1, u2 = (resize(u, h, w, *scales) * (1 / settings.step) for u in (u1, u2))
        u1, u2, count, change = level(first[s].expand_as(second[s]), second[s], u1, u2, settings)
        steps.insert(0, count)
        errors.insert(0, change)
    return torch.stack([u1, u2], 3), torch.stack(steps, 1), torch.stack(errors, 1)


def _chunk_pixels(device: torch.device, backend: str) -> int:
    """How many pixels to work on at once: with many small programs, as many as memory holds."""
    if device.type == "cuda" and backend == "triton":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return min(CHUNK_PIXELS["triton"], (free + kept) // BYTES_PER_PIXEL)
    return CHUNK_PIXELS.get(device.type, 1 << 20)


def _solve(
    first: Tensor, second: Tensor, init: Tensor | None, gain: float, settings: SolverSettings,
    out: Tensor, backend: str,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:  # fmt: skip
    """Chunk by chunk into out (N,H,W,2), which may lie on another device.

    A chunk's results are fetched while the GPU works on the next.
    """
    level: LevelSolver = solve_level
    device = second.device
    if backend == "triton":
        from data.optical_flow import triton_backend

        triton_backend.check_device(device.type)
        level = triton_backend.solve_level
    n, h, w = second.shape
    chunk = max(1, _chunk_pixels(device, backend) // (h * w))
    levels = len(settings.level_sizes(h, w))
    steps, errors = np.zeros((n, levels), np.int64), np.zeros((n, levels))
    on_gpu = device.type == "cuda"
    side_stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
    fetch: Callable[[], None] | None = None
    for begin in range(0, n, chunk):
        part = slice(begin, begin + chunk)
        i0 = (first if len(first) == 1 else first[part]).to(torch.float32) * gain
        i1 = second[part].to(torch.float32) * gain
        start = None if init is None else init[part].to(device, torch.float32)
        results = solve_batch(i0, i1, settings, start, level)
        if fetch is not None:
            fetch()
        fetch = _fetcher(results, out[part], steps[part], errors[part], side_stream)
    if fetch is not None:
        fetch()
    return steps, errors


def _fetcher(
    results: tuple[Tensor, Tensor, Tensor], flow: Tensor, steps: npt.NDArray[Any],
    errors: npt.NDArray[Any], side_stream: torch.cuda.Stream | None,
) -> Callable[[], None]:  # fmt: skip
    """A call that copies results to where they belong.

    Into main memory it waits for nothing launched after them, and the results may be freed then.
    """

    def copy() -> None:
        flow.copy_(results[0])
        steps[:], errors[:] = results[1].cpu().numpy(), results[2].cpu().numpy()

    if side_stream is None or flow.device.type == "cuda":
        return copy
    computed = torch.cuda.Event()  # type: ignore[no-untyped-call]
    computed.record()

    def copy_beside() -> None:  # to main memory: done when this returns
        with torch.cuda.stream(side_stream):
            side_stream.wait_event(computed)
            copy()

    return copy_beside


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """The same memory as a tensor."""
    return torch.from_numpy(array)


def check_device(backend: str) -> str:
    """Where `solve_arrays` computes: "cuda" if there is a GPU, else "cpu".

    Raises InputError if the backend cannot run there.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if backend == "triton":
        from data.optical_flow import triton_backend

        triton_backend.check_device(device)
    return device


def use_device(device: str) -> None:
    """Make a GPU ("cuda:1") the one that `solve_arrays` of this process computes on."""
    torch.cuda.set_device(torch.device(device))


def solve_arrays(
    pairs: Pairs, settings: SolverSettings, out: npt.NDArray[Any], backend: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """NumPy in, NumPy out (written to out); computed on the GPU if there is one.

    Raises MemoryError if the GPU's memory is full, OSError if it fails otherwise.
    """
    device = check_device(backend)
    try:
        first, second = (
            torch.from_numpy(np.ascontiguousarray(a)).to(device)
            for a in (pairs.first, pairs.second)
        )
        init = None if pairs.init is None else torch.from_numpy(pairs.init).to(device)
        with torch.no_grad():
            return _solve(first, second, init, pairs.gain, settings, torch.from_numpy(out), backend)
    except (ApexflowError, OSError, MemoryError):
        raise
    except torch.OutOfMemoryError as full:
        raise MemoryError(str(full)) from None
    except Exception as error:  # a dead driver, no C compiler for Triton: not these images' fault
        if device == "cpu":
            raise
        raise OSError(f"TV-L1 on the GPU: {type(error).__name__}: {error}") from error


def _keep_apart(tensor: Any, out: Tensor) -> Any:
    """The tensor (or None), copied if it lies in the memory that `out` is part of."""
    if tensor is None or tensor.untyped_storage().data_ptr() != out.untyped_storage().data_ptr():
        return tensor
    return tensor.clone()


def solve_tensors(
    i0: Tensor, i1: Tensor, settings: SolverSettings, value_range: float | None,
    init: Tensor | None, out: Tensor | None, backend: str,
) -> tuple[Tensor, npt.NDArray[Any], npt.NDArray[Any]]:  # fmt: skip
    """Tensors in, a tensor on the device of i1 out; nothing passes through main memory."""
    pairs = check_pairs(i0, i1, value_range, init)
    shape = (*pairs.second.shape, 2)
    second = pairs.second
    flow = check_output(out, shape[1:] if pairs.single else shape, like=second)
    first, second, start = (_keep_apart(t, flow) for t in (pairs.first, second, pairs.init))
    here = torch.cuda.device_of(second)  # type: ignore[no-untyped-call]
    with torch.no_grad(), here:  # kernels and events go to the current GPU
        steps, errors = _solve(
            first.to(second.device), second, start, pairs.gain, settings,
            flow.view(shape), backend,
        )  # fmt: skip
    return flow, steps, errors
