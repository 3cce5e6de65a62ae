"""Chunks whose process hangs, is stopped, dies or eats memory: that unit is a ledger row, named."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from data.errors import ConfigError
from data.stages import buckets, crew, limits, planning, pool, signs, stores
from data.stages.contract import Batching, Unit
from data.stages.inputs import StageInputs
from data.stages.limits import WorkerStoppedError
from data.stages.parts import ChunkJob, PartWriter, compute_chunk
from data.stages.pool import map_jobs
from tests.fakes import hazards
from tests.fakes.steps import register, write_tables


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """Run the stage on videos of one chunk; returns its ledger. Children are looked at often."""
    register(monkeypatch, hazards.STAGE, hazards.SETTINGS)
    monkeypatch.setattr(crew, "LOOK_S", 0.1)
    monkeypatch.setattr(crew, "STOPPED_S", 1.0)
    monkeypatch.setattr(buckets, "BUCKETS", 1)
    os.mkfifo(tmp_path / "pipe")

    def run(*videos: str, time_limit_s: float = 60.0, **how: Any) -> pd.DataFrame:
        table = pd.DataFrame(
            {"dataset": "d", "video": list(videos), "subject": "s", "fps": 25.0, "num_frames": 1}
        )
        write_tables(tmp_path, "d", videos=table.assign(identity="i"))
        config = hazards.HazardConfig(folder=str(tmp_path))
        inputs = StageInputs(tmp_path, "d", None, {"hazards": config})
        plan = planning.plan_stage(inputs, "hazards")
        jobs = planning.stage_jobs(plan, "test", time_limit_s)
        try:
            for result in map_jobs(hazards.compute, jobs, label=name, **{"workers": 1, **how}):
                planning.publish_chunk(plan, result)
        finally:
            planning.write_what_is_published(plan)
        return stores.read_ledger(tmp_path / "d" / "hazards")

    return run


def name(job: ChunkJob) -> str:
    return job.label


def tries(folder: Path) -> dict[str, int]:
    return dict(Counter(path.name.split("-")[0] for path in folder.glob("*-*-*")))


def status(folder: Path) -> dict[str, str]:
    manifest = stores.read_records(folder / "d" / "hazards").manifest
    return dict(zip(manifest.unit, manifest.status, strict=True))


@pytest.mark.slow
def test_a_unit_that_hangs_twice_is_a_ledger_row_and_the_others_are_done(
    tmp_path: Path, lab: Callable[..., pd.DataFrame]
) -> None:
    ledger = lab("s/a", "s/pipe", "s/z", time_limit_s=4.0)
    assert status(tmp_path) == {"s/a": "ok", "s/pipe": "timed_out", "s/z": "ok"}
    assert list(ledger.action) == ["flagged", "dropped"] and set(ledger.unit) == {"s/pipe"}
    assert "expected an end within 4 s" in ledger.detail.iloc[-1] and tries(tmp_path)["pipe"] == 2


@pytest.mark.slow
def test_silence_ends_a_unit_that_no_time_limit_ends(
    tmp_path: Path, lab: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SILENT_S", 4.0)
    ledger = lab("s/pipe")
    assert status(tmp_path) == {"s/pipe": "timed_out"}
    assert "no processor time" in ledger.detail.iloc[-1]


@pytest.mark.slow
def test_a_stopped_child_is_ended_and_its_chunk_repeated(
    tmp_path: Path, lab: Callable[..., pd.DataFrame]
) -> None:
    ledger = lab("s/a", "s/stops_once")
    assert status(tmp_path) == {"s/a": "ok", "s/stops_once": "ok"}
    assert [*ledger.unit, *ledger.reason, *ledger.action] == [
        "s/stops_once", "worker_stopped", "flagged"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_unit_that_kills_its_process_twice_is_given_up(
    tmp_path: Path, lab: Callable[..., pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = lab("s/a", "s/dies", "s/z")
    assert status(tmp_path) == {"s/a": "ok", "s/dies": "worker_died", "s/z": "ok"}
    assert list(ledger.action) == ["dropped"], "what killed it once is no news of the unit"
    detail = ledger.detail.iloc[-1]
    assert "signal 9" in detail and "hazards-d-00" in detail and ", s/dies: " in detail
    assert "is repeated, alone" in caplog.text and "goes on without that unit" in caplog.text


@pytest.mark.slow
def test_a_unit_above_the_memory_ceiling_is_given_up(
    tmp_path: Path, lab: Callable[..., pd.DataFrame]
) -> None:
    import psutil

    mine = psutil.Process().memory_info()
    ledger = lab("s/a", "s/eats", memory_bytes=mine.rss - mine.shared + (400 << 20))
    assert status(tmp_path) == {"s/a": "ok", "s/eats": "out_of_memory"}
    assert "MB of it here" in ledger.detail.iloc[-1]


@pytest.mark.slow
def test_a_job_without_units_ends_in_the_error_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LOOK_S", 0.1)
    monkeypatch.setattr(crew, "STOPPED_S", 0.3)
    with pytest.raises(WorkerStoppedError, match="seven"):
        list(map_jobs(stop, [7], workers=1, label=lambda job: "seven"))


def stop(number: int) -> int:
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)
    return number


def test_each_job_at_a_time_has_a_place_of_its_own() -> None:
    jobs = [Placed(n) for n in range(6)]
    found = list(map_jobs(where, jobs, workers=4, places=["cuda:0", "cuda:1"]))
    assert sorted(number for number, _, _ in found) == list(range(6))
    assert {place for _, place, _ in found} == {"cuda:0", "cuda:1"}
    for place in ("cuda:0", "cuda:1"):  # nothing overlaps on one device
        spans = sorted(span for _, other, span in found if other == place)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


class Placed:
    """A job that is run on a device."""

    def __init__(self, number: int, place: str = "") -> None:
        self.number, self.place = number, place

    def on(self, place: str) -> Placed:
        return Placed(self.number, place)


def where(job: Placed) -> tuple[int, str, tuple[float, float]]:
    begun = time.monotonic()
    time.sleep(0.05)
    return job.number, job.place, (begun, time.monotonic())


def overdue(now: float, **facts: Any) -> Any:
    """What a crew says of a child that is busy with unit u since 0."""
    child = crew.Child(None, None, job="chunk", unit="u", begun=True)  # type: ignore[arg-type]
    for name, value in facts.items():
        setattr(child, name, value)
    return crew.Crew()._overdue(child, now)


def test_when_a_child_is_given_up() -> None:
    busy: dict[str, Any] = {"limit_s": 600.0, "busy_at": 590.0}
    assert overdue(599, **busy) is None and overdue(601, **busy).code == "timed_out"
    assert "chunk, u: expected an end within 600 s" in str(overdue(601, **busy))
    assert overdue(299, limit_s=5.0, begun=False, busy_at=290.0) is None, "it may still import"
    assert overdue(301, limit_s=5.0, begun=False, busy_at=290.0).code == "timed_out"
    assert overdue(119) is None and overdue(121).code == "timed_out", "no processor time"
    assert overdue(19, stopped_at=1.0) is None
    assert overdue(29, stopped_at=1.0, busy_at=29.0).code == "worker_stopped"


def test_who_waits_for_a_core_is_not_silent() -> None:
    assert crew.wants_to_run(os.getpid())
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        while psutil.Process(sleeper.pid).status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        assert not crew.wants_to_run(sleeper.pid)
        sleeper.kill()
    assert not crew.wants_to_run(sleeper.pid)


def test_time_in_which_all_were_stopped_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    child = crew.Child(None, None, job="c", begun=True, limit_s=600.0)  # type: ignore[arg-type]
    found = crew.Crew(busy=[child])
    monkeypatch.setattr(found, "_examine", lambda *_: None)
    found._looked = time.monotonic() - 5000
    found._look()
    assert 4900 < child.since < 5000 and 4900 < child.busy_at < 5000


def test_a_job_is_tried_twice_and_then_goes_on_without_the_unit() -> None:
    died = limits.WorkerDiedError("c", expected="e", got="g")
    hung = limits.TimedOutError("c", expected="e", got="g")
    task = pool._Task("asked", Parts())
    assert task.struck("a", died) and task.now.rows == (), "what died once may have been unlucky"
    assert task.now.alone, "the second time one unit at a time"
    assert task.struck("b", hung) and task.now.rows == (("b", "timed_out", False),)
    assert task.struck("a", died) and task.now.rows[1:] == (("a", "worker_died", True),)
    single = pool._Task("j", 7)
    assert single.struck("a", hung) and not single.struck("a", hung), "it has no parts"


class Parts:
    """A job of units."""

    def __init__(self, *rows: tuple[str, str, bool], alone: bool = False) -> None:
        self.rows, self.alone = rows, alone

    def troubled(self, unit: str, error: Any, *, given_up: bool) -> Parts:
        return Parts(*self.rows, (unit, error.code, given_up), alone=self.alone)

    def repeated(self) -> Parts:
        return Parts(*self.rows, alone=True)


class Killed(BaseException):
    """Stands for the end of the process: nothing in it goes on."""


def test_who_kills_a_batch_is_given_up_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units computed at once: none of them answers for the one that kills the process."""
    batches: list[list[str]] = []

    def compute(units: list[str], config: Any) -> list[str]:
        batches.append(units)
        if "s/dies" in units:
            raise Killed
        return units

    def finish(unit: Unit, prepared: str, result: str, config: Any, part: PartWriter) -> None:
        part.group(unit.id)["x"] = 1
        part.done(unit.id)

    batching = Batching(
        when=lambda config: True,
        prepare=lambda unit, inputs, config, part: unit.id,
        size=lambda unit: 1,
        compute=compute,
        finish=finish,
    )
    stage = replace(hazards.STAGE, batching=batching)
    register(monkeypatch, stage, hazards.SETTINGS)
    monkeypatch.setattr(buckets, "BUCKETS", 1)
    names = [f"s/{i}" for i in range(20)] + ["s/dies"]
    table = pd.DataFrame({"dataset": "d", "video": names, "subject": "s", "identity": "i"})
    write_tables(tmp_path, "d", videos=table.assign(fps=25.0, num_frames=1))
    inputs = StageInputs(tmp_path, "d", None, {"hazards": hazards.HazardConfig()})
    [job] = planning.stage_jobs(planning.plan_stage(inputs, "hazards"), "test")
    task, at = pool._Task(job, job), [""]
    signs.listen(lambda unit: at.__setitem__(0, unit))
    try:
        for _ in range(9):
            try:
                result = compute_chunk(task.now)
                break
            except Killed:
                assert task.struck(at[0], limits.WorkerDiedError("c", expected="e", got="g"))
    finally:
        signs.listen(None)
    assert result.status == {name: "worker_died" if name == "s/dies" else "ok" for name in names}
    assert [len(units) for units in batches if "s/dies" in units] == [21, 1, 1]


def test_limits_from_history_and_words() -> None:
    assert limits.unit_limit(7, [1000.0]) == 7
    assert limits.unit_limit(0, []) == limits.UNKNOWN_S
    assert limits.unit_limit(0, [0.1, 60.0]) == 1200.0 and limits.unit_limit(0, [1.0]) == 600.0
    assert limits.parse_memory("") == 0 and limits.parse_memory("8G") == 8 << 30
    assert limits.parse_memory("512MiB") == 512 << 20 and limits.parse_memory("1.5g") == 3 << 29
    for wrong in ("8X", "G", "-1", "0"):
        with pytest.raises(ConfigError, match="such as 8G"):
            limits.parse_memory(wrong)
    assert limits.workers_within(8 << 30, 16, 1000) == 8
    assert limits.workers_within(100, 16, 1000) == 1 and limits.workers_within(0, 16, 1000) == 16


@pytest.mark.slow
def test_a_chunk_knows_what_its_stage_took_so_far(
    tmp_path: Path, lab: Callable[..., pd.DataFrame]
) -> None:
    lab("s/a", workers=1)
    times = stores.read_timings(tmp_path / "d" / "hazards")
    assert times.peak_mb.iloc[0] > 10
    config = hazards.HazardConfig(folder=str(tmp_path))
    inputs = StageInputs(tmp_path, "d", None, {"hazards": config})
    plan = planning.plan_stage(inputs, "hazards", force=True)
    [job] = planning.stage_jobs(plan, "test")
    assert job.limit_s == limits.LEAST_S and job.need_mb == times.peak_mb.iloc[0]
