"""GPUs shared out among jobs, on devices that are none: which, how many, Prefect's slots."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data.flow.settings import FlowConfig
from data.stages.contract import Scope, StepPlan
from data.stages.parts import ChunkJob
from data.stages.planning import StageStep
from data.stages.workspace import Workspace
from tasks import carriers, prefect_executor
from tasks.carriers import LocalCarrier, Share
from tasks.prefect_executor import PrefectExecutor
from tests.fakes.steps import NoRecipe


class Job:
    """Says where it was run."""

    def __init__(self, number: int, place: str = "") -> None:
        self.number, self.place = number, place

    def on(self, place: str) -> Job:
        return Job(self.number, place)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pool was asked for; nothing is started."""
    found: dict[str, Any] = {}

    def map_jobs(function: Any, jobs: list[Any], **words: Any) -> list[Any]:
        found.update(words)
        return []

    monkeypatch.setattr(carriers, "map_jobs", map_jobs)
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "4")
    return found


@pytest.mark.parametrize(
    ("workers", "share", "places"),
    [
        (8, Share(1, 4), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (2, Share(1, 4), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),  # no GPU idles
        (8, Share(1, 2), ["cuda:0", "cuda:1"]),  # Prefect's limit gave two
        (8, Share(2, 2), ["cuda:0", "cuda:1"] * 2),  # two fit beside each other on each
        (4, Share(9, 2), ["cuda:0", "cuda:1"] * 2),  # but each wants a core
        (8, Share(), []),
    ],
)
def test_places_of_jobs(
    asked: dict[str, Any], workers: int, share: Share, places: list[str]
) -> None:
    list(LocalCarrier(workers).carry(print, [Job(1)], label=str, share=share))
    assert asked["places"] == places and asked["workers"] == (len(places) or workers)


def test_devices_asked_for_are_kept_to(asked: dict[str, Any]) -> None:
    carrier = LocalCarrier(8, device="cuda:1,cuda:3")
    list(carrier.carry(print, [Job(1)], label=str, share=Share(1, 4)))
    assert asked["places"] == ["cuda:1", "cuda:3"]


def test_a_memory_ceiling_lets_so_many_work_as_fit(asked: dict[str, Any]) -> None:
    class Chunk:
        need_mb = 2000.0

    list(LocalCarrier(16, 8 << 30).carry(print, [Chunk()], label=str))
    assert asked["workers"] == 4 and asked["memory_bytes"] == 8 << 30


def where(job: Job) -> str:
    time.sleep(0.5)
    return job.place


def test_every_job_says_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "2")
    jobs = [Job(n) for n in range(6)]
    for workers, places in ((0, {"cuda:0"}), (2, {"cuda:0", "cuda:1"})):
        found = list(LocalCarrier(workers).carry(where, jobs, label=str, share=Share(1, 2)))
        assert set(found) == places and len(found) == 6


def scope(machines: Any = None, backend: str = "torch") -> Scope:
    recipe: Any = NoRecipe(("d",), {"flow": FlowConfig(backend=backend), "align": None})
    return Scope(Workspace("ws"), recipe, {"d": Path("d")}, "d", machines=machines)


def test_optical_flow_on_a_gpu_has_one_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    step, plan = StageStep("flow"), StepPlan("flow", "d", [])
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "2")
    assert step.gpu(scope(), plan) == 1 and step.gpu(scope(backend="numba"), plan) == 0
    assert StageStep("align").gpu(scope(), plan) == 0

    class Elsewhere:
        """Machines that have the GPU which this one has not."""

        def ask(self, function: Any, *args: Any, gpu: bool = False) -> Any:
            assert gpu and args[0].backend == "torch"
            return True

    monkeypatch.delenv("APEXFLOW_FAKE_GPUS")
    assert step.gpu(scope(Elsewhere()), plan) == 1


def test_a_chunk_of_flow_is_computed_where_it_is_told() -> None:
    job = ChunkJob(None, "flow", None, 0, (), "part", "t")  # type: ignore[arg-type]
    assert job.on("cuda:3").device == "cuda:3" and job.device == ""


@pytest.mark.parametrize(("limit", "wanted", "got"), [(4, 4, 4), (1, 4, 1), (4, 2, 2), (2, 0, 0)])
def test_a_slot_of_prefects_limit_for_each_gpu(
    monkeypatch: pytest.MonkeyPatch, limit: int, wanted: int, got: int
) -> None:
    taken: list[int] = []

    @contextmanager
    def concurrency(name: str, occupy: int, **_: Any) -> Any:
        taken.append(occupy)
        yield

    monkeypatch.setattr("prefect.concurrency.sync.concurrency", concurrency)
    monkeypatch.setattr(prefect_executor, "_limit", lambda: limit)
    executor = PrefectExecutor(LocalCarrier(1), None)  # type: ignore[arg-type]
    with executor.gpu(wanted) as granted:
        assert granted == got
    assert taken == ([got] if got else [])
