"""The step benchmark's own arithmetic: skipping without a GPU, memory, where time goes."""

from __future__ import annotations

import json

import pytest
import torch

from models.hsta.network import HstaConfig
from tests.benchmarks import bench_hsta_step as bench

CPU = torch.device("cpu")
TINY = HstaConfig(
    image_size=32, patch_size=(8, 16), embed_dim=(16, 32), num_heads=(2, 4), num_groups=1
)


def test_without_a_gpu_it_says_so_and_succeeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "x.json"
    assert bench.main(["--device", "cuda", "--json", str(path)]) == 0
    assert "skipped: no CUDA GPU" in capsys.readouterr().out
    assert "CUDA" in json.loads(path.read_text())["skipped"]


def test_memory_counts_what_a_step_keeps_and_not_its_weights():
    megabytes = {}
    for kind in ("authors", "ours"):
        for batch in (2, 4):
            step, model = bench.stepper(kind, TINY, batch, CPU, False, "fp32")
            megabytes[kind, batch] = bench.memory_of(step, model, CPU)
    for kind in ("authors", "ours"):
        assert megabytes[kind, 4] == pytest.approx(2 * megabytes[kind, 2], rel=0.3)
    assert 0 < megabytes["ours", 4] < megabytes["authors", 4]  # no softmax matrices


def test_the_table_names_targets_memory_and_operators(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "HstaConfig", lambda image_size: TINY)
    path = tmp_path / "x.json"
    assert bench.main(["--device", "cpu", "--repeats", "1", "--json", str(path)]) == 0
    shown, found = capsys.readouterr().out, json.loads(path.read_text())
    assert "target 1.3x" in shown and "data for one step" in shown
    assert set(found["targets"]) == {"1.3x"} and found["data_seconds"] > 0
    for kind in ("authors", "ours"):
        assert found["steps"][kind]["memory_mb_per_clip"] > 0
        top = found["profile"][kind]
        assert [r["ms"] for r in top] == sorted((r["ms"] for r in top), reverse=True)
        assert sum(r["share"] for r in top) <= 1 + 1e-9
