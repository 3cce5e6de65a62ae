"""The command `decode`: a finished run's curves under other decoders, in words, JSON and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from data.stages.workspace import Workspace
from tests.fakes.fabricated_run import (
    write_clip_stores,
    write_hsta_run,
    write_ingest,
    write_me_tst_run,
    write_motion_store,
)

Decode = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    events = write_ingest(workspace, "samm_lv", kind="long", frames=240, subjects=3, per_subject=1)
    write_motion_store(workspace, "samm_lv", sorted(set(events.video)))
    return write_me_tst_run(workspace, expected="published: spotting F1 0.2167")


@pytest.fixture
def decode() -> Decode:
    """The command in this process: the same words and exit codes, without a second start."""
    from flows.cli import app

    return lambda *words: CliRunner().invoke(app, ["decode", *map(str, words)])


def test_a_run_is_decoded_without_training(run: Path, decode: Decode) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    done = decode(run)
    assert done.exit_code == 0, done.output
    for word in ("native", "height", "k_p", "nested", "one_to_one", "soft", "greedy", "0.2167"):
        assert word in done.output
    assert {p: p.stat().st_mtime_ns for p in before} == before, "the run is only read"
    table = pd.read_csv(run / "decoders" / "decoders.csv")
    metrics = pd.read_parquet(run / "metrics.parquet")
    scored = metrics[(metrics.scope == "pooled") & (metrics.name == "spotting_f1")].value.iloc[0]
    assert table.kind[0] == "native" and table.value[0] == pytest.approx(scored)
    page = (run / "decoders" / "decoders.html").read_text()
    assert "data:image/svg+xml" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "flattering" in page


def test_json_and_a_folder_of_ones_own(run: Path, decode: Decode, tmp_path: Path) -> None:
    done = decode(run, "--kind", "height", "--by", "strs", "--out", tmp_path / "x", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [(r["kind"], r["how"]) for r in told["rows"]] == [
        ("native", "as set"), ("height", "nested"), ("height", "best"),
    ]  # fmt: skip
    assert told["objective"] == "strs" and told["people"] == 3
    assert sum(told["rows"][1]["decoders"].values()) == 3
    assert (tmp_path / "x" / "decoders.csv").exists()


def test_what_cannot_be_decoded_is_refused_in_words(
    run: Path, decode: Decode, tmp_path: Path
) -> None:
    copy = tmp_path / "ws" / run.relative_to(run.parents[2])
    shutil.copytree(run, copy)
    curves = next(copy.glob("fold-*/curves.h5"))
    curves.write_bytes(curves.read_bytes()[:-1] + b"x")
    done = decode(copy)
    assert done.exit_code == 1 and curves.parent.name in done.output
    assert decode(run, "--kind", "heigth").exit_code == 2
    workspace = Workspace(tmp_path / "clips")
    write_clip_stores(workspace, "casme2", write_ingest(workspace, "casme2"))
    done = decode(write_hsta_run(workspace))
    assert done.exit_code == 2 and "no curves" in done.output


def test_prune_leaves_the_views_alone(run: Path, decode: Decode) -> None:
    from flows.runs.pruning import prune

    assert decode(run, "--kind", "height").exit_code == 0
    assert not [r for r in prune(run.parents[2], delete=False) if "decoders" in str(r)]
