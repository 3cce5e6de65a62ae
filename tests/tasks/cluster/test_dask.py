"""Jobs on real Dask workers: the same bytes, and what is lost on the way costs no more than it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

pytest.importorskip("distributed")

from data.errors import ConfigError
from data.stages import planning, stores
from data.stages.inputs import StageInputs
from data.stages.limits import WorkerDiedError
from data.stages.workspace import Workspace
from tasks.carriers import LocalCarrier, Share
from tasks.cluster.carrier import ClusterError, connected
from tasks.cluster.site import SiteError
from tasks.prefect_executor import PrefectExecutor
from tasks.request import RunRequest
from tests.fakes import hazards
from tests.fakes.dask_cluster import DaskCluster
from tests.fakes.steps import register, write_tables

pytestmark = pytest.mark.slow
PLAIN = tuple(f"s/v{n:02d}" for n in range(12))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    found = DaskCluster(
        tmp_path / "cluster",
        APEXFLOW_FAKE_GPUS="2",
        DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1",
    )
    yield found
    found.close()


Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Bring the stage up to date in a workspace, on the cluster or (None) here."""
    register(monkeypatch, hazards.STAGE, hazards.SETTINGS)
    (tmp_path / "marks").mkdir()

    def run(
        cluster: DaskCluster | None,
        videos: tuple[str, ...] = PLAIN,
        workspace: str = "ws",
        change: Any = None,
    ) -> None:
        place = tmp_path / workspace
        table = pd.DataFrame(
            {"dataset": "d", "video": list(videos), "subject": "s", "fps": 25.0, "num_frames": 1}
        )
        write_tables(place, "d", videos=table.assign(identity="i"))
        config = hazards.HazardConfig(folder=str(tmp_path / "marks"))
        inputs = StageInputs(place, "d", None, {"hazards": config})
        with Workspace(place).lock() as token:
            plan = planning.plan_stage(inputs, "hazards")
            jobs = planning.stage_jobs(plan, token, 60.0)
            label: Callable[[Any], str] = lambda job: job.label  # noqa: E731
            try:
                if cluster is None:
                    for result in LocalCarrier(1).carry(hazards.compute, jobs, label=label):
                        planning.publish_chunk(plan, result)
                    return
                request = RunRequest(workspace=str(place), scheduler=str(cluster.file))
                with connected(request) as carrier:
                    if change:
                        change(carrier)
                    for result in carrier.carry(hazards.compute, jobs, label=label):
                        planning.publish_chunk(plan, result)
            finally:
                planning.write_what_is_published(plan)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if "timings" not in p.name}


def status(folder: Path) -> dict[str, str]:
    manifest = stores.read_records(folder / "d" / "hazards").manifest
    return dict(zip(manifest.unit, manifest.status, strict=True))


def pids(folder: Path, what: str) -> list[int]:
    return [int(p.name.split("-")[1]) for p in (folder / "marks").glob(f"{what}-*")]


def test_two_workers_make_the_bytes_that_this_machine_makes(
    tmp_path: Path, cluster: DaskCluster, run: Run
) -> None:
    run(None, workspace="here")
    for path in (tmp_path / "marks").iterdir():
        path.unlink()
    cluster.add_worker()
    cluster.add_worker()
    run(cluster, workspace="there")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(contents(tmp_path / "there")) > 10
    parents = {pid for n in range(12) for pid in pids(tmp_path, f"v{n:02d}")}
    assert len(parents) == 2, "a child of each worker did some"
    times = stores.read_timings(tmp_path / "there" / "d" / "hazards")
    assert set(times.host) == {os.uname().nodename} and times.peak_mb.notna().all()


def test_a_worker_killed_in_a_chunk_costs_that_chunk_and_no_byte(
    tmp_path: Path, cluster: DaskCluster, run: Run
) -> None:
    videos = (*PLAIN, "s/waits")
    (tmp_path / "marks" / "go").touch()
    run(None, videos, workspace="here")
    for path in (tmp_path / "marks").iterdir():
        path.unlink()
    cluster.add_worker()
    cluster.add_worker()

    def kill() -> None:
        cluster.wait(lambda: pids(tmp_path, "waits"))
        [pid] = pids(tmp_path, "waits")
        psutil.Process(psutil.Process(pid).ppid()).send_signal(signal.SIGKILL)
        cluster.wait(lambda: len(pids(tmp_path, "waits")) == 2)
        (tmp_path / "marks" / "go").touch()

    threading.Thread(target=kill, daemon=True).start()
    run(cluster, videos, workspace="there")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(pids(tmp_path, "waits")) == 2 and len(pids(tmp_path, "v00")) == 1


def test_a_worker_that_was_only_cut_off_writes_into_nothing_that_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Stopped, it is taken for lost; its child works on beside the one that took the chunk over."""
    cluster = DaskCluster(tmp_path / "cluster", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="4s")
    try:
        (tmp_path / "marks" / "go").touch()
        run(None, ("s/waits",), workspace="here")
        for path in (tmp_path / "marks").iterdir():
            path.unlink()
        cluster.add_worker()
        cluster.add_worker()
        stopped: list[psutil.Process] = []

        def stop() -> None:
            cluster.wait(lambda: pids(tmp_path, "waits"))
            [pid] = pids(tmp_path, "waits")
            stopped.append(psutil.Process(psutil.Process(pid).ppid()))
            stopped[0].suspend()
            cluster.wait(lambda: len(pids(tmp_path, "waits")) == 2)  # both children are at it
            folder = tmp_path / "there" / "d" / "hazards"
            found.append(len(list(folder.glob(".part-*.tmp"))))
            (tmp_path / "marks" / "go").touch()

        found: list[int] = []
        threading.Thread(target=stop, daemon=True).start()
        run(cluster, ("s/waits",), workspace="there")
        stopped[0].resume()
        assert found == [2] and contents(tmp_path / "there") == contents(tmp_path / "here")
        with Workspace(tmp_path / "there").lock():
            assert not list((tmp_path / "there").rglob("*.tmp"))
    finally:
        cluster.close()


def test_a_lost_scheduler_ends_the_run_in_words_and_what_was_done_is_kept(
    tmp_path: Path, cluster: DaskCluster, run: Run
) -> None:
    cluster.add_worker()

    def kill() -> None:
        cluster.wait(lambda: pids(tmp_path, "waits"))
        time.sleep(1)
        cluster.scheduler.kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(ClusterError, match="run again"):
        run(cluster, (*PLAIN, "s/waits"))
    done = set(status(tmp_path / "ws"))
    assert "s/waits" not in done
    cluster.wait(lambda: cluster.workers[0].poll() is not None)  # it ends with its scheduler
    (tmp_path / "marks" / "go").touch()
    run(None, (*PLAIN, "s/waits"))
    assert set(status(tmp_path / "ws").values()) == {"ok"} and len(status(tmp_path / "ws")) == 13


def test_a_unit_that_kills_its_process_is_a_ledger_row_and_is_said_here(
    tmp_path: Path, cluster: DaskCluster, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.add_worker()
    with caplog.at_level(logging.WARNING):
        run(cluster, (*PLAIN, "s/dies"))
    found = status(tmp_path / "ws")
    assert found.pop("s/dies") == "worker_died" and set(found.values()) == {"ok"}
    assert "signal 9" in caplog.text and "goes on without that unit" in caplog.text


def test_a_job_that_kills_every_worker_is_named_and_the_others_are_done(
    tmp_path: Path, cluster: DaskCluster, run: Run
) -> None:
    for _ in range(5):  # it costs two, and two more when the first were not seen to begin it
        cluster.add_worker()
    with pytest.raises(WorkerDiedError, match=r"hazards-d-\d\d.*: .*2 workers lost"):
        run(cluster, (*PLAIN, "s/kills_workers"))
    found = status(tmp_path / "ws")
    assert "s/kills_workers" not in found and len(found) >= 11  # it may share a chunk


def test_without_a_worker_the_run_waits_and_then_says_how_to_start_one(
    cluster: DaskCluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="python -m flows worker"):
        run(cluster, change=lambda carrier: setattr(carrier, "_patience_s", 2.0))


def test_a_worker_with_other_code_is_refused_in_words(cluster: DaskCluster, run: Run) -> None:
    cluster.add_worker()

    def change(carrier: Any) -> None:
        carrier._known = replace(carrier._site(), code="0123")

    with pytest.raises(SiteError, match="other code in"):
        run(cluster, change=change)


def test_when_the_workers_that_fit_have_gone_their_jobs_go_to_one_that_came_since(
    tmp_path: Path, cluster: DaskCluster, run: Run
) -> None:
    """Once a worker was refused, jobs are only for those that fitted then."""
    cluster.add_worker()

    def replace_it() -> None:
        cluster.wait(lambda: pids(tmp_path, "waits"))
        cluster.workers[0].kill()
        cluster.add_worker()
        (tmp_path / "marks" / "go").touch()

    def refuse(carrier: Any) -> None:
        carrier._refuse("tcp://127.0.0.1:1", SiteError("w", expected="ours", got="other code"))

    threading.Thread(target=replace_it, daemon=True).start()
    stop = threading.Timer(90, cluster.scheduler.kill)
    stop.start()
    run(cluster, (*PLAIN, "s/waits"), change=refuse)
    stop.cancel()
    assert set(status(tmp_path / "ws").values()) == {"ok"} and len(status(tmp_path / "ws")) == 13
    assert len(pids(tmp_path, "waits")) == 2


def test_work_for_a_gpu_ends_in_words_when_only_workers_without_one_are_left(
    tmp_path: Path, cluster: DaskCluster
) -> None:
    cluster.add_worker("--device", "cpu")
    cluster.add_worker()
    stop = threading.Timer(60, cluster.scheduler.kill)
    with Workspace(tmp_path).lock():
        request = RunRequest(workspace=str(tmp_path), scheduler=str(cluster.file))
        with connected(request) as carrier:
            cluster.wait(lambda: len(carrier._workers()) == 2)
            carrier._patience_s = 3.0
            stop.start()
            work = carrier.carry(where, [Placed(n) for n in range(40)], label=str, share=Share(1))
            assert next(work)[1].startswith("cuda")
            cluster.workers[1].kill()
            with pytest.raises(ClusterError, match="expected a worker with a GPU"):
                list(work)
            with pytest.raises(ClusterError, match="expected a worker with a GPU"):
                carrier._patience_s, carrier._seen = 1.0, 0.0
                carrier._wait_for_workers = lambda: {"it": {"gpus": ["cuda:0"]}}  # type: ignore[method-assign]
                carrier.ask(max, 3, 7, gpu=True)
    stop.cancel()


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0,cuda:2", "gpu"])
def test_one_gpu_of_this_machine_is_not_taken_for_all_of_the_workers(device: str) -> None:
    with (
        pytest.raises(ConfigError, match="--device"),
        connected(RunRequest(scheduler="tcp://127.0.0.1:1", device=device)),
    ):
        pass


def test_gpus_of_workers_are_shared_out_one_job_each(tmp_path: Path, cluster: DaskCluster) -> None:
    cluster.add_worker()
    with Workspace(tmp_path).lock():
        request = RunRequest(workspace=str(tmp_path), scheduler=str(cluster.file))
        with connected(request) as carrier:
            assert carrier.devices("auto") == ("cuda", "cuda") and carrier.own_gpus("auto") == ()
            jobs = [Placed(n) for n in range(6)]
            told = Told()
            executor = PrefectExecutor(carrier, told)  # type: ignore[arg-type]
            found = list(executor.map(where, jobs, str, Share(1)))
            assert carrier.ask(max, 3, 7, gpu=True) == 7
    assert {place for _, place, _ in found} == {"cuda:0", "cuda:1"} and len(found) == 6
    names = [f"job-{n}" for n in range(6)]
    assert sorted(told.begun) == names and sorted(told.ended) == names
    assert told.most < 6, "a task run begins when a worker begins, not when it is queued"


class Told:
    """What Prefect is told of task runs."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.most = 0

    def begin_task(self, name: str) -> str:
        self.begun.append(name)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        return name

    def end_task(self, task: str, error: BaseException | None = None) -> None:
        assert error is None
        self.ended.append(task)


class Placed:
    """A job that is run on a device."""

    def __init__(self, number: int, place: str = "") -> None:
        self.number, self.place = number, place

    def on(self, place: str) -> Placed:
        return Placed(self.number, place)

    def __str__(self) -> str:
        return f"job-{self.number}"


def where(job: Placed) -> tuple[int, str, int]:
    time.sleep(0.5)
    return job.number, job.place, os.getpid()
