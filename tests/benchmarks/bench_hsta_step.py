"""HSTA's training step against an authors'-style step of the same network.

    python tests/benchmarks/bench_hsta_step.py [--device cpu|cuda] [--batch N] [--json PATH]

Authors' style: eager, softmax attention written out, keys and values projected for the one-query
exchange, fp16 autocast with a gradient scaler on a GPU (float32 on a CPU), torch's own linear maps,
AdamW looping over the tensors. Ours: fused attention, one-query exchange without projections, fused
AdamW; on a CPU oneDNN's linear maps and no work for dropped samples; on a GPU bf16 and, unless
`--no-compile`, torch.compile. Weights, batch and labels are the same.

On a CPU the default is the main setting (82 M parameters, 224 px, 6 + 2 frames) with two clips a
step instead of 32; time is CPU time of the process (all threads), medians of alternating repeats.
On a GPU: 32 clips, wall time between synchronisations, and the share of the matrix-product peak
that was measured in the same run. Both: memory per clip, which is what a step holds for its
backward pass (CPU) or its peak above weights and optimiser (GPU), and where the time goes, by
operator. Without a GPU `--device cuda` says so and does nothing.
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
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.hsta.clips import ClipBank, draw_batch
from models.hsta.input import HstaInputConfig
from models.hsta.network import HSTA, HstaConfig, create
from models.hsta.training import HstaTrainConfig, make_optimiser, parameter_groups
from models.layers import linear as onednn

GMAC_FORWARD = 44.2  # of one clip at the main setting, matrix products and convolutions
TARGETS = {"cpu": (1.3,), "cuda": (2.0, 3.0)}  # ratios to reach
PEAK_TARGET = 0.4  # of the measured bf16 matrix-product rate
TOP = 12  # operators shown


def authors_optimiser(model: HSTA, config: HstaTrainConfig) -> torch.optim.AdamW:
    """AdamW that updates tensor by tensor."""
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=1e-5, fused=False, foreach=False)


def stepper(
    kind: str, config: HstaConfig, batch: int, device: torch.device, compiled: bool, precision: str
) -> tuple[Callable[[], float], HSTA]:
    """A function that makes one training step and returns the loss."""
    torch.manual_seed(0)
    ours = kind == "ours"
    path = "fused" if ours else "plain"
    model = create(config.model_copy(update={"attention": path})).to(device).train()
    train = HstaTrainConfig()
    optimiser = make_optimiser(model, train) if ours else authors_optimiser(model, train)
    for group in optimiser.param_groups:
        group["lr"] = 1e-5 * group["scale"]
    half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    generator = torch.Generator().manual_seed(1)
    side, frames = config.image_size, config.num_frames + 2
    clip = torch.randn(batch, 3, frames, side, side, generator=generator).to(device)
    target = torch.arange(batch, device=device) % config.num_classes
    forward: Any = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast(device.type, half, enabled=half is not None):
            logits = forward(clip)
        loss = F.cross_entropy(logits.float(), target)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.detach()) if device.type == "cpu" else 0.0

    return (step if ours else without_onednn(step)), model


def without_onednn(step: Callable[[], float]) -> Callable[[], float]:
    """The same step with torch's own choice for every linear map."""

    def plain_step() -> float:
        operator = onednn._operator
        onednn._operator = lambda: None  # type: ignore[assignment]
        try:
            return step()
        finally:
            onednn._operator = operator

    return plain_step


def seconds_of(step: Callable[[], float], device: torch.device) -> tuple[float, float]:
    """(compute, wall) seconds of one step: CPU time of all threads, or the GPU's wall time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall = time.perf_counter() - wall
    return (wall if device.type == "cuda" else time.process_time() - cpu), wall


def matmul_peak(device: torch.device, size: int = 8192, repeats: int = 30) -> float:
    """Measured bf16 TFLOP/s of one large matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> float:
        torch.mm(a, b)
        return 0.0

    times = [seconds_of(multiply, device)[0] for _ in range(repeats)]
    return float(2 * size**3 / min(times) / 1e12)


def data_seconds(config: HstaConfig, batch: int, repeats: int = 5) -> float:
    """Wall seconds that one batch of colour clips takes out of the decoded frames, one thread."""
    clips, length, side = 2 * batch, 12, config.image_size
    rng = np.random.default_rng(0)
    bank = ClipBank(
        frames=rng.integers(0, 256, (clips * (length + 2), side, side, 3), dtype=np.uint8),
        start=np.arange(clips) * (length + 2),
        count=np.full(clips, length),
        special=None,
        names=tuple(map(str, range(clips))),
        labels=np.zeros(clips, np.int64),
    )
    best = float("inf")
    for _ in range(repeats):
        chosen, started = list(rng.integers(0, clips, batch)), time.perf_counter()
        draw_batch(bank, chosen, config.num_frames, HstaInputConfig(), rng)
        best = min(best, time.perf_counter() - started)
    return best


def memory_of(step: Callable[[], float], model: HSTA, device: torch.device) -> float:
    """MB of one step beyond weights, gradients' homes and optimiser state."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(kept.values()) / 2**20


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of alternating repeats of both steps, their ratio and memory."""
    device = torch.device(arguments.device)
    gpu = device.type == "cuda"
    batch = arguments.batch or (32 if gpu else 2)
    config = HstaConfig(image_size=arguments.image_size)
    precisions = {"authors": "fp16" if gpu else "fp32", "ours": arguments.precision}
    if precisions["ours"] == "auto":
        precisions["ours"] = "bf16" if gpu else "fp32"
    rows: dict[str, Any] = {}
    steps, memory = {}, {}
    times: dict[str, list[tuple[float, float]]] = {"authors": [], "ours": []}
    for kind in times:
        compiled = kind == "ours" and gpu and not arguments.no_compile
        steps[kind], model = stepper(kind, config, batch, device, compiled, precisions[kind])
        for _ in range(arguments.warmup or (5 if gpu else 1)):
            steps[kind]()
        memory[kind] = memory_of(steps[kind], model, device) / batch
    for _ in range(arguments.repeats or (20 if gpu else 5)):
        for kind, step in steps.items():
            times[kind].append(seconds_of(step, device))
    for kind in steps:
        compute = statistics.median(t[0] for t in times[kind])
        wall = statistics.median(t[1] for t in times[kind])
        rows[kind] = {
            "precision": precisions[kind],
            "seconds": compute,
            "wall_seconds": wall,
            "clips_per_second": batch / wall,
            "memory_mb_per_clip": memory[kind],
        }
    ratio = rows["authors"]["seconds"] / rows["ours"]["seconds"]
    result = {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": batch,
        "image_size": arguments.image_size,
        "repeats": len(times["ours"]),
        "steps": rows,
        "ratio": ratio,
        "data_seconds": data_seconds(config, batch),
        "targets": {f"{t:g}x": ratio >= t for t in TARGETS[device.type]},
    }
    if gpu:
        peak = matmul_peak(device)
        used = 3 * 2 * GMAC_FORWARD * 1e9 * batch / rows["ours"]["wall_seconds"] / 1e12
        result |= {"matmul_tflops": peak, "step_tflops": used, "share_of_peak": used / peak}
        result["targets"]["40 % of peak"] = used / peak >= PEAK_TARGET
    if not arguments.no_profile:
        result["profile"] = {kind: profile(step, device) for kind, step in steps.items()}
    return result


def profile(step: Callable[[], float], device: torch.device) -> list[dict[str, Any]]:
    """Where one step's time goes: the largest operators with their milliseconds and shares."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as found:
        step()
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = [(float(getattr(e, name)), e.key, e.count) for e in found.key_averages()]
    total = max(sum(us for us, _, _ in spent), 1e-9)
    return [
        {"operator": key, "ms": us / 1e3, "share": us / total, "calls": calls}
        for us, key, calls in sorted(spent, reverse=True)[:TOP]
    ]


def show_profile(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the largest operators of both steps."""
    for kind, rows in found.items():
        print(f"\n{kind}: where the step's time goes")
        for row in rows:
            share = f"{100 * row['share']:>5.1f} %"
            print(f"  {share}{row['ms']:>10.2f} ms{row['calls']:>6} x  {row['operator'][:60]}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="clips a step (32 on a GPU, 2 on a CPU)")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=0, help="20 on a GPU, 5 on a CPU")
    parser.add_argument("--warmup", type=int, default=0, help="5 on a GPU, 1 on a CPU")
    parser.add_argument("--no-profile", action="store_true")
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args(argv)
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        reason = "no CUDA GPU that this torch can use"
        print(f"skipped: {reason}")
        if arguments.json:
            arguments.json.write_text(json.dumps({"skipped": reason}))
        return 0
    result = measure(arguments)
    print(f"{'step':<10}{'precision':<11}{'s':>9}{'wall s':>9}{'clips/s':>9}{'MB/clip':>9}")
    for kind, row in result["steps"].items():
        print(
            f"{kind:<10}{row['precision']:<11}{row['seconds']:>9.3f}{row['wall_seconds']:>9.3f}"
            f"{row['clips_per_second']:>9.2f}{row['memory_mb_per_clip']:>9.0f}"
        )
    print(f"ratio {result['ratio']:.2f}x on {result['device']}, batch {result['batch']}")
    if "share_of_peak" in result:
        print(
            f"{result['step_tflops']:.0f} of {result['matmul_tflops']:.0f} measured TFLOP/s: "
            f"{100 * result['share_of_peak']:.0f} %"
        )
    print(f"data for one step, drawn ahead by one thread: {1e3 * result['data_seconds']:.1f} ms")
    for target, reached in result["targets"].items():
        print(f"target {target}: {'reached' if reached else 'missed'}")
    if "profile" in result:
        show_profile(result["profile"])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
