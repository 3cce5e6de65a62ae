"""How many chunks a store has: by its work, chosen once, kept with it, in no key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.align.settings import AlignConfig
from data.flow.settings import FlowConfig
from data.registration.settings import RegistrationConfig
from data.settings import Settings
from data.stages import buckets, planning, stores
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs
from data.stages.parts import PartWriter, compute_chunk
from data.stages.registry import find_stage
from tests.data.stages.test_planning import TOKEN, ToyConfig, write_videos
from tests.fakes.steps import register

VIDEOS = [f"s{i:03d}/clip" for i in range(30)]


def _list(inputs: StageInputs, config: Settings) -> Any:
    return (Unit(v.id, v.id, {"n": v.num_frames}) for v in inputs.recordings.videos.values())


def _process(unit: Unit, inputs: Any, config: Settings, part: PartWriter) -> None:
    part.group(unit.id)["x"] = [1]
    part.done(unit.id)


def _weigh(unit: Unit, frames: int, configs: Any) -> tuple[float, float]:
    return 3600.0, 1.0  # 30 of them: 30 h of one core, 120 chunks of 15 minutes


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stage = Stage("toy", 1, ("ingest",), ".h5", "video", _list, _process, weigh=_weigh)
    register(monkeypatch, stage, ToyConfig)
    write_videos(tmp_path, VIDEOS)
    return tmp_path


def do(workspace: Path, most: int | None = None, minutes: float = 15.0) -> list[str]:
    inputs = StageInputs(workspace, "d", workspace, {"toy": ToyConfig()})
    plan = planning.plan_stage(inputs, "toy")
    jobs = planning.stage_jobs(plan, TOKEN, chunk_minutes=minutes)
    for job in jobs[:most]:
        planning.publish_chunk(plan, compute_chunk(job))
    if most is None:
        planning.write_what_is_published(plan)
    return [job.part for job in jobs]


def contents(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "d" / "toy"
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "timings.parquet"}


def test_a_large_store_gets_more_chunks_and_keeps_them(workspace: Path) -> None:
    keys = StageInputs(workspace, "d", workspace, {"toy": ToyConfig()}).keys("toy")
    parts = do(workspace)
    assert max(int(part.split("-")[1]) for part in parts) >= 64 and part_width(parts) == {3}
    manifest = workspace / "d" / "toy" / "manifest.parquet"
    assert pq.read_schema(manifest).metadata[b"apexflow_chunks"] == b"128"
    write_videos(workspace, [*VIDEOS, "s999/clip"])
    [more] = do(workspace, minutes=1.0)
    assert len(more.split("-")[1]) == 3 and buckets.recorded_buckets(manifest.parent) == 128
    found = StageInputs(workspace, "d", workspace, {"toy": ToyConfig()}).keys("toy")
    assert {unit: found[unit] for unit in keys} == keys


def part_width(parts: list[str]) -> set[int]:
    return {len(part.split("-")[1]) for part in parts}


def test_a_killed_run_goes_on_to_the_same_bytes(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_videos(other, VIDEOS)
    do(other)
    do(workspace, most=5)  # no manifest was written: the parts say how many chunks there are
    assert not (workspace / "d" / "toy" / "manifest.parquet").exists()
    do(workspace, minutes=1.0)
    assert contents(workspace) == contents(other)


def test_a_small_store_has_64_and_does_not_say_so(workspace: Path) -> None:
    write_videos(workspace, VIDEOS[:12])
    assert part_width(do(workspace)) == {2}
    folder = workspace / "d" / "toy"
    assert b"apexflow_chunks" not in pq.read_schema(folder / "manifest.parquet").metadata
    assert buckets.recorded_buckets(folder) == stores.BUCKETS == 64
    assert buckets.recorded_buckets(workspace / "nothing") is None


def test_parts_of_a_million_clips_are_bounded() -> None:
    configs = {"align": AlignConfig(), "registration": RegistrationConfig(), "flow": FlowConfig()}
    unit = Unit("e", "v", {"onset": 0, "offset": 99})
    for name in configs:
        stage = find_stage(name)
        assert stage.weigh is not None
        _, size = stage.weigh(unit, 100, configs)
        million = buckets.choose(1e6 * stage.weigh(unit, 100, configs)[0], 1e6 * size, 15.0)
        assert 1e6 * size / million <= buckets.MOST_BYTES / 2
