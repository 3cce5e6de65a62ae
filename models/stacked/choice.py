"""How many folds to train as one program: from measured steps and memory, said in words.

A step of n folds takes about launches + n · work: the launches do not grow with n, so on a GPU,
where a small network's step is mostly launches, folds are nearly free until the work shows. Both
terms and the bytes of a fold are measured with a few real steps of made-up data. On a CPU nothing
is saved (arithmetic bounds a step: tests/benchmarks/bench_folds.py); there folds belong in
processes.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from models.layers.choices import FoldsAtOnce

MARGIN = 0.85  # of the memory a choice may plan with: allocators round up and fragment
PROCESS_BYTES = 600 << 20  # what CUDA itself takes for each process beside the first
LEAST_GAIN = 1.1  # a program of all folds that is not this much faster is not worth its memory
TRIED = (2, 4)  # folds of the trial steps that tell launches from work
STEPS = (2, 12)  # steps of a short and a long trial: what they differ by has no set-up in it
MEGABYTE = 2**20

Job = TypeVar("Job")


@dataclass(frozen=True)
class Trial:
    """One trial: seconds of a step, and the most bytes of the device that were in use."""

    seconds: float
    bytes: int


@dataclass(frozen=True)
class Packing:
    """Folds per program, and beside how many others a program may run on the device."""

    at_once: int
    side_by_side: int
    why: str


def choose(
    wanted: FoldsAtOnce,
    folds: int,
    device: torch.device,
    trial: Callable[[int], Trial],
    *,
    stackable: bool = True,
    max_memory_mb: float | None = None,
    cores: int | None = None,
) -> Packing:
    """Decide for `folds` folds of one network.

    `wanted`: the setting train.folds_at_once. `trial(n)` makes a few steps with n folds and raises
    torch.OutOfMemoryError where they do not fit. `max_memory_mb`: of the GPU, never to be exceeded;
    default all that is free. An explicit number is lowered to what fits, and that is said.
    """
    cores = cores or os.cpu_count() or 1
    if folds < 2 or not stackable:
        what = "one fold" if folds < 2 else "this network has no form for several folds"
        return Packing(1, cores if device.type == "cpu" else 1, f"one fold at a time: {what}")
    if device.type == "cpu":
        if wanted != "auto":
            return Packing(min(wanted, folds), cores, f"{min(wanted, folds)} folds at once, as set")
        why = "one fold per process: a CPU does no less work for all folds in one program"
        return Packing(1, cores, why)
    if wanted == 1:
        return Packing(1, 1, "one fold at a time, as set")
    return _choose_on_gpu(wanted, folds, device, trial, max_memory_mb)


def _choose_on_gpu(
    wanted: FoldsAtOnce,
    folds: int,
    device: torch.device,
    trial: Callable[[int], Trial],
    max_memory_mb: float | None,
) -> Packing:
    free, whole = torch.cuda.mem_get_info(device)
    limit = MARGIN * min(free, (max_memory_mb or whole / MEGABYTE) * MEGABYTE)
    alone = trial(1)
    try:
        two, more = (trial(n) for n in TRIED)
    except torch.OutOfMemoryError:
        why = f"one fold at a time: {TRIED[1]} at once do not fit"
        return Packing(1, _beside(alone, folds, limit), why)
    return fit_model(wanted, folds, alone, two, more, limit)


def fit_model(
    wanted: FoldsAtOnce, folds: int, alone: Trial, two: Trial, more: Trial, limit: float
) -> Packing:
    """The choice that trials of one fold and of TRIED at once lead to, under `limit` bytes."""
    low, high = TRIED
    each = max(1.0, (more.bytes - two.bytes) / (high - low))
    base = max(0.0, two.bytes - low * each)
    most = max(1, min(folds, int((limit - base) // each)))
    work = max(0.0, (more.seconds - two.seconds) / (high - low))
    launches = max(0.0, two.seconds - low * work)

    def total(n: int) -> float:
        """Seconds of one step of every fold, n at once."""
        packs = -(-folds // n)
        return folds * alone.seconds if n == 1 else packs * launches + folds * work

    best = min(range(1, most + 1), key=total) if wanted == "auto" else min(wanted, most)
    packs = -(-folds // best)
    best = -(-folds // packs) if wanted == "auto" else best  # packs of one size
    gain = folds * alone.seconds / max(total(best), 1e-12)
    if best == 1 or (wanted == "auto" and gain < LEAST_GAIN):
        beside = _beside(alone, folds, limit)
        why = f"one fold at a time, up to {beside} side by side: a step is bound by its arithmetic"
        return Packing(1, beside, why)
    size = (base + best * each) / MEGABYTE
    lowered = "" if wanted == "auto" or wanted <= most else f" (of {wanted} asked for)"
    why = (
        f"{best} of {folds} folds at once{lowered}: {size:.0f} of {limit / MEGABYTE:.0f} MB, "
        f"a step of all folds in about {_milliseconds(total(best))} instead of "
        f"{_milliseconds(folds * alone.seconds)} ({gain:.1f} times as fast)"
    )
    return Packing(best, 1, why)


def _beside(alone: Trial, folds: int, limit: float) -> int:
    """How many processes that train one fold each fit under `limit` bytes."""
    more = (limit - alone.bytes) // (alone.bytes + PROCESS_BYTES)
    return max(1, min(folds, 1 + int(more)))


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"


def measure(run: Callable[[int], None], device: torch.device) -> Trial:
    """Time and memory of a training; `run(steps)` makes that many steps of it from the start."""
    cuda = device.type == "cuda"
    run(STEPS[0])  # kernels are compiled, the allocator is filled
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    spent = []
    for steps in STEPS:
        started = time.perf_counter()
        run(steps)
        if cuda:
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) if cuda else 0
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
    more, whole = (spent[1] - spent[0]) / (STEPS[1] - STEPS[0]), spent[1] / STEPS[1]
    return Trial(more if more > 0.1 * whole else whole, peak)  # else noise of a busy machine


def cut_packs(jobs: Sequence[Job], at_once: int, size: Callable[[Job], int]) -> list[list[Job]]:
    """Jobs in packs of at most `at_once`, those of like size together so that few rows are padding.

    Packs are of one size as far as that goes, and in the jobs' order by their first member.
    """
    if at_once == 1:
        return [[job] for job in jobs]
    place = {id(job): number for number, job in enumerate(jobs)}
    count = -(-len(jobs) // at_once)
    ordered = sorted(jobs, key=lambda job: (size(job), place[id(job)]))
    ends = [len(jobs) * (n + 1) // count for n in range(count)]
    packs = [ordered[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    inside = [sorted(pack, key=lambda job: place[id(job)]) for pack in packs]
    return sorted(inside, key=lambda pack: place[id(pack[0])])
