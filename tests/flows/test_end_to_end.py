"""From folders and sheets on disk to scores and a report, killed halfway too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ci]

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--set", "train.epochs=2", "--set", "flow.size=64"]
BRIEF = ["--set", "train.epochs=2"]


def store_bytes(workspace: Path) -> dict[str, bytes]:
    """Every store file but timings and the lock."""
    return {
        str(p.relative_to(workspace)): p.read_bytes()
        for p in sorted(workspace.rglob("*"))
        if p.is_file() and p.name not in ("timings.parquet", ".lock") and "runs" not in p.parts
    }


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


@pytest.fixture(scope="module")
def clips(
    smoke: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]
) -> tuple[Path, list[str]]:
    """A finished HSTA run on the smoke clips: its workspace and the words that made it."""
    workspace = tmp_path_factory.mktemp("clips") / "ws"
    words = ["run", "demo_hsta", "-w", str(workspace), "-d", f"casme2={smoke['casme2']}"]
    cli(*words, *SMALL, "--runner", "none", "--workers", "2")
    return workspace, words


def test_clips_end_in_scores_and_one_report_file(clips: tuple[Path, list[str]]) -> None:
    workspace, _ = clips
    [run] = (workspace / "runs" / "demo_hsta").iterdir()
    predictions = pd.read_parquet(run / "predictions.parquet")
    events = pd.read_parquet(workspace / "casme2" / "ingest" / "events.parquet")
    assert sorted(predictions.event) == sorted(events.event[events.label_3.notna()])
    metrics = pd.read_parquet(run / "metrics.parquet")
    pooled = metrics[metrics.scope == "pooled"].set_index("name")
    assert {"uf1", "uar"} <= set(pooled.index) and pooled.value.between(0, 1).all()
    html = (run / "report.html").read_text()
    assert "data:image/png;base64" in html and "http://" not in html.replace("http://www.w3", "")
    split = json.loads((run / "split.json").read_text())
    assert split["people_shared"] == []


def test_a_store_opens_with_three_plain_lines(clips: tuple[Path, list[str]]) -> None:
    workspace, _ = clips
    manifest = pd.read_parquet(workspace / "casme2" / "align" / "manifest.parquet")
    part = h5py.File(workspace / "casme2" / "align" / manifest.part[0])
    crops = part[manifest.unit[0]]["crops"][:]
    assert crops.ndim in (3, 4) and crops.dtype == "uint8" and crops.mean() > 20
    part.close()


def test_second_run_touches_nothing_and_says_so(
    clips: tuple[Path, list[str]], cli: Callable[..., Any]
) -> None:
    workspace, words = clips
    before = {str(p): p.stat().st_mtime_ns for p in workspace.rglob("*") if p.name != ".lock"}
    done = cli(*words, *SMALL, "--runner", "none")
    assert "nothing to do" in done.stdout
    assert before == {
        str(p): p.stat().st_mtime_ns for p in workspace.rglob("*") if p.name != ".lock"
    }


def test_plan_predicts_what_a_changed_setting_redoes(
    clips: tuple[Path, list[str]], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    workspace, words = tmp_path / "ws", list(clips[1])
    shutil.copytree(clips[0], workspace)  # what other settings make stays beside
    words[words.index("-w") + 1] = str(workspace)
    smaller = ["--set", "train.epochs=2", "--set", "flow.size=56"]
    rows = {r["stage"]: r for r in json.loads(cli("plan", *words[1:], *smaller, "--json").stdout)}
    assert rows["align"]["fresh"] == rows["align"]["units"] == 4
    assert rows["flow"]["stale"] == 4 and "flow: size 64 → 56" in rows["flow"]["reasons"]
    assert rows["train"]["missing"] == 2, "folds of other inputs are other folds"
    align = times(workspace / "casme2" / "align")
    done = cli(*words, *smaller, "--stage", "flow", "--runner", "none", "--json")
    [record] = json.loads(done.stdout)
    assert (record["stage"], record["redone"]) == ("flow", 4)
    assert times(workspace / "casme2" / "align") == align
    done = cli(*words, *SMALL, "--runner", "none")
    assert "nothing to do" in done.stdout, "the first settings' results are all still there"


def test_deleted_part_is_redone_byte_for_byte(
    clips: tuple[Path, list[str]], cli: Callable[..., Any]
) -> None:
    workspace, words = clips
    before = store_bytes(workspace)
    next((workspace / "casme2" / "registration").glob("part-*")).unlink()
    refused = cli(*words, *SMALL, "--stage", "flow", "--runner", "none", ok=False)
    assert refused.returncode == 1 and "part missing" in refused.stderr
    cli(*words, *SMALL, "--runner", "none")
    assert store_bytes(workspace) == before


def test_kill_in_the_middle_then_a_rerun_equals_an_undisturbed_run(
    clips: tuple[Path, list[str]],
    smoke: dict[str, Path],
    tmp_path: Path,
    cli: Callable[..., Any],
) -> None:
    undisturbed, _ = clips
    workspace = tmp_path / "ws"
    words = ["run", "demo_hsta", "-w", str(workspace), "-d", f"casme2={smoke['casme2']}", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", *words, "--runner", "none", "--workers", "1"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(workspace.glob("casme2/align/part-*")) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # the process only: children must notice by themselves
    process.wait()
    align = workspace / "casme2" / "align"
    assert (
        0
        < len(list(align.glob("part-*")))
        < len(list((undisturbed / "casme2/align").glob("part-*")))
    )
    cli(*words, "--runner", "none", "--workers", "2")
    assert store_bytes(workspace) == store_bytes(undisturbed)


def test_long_videos_end_in_intervals_and_strs(
    smoke: dict[str, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    workspace = tmp_path / "ws"
    words = ["run", "demo_me_tst", "-w", str(workspace), "-d", f"samm_lv={smoke['samm_lv']}"]
    cli(*words, *BRIEF, "--runner", "none", "--workers", "2")
    [run] = (workspace / "runs" / "demo_me_tst").iterdir()
    metrics = pd.read_parquet(run / "metrics.parquet")
    assert any("strs" in name for name in metrics.name)
    assert (run / "report.html").stat().st_size > 10_000
    assert len(list(run.glob("fold-*/weights.safetensors"))) == 2
    done = cli(*words, *BRIEF, "--runner", "none")
    assert "nothing to do" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "demo_hstaa", "-w", "x"], 2, "Did you mean"),
        (["run", "demo_hsta", "-w", "x"], 2, "--data casme2="),
        (["run", "demo_hsta", "-w", "x", "-d", "casme2"], 2, "NAME=VALUE"),
        (["run", "demo_hsta", "-w", "x", "--set", "flow.sise=3"], 2, "known"),
        (["run", "demo_hsta", "-w", "x", "--stage", "motion"], 2, "one of recipe"),
        (["run", "demo_hsta", "-w", "x", "-d", "casme2=/nowhere", "--runner", "none"], 1, "folder"),
        (["check", "casme9", "."], 2, "casme2"),
        (["report", "nowhere"], 2, "recipe.json"),
        (["prune", "nowhere"], 2, "stores or runs"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    words: list[str], code: int, says: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    words = [str(tmp_path / "x") if w == "x" else w for w in words]
    done = cli(*words, ok=False)
    assert done.returncode == code, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
