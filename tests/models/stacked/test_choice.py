"""How many folds at once: the cost model, the memory bound, the words, the packs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from models.stacked.choice import Trial, choose, cut_packs, fit_model, measure

CPU = torch.device("cpu")
MB = 2**20


def trials(launches: float, work: float, base: int, each: int) -> tuple[Trial, Trial, Trial]:
    return tuple(  # type: ignore[return-value]
        Trial(launches + n * work, (base + n * each) * MB) for n in (1, 2, 4)
    )


def test_a_step_of_launches_takes_all_folds_at_once() -> None:
    choice = fit_model("auto", 29, *trials(10e-3, 0.1e-3, 100, 50), limit=10_000 * MB)
    assert choice.at_once == 29 and choice.side_by_side == 1
    assert "29 of 29" in choice.why and "1550 of 10000 MB" in choice.why
    assert "293 ms" in choice.why and "13 ms" in choice.why and "22.7 times" in choice.why


def test_memory_bounds_it_and_packs_are_of_one_size() -> None:
    choice = fit_model("auto", 29, *trials(10e-3, 0.1e-3, 100, 50), limit=1_200 * MB)
    assert choice.at_once == 15  # 22 would fit: two packs either way
    asked = fit_model(29, 29, *trials(10e-3, 0.1e-3, 100, 50), limit=1_200 * MB)
    assert asked.at_once == 22 and "(of 29 asked for)" in asked.why
    fits = fit_model(7, 29, *trials(10e-3, 0.1e-3, 100, 50), limit=1_200 * MB)
    assert fits.at_once == 7 and "asked" not in fits.why


def test_a_step_of_arithmetic_stays_alone_and_several_share_the_device() -> None:
    choice = fit_model("auto", 29, *trials(0.1e-3, 30e-3, 100, 900), limit=4_500 * MB)
    assert choice.at_once == 1 and choice.side_by_side == 3 and "arithmetic" in choice.why
    # 1000 MB, and 1000 with CUDA's own 600 for each of the others


def test_nothing_fits_but_one() -> None:
    choice = fit_model("auto", 29, *trials(10e-3, 0.1e-3, 100, 50), limit=160 * MB)
    assert choice.at_once == 1 and choice.side_by_side == 1


def never(folds: int) -> Trial:
    raise AssertionError("nothing is tried on a CPU")


@pytest.mark.parametrize(
    ("wanted", "folds", "stackable", "at_once", "side", "word"),
    [
        ("auto", 29, True, 1, 8, "one fold per process"),
        (4, 29, True, 4, 8, "4 folds at once, as set"),
        (40, 29, True, 29, 8, "29 folds"),
        (4, 29, False, 1, 8, "no form"),
        ("auto", 1, True, 1, 8, "one fold"),
    ],
)
def test_on_a_cpu(
    wanted: int | str, folds: int, stackable: bool, at_once: int, side: int, word: str
) -> None:
    choice = choose(wanted, folds, CPU, never, stackable=stackable, cores=8)  # type: ignore[arg-type]
    assert (choice.at_once, choice.side_by_side) == (at_once, side) and word in choice.why


def test_on_a_gpu_the_bound_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def trial(folds: int) -> Trial:
        tried.append(folds)
        return Trial(10e-3 + folds * 0.1e-3, (100 + folds * 50) * MB)

    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (9_000 * MB, 10_000 * MB))
    assert choose("auto", 29, cuda, trial).at_once == 29
    bounded = choose("auto", 29, cuda, trial, max_memory_mb=1_000)
    assert bounded.at_once == 15 and "of 850 MB" in bounded.why
    tried.clear()
    assert choose(1, 29, cuda, trial).at_once == 1 and not tried

    def too_large(folds: int) -> Trial:
        if folds > 1:
            raise torch.OutOfMemoryError
        return Trial(1.0, 3_000 * MB)

    alone = choose("auto", 29, cuda, too_large)
    assert alone.at_once == 1 and alone.side_by_side == 2 and "do not fit" in alone.why


def test_packs_hold_every_job_once_and_like_sizes_together() -> None:
    sizes = np.random.default_rng(0).integers(1, 100, 29).tolist()
    jobs = [f"{number}:{size}" for number, size in enumerate(sizes)]
    packs = cut_packs(jobs, 10, lambda job: int(job.split(":")[1]))
    assert sorted(len(p) for p in packs) == [9, 10, 10]
    assert sorted(job for pack in packs for job in pack) == sorted(jobs)
    spans = sorted(
        (min(int(j.split(":")[1]) for j in p), max(int(j.split(":")[1]) for j in p)) for p in packs
    )
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert [p[0] for p in packs] == sorted((p[0] for p in packs), key=jobs.index)
    assert cut_packs(jobs, 1, len) == [[job] for job in jobs]


def test_a_trial_counts_steps_not_the_set_up() -> None:
    made = []
    found = measure(made.append, CPU)
    assert made == [2, 2, 12] and found.seconds > 0 and found.bytes == 0
