"""A run shown by a real Prefect server whose jobs real Dask workers do, one of them killed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("distributed")

from tests.fakes.dask_cluster import DaskCluster
from tests.fakes.prefect_server import Server, until

pytestmark = pytest.mark.slow
TRAINED = ("weights.safetensors", "predictions.parquet")
SETTINGS = ("--set", "train.epochs=2", "--set", "flow.size=64")


def test_prefect_shows_the_chunks_of_a_dask_run_and_its_bytes_are_those_of_a_local_one(
    server: Server, cli: Callable[..., Any], smoke: dict[str, Path], tmp_path: Path
) -> None:
    words = ("run", "demo_hsta", "-d", f"casme2={smoke['casme2']}", *SETTINGS)
    cli(*words, "-w", str(tmp_path / "here"), "--runner", "none", timeout=900)
    cluster = DaskCluster(tmp_path / "cluster")
    try:
        for _ in range(2):
            cluster.add_worker()
        run = server.start(
            *words, "-w", str(tmp_path / "there"), "--runner", "prefect",
            "--scheduler", str(cluster.file),
        )  # fmt: skip
        until(lambda: any("align" in t["name"] for t in server.tasks("RUNNING")), "align", 400)
        psutil.Process(cluster.workers[0].pid).kill()
        told, _ = run.communicate(timeout=900)
        assert run.returncode == 0, told
    finally:
        cluster.close()
    assert "Traceback" not in told
    mine = {"tags": {"all_": ["workspace:there"]}}
    top = [r for r in server.runs(**mine) if r["name"].startswith("full-")]
    assert [r["state_type"] for r in top] == ["COMPLETED"]
    names = {t["name"] for t in server.tasks("COMPLETED")}
    for stage in ("ingest", "align", "registration", "apex", "flow", "train"):
        assert any(re.search(rf"\b{stage}\b", name) for name in names), (stage, names)
    for folder in ("align", "registration", "apex", "flow", "ingest"):
        for path in (tmp_path / "here" / "casme2" / folder).iterdir():
            if path.name.startswith((".", "timings")):
                continue
            other = tmp_path / "there" / "casme2" / folder / path.name
            assert other.read_bytes() == path.read_bytes(), path.name
    [here] = (tmp_path / "here" / "runs" / "demo_hsta").iterdir()
    there = tmp_path / "there" / "runs" / "demo_hsta" / here.name
    weights = sorted(p.relative_to(here) for p in here.rglob("fold-*/*") if p.name in TRAINED)
    assert weights and all((there / w).read_bytes() == (here / w).read_bytes() for w in weights)
