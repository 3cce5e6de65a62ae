"""TV-L1 on a GPU: pairs a second, and how near the inner steps come to what memory allows.

    python -m tests.benchmarks.bench_tvl1_gpu [--sizes 128 224] [--pairs 2048] [--json PATH]

on the GPU: images and flows stay there. from main memory: NumPy images in, NumPy flows out, as the
flow stage calls it. bound: the measured bandwidth of a copy, divided by the bytes that the tiles of
an inner step move; warps and medians come on top. gap: mean end-point distance to the numba
backend; the JSON also has that to OpenCV where `cv2.optflow` is installed. Times are medians of
wall times between synchronisations; kernels are compiled before (a minute or two, kept on disk by
Triton).

Without a GPU nothing is timed, unless TRITON_INTERPRET=1 is set: then the script checks itself on
the CPU, for which `--sizes 24 --pairs 2 --repeats 1` is plenty.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.errors import ApexflowError, MissingExtraError
from data.optical_flow import FlowInfo, tvl1
from tests.fakes.flow_pairs import distance, make_pair

FLOORS = {128: (5000, 15000), 224: (2000, 6000)}  # pairs/s: first, then with state on chip
DIFFERENT = 8  # pairs; the batch repeats them
COPY_BYTES = {"cuda": 1 << 32, "cpu": 1 << 26}


def seconds(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median wall time of `work`, whatever it started on the GPU included."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def bandwidth(device: str) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source = torch.ones(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, 5)


def step_bytes(side: int, info: FlowInfo) -> tuple[float, float]:
    """Bytes that the inner steps of all pairs of `info` move at least, and their pixel-iterations.

    Per block of `ahead` steps a tile reads ten planes; six are written, each pixel once.
    """
    from data.optical_flow.triton_backend import choose_tiling

    moved = pixels = 0.0
    assert info.steps is not None
    for (h, w), steps in zip(info.settings.level_sizes(side, side), info.steps.T, strict=True):
        cut = choose_tiling(h, w)
        moved += float(steps.sum()) / cut.ahead * 4 * (10 * cut.pixels + 6 * h * w)
        pixels += float(steps.sum()) * h * w
    return moved, pixels


def opencv_gap(data: list[Any], flow: Any) -> float | None:
    """Mean distance to OpenCV's flows, if it has them."""
    try:
        peer = np.stack([tvl1(*pair, backend="opencv") for pair in data])
    except MissingExtraError:
        return None
    return float(distance(flow, peer).mean())


def measure(side: int, pairs: int, repeats: int, device: str, rate: float) -> list[dict[str, Any]]:
    """A row per backend."""
    data = [make_pair(side, number)[:2] for number in range(min(DIFFERENT, pairs))]
    images = [np.stack([pair[k] for pair in data]) for k in (0, 1)]
    batch = [np.concatenate([part] * -(-pairs // len(part)))[:pairs] for part in images]
    first, second = (torch.from_numpy(part).to(device) for part in batch)
    peer = tvl1(*images, backend="numba")
    rows = []
    for backend in ("triton", "torch"):
        flow, info = tvl1(first, second, backend=backend, return_info=True)
        out = np.empty((pairs, side, side, 2), np.float32)

        def there(name: str = backend) -> None:
            tvl1(first, second, backend=name)

        def home(name: str = backend, out: Any = out) -> None:
            tvl1(*batch, backend=name, out=out)

        moved, pixels = step_bytes(side, info)
        ours = backend == "triton"
        spent, whole = seconds(there, device, repeats), seconds(home, device, repeats)
        few = flow[: len(data)].cpu().numpy()
        rows.append(
            {
                "backend": backend,
                "size": side,
                "pairs": pairs,
                "pairs_per_s": pairs / spent,
                "from_main_memory_pairs_per_s": pairs / whole,
                "pixel_iterations_per_s": pixels / spent,
                "bound_pixel_iterations_per_s": rate * pixels / moved if ours else None,
                "numba_gap": float(distance(few, peer).mean()),
                "opencv_gap": opencv_gap(data, few),
                "floors": FLOORS.get(side) if ours else None,
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure, print one table, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    try:
        from data.optical_flow.torch_backend import check_device

        device = check_device("triton")
    except ApexflowError as missing:
        print(f"skipped: {missing}")
        return 0
    rate = bandwidth(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "interpreter on a CPU"
    print(f"{name}: a copy moves {rate / 1e9:.0f} GB/s")
    print("backend  size   pairs/s  from main memory  G pixel-iterations/s (bound)  gap px  floors")
    rows: list[dict[str, Any]] = []
    for side in options.sizes:
        for row in measure(side, options.pairs, options.repeats, device, rate):
            rows.append(row)
            bound = row["bound_pixel_iterations_per_s"]
            share = f"({bound / 1e9:.0f})" if bound else ""
            print(
                f"{row['backend']:8} {side:4} {row['pairs_per_s']:9.0f} "
                f"{row['from_main_memory_pairs_per_s']:17.0f} "
                f"{row['pixel_iterations_per_s'] / 1e9:21.1f} {share:7} "
                f"{row['numba_gap']:6.4f}  {row['floors'] or ''}",
                flush=True,
            )
    if options.json:
        told = {"device": name, "copy_bytes_per_s": rate, "rows": rows}
        options.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
