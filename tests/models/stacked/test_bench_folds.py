"""The benchmark of folds at once tells what it measured; with no GPU it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import bench_folds


def test_contenders_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folds.json"
    words = ["--networks", "tiny", "--folds", "3", "--steps", "1,2", "--skip", "processes"]
    assert bench_folds.main([*words, "--json", str(out)]) == 0
    (found,) = json.loads(out.read_text())
    rows = found["rows"]
    assert list(rows) == ["plain", "solo", "fused"] and found["folds"] == 3
    assert all(row["seconds"] > 0 for row in rows.values())
    ratio = rows["plain"]["seconds"] / rows["fused"]["seconds"]
    assert rows["fused"]["against_plain"] == pytest.approx(ratio)
    told = capsys.readouterr().out
    assert (
        "auto takes solo" in told and "per process" in told and all(name in told for name in rows)
    )


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "folds.json"
    assert bench_folds.main(["--device", "cuda", "--json", str(out)]) == 0
    assert "skipped" in json.loads(out.read_text())


def test_every_case_trains_a_step() -> None:
    for name in ("hsta_cpu", "me_tst_demo"):
        bench_folds.trained(bench_folds.CASES[name], 1, torch.device("cpu"))(1)
