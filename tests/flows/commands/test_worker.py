"""What `worker` takes: words that fit its server, addresses, and how one ends."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.errors import ConfigError
from flows.commands.worker import worker
from flows.server import remote

TEAM = "http://team:4200"
SCHEDULER = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"connect": TEAM, "memory": "8G"}, "--memory"),
        ({"connect": TEAM, "device": "cpu"}, "--device"),
        ({"connect": TEAM, "patience": 5.0}, "--patience"),
        ({"scheduler": SCHEDULER, "auth_file": Path("auth")}, "--auth-file"),
        ({"scheduler": SCHEDULER, "connect": TEAM}, "either"),
    ],
)
def test_a_word_that_would_do_nothing_is_refused(words: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        worker(**words)


@pytest.mark.parametrize(("asked", "limit"), [(0, 1), (1, 1), (3, 3)])
def test_a_worker_of_a_team_does_one_run_at_a_time(
    asked: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(remote, "connect", lambda url, **words: told.update(words, url=url))
    worker(connect=TEAM, workers=asked)
    assert told["url"] == TEAM and told["limit"] == limit


def test_an_address_without_tcp_is_one_and_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from tasks.cluster.site import scheduler_address
    from tasks.cluster.worker import _serve

    assert scheduler_address("10.0.0.1:8786") == "tcp://10.0.0.1:8786"
    for same in ("tls://h:1", "scheduler.json", "/shared/scheduler.json", "a/b:1", "slurm:p.yaml"):
        assert scheduler_address(same) == same
    for name in ("/nowhere/scheduler.json", str(tmp_path / "scheduler.json")):
        with pytest.raises(ConfigError, match="which is no file"):
            asyncio.run(_serve(name, 1, None, 0.3))


def test_what_a_run_of_another_version_expects_refuses_no_worker() -> None:
    pytest.importorskip("distributed")
    from tasks.cluster.worker import _refuse_early

    async def told(**_: Any) -> dict[str, Any]:
        return {"workspace": "/ws", "token": "t", "of_a_later_version": 1}

    asyncio.run(_refuse_early(SimpleNamespace(scheduler=SimpleNamespace(get_metadata=told))))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(KeyboardInterrupt(), 130, "stopped"), (RuntimeError("no pool"), 1, "no pool")],
)
def test_a_team_worker_ends_in_words(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from prefect.workers.process import ProcessWorker

    async def start(self: ProcessWorker, **_: Any) -> None:
        assert self.type == "process" and self.name == "me"
        raise error

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(ProcessWorker, "start", start)
    monkeypatch.setattr("tasks.ghosts.watch", lambda *words: None)
    monkeypatch.setattr("os.umask", lambda mask: mask)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as caught:
        warnings.filterwarnings("error", message=".*matches existing registered type")
        remote.main("me", 2)
    text = capsys.readouterr().err
    assert caught.value.code == code and said in text and "Traceback" not in text
