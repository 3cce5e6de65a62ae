"""Stages as steps, on a toy stage: freshness, reasons, variants, ledgers, damage, interruption."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from pydantic import Field

from data.errors import InputError, MissingExtraError, StoreError, StrictError
from data.schema import conform
from data.settings import ASIDE, Settings
from data.stages import limits, planning, stores
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import ChunkJob, ChunkResult, PartWriter, compute_chunk
from data.stages.workspace import Workspace
from tests.fakes.steps import register

TOKEN = "test"
VIDEOS = [f"s{i:02d}/clip" for i in range(12)]


class ToyConfig(Settings):
    """Settings of the toy stage."""

    scale: float = 1.0
    fail: tuple[str, ...] = ()
    threads: int = Field(1, json_schema_extra=ASIDE)


class NewerToyConfig(ToyConfig):
    """The same a release later: one option more, whose default means "as before"."""

    sharpen: float = 0.0


def _list(inputs: StageInputs, config: ToyConfig) -> Iterator[Unit]:
    for video in inputs.recordings.videos.values():
        yield Unit(video.id, video.id, {"identity": video.identity})


def _process(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
    part.group(unit.id)["x"] = np.arange(4) * config.scale
    if unit.id in config.fail:
        raise InputError(unit.id, expected="luck", got="none", code="no_luck")
    if unit.id == "s11/clip" and config.scale == 13:
        raise ZeroDivisionError("boom")
    part.done(unit.id, values=np.int64(4))


def toy(version: int = 1, process: Any = _process, name: str = "toy", **more: Any) -> Stage:
    facts: dict[str, Any] = {"needs": ("ingest",), "list_units": _list, **more}
    return Stage(name, version, suffix=".h5", unit_kind="video", process=process, **facts)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    return register(monkeypatch, toy(), ToyConfig)


@pytest.fixture
def workspace(tmp_path: Path, module: Any) -> Path:
    write_videos(tmp_path, VIDEOS)
    return tmp_path


def write_videos(workspace: Path, videos: list[str], **changed: str) -> None:
    table = pd.DataFrame(
        {
            "dataset": "d",
            "video": videos,
            "identity": [changed.get(v.replace("/", "_"), v + "!") for v in videos],
            "fps": 100.0,
            "num_frames": 4,
            "provided_crop": False,
            "show_faces": True,
        }
    )
    stores.write_table(conform(table, "videos"), workspace / "d" / "ingest" / "videos.parquet")


def inputs(workspace: Path, kind: type[ToyConfig] = ToyConfig, **settings: Any) -> StageInputs:
    return StageInputs(workspace, "d", workspace, {"toy": kind(**settings)})


def run(workspace: Path, **settings: Any) -> Any:
    return planning.run_stage(inputs(workspace, **settings), "toy", TOKEN)


def reasons(workspace: Path, **settings: Any) -> set[str]:
    return set(planning.plan_stage(inputs(workspace, **settings), "toy").reasons.values())


def contents(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "d" / "toy"
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "timings.parquet"}


def store(workspace: Path, **settings: Any) -> stores.StageStore:
    return inputs(workspace, **settings).store("toy")


def test_second_run_does_nothing(workspace: Path) -> None:
    assert len(run(workspace).todo) == len(VIDEOS)
    before = {p: p.stat().st_mtime_ns for p in (workspace / "d" / "toy").iterdir()}
    assert run(workspace).todo == []
    assert before == {p: p.stat().st_mtime_ns for p in (workspace / "d" / "toy").iterdir()}
    with store(workspace).open("s03/clip") as group:
        assert group["x"][:].tolist() == [0, 1, 2, 3]
        assert group.attrs["unit"] == "s03/clip"


def test_reasons_are_said_in_words(workspace: Path, module: Any) -> None:
    run(workspace)
    assert reasons(workspace, scale=2.0) == {"toy: scale 1.0 → 2.0"}
    write_videos(workspace, VIDEOS, s03_clip="other frames")
    plan = planning.plan_stage(inputs(workspace), "toy")
    assert plan.reasons == {"s03/clip": "inputs changed"}
    module.STAGE = toy(version=2)
    assert reasons(workspace) == {"stage version 1 → 2"}


# ---------------------------------------------------------------------------------------- variants


def test_results_of_other_settings_stay_beside_and_nothing_is_deleted(workspace: Path) -> None:
    run(workspace)
    first = contents(workspace)
    assert len(run(workspace, scale=2.0).todo) == len(VIDEOS)
    kept = {n: b for n, b in contents(workspace).items() if n.startswith("part-")}
    assert {n for n in first if n.startswith("part-")} < set(kept)
    both = contents(workspace)
    assert run(workspace).todo == [] and run(workspace, scale=2.0).todo == []
    assert contents(workspace) == both, "a second pass of both does nothing"
    for scale in (1.0, 2.0):
        with store(workspace, scale=scale).open("s05/clip") as group:
            assert group["x"][1] == scale
    manifest = stores.read_manifest(workspace / "d" / "toy")
    assert len(manifest) == 2 * len(VIDEOS) and manifest.unit.value_counts().eq(2).all()


def test_ledgers_of_other_settings_stay_apart(workspace: Path) -> None:
    run(workspace, fail=("s02/clip",))
    run(workspace)
    folder = workspace / "d" / "toy"
    failing = inputs(workspace, fail=("s02/clip",)).keys("toy")
    assert list(stores.read_ledger(folder, failing).reason) == ["no_luck"]
    assert stores.read_ledger(folder, inputs(workspace).keys("toy")).empty
    assert store(workspace).status("s02/clip") == "ok"
    assert store(workspace, fail=("s02/clip",)).status("s02/clip") == "no_luck"


def test_a_store_opened_without_settings_shows_what_was_made_last(workspace: Path) -> None:
    run(workspace)
    run(workspace, scale=3.0)
    with stores.StageStore(workspace, "d", "toy").open("s01/clip") as group:
        assert group["x"][1] == 3.0


def test_units_whose_source_is_gone_are_kept_and_said(workspace: Path) -> None:
    run(workspace)
    before = contents(workspace)
    write_videos(workspace, VIDEOS[2:])
    plan = run(workspace)
    assert not plan.todo and len(plan.units) == len(VIDEOS) - 2
    assert plan.gone == {
        "s00: source not there, 1 results kept": ["s00/clip"],
        "s01: source not there, 1 results kept": ["s01/clip"],
    }
    assert contents(workspace) == before
    write_videos(workspace, VIDEOS)
    assert not run(workspace).todo, "back again, nothing is computed anew"


# ---------------------------------------------------------------------------------------- identity


def test_what_does_not_change_results_leaves_keys_alone(workspace: Path, module: Any) -> None:
    run(workspace)
    keys = inputs(workspace).keys("toy")
    assert inputs(workspace, threads=8).keys("toy") == keys
    module.SETTINGS = NewerToyConfig
    assert inputs(workspace, NewerToyConfig).keys("toy") == keys, "a new option, as before"
    assert inputs(workspace, NewerToyConfig, sharpen=0.1).keys("toy") != keys


def test_a_key_follows_everything_a_unit_declares(workspace: Path, module: Any) -> None:
    def keys(**more: Any) -> dict[str, str]:
        def listed(inputs: StageInputs, config: ToyConfig) -> Iterator[Unit]:
            for video in inputs.recordings.videos.values():
                facts = {"reads": (), "frames": False, **more}
                yield Unit(video.id, video.id, {"x": facts.pop("fact", 1)}, **facts)

        module.STAGE = toy(list_units=listed, needs=("ingest", "align"))
        return StageInputs(
            workspace, "d", workspace, {"toy": ToyConfig(), "align": align}
        ).keys("toy")  # fmt: skip

    from data.align.settings import AlignConfig

    align = AlignConfig()
    plain, read = keys(), keys(reads=(("align", "s00/clip"),))
    assert keys(fact=2) != plain and keys(frames=True) != plain and read != plain
    align = AlignConfig(size=128)
    assert keys(reads=(("align", "s00/clip"),)) != read, "an upstream key is in it"
    assert keys() == plain


def test_undeclared_reading_fails_the_stage(workspace: Path, module: Any) -> None:
    def nosy(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
        with inputs.open("align", unit.video):
            pass

    module.STAGE = toy(process=nosy)
    with pytest.raises(StoreError, match="only inputs that the unit declared"):
        run(workspace)

    def peeking(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
        inputs.frames()

    module.STAGE = toy(process=peeking)
    with pytest.raises(StoreError, match="frames=True"):
        run(workspace)

    def listed(inputs: StageInputs, config: ToyConfig) -> Iterator[Unit]:
        yield Unit("a", "s00/clip", reads=(("align", "s00/clip"),))

    module.STAGE = toy(list_units=listed)
    with pytest.raises(StoreError, match="reading align"):
        run(workspace)


# ------------------------------------------------------------------------------- damage and repair


def test_deleted_part_redoes_that_part_only_and_gives_the_same_bytes(workspace: Path) -> None:
    run(workspace)
    before = contents(workspace)
    victim = sorted(n for n in before if n.startswith("part-"))[0]
    (workspace / "d" / "toy" / victim).unlink()
    plan = planning.plan_stage(inputs(workspace), "toy")
    assert 0 < len(plan.reasons) < len(VIDEOS) and set(plan.reasons.values()) == {"part missing"}
    run(workspace)
    assert contents(workspace) == before


def test_a_units_time_limit_grows_with_its_work(workspace: Path, module: Any) -> None:
    """A long recording beside short clips is given its time; other settings are no history."""
    lengths = dict.fromkeys(VIDEOS, 60)
    module.STAGE = toy(weigh=lambda unit, frames, configs: (0.01 * lengths[unit.video], 1.0))
    run(workspace)
    path = workspace / "d" / "toy" / "timings.parquet"
    times = stores.read_timings(path.parent)
    stores.write_table(times.assign(seconds=60.0 * times.units), path)  # 1 s a frame
    write_videos(workspace, [*VIDEOS, "s99/long"])
    lengths["s99/long"] = 720_000
    plan = planning.plan_stage(inputs(workspace), "toy")
    [job] = planning.stage_jobs(plan, TOKEN)
    assert [u.id for u in job.units] == ["s99/long"]
    assert job.limit_s == pytest.approx(limits.FACTOR * 720_000)
    assert planning.stage_jobs(plan, TOKEN, 7.0)[0].limit_s == 7.0
    others = planning.plan_stage(inputs(workspace, scale=2.0), "toy")
    assert {j.limit_s for j in planning.stage_jobs(others, TOKEN)} == {limits.UNKNOWN_S}


def test_new_video_touches_no_old_part(workspace: Path) -> None:
    run(workspace)
    before = contents(workspace)
    write_videos(workspace, [*VIDEOS, "s99/clip"])
    assert run(workspace).todo == ["s99/clip"]
    after = contents(workspace)
    assert {n: b for n, b in after.items() if n in before and n.startswith("part-")} == {
        n: b for n, b in before.items() if n.startswith("part-")
    }


def test_failed_units_become_ledger_rows_and_the_rest_goes_on(workspace: Path) -> None:
    settings: dict[str, Any] = {"fail": ("s02/clip",), "scale": 13}
    plan = run(workspace, **settings)
    assert len(plan.units) == len(VIDEOS)
    found = store(workspace, **settings)
    ledger = stores.read_ledger(found.folder).set_index("unit")
    assert ledger.reason.to_dict() == {"s02/clip": "no_luck", "s11/clip": "unexpected_error"}
    assert "boom" in ledger.detail["s11/clip"] and set(ledger.action) == {"dropped"}
    assert len(found.units()) + len(ledger) == len(VIDEOS)
    again = planning.plan_stage(inputs(workspace, **settings), "toy")
    assert not again.todo and set(again.failed) == {"s02/clip", "s11/clip"}


def test_strict_stops_at_the_first_failure(workspace: Path) -> None:
    with pytest.raises(StrictError, match="no_luck"):
        planning.run_stage(inputs(workspace, fail=("s02/clip",)), "toy", TOKEN, strict=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError()])
def test_a_full_disk_is_not_the_units_fault(workspace: Path, module: Any, error: Exception) -> None:
    def full(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
        part.group(unit.id)["x"] = np.zeros(3)
        raise error

    module.STAGE = toy(process=full)
    with pytest.raises(type(error)):
        run(workspace)
    folder = workspace / "d" / "toy"
    assert not list(folder.glob("*.parquet")) and not list(folder.glob(".*")), "nothing is left"


def test_interrupted_run_ends_with_the_same_bytes(workspace: Path) -> None:
    run(workspace)
    whole = contents(workspace)
    for path in (workspace / "d" / "toy").iterdir():
        path.unlink()

    def dies_after_three(jobs: list[ChunkJob]) -> Iterator[ChunkResult]:
        for number, job in enumerate(jobs):
            if number == 3:
                (workspace / "d" / "toy" / f".{job.part}.dead.tmp").write_bytes(b"half a part")
                raise KeyboardInterrupt
            yield compute_chunk(job)

    with pytest.raises(KeyboardInterrupt):
        planning.run_stage(inputs(workspace), "toy", TOKEN, mapper=dies_after_three)
    assert len(stores.read_records(workspace / "d" / "toy").manifest) >= 3
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
        inputs(workspace), "toy", TOKEN, mapper=lambda jobs: map(compute_chunk, jobs[::-1])
    )
    assert contents(workspace) == forward


def test_two_attempts_at_one_part_never_write_one_file(workspace: Path) -> None:
    plan = planning.plan_stage(inputs(workspace), "toy")
    job = planning.stage_jobs(plan, TOKEN)[0]
    one, two = compute_chunk(job), compute_chunk(job)
    assert one.temporary != two.temporary and one.digest == two.digest


def test_altered_part_is_found_by_time_by_verify_and_when_it_is_read(workspace: Path) -> None:
    run(workspace)
    with h5py.File(next((workspace / "d" / "toy").glob("part-*")), "r") as file:
        unit = file.filename, next(iter(file["s00" if "s00" in file else next(iter(file))]))
    part = Path(unit[0])
    stat, raw = part.stat(), bytearray(part.read_bytes())
    at = raw.find(np.arange(4.0).tobytes())
    raw[at + 8] ^= 1
    part.write_bytes(raw)
    assert reasons(workspace) == {"digest differs"}
    os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # behind our back
    assert not reasons(workspace)
    assert planning.plan_stage(inputs(workspace), "toy", verify=True).reasons
    manifest = stores.read_manifest(part.parent)
    found = store(workspace)
    with pytest.raises(StoreError, match="other contents"):
        for name in manifest.unit[manifest.part == part.name]:
            with found.open(name):
                pass


@pytest.mark.parametrize("how", ["truncated", "other columns", "one value", "removed"])
@pytest.mark.parametrize("table", ["manifest", "ledger"])
def test_a_lost_or_damaged_table_is_read_from_the_parts_again(
    workspace: Path, table: str, how: str
) -> None:
    run(workspace, fail=("s03/clip",))
    before = contents(workspace)
    path = workspace / "d" / "toy" / f"{table}.parquet"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif how == "other columns":
        stores.write_table(pd.DataFrame({"x": [1]}), path)
    elif how == "one value":
        forged = stores.read_table(path)
        forged.loc[0, "status" if table == "manifest" else "detail"] = "no_face"
        stores.write_table(forged, path)
    else:
        path.unlink()
    plan = planning.plan_stage(inputs(workspace, fail=("s03/clip",)), "toy")
    word = "missing" if how == "removed" else "damaged"
    assert plan.notes == [f"{table} {word}: read from the parts again"]
    assert not plan.reasons, "nothing is computed again"
    run(workspace, fail=("s03/clip",))
    assert contents(workspace) == before


def test_a_store_of_an_earlier_form_is_named_and_its_parts_stay(workspace: Path) -> None:
    run(workspace)
    folder = workspace / "d" / "toy"
    for part in folder.glob("part-*"):
        part.rename(part.with_name(part.name.replace("part-", "part-0")))
    old = stores.read_table(folder / "manifest.parquet").drop(columns="content")
    stores.write_table(old, folder / "manifest.parquet")
    for part in folder.glob("part-0*"):
        with h5py.File(part, "a") as file:
            del file.attrs["records"]
    plan = run(workspace)
    assert "before 0.2" in plan.notes[0] and len(plan.todo) == len(VIDEOS)
    assert len(list(folder.glob("part-0*"))) >= len(VIDEOS) // 2


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
    name = unit if isinstance(unit, str) else unit.iloc[0]
    with pytest.raises(StoreError), planning.quarantining(), source.store("toy").open(name):
        pass
    assert not part.exists() and part.with_name(f"damaged-{part.name}").exists()
    assert set(planning.plan_stage(source, "toy").reasons.values()) == {"part missing"}


def test_missing_extra_fails_the_stage_instead_of_every_unit(workspace: Path, module: Any) -> None:
    def needs_dlib(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
        raise MissingExtraError("faces", expected="dlib", got="none", todo="pip install dlib-bin")

    module.STAGE = toy(process=needs_dlib)
    with pytest.raises(MissingExtraError, match="dlib"):
        run(workspace)
    assert stores.read_manifest(workspace / "d" / "toy").empty
