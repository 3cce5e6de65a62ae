"""TV-L1 backends against OpenCV's DualTVL1 on pairs of known motion.

    python -m tests.benchmarks.bench_tvl1 [--sizes 128 224 320] [--pairs N] [--json PATH]

Per core: for each pair OpenCV, then ours, then ours fast, one thread each, CPU time of the process;
the ratio is taken pair by pair within a round and its median, least and greatest are shown. gap:
mean end-point distance to OpenCV's flow; error: to the true motion. Wall: N pairs on two cores, our
threads against two OpenCV processes, in turn. Compiling is done before and reported by itself.
Rounding: with eps = 0 and 2 × 30 steps a warp nothing stops early; our distance to OpenCV beside
OpenCV's distance to itself with λ one unit in the last place higher.
`bench_tvl1_gpu` does the same for the GPU backends.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.optical_flow import tvl1, warm_up
from tests.fakes.flow_pairs import distance, make_pair

CONTENDERS = {
    "opencv": {"backend": "opencv"},
    "numba": {"backend": "numba"},
    "numba fast": {"backend": "numba", "preset": "fast"},
}
FLOORS = {"numba": {128: 18, 224: 18, 320: 14}, "numba fast": {128: 55, 224: 55, 320: 55}}


def timed(i0: Any, i1: Any, **options: Any) -> tuple[float, Any]:
    """CPU time of this process for one call of tvl1, and its result."""
    began = time.process_time()
    flow = tvl1(i0, i1, threads=1, **options)
    return time.process_time() - began, flow


def per_core(side: int, pairs: int, rounds: int, plain: bool) -> list[dict[str, Any]]:
    """One row per contender at one size."""
    data = [make_pair(side, number) for number in range(pairs)]
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    ratios: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    flows: dict[str, list[Any]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds):
        for i0, i1, _ in data:
            spent = {}
            for name, options in CONTENDERS.items():
                spent[name], flow = timed(i0, i1, **options)
                if turn == 0:
                    flows[name].append(flow)
            for name, value in spent.items():
                seconds[name].append(value)
                ratios[name].append(spent["opencv"] / value)
    if plain:
        seconds["torch"], ratios["torch"], flows["torch"] = [], [], []
        for number, (i0, i1, _) in enumerate(data[:2]):
            value, flow = timed(i0, i1, backend="torch")
            seconds["torch"].append(value)
            ratios["torch"].append(seconds["opencv"][number] / value)
            flows["torch"].append(flow)
    truths = [truth for *_, truth in data]
    rows = []
    for name in flows:
        peers = flows["opencv"][: len(flows[name])]
        errors = [distance(f, t).mean() for f, t in zip(flows[name], truths, strict=False)]
        peer_errors = [distance(f, t).mean() for f, t in zip(peers, truths, strict=False)]
        rows.append(
            {
                "backend": name,
                "size": side,
                "ms": 1e3 * statistics.median(seconds[name]),
                "pairs_per_s": 1 / statistics.median(seconds[name]),
                "ratio": statistics.median(ratios[name]),
                "ratio_min": min(ratios[name]),
                "ratio_max": max(ratios[name]),
                "gap": float(
                    np.mean(
                        [distance(f, p).mean() for f, p in zip(flows[name], peers, strict=True)]
                    )
                ),
                "error": float(np.mean(errors)),
                "error_ratio": float(np.mean(errors) / np.mean(peer_errors)),
                "floor": FLOORS.get(name, {}).get(side),
            }
        )
    return rows


def _opencv_batch(side: int, numbers: list[int]) -> int:
    """In a worker process: OpenCV on some pairs, one thread."""
    cv2.setNumThreads(1)
    for i0, i1 in _pairs(side, numbers):
        tvl1(i0, i1, backend="opencv")
    return len(numbers)


_made: dict[tuple[int, int], Any] = {}


def _pairs(side: int, numbers: list[int]) -> list[Any]:
    for number in numbers:
        if (side, number) not in _made:
            _made[side, number] = make_pair(side, number)[:2]
    return [_made[side, number] for number in numbers]


def on_two_cores(side: int, pairs: int, rounds: int) -> dict[str, Any]:
    """Wall time of `pairs` pairs: our two threads against two OpenCV processes."""
    halves = [list(range(0, pairs, 2)), list(range(1, pairs, 2))]
    i0, i1 = (np.stack(images) for images in zip(*_pairs(side, list(range(pairs))), strict=True))
    ours, theirs = [], []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for turn in range(rounds + 1):  # the first makes the images and starts the workers
            began = time.perf_counter()
            assert sum(pool.map(_opencv_batch, (side, side), halves)) == pairs
            middle = time.perf_counter()
            tvl1(i0, i1, backend="numba", threads=2)
            if turn:
                theirs.append(middle - began)
                ours.append(time.perf_counter() - middle)
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        "size": side,
        "pairs": pairs,
        "ours_s": statistics.median(ours),
        "opencv_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def one_onset_many_frames(side: int, frames: int) -> dict[str, Any]:
    """Per-core rate of an onset against a clip, its pyramid built once."""
    onset = make_pair(side, 0)[0]
    clip = np.stack([make_pair(side, number)[1] for number in range(0, 5 * frames, 5)])
    spent, _ = timed(onset, clip, backend="numba")
    return {"size": side, "frames": frames, "pairs_per_s": frames / spent}


def rounding(side: int, pairs: int) -> dict[str, Any]:
    """Median and mean distance, pixels pooled over pairs, when all that differs is rounding."""
    fixed = {"outer": 2, "eps": 0.0}
    next_lam = float(np.nextafter(np.float32(0.15), np.float32(1)))
    ours, itself = [], []
    for number in range(pairs):
        i0, i1, _ = make_pair(side, number)
        peer = tvl1(i0, i1, backend="opencv", **fixed)
        ours.append(distance(tvl1(i0, i1, backend="numba", **fixed), peer))
        itself.append(distance(tvl1(i0, i1, backend="opencv", lam=next_lam, **fixed), peer))
    return {
        "size": side,
        "ours_mean": float(np.mean(ours)),
        "ours_median": float(np.median(ours)),
        "opencv_itself_mean": float(np.mean(itself)),
        "opencv_itself_median": float(np.median(itself)),
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import llvmlite
    import numba

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "opencv": cv2.__version__,
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print one table, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224, 320])
    parser.add_argument("--pairs", type=int, default=5, help="pairs a size (default 5)")
    parser.add_argument("--rounds", type=int, default=5, help="times each pair (default 5)")
    parser.add_argument("--wall-pairs", type=int, default=12, help="0: no two-core measurement")
    parser.add_argument("--plain", action="store_true", help="also the torch reference, on the CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if not hasattr(cv2, "optflow"):
        print("cv2.optflow is missing: install opencv-contrib-python-headless as the only cv2")
        return 1
    cv2.setNumThreads(1)
    result: dict[str, Any] = {"compile_s": warm_up(), "machine": machine()}
    print(f"kernels ready after {result['compile_s']:.1f} s (a few seconds once per machine)")
    print(f"{result['machine']['cpu']}, load {result['machine']['load'][0]:.1f}")
    columns = ("backend", "size", "ms", "pairs/s", "ratio (least–greatest)", "floor", "gap px")
    print("{:11} {:>4} {:>8} {:>8} {:>24} {:>6} {:>8}".format(*columns), "error px (÷ OpenCV's)")
    result["per_core"] = []
    for side in options.sizes:
        for row in per_core(side, options.pairs, options.rounds, options.plain and side == 128):
            result["per_core"].append(row)
            spread = f"{row['ratio']:.1f} ({row['ratio_min']:.1f}–{row['ratio_max']:.1f})"
            print(
                f"{row['backend']:11} {side:4} {row['ms']:8.2f} {row['pairs_per_s']:8.1f} "
                f"{spread:>24} {row['floor'] or '':>6} {row['gap']:8.4f} "
                f"{row['error']:.4f} ({row['error_ratio']:.3f})",
                flush=True,
            )
    result["clip"] = [one_onset_many_frames(side, 8) for side in options.sizes]
    for row in result["clip"]:
        print(f"onset against a clip {row['size']:4}: {row['pairs_per_s']:.1f} pairs/s a core")
    result["rounding"] = [rounding(side, options.pairs) for side in options.sizes]
    for row in result["rounding"]:
        print(
            f"eps 0 {row['size']:4}: mean {row['ours_mean']:.4f}, median {row['ours_median']:.1e} "
            f"px to OpenCV; OpenCV to itself, λ + 1 ulp: {row['opencv_itself_mean']:.4f}, "
            f"{row['opencv_itself_median']:.1e}",
            flush=True,
        )
    result["wall"] = []
    for side in options.sizes if options.wall_pairs else ():
        row = on_two_cores(side, options.wall_pairs, options.rounds)
        result["wall"].append(row)
        print(
            f"two cores {side:4}: {row['pairs']} pairs in {row['ours_s']:.3f} s, OpenCV "
            f"{row['opencv_s']:.2f} s: {row['ratio']:.1f}× "
            f"({row['ratio_min']:.1f}–{row['ratio_max']:.1f})",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
