"""The stage engine on a toy stage: freshness, reasons, ledgers, damage, interruption."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.errors import InputError, MissingExtraError, StoreError, StrictError
from data.schema import conform
from data.settings import Settings
from data.stages import engine, planning, stores
from data.stages.engine import ChunkJob, ChunkResult, PartWriter, Stage, StageInputs, Unit
from data.stages.workspace import Workspace

TOKEN = "test"
VIDEOS = [f"s{i:02d}/clip" for i in range(12)]


class ToyConfig(Settings):
    """Settings of the toy stage."""

    scale: float = 1.0
    fail: tuple[str, ...] = ()


def _list(inputs: StageInputs, config: ToyConfig) -> list[Unit]:
    return [
        Unit(v, v, inputs.key("toy", STAGE.version, config, i))
        for v, i in zip(inputs.videos.video, inputs.videos.identity, strict=True)
    ]


def _process(unit: Unit, inputs: StageInputs, config: ToyConfig, part: PartWriter) -> None:
    part.group(unit.id)["x"] = np.arange(4) * config.scale
    if unit.id in config.fail:
        raise InputError(unit.id, expected="luck", got="none", code="no_luck")
    if unit.id == "s11/clip" and config.scale == 13:
        raise ZeroDivisionError("boom")
    part.done(unit.id, values=np.int64(4))


STAGE = Stage("toy", 1, ("ingest",), ".h5", "video", _list, _process)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = ModuleType("data.toy.stage")
    module.STAGE = STAGE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "data.toy.stage", module)
    monkeypatch.setattr(engine, "UNIT_STAGES", ("toy",))
    write_videos(tmp_path, VIDEOS)
    return tmp_path


def write_videos(workspace: Path, videos: list[str]) -> None:
    table = pd.DataFrame(
        {
            "dataset": "d",
            "video": videos,
            "identity": [v + "!" for v in videos],
            "fps": 100.0,
            "num_frames": 4,
            "provided_crop": False,
            "show_faces": True,
        }
    )
    stores.write_table(conform(table, "videos"), workspace / "d" / "ingest" / "videos.parquet")


def inputs(workspace: Path, **settings: Any) -> StageInputs:
    return StageInputs(workspace, "d", workspace, {"toy": ToyConfig(**settings)})


def run(workspace: Path, **settings: Any) -> planning.StagePlan:
    return planning.run_stage(inputs(workspace, **settings), "toy", TOKEN)


def contents(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "d" / "toy"
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "timings.parquet"}


def test_second_run_does_nothing(workspace: Path) -> None:
    assert len(run(workspace).todo) == len(VIDEOS)
    before = {p: p.stat().st_mtime_ns for p in (workspace / "d" / "toy").iterdir()}
    assert run(workspace).todo == []
    assert before == {p: p.stat().st_mtime_ns for p in (workspace / "d" / "toy").iterdir()}
    with stores.StageStore(workspace, "d", "toy").open("s03/clip") as group:
        assert group["x"][:].tolist() == [0, 1, 2, 3]
        assert group.attrs["unit"] == "s03/clip"


def test_reasons_are_said_in_words(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(workspace)
    plan = planning.plan_stage(inputs(workspace, scale=2.0), "toy")
    assert set(plan.reasons.values()) == {"toy: scale 1.0 → 2.0"}
    newer = Stage("toy", 2, ("ingest",), ".h5", "video", _list, _process)
    monkeypatch.setattr(sys.modules["data.toy.stage"], "STAGE", newer)
    monkeypatch.setattr(sys.modules[__name__], "STAGE", newer)
    plan = planning.plan_stage(inputs(workspace), "toy")
    assert set(plan.reasons.values()) == {"stage version 1 → 2"}


def test_deleted_part_redoes_that_part_only_and_gives_the_same_bytes(workspace: Path) -> None:
    run(workspace)
    before = contents(workspace)
    victim = sorted(n for n in before if n.startswith("part-"))[0]
    (workspace / "d" / "toy" / victim).unlink()
    plan = planning.plan_stage(inputs(workspace), "toy")
    assert 0 < len(plan.reasons) < len(VIDEOS) and set(plan.reasons.values()) == {"part missing"}
    run(workspace)
    assert contents(workspace) == before


def test_new_video_touches_no_old_part(workspace: Path) -> None:
    run(workspace)
    before = contents(workspace)
    write_videos(workspace, [*VIDEOS, "s99/clip"])
    assert [u.id for u in run(workspace).todo] == ["s99/clip"]
    after = contents(workspace)
    assert {n: b for n, b in after.items() if n in before and n.startswith("part-")} == {
        n: b for n, b in before.items() if n.startswith("part-")
    }


def test_removed_video_leaves_the_manifest_and_its_part(workspace: Path) -> None:
    run(workspace)
    write_videos(workspace, VIDEOS[:3])
    run(workspace)
    assert sorted(stores.StageStore(workspace, "d", "toy").units()) == VIDEOS[:3]
    live = set(stores.read_manifest(workspace / "d" / "toy").part)
    assert {p.name for p in (workspace / "d" / "toy").glob("part-*")} == live


def test_failed_units_become_ledger_rows_and_the_rest_goes_on(workspace: Path) -> None:
    plan = run(workspace, fail=("s02/clip",), scale=13)
    assert len(plan.units) == len(VIDEOS)
    store = stores.StageStore(workspace, "d", "toy")
    ledger = stores.read_ledger(store.folder).set_index("unit")
    assert ledger.reason.to_dict() == {"s02/clip": "no_luck", "s11/clip": "unexpected_error"}
    assert "boom" in ledger.detail["s11/clip"] and set(ledger.action) == {"dropped"}
    assert len(store.units()) + len(ledger) == len(VIDEOS)
    again = planning.plan_stage(inputs(workspace, fail=("s02/clip",), scale=13), "toy")
    assert not again.todo and set(again.failed) == {"s02/clip", "s11/clip"}


def test_strict_stops_at_the_first_failure(workspace: Path) -> None:
    with pytest.raises(StrictError, match="no_luck"):
        planning.run_stage(inputs(workspace, fail=("s02/clip",)), "toy", TOKEN, strict=True)


def test_interrupted_run_ends_with_the_same_bytes(workspace: Path, tmp_path: Path) -> None:
    run(workspace)
    whole = contents(workspace)
    for path in (workspace / "d" / "toy").iterdir():
        path.unlink()

    def dies_after_three(jobs: list[ChunkJob]) -> Iterator[ChunkResult]:
        for number, job in enumerate(jobs):
            if number == 3:
                job.temporary.write_bytes(b"half a part")
                raise KeyboardInterrupt
            yield engine.compute_chunk(job)

    with pytest.raises(KeyboardInterrupt):
        planning.run_stage(inputs(workspace), "toy", TOKEN, mapper=dies_after_three)
    assert len(stores.read_manifest(workspace / "d" / "toy")) >= 3
    with Workspace(workspace).lock():  # the next run sweeps the half part
        plan = run(workspace)
    assert 0 < len(plan.todo) < len(VIDEOS)
    assert contents(workspace) == whole


def test_order_of_completion_does_not_change_bytes(workspace: Path) -> None:
    run(workspace)
    forward = contents(workspace)
    for path in (workspace / "d" / "toy").iterdir():
        path.unlink()
    planning.run_stage(
        inputs(workspace), "toy", TOKEN, mapper=lambda jobs: map(engine.compute_chunk, jobs[::-1])
    )
    assert contents(workspace) == forward


def test_altered_part_is_found_by_time_or_by_verify(workspace: Path) -> None:
    run(workspace)
    part = next((workspace / "d" / "toy").glob("part-*"))
    stat = part.stat()
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(raw)
    assert set(planning.plan_stage(inputs(workspace), "toy").reasons.values()) == {"digest differs"}
    import os

    os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # behind our back
    assert not planning.plan_stage(inputs(workspace), "toy").reasons
    assert planning.plan_stage(inputs(workspace), "toy", verify=True).reasons


@pytest.mark.parametrize("how", ["truncated", "other columns", "removed"])
@pytest.mark.parametrize("table", ["manifest", "ledger"])
def test_a_stage_whose_books_are_damaged_is_redone_with_the_same_bytes(
    workspace: Path, table: str, how: str
) -> None:
    run(workspace, fail=("s03/clip",))
    before = contents(workspace)
    path = workspace / "d" / "toy" / f"{table}.parquet"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif how == "other columns":
        stores.write_table(pd.DataFrame({"x": [1]}), path)
    else:
        path.unlink()
    reasons = planning.plan_stage(inputs(workspace, fail=("s03/clip",)), "toy").reasons
    word = "missing" if how == "removed" else "damaged"
    expected = "missing" if (table, how) == ("manifest", "removed") else f"{table} {word}"
    assert set(reasons.values()) == {expected} and len(reasons) == len(VIDEOS)
    run(workspace, fail=("s03/clip",))
    assert contents(workspace) == before


def test_damaged_timings_are_only_news(workspace: Path) -> None:
    run(workspace)
    (workspace / "d" / "toy" / "timings.parquet").write_bytes(b"PAR1")
    assert planning.plan_stage(inputs(workspace), "toy").reasons == {}


def test_damaged_upstream_part_is_set_aside_not_recorded(workspace: Path) -> None:
    run(workspace)
    source = inputs(workspace)
    part = next((workspace / "d" / "toy").glob("part-*"))
    unit = stores.read_manifest(part.parent).set_index("part").unit[part.name]
    part.write_bytes(b"\0" * part.stat().st_size)
    with pytest.raises(StoreError), planning.quarantining(source), source.open("toy", unit):
        pass
    assert not part.exists() and part.with_name(f"damaged-{part.name}").exists()
    assert set(planning.plan_stage(source, "toy").reasons.values()) == {"part missing"}


def test_missing_extra_fails_the_stage_instead_of_every_unit(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_dlib(unit: Unit, inputs: StageInputs, config: ToyConfig, part: PartWriter) -> None:
        raise MissingExtraError("faces", expected="dlib", got="none", todo="pip install dlib-bin")

    stage = Stage("toy", 1, ("ingest",), ".h5", "video", _list, needs_dlib)
    monkeypatch.setattr(sys.modules["data.toy.stage"], "STAGE", stage)
    with pytest.raises(MissingExtraError, match="dlib"):
        run(workspace)
    assert stores.read_manifest(workspace / "d" / "toy").empty
