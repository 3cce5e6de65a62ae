"""Selective scan and ME-TST training steps: seconds and memory of each backend.

    python -m tests.benchmarks.bench_scan [--batch 32] [--length 50] [--repeats 3]
                                          [--threads 1] [--device cpu|cuda] [--json PATH]

A row is one forward and backward: of the scan alone at ME-TST's width (128 channels, 64 states), or
of a whole network. Each runs in a process of its own, whose growth in resident memory is reported;
`cpu_s` is the least of the repeats in CPU seconds (wall seconds on a GPU). `parity` is the largest
relative gradient difference from the reference.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from models.layers.selective_scan import selective_scan
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.plus import MeTstPlus, MeTstPlusConfig

WIDTH, STATES = 128, 64
NETWORKS: dict[str, Callable[[str], torch.nn.Module]] = {
    "ME-TST C1": lambda scan: MeTst(MeTstConfig(scan=scan)),
    "ME-TST C2": lambda scan: MeTst(MeTstConfig(dim=128, scan=scan)),
    "ME-TST reduced": lambda scan: MeTst(MeTstConfig(dim=32, blocks=4, d_state=16, scan=scan)),
    "ME-TST+": lambda scan: MeTstPlus(MeTstPlusConfig(scan=scan)),
}


def inputs(batch: int, length: int, device: str) -> list[Tensor]:
    """x, delta, A, B, C as ME-TST has them at the start: steps near 0.7, A = -1 … -64."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    delta = torch.nn.functional.softplus(0.3 * draw(batch, length, WIDTH))
    A = -torch.arange(1.0, STATES + 1).repeat(WIDTH, 1)
    B, C = draw(batch, length, STATES), draw(batch, length, STATES)
    tensors = [draw(batch, length, WIDTH), delta, A, B, C]
    return [tensor.to(device).requires_grad_() for tensor in tensors]


def timed(step: Callable[[], None], repeats: int, device: str) -> dict[str, float]:
    """Least seconds and growth in memory of `step`."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, walls = [], []
    for _ in range(repeats):
        start, wall = clock(), time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
        walls.append(time.perf_counter() - wall)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if device == "cuda":
        grown = torch.cuda.max_memory_allocated() / 2**20
    return {"cpu_s": min(seconds), "wall_s": min(walls), "memory_mb": grown}


def case(kind: str, backend: str, o: argparse.Namespace, results: Any) -> None:
    """One row, in its own process."""
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    # Warm up allocator and libraries on something small, so that growth is the step's own.
    selective_scan(*inputs(1, 3, o.device), backend=backend).sum().backward()
    repeats = 1 if backend == "reference" and o.device == "cpu" else o.repeats
    if kind == "scan":
        args = inputs(o.batch, o.length, o.device)

        def step() -> None:
            selective_scan(*args, backend=backend).square().sum().backward()
    else:
        network = NETWORKS[kind](backend).to(o.device)
        channels = 36 if kind == "ME-TST+" else 10
        motion = torch.randn(o.batch, 1, channels, o.length, device=o.device)

        def step() -> None:
            spot, logits = network(motion)
            (spot.sum() + logits.square().sum()).backward()

    results.put(timed(step, repeats, o.device))


def measure(kind: str, backend: str, o: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=case, args=(kind, backend, o, results))
    process.start()
    row = results.get()
    process.join()
    return {"what": kind, "backend": backend, **{k: round(v, 3) for k, v in row.items()}}


def parity(backend: str, o: argparse.Namespace) -> float:
    """Largest relative difference of outputs and gradients from the reference, batch 2."""
    found = []
    for name in (backend, "reference"):
        args = inputs(2, o.length, o.device)
        y = selective_scan(*args, backend=name)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), args)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--networks", default="ME-TST C1,ME-TST reduced", help="comma separated")
    parser.add_argument("--backends", help="comma separated; default by device")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args(argv)
    default = "reference,fast" if o.device == "cpu" else "reference,fast,triton"
    backends = (o.backends or default).split(",")
    rows = [measure("scan", backend, o) for backend in backends]
    for row in rows:
        row["speedup"] = round(rows[0]["cpu_s"] / row["cpu_s"], 1)
        row["memory"] = round(row["memory_mb"] / max(1e-9, rows[0]["memory_mb"]), 2)
        row["parity"] = f"{parity(row['backend'], o):.1e}"
    for network in filter(None, o.networks.split(",")):
        rows.append(measure(network, backends[-1], o))
    columns = list(rows[0])
    print(f"batch {o.batch}, length {o.length}, {o.threads} threads, torch {torch.__version__}")
    print("  ".join(f"{c:>14}" for c in columns))
    for row in rows:
        print("  ".join(f"{row.get(c, '')!s:>14}" for c in columns))
    if o.json:
        o.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
