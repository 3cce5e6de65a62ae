"""All folds of a cross-validation: a plain loop, the best solo loop, processes, one program.

    python -m tests.benchmarks.bench_folds [--networks me_tst,hsta_cpu] [--folds 8] [--device cpu]
                                           [--steps 2,8] [--skip plain] [--json PATH]

A row is the time of one training step of every fold, and its ratio to the plain loop and to the
best solo loop. Data is noise of the network's real shape; times do not depend on what it says.

plain      fold after fold as one would write it: eager, the scan as a loop of torch operations,
           softmax attention written out, an optimiser that walks the parameters
solo       fold after fold by our plain loop (our scan, fused attention), all threads
processes  one process per core with one thread each, folds dealt out; measured while all are busy
fused      all folds as one program

A contender's seconds per step are those of a long run less those of a short one, so set-up is not
in it (CPU s: of all its processes together, which other work on the machine does not inflate);
memory is the peak of the GPU, `busy` the share of time that nvidia-smi saw it work. The last lines
say what `folds_at_once: auto` takes and how far that is from the best.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch.nn import functional as F

from models.hsta.clips import ClipBank, draw_batch, to_clip
from models.hsta.many import fit_many as fit_hsta
from models.hsta.network import HstaConfig, create
from models.hsta.training import FoldTraining as HstaFold
from models.hsta.training import HstaTrainConfig, parameter_groups
from models.layers import linear as onednn
from models.me_tst.many import fit_many
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.plus import MeTstPlus, MeTstPlusConfig
from models.me_tst.training import FoldTraining, MeTstTrainConfig, Windows, recog_loss, spot_loss
from models.stacked.choice import Trial, choose
from models.stacked.trace import Trace

CONTENDERS = ("plain", "solo", "processes", "fused")
UNIT = (1.0, 1.0, 1.0, 1.0, 1.0)
Run = Callable[[int], Any]  # steps → that many training steps of the contender's folds


@dataclass(frozen=True)
class Case:
    """A network at the size it is used at, and how it is trained."""

    network: Any
    batch: int
    k: int = 0  # frames of a window; 0: clips
    train: dict[str, Any] = field(default_factory=dict)


CASES = {
    "me_tst": Case(MeTstConfig(), 32, 30),  # first release, SAMM-LV
    "me_tst_plus": Case(MeTstPlusConfig(), 32, 30),
    "me_tst_demo": Case(MeTstConfig(dim=32, blocks=4, d_state=16), 16, 20),
    "hsta_cpu": Case(
        HstaConfig(
            special="flow",
            image_size=48,
            num_frames=4,
            num_classes=5,
            patch_size=(6, 12),
            embed_dim=(48, 48),
            num_heads=(4, 4),
            depth=(1, 1, 0),
            num_groups=2,
            head_mode=4,
            dropout=0.0,
            drop_path=0.1,
            init="width",
        ),
        32,
        train={"input": {"pixels": "motion", "level": 0.5, "augment": True}},
    ),
    "hsta_small": Case(
        HstaConfig(embed_dim=(192, 384), num_heads=(6, 6), depth=(1, 2, 0), num_classes=3), 16
    ),
    "tiny": Case(MeTstConfig(dim=8, blocks=2, d_state=2, in_channels=4), 4, 8),  # to try this out
}


def windows_of(case: Case, rows: int) -> Windows:
    """Noise of the network's shape."""
    rng, channels = np.random.default_rng(0), case.network.in_channels
    return Windows(
        rng.normal(0, 1, (rows, channels, case.k)).astype(np.float32),
        rng.integers(0, 2, (rows, case.k)).astype(np.float32),
        rng.integers(0, 5, (rows, case.k)).astype(np.int64),
    )


def bank_of(case: Case) -> ClipBank:
    """One batch of made-up clips."""
    rng, config = np.random.default_rng(0), case.network
    length, side = config.num_frames + 2, config.image_size
    special = None
    if config.special == "flow":
        special = rng.normal(0, 1, (case.batch, 2, 3, side, side)).astype(np.float32)
    return ClipBank(
        frames=rng.integers(0, 256, (case.batch * length, side, side, 3), dtype=np.uint8),
        start=np.arange(case.batch) * length,
        count=np.full(case.batch, length - 2),
        special=special,
        names=tuple(map(str, range(case.batch))),
        labels=np.arange(case.batch) % config.num_classes,
    )


def create_network(case: Case) -> Any:
    """A fresh network of the case."""
    if isinstance(case.network, HstaConfig):
        return create(case.network)
    kind = MeTstPlus if isinstance(case.network, MeTstPlusConfig) else MeTst
    return kind(case.network)


def hsta_settings(case: Case, steps: int) -> HstaTrainConfig:
    return HstaTrainConfig(
        epochs=steps + 1, batch_size=case.batch, warmup_epochs=0, resume_every=0, **case.train
    )


def trained(case: Case, folds: int, device: torch.device) -> Run:
    """Our loop over `folds` folds: the plain one for a single fold, one program for several."""
    networks = [create_network(case) for _ in range(folds)]
    if case.k:
        windows = windows_of(case, 64 * case.batch)
        settings = MeTstTrainConfig(epochs=1, batch_size=case.batch)
        ours = [FoldTraining(n, np.arange(len(windows)), seed=i) for i, n in enumerate(networks)]
        return lambda steps: fit_many(
            ours, windows, settings, device=str(device), trace=Trace(0, steps)
        )
    bank = bank_of(case)
    clips = [HstaFold(n, bank, range(case.batch), UNIT, seed=i) for i, n in enumerate(networks)]
    return lambda steps: fit_hsta(clips, hsta_settings(case, steps), device, Trace(0, steps))


def plain(case: Case, device: torch.device) -> Run:
    """A training loop as one would write it, of one fold."""
    if case.k:
        return _plain_me_tst(case, device)
    return _plain_hsta(case, device)


def _plain_me_tst(case: Case, device: torch.device) -> Run:
    reference = case.network.model_copy(update={"scan": "reference"})
    network = create_network(Case(reference, case.batch, case.k)).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, foreach=False)
    windows, weights = windows_of(case, case.batch), torch.ones(5, device=device)
    motion, spot = (torch.from_numpy(a).to(device) for a in (windows.motion, windows.spot))
    classes = torch.from_numpy(windows.classes).to(device)

    def run(steps: int) -> None:
        for _ in range(steps):
            probability, logits = network(motion[:, None])
            loss = 0.9 * spot_loss(probability, spot)
            loss = loss + 0.1 * recog_loss(logits, classes, weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()

    return run


def _plain_hsta(case: Case, device: torch.device) -> Run:
    model = create(case.network.model_copy(update={"attention": "plain"})).to(device).train()
    settings, bank = hsta_settings(case, 1), bank_of(case)
    groups = parameter_groups(model, settings)
    optimiser = torch.optim.AdamW(groups, lr=1e-5, foreach=False, fused=False)
    rng, frames = np.random.default_rng(0), case.network.num_frames

    def run(steps: int) -> None:
        with _torchs_own_linear():
            for _ in range(steps):
                order = list(rng.permutation(case.batch))
                batch = draw_batch(bank, order, frames, settings.input, rng, augment=True)
                logits = model(to_clip(batch, device, UNIT))
                loss = F.cross_entropy(logits, batch.labels.to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                loss.item()

    return run


@contextmanager
def _torchs_own_linear() -> Any:
    """Without our choice of oneDNN for linear maps on a CPU."""
    operator = onednn._operator
    onednn._operator = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        onednn._operator = operator


# ------------------------------------------------------------------------------------------ timing


def seconds_of(run: Run, steps: tuple[int, int], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one step: what a long run takes longer than a short one."""
    spent = []
    for count in steps:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started, cpu = time.perf_counter(), time.process_time()
        run(count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append((time.perf_counter() - started, time.process_time() - cpu))
    found = []
    for short, long in zip(*spent, strict=True):
        more, whole = (long - short) / (steps[1] - steps[0]), long / steps[1]
        found.append(more if more > 0.1 * whole else whole)  # else noise of a busy machine
    return found[0], found[1]


class Busy:
    """The mean utilisation that nvidia-smi reports while the block runs; NaN without one."""

    def __init__(self, device: torch.device) -> None:
        self.wanted, self.samples = device.type == "cuda", list[float]()
        self._stop = threading.Event()

    def __enter__(self) -> Busy:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.wanted:
            self._thread.join()

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._stop.wait(0.2):
            try:
                told = subprocess.run(command, capture_output=True, text=True, timeout=5)
                self.samples.append(float(told.stdout.split()[0]))
            except (OSError, ValueError, IndexError, subprocess.SubprocessError):
                return

    @property
    def percent(self) -> float:
        return float(np.mean(self.samples)) if self.samples else float("nan")


def measured(run: Run, folds: int, steps: tuple[int, int], device: torch.device) -> dict[str, Any]:
    """Seconds of a step of all folds when `run` trains `folds` of them at once."""
    run(1)  # kernels compiled, allocator filled
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with Busy(device) as busy:
        seconds, cpu = seconds_of(run, steps, device)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    found = {"seconds": seconds * folds, "cpu_seconds": cpu * folds}
    return {**found, "memory_mb": peak, "busy": busy.percent}


def _worker(name: str, steps: tuple[int, int], barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    run = trained(CASES[name], 1, device)
    run(1)
    barrier.wait()
    results.put(seconds_of(run, steps, device))


def in_processes(name: str, folds: int, steps: tuple[int, int], cores: int) -> dict[str, Any]:
    """Seconds of a step of all folds dealt out to one single-threaded process per core."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(cores), context.Queue()
    children = [
        context.Process(target=_worker, args=(name, steps, barrier, results)) for _ in range(cores)
    ]
    for child in children:
        child.start()
    walls, cpus = zip(*(results.get(timeout=600) for _ in children), strict=True)
    for child in children:
        child.join()
    rounds = folds / cores if folds >= cores else 1
    found = {"seconds": max(walls) * rounds, "cpu_seconds": sum(cpus) / cores * folds}
    return {**found, "memory_mb": None, "busy": float("nan"), "cores": cores}


def measure(name: str, o: argparse.Namespace) -> dict[str, Any]:
    """All contenders of one network."""
    case, device = CASES[name], torch.device(o.device)
    steps: tuple[int, int] = o.steps
    rows: dict[str, dict[str, Any]] = {}
    torch.manual_seed(0)
    if "plain" not in o.skip:
        few = (1, min(3, steps[1])) if device.type == "cpu" else steps
        rows["plain"] = measured(plain(case, device), o.folds, few, device)
    rows["solo"] = measured(trained(case, 1, device), o.folds, steps, device)
    if device.type == "cpu" and "processes" not in o.skip:
        rows["processes"] = in_processes(name, o.folds, steps, o.cores)
    if "fused" not in o.skip:
        rows["fused"] = measured(trained(case, o.folds, device), 1, steps, device)
    for row in rows.values():
        for other in ("plain", "solo"):
            if other in rows:
                row[f"against_{other}"] = rows[other]["seconds"] / row["seconds"]
    return {"network": name, "folds": o.folds, "rows": rows, "auto": auto_of(case, o, rows)}


def auto_of(case: Case, o: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `folds_at_once: auto` takes, and its time over the best contender's."""
    device = torch.device(o.device)

    def trial(folds: int) -> Trial:
        found = measured(trained(case, folds, device), 1, o.steps, device)
        return Trial(found["seconds"], int((found["memory_mb"] or 0) * 2**20))

    choice = choose("auto", o.folds, device, trial, max_memory_mb=o.max_gpu_memory)
    takes = "fused" if choice.at_once > 1 else "processes" if "processes" in rows else "solo"
    if takes not in rows:
        return {"takes": takes, "why": choice.why}
    best = min((row["seconds"], name) for name, row in rows.items())
    over = rows[takes]["seconds"] / best[0] - 1
    return {"takes": takes, "why": choice.why, "best": best[1], "over_best": over}


def show(found: dict[str, Any]) -> None:
    """One network's table."""
    print(f"\n{found['network']}, {found['folds']} folds")
    head = ("contender", "s a step", "CPU s", "x plain", "x solo", "MB", "busy %")
    print("".join(f"{word:>12}" for word in head))
    for name, row in found["rows"].items():
        cells = [
            f"{row['seconds']:.4f}",
            f"{row['cpu_seconds']:.4f}",
            f"{row.get('against_plain', float('nan')):.2f}",
            f"{row.get('against_solo', float('nan')):.2f}",
            "-" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}",
            "-" if row["busy"] != row["busy"] else f"{row['busy']:.0f}",
        ]
        print(f"{name:>12}" + "".join(f"{cell:>12}" for cell in cells))
    auto = found["auto"]
    print(f"auto takes {auto['takes']}: {auto['why']}")
    if "best" in auto:
        print(f"best was {auto['best']}; auto is {100 * auto['over_best']:.0f} % slower than it")


def _pair(text: str) -> tuple[int, int]:
    short, long = (int(word) for word in text.split(","))
    if not 0 < short < long:
        raise argparse.ArgumentTypeError("two numbers, the first smaller")
    return short, long


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", default="me_tst,hsta_cpu", help=", ".join(CASES))
    parser.add_argument("--folds", type=int, default=0, help="29 on a GPU, 8 on a CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=_pair, default=None, help="short,long run; 5,25 on a GPU")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-gpu-memory", type=float, default=None, help="MB")
    parser.add_argument("--skip", default="", help=f"contenders to leave out: {CONTENDERS}")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args(argv)
    gpu = o.device == "cuda"
    if gpu and not torch.cuda.is_available():
        print("skipped: no CUDA GPU that this torch can use")
        if o.json:
            o.json.write_text(json.dumps({"skipped": "no CUDA GPU"}))
        return 0
    o.folds = o.folds or (29 if gpu else 8)
    o.steps = o.steps or ((5, 25) if gpu else (1, 4))
    o.skip = o.skip.split(",")
    print(f"{o.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    results = []
    for name in o.networks.split(","):
        results.append(measure(name, o))
        show(results[-1])
        if o.json:
            o.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
