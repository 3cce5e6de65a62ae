"""What a worker must agree on with a run; a run that is over; a profile for Slurm."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import ConfigError
from data.stages.heartbeat import read_beat
from data.stages.workspace import Workspace
from tasks.cluster import site as sites
from tasks.cluster.site import Pulse, RunGoneError, Site, SiteError
from tasks.cluster.slurm import arguments, read_profile


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "data" / "sub01").mkdir(parents=True)
    return Site.of(tmp_path / "ws", "", {"casme2": tmp_path / "data"})


def test_a_worker_that_sees_all_the_same_fits(tmp_path: Path, site: Site) -> None:
    with Workspace(tmp_path / "ws").lock() as token:
        replace(site, token=token).check()
    assert not list((tmp_path / "ws").glob(".probe*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"code": "0"}, "other code"),
        ({"versions": {"numpy": "1.0"}}, "the run 1.0"),
        ({"versions": {**sites.versions(), "dlib-bin": "0"}}, "the run 0"),
        ({"workspace": "/nowhere"}, "no workspace /nowhere"),
        ({"roots": {"casme2": "/nowhere"}}, "no folder /nowhere (dataset casme2)"),
        ({"listings": {"casme2": "0"}}, "holds other files"),
    ],
)
def test_what_differs_is_said(
    tmp_path: Path, site: Site, change: dict[str, object], said: str
) -> None:
    with Workspace(tmp_path / "ws").lock() as token, pytest.raises(SiteError) as caught:
        replace(site, **{"token": token, **change}).check()  # type: ignore[arg-type]
    assert said in str(caught.value) and caught.value.got.count(";") < 20


def test_a_workspace_of_another_run_is_not_the_runs(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "SEEN_WITHIN_S", 0.1)
    with Workspace(tmp_path / "ws").lock(), pytest.raises(SiteError, match="the run beats"):
        replace(site, token="another").check()


def test_a_job_is_given_up_when_its_run_is_over(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Workspace(tmp_path / "ws").lock() as token:
        pulse = Pulse(replace(site, token=token))
        now = 10.0
        pulse.check()
        now = 25.0
        pulse.check()  # silent for less than a lease
        now = 40.0
        with pytest.raises(RunGoneError, match="given up"):
            pulse.check()
        assert read_beat(tmp_path / "ws") is not None
    other = Pulse(replace(site, token="another"))
    now = 45.0
    with Workspace(tmp_path / "ws").lock(), pytest.raises(RunGoneError):
        other.check()


def test_the_example_profile_gives_jobs_that_are_told_before_their_end() -> None:
    found = arguments(read_profile(Path("docs/slurm.yaml")))
    assert "--signal=B:USR1@120" in found["job_extra_directives"]
    assert found["worker_command"] == "tasks.cluster.batch" and found["processes"] == 1


def test_a_wrong_profile_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("cores: 0\nqueues: x\n")
    with pytest.raises(ConfigError, match=r"cores: .*queues"):
        read_profile(path)
