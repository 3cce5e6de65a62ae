"""A training process killed without warning, then started again: the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
TRAIN = """
import sys, torch
from pathlib import Path
from models.fitting import save_weights
from tests.fakes.hsta_small import QUICK, SMALL
from models.hsta.network import create
from models.hsta.many import fit
from tests.models.hsta.test_training import motion_bank
folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
bank = motion_bank()
torch.manual_seed(0)
model = create(SMALL)
config = QUICK.model_copy(update={"epochs": epochs, "resume_every": 2, "accumulate": 2})
fit(model, bank, range(24), config, seed=3, device=torch.device("cpu"),
    scale=bank.scale(range(24)), resume=folder / "state.safetensors",
    progress=lambda share, text: print(text, flush=True))
save_weights(model, folder / "weights.safetensors")
"""
EPOCHS = 120


def start(folder):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(folder), str(EPOCHS)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def epochs_of(output):
    """Numbers of the epochs a process reported."""
    return [int(line.split("epoch ")[1].split("/")[0]) for line in output.splitlines()]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path):
    whole = start(tmp_path / "whole")
    reported = epochs_of(whole.communicate(timeout=300)[0])
    assert whole.returncode == 0 and reported == list(range(1, EPOCHS + 1))
    cut, at = tmp_path / "cut", []
    for _ in range(2):
        process = start(cut)
        first = process.stdout.readline()  # it trains
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        at += epochs_of(first + process.communicate()[0])[-1:]
    assert process.returncode == -signal.SIGKILL and 0 < at[0] < at[1] < EPOCHS
    last = start(cut)
    rest = epochs_of(last.communicate(timeout=300)[0])
    assert last.returncode == 0 and 1 < rest[0] <= at[1] + 1  # it went on, not from the start
    ends = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
