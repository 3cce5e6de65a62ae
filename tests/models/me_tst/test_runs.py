"""ME-TST's published recipes, made small, from synthetic videos to scores through the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from data.synthetic import write_dataset
from models.runs.files import RunFiles

SIDES = ("test", "train")
SUBJECT = {"casme3": "/", "samm_lv": "_"}  # what ends the subject in a video's name
ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    "model.dim": "16",
    "model.blocks": "2",
    "model.d_state": "8",
    "train.epochs": "2",
    "train.max_lr": "0.003",
    "train.batch_size": "16",
    "decode.draws": "20",
}


def flows(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["casme3", "samm_lv"])
def test_a_published_recipe_runs_leaving_one_subject_out(dataset: str, tmp_path: Path) -> None:
    data = write_dataset(dataset, tmp_path / "data", preset="smoke", seed=1, subjects=3, workers=1)
    words = ["run", f"me_tst_{dataset}", "-w", str(tmp_path / "ws"), "-d", f"{dataset}={data}"]
    words += ["--runner", "none", "--workers", "1", "--device", "cpu"]
    words += [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    flows(*words)
    (folder,) = (tmp_path / "ws" / "runs" / f"me_tst_{dataset}").iterdir()
    run = RunFiles(folder)
    assert len(run.folds) == 3
    for fold in run.folds:
        sides = run.split["folds"][fold.name]
        tested, trained = ({str(v).split(SUBJECT[dataset])[0] for v in sides[x]} for x in SIDES)
        assert len(tested) == 1 and len(trained) == 2 and not tested & trained
        found = pd.read_parquet(fold / "predictions.parquet")
        assert set(found.video) <= set(sides["test"])
    table = run.metrics()
    scopes = set(table.scope)
    assert {"pooled", "variant:clean protocol", "baseline:thresholded motion"} <= scopes
    assert {f"megc:{dataset} {kind}" for kind in ("micro", "macro", "overall")} <= scopes
    assert sum(scope.startswith("fold:") for scope in scopes) == 3
    assert "nothing to do" in flows(*words)
