"""Every promise of prefect.yaml on a real server: schedules, deployments, form fields, limit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from data.flow_pictures.importing import import_pictures
from data.stages.stores import read_manifest
from data.stages.workspace import Workspace
from models.recipe import recipes_folder
from tasks.carriers import LocalCarrier
from tasks.forms import fields
from tasks.request import RunRequest
from tests.fakes.flow_pictures import write_folder
from tests.fakes.prefect_server import Server, until

pytestmark = pytest.mark.slow
OVERRIDES = {"train.epochs": 2, "flow.size": 64}
SETS = {"casme2": "casme2", "samm_lv": "samm_lv"}  # of the demo, and their folders in it
DEPLOYED = ("ingest", "align", "registration", "apex", "flow", "train", "evaluate")  # of demo_hsta
FREE = {"recipe", "workspace", "data", "overrides"}  # what every test of these gives
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def defaults(
    server: Server, smoke: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A deployment's own parameters, but for the places: the checkout's demo is not ours to use."""
    workspace = tmp_path_factory.mktemp("promises") / "ws"

    def place(dataset: str, name: str) -> str:
        if name != "flow_pictures":
            return str(smoke[dataset])
        out = tmp_path_factory.mktemp("pictures")
        import_pictures(write_folder(out / "theirs", each=3), out / "mine")
        return str(out / "mine")

    def of(name: str) -> dict[str, Any]:
        request = dict(server.deployment(name)["parameters"]["request"])
        names = {"csv": "flow_pictures"} if name == "flow_pictures" else SETS
        rows = [{"dataset": n, "folder": f"demo/data/{at}"} for n, at in names.items()]
        mine = [{"dataset": n, "folder": place(n, at)} for n, at in names.items()]
        assert request["data"] == rows and request["workspace"] == "demo/workspace"
        request |= {"workspace": str(workspace), "data": mine}
        if request["recipe"] == "demo_hsta":
            request["overrides"] = OVERRIDES
        return request

    return of


def finished(server: Server, run: str, seconds: float = 900) -> dict[str, Any]:
    until(lambda: server.run(run)["state_type"] in FINAL, f"the end of run {run}", seconds)
    return server.run(run)


@pytest.mark.parametrize("name", [*DEPLOYED, "full", "stage"])
def test_each_deployment_does_its_stage(server: Server, defaults: Any, name: str) -> None:
    more = {"parameters": {"stage": "evaluate"}} if name == "stage" else {}
    run = finished(server, server.create_run(name, defaults(name), **more))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert {"recipe:demo_hsta", "apexflow"} <= set(run["tags"])
    assert run["name"].split(" ")[0] == f"{'evaluate' if name == 'stage' else name}-demo_hsta"


@pytest.mark.parametrize(
    ("stage", "recipe", "dataset"),
    [("motion", "demo_me_tst", "samm_lv"), ("flow_pictures", "ststnet_pictures", "csv")],
)
def test_a_stage_that_the_demos_recipe_lacks_is_deployed_with_one_that_has_it(
    server: Server, defaults: Any, tmp_path: Path, stage: str, recipe: str, dataset: str
) -> None:
    request = {**defaults(stage), "workspace": str(tmp_path / "ws")}
    assert request["recipe"] == recipe
    refused = finished(server, server.create_run(stage, request))
    assert refused["state_type"] == "FAILED" and "--from ingest" in refused["state"]["message"]
    run = finished(server, server.create_run("full", {**request, "stages": ["ingest"]}))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    run = finished(server, server.create_run(stage, request))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert f"recipe:{recipe}" in run["tags"] and f"dataset:{dataset}" in run["tags"]
    manifest = read_manifest(Workspace(tmp_path / "ws").stage(dataset, stage))
    assert len(manifest) and set(manifest.status) == {"ok"}


def test_no_deployment_is_left_untried(server: Server) -> None:
    """What is deployed and what the two tests above run is the same list."""
    tried = {"full", "stage", "motion", "flow_pictures"} | set(DEPLOYED)
    assert {d["name"] for d in server.post("deployments/filter", {})} == tried


def test_a_schedule_starts_a_run_that_finishes(server: Server, defaults: Any) -> None:
    """A one-minute schedule, set as a person does, on the deployment's own worker."""
    deployment = server.deployment("ingest")
    schedule = {
        "active": True,
        "schedule": {"interval": 60.0, "timezone": "UTC"},
        "parameters": {"request": defaults("ingest")},
    }
    [made] = server.post(f"deployments/{deployment['id']}/schedules", [schedule])
    try:
        scheduled = {
            "deployment_id": {"any_": [deployment["id"]]},
            "tags": {"all_": ["auto-scheduled"]},
        }
        until(lambda: server.runs("SCHEDULED", **scheduled), "the scheduler", 180)
        [run, *_] = until(
            lambda: server.runs(*FINAL, **scheduled), "a scheduled run to start and end", 900
        )
        assert run["state_type"] == "COMPLETED" and run["auto_scheduled"]
    finally:
        server.delete(f"deployments/{deployment['id']}/schedules/{made['id']}")


def test_the_nightly_schedule_is_off_until_somebody_turns_it_on(server: Server) -> None:
    deployment = server.deployment("full")
    [nightly] = deployment["schedules"]
    assert not nightly["active"] and nightly["schedule"]["cron"] == "0 2 * * *"
    path = f"deployments/{deployment['id']}/schedules/{nightly['id']}"
    server.patch(path, {"active": True})
    try:
        scheduled = {"deployment_id": {"any_": [deployment["id"]]}}
        runs = until(lambda: server.runs("SCHEDULED", **scheduled), "the scheduler", 180)
        assert all("T02:00:00" in run["expected_start_time"] for run in runs)
    finally:
        server.patch(path, {"active": False})


def run_with(server: Server, request: dict[str, Any], name: str = "full") -> tuple[str, str]:
    """State and message of a run of the deployment."""
    run = finished(server, server.create_run(name, request))
    return run["state_type"], str(run["state"]["message"])


def test_each_field_of_the_form_does_what_it_says(
    server: Server, defaults: Any, tmp_path: Path
) -> None:
    base = {**defaults("full"), "workspace": str(tmp_path / "ws"), "wait_s": 0.0}
    untried = set(RunRequest.model_fields) - FREE

    def field(name: str, value: Any) -> tuple[str, str]:
        untried.discard(name)
        return run_with(server, {**base, name: value})

    workspace = Workspace(tmp_path / "ws")
    assert field("stages", ["ingest"])[0] == "COMPLETED"
    assert workspace.datasets() == ["casme2"] and not workspace.stage("casme2", "align").exists()
    state, message = field("landmark_model", str(tmp_path / "none.dat"))
    assert state == "FAILED" and "none.dat" in message
    recipe = tmp_path / "mine.yaml"  # a path in place of a name
    recipe.write_text((recipes_folder() / "demo_hsta.yaml").read_text())
    mine = {**base, "recipe": str(recipe), "stages": ["ingest"]}
    assert run_with(server, mine)[0] == "COMPLETED"
    state, message = field("device", "cuda:7")
    assert state == "FAILED" and "cuda:7" in message and "GPU" in message
    assert field("workers", 1)[0] == "COMPLETED"  # all stages, one process
    before = (workspace.stage("casme2", "ingest") / "events.parquet").stat().st_mtime_ns
    assert field("from_stage", "evaluate")[0] == "COMPLETED"
    assert field("force", ["evaluate"])[0] == "COMPLETED"
    assert (workspace.stage("casme2", "ingest") / "events.parquet").stat().st_mtime_ns == before
    with workspace.lock(what="the test"):
        state, message = field("wait_s", 1.0)
    assert state == "FAILED" and "the test" in message
    state, message = field("scheduler", str(tmp_path / "none.json"))
    assert state == "FAILED" and "none.json" in message
    for name in ("folds", "subjects", "videos"):
        state, message = field(name, ["nobody"])
        assert state == "FAILED" and "nobody" in message, name
    more = {
        "with_faces": True,
        "allow_shrink": True,
        "verify": "files",
        "until": "align",
        "only_failed": True,
        "max_gpu_memory_mb": 100,
        "memory": "8G",
        "time_limit_s": 600.0,
    }
    for name, value in more.items():
        state, message = field(name, value)
        assert state == "COMPLETED", f"{name}: {message}"
    assert not untried, f"fields of the form that nobody tried: {untried}"


def test_a_stages_own_form_does_what_it_says(server: Server, defaults: Any, tmp_path: Path) -> None:
    """Its fields one by one where they refuse, the others together; and none is left over."""
    whole = {**defaults("full"), "workspace": str(tmp_path / "ws")}
    assert run_with(server, {**whole, "until": "flow"})[0] == "COMPLETED"
    workspace = Workspace(tmp_path / "ws")
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "ingest": ({}, {"allow_shrink": True}),
        "align": (
            {
                "subjects": ["nobody"],
                "videos": ["nobody"],
                "landmark_model": "/none.dat",
                "scheduler": "/none.json",
            },
            {"with_faces": True, "only_failed": True, "time_limit_s": 600, "memory": "64G"},
        ),
        "train": (
            {"folds": ["nobody"], "device": "cuda:7", "scheduler": "/none.json"},
            {"max_gpu_memory_mb": 100, "memory": "64G", "landmark_model": ""},
        ),
        "evaluate": ({"landmark_model": "/none.dat"}, {"with_faces": True}),
    }
    for stage, (wrong, right) in cases.items():
        base = {**defaults(stage), "workspace": str(tmp_path / "ws")}
        right |= {"redo": True, "verify": "files", "wait_s": 60.0}
        right |= {"workers": 1} if "workers" in fields(stage) else {}
        assert set(fields(stage)) | {"redo"} == {*FREE, *wrong, *right}, f"{stage}: not tried"
        for name, value in wrong.items():
            state, message = run_with(server, {**base, name: value}, stage)
            said = value[0] if isinstance(value, list) else Path(value).name
            assert state == "FAILED" and said in message, (stage, name, message)
        state, message = run_with(server, {**base, **right}, stage)
        assert state == "COMPLETED", (stage, message)
        with workspace.lock(what="the test"):
            state, message = run_with(server, {**base, "wait_s": 0.5}, stage)
            assert state == "FAILED" and "the test" in message, stage


def test_a_stage_deployment_refuses_stale_inputs(
    server: Server, defaults: Any, tmp_path: Path, cli: Any
) -> None:
    """In the words of `--stage`, and nothing is recorded under settings it was not made with."""
    place = {"workspace": str(tmp_path / "ws")}
    assert run_with(server, {**defaults("full"), **place, "until": "flow"})[0] == "COMPLETED"
    changed = {**defaults("flow"), **place, "overrides": {**OVERRIDES, "align.size": 128}}
    before = sorted(p.name for p in (tmp_path / "ws").rglob("*.h5"))
    state, own = run_with(server, changed, "flow")
    assert state == "FAILED" and "registration to be up to date under these settings" in own
    run = finished(server, server.create_run("stage", changed, parameters={"stage": "flow"}))
    assert run["state_type"] == "FAILED" and run["state"]["message"] == own
    words = ["--set", "align.size=128", "--set", "flow.size=64", "--set", "train.epochs=2"]
    roots = [f"{row['dataset']}={row['folder']}" for row in changed["data"]]
    data = [word for root in roots for word in ("-d", root)]
    said = cli("run", "demo_hsta", "-w", place["workspace"], *data, *words, "--stage", "flow",
               "--runner", "none", ok=False).stderr  # fmt: skip
    assert own.partition("StoreError: ")[2].strip() in " ".join(said.split()), said
    assert sorted(p.name for p in (tmp_path / "ws").rglob("*.h5")) == before


def test_a_run_started_from_the_form_waits(server: Server, defaults: Any, tmp_path: Path) -> None:
    """Nothing was said of waiting."""
    request = {**defaults("ingest"), "workspace": str(tmp_path / "ws")}
    assert "wait_s" not in request
    with Workspace(tmp_path / "ws").lock(what="the test"):
        run = server.create_run("ingest", request)
        until(lambda: server.run(run)["state_type"] == "RUNNING", "the start")
        time.sleep(3)
        assert server.run(run)["state_type"] == "RUNNING"
    assert finished(server, run)["state_type"] == "COMPLETED"


def test_a_wrong_field_is_refused_by_the_form(server: Server, defaults: Any) -> None:
    from tasks.prefect_api import Refused

    for wrong in (
        {"stages": ["sing"]},
        {"workers": -1},
        {"force": "align"},
        {"device": "tpu"},
        {"data": [{"dataset": "casme9", "folder": "x"}]},
    ):
        with pytest.raises(Refused, match=r"409|422"):
            server.create_run("full", {**defaults("full"), **wrong})
    for stage, wrong in (("ingest", {"folds": ["0"]}), ("align", {"force": ["align"]})):
        with pytest.raises(Refused, match=r"409|422"):
            server.create_run(stage, {**defaults(stage), **wrong})


def test_the_gpu_limit_lets_one_run_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PREFECT_HOME": str(server.home),
        "PREFECT_API_URL": f"{server.url}/api",
        "PREFECT_API_AUTH_STRING": server.auth,
    }.items():
        monkeypatch.setenv(name, value)
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from tasks.prefect_executor import GPU_LIMIT, PrefectExecutor

    def active() -> int:
        return int(server.get(f"v2/concurrency_limits/{GPU_LIMIT}")["active_slots"])

    executor = PrefectExecutor(LocalCarrier(1), None)  # type: ignore[arg-type]
    with temporary_settings(
        {PREFECT_API_URL: f"{server.url}/api", PREFECT_API_AUTH_STRING: server.auth}
    ):
        with executor.gpu(0):
            assert active() == 0
        with executor.gpu(4) as granted:  # of one that the limit allows
            assert active() == 1 and granted == 1
        assert active() == 0


def test_a_lost_server_gives_the_gpu_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks import prefect_executor
    from tasks.prefect_executor import PrefectExecutor

    entered, said = False, list[str]()
    monkeypatch.setattr(prefect_executor.logger, "warning", lambda text, *_: said.append(text))
    executor = PrefectExecutor(LocalCarrier(1), None)  # type: ignore[arg-type]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), executor.gpu(1):
        entered = True
    assert entered and len(said) == 1 and "going on without one" in said[0]
