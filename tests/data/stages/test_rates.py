"""How fast this machine is: several runs that write at once, and files that hold something else."""

from __future__ import annotations

import json
import platform
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from data.stages import rates
from data.stages.rates import Rate, recall, remember


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "cache" / "rates.json"
    monkeypatch.setenv("APEXFLOW_RATES", str(found))
    return found


def test_runs_that_end_at_once_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = rates._read

    def slowly(place: Path) -> dict[str, dict[str, Any]]:
        found = read(place)
        time.sleep(0.01)
        return found

    monkeypatch.setattr(rates, "_read", slowly)
    threads = [
        threading.Thread(target=remember, args=(f"flow/1/{i}", Rate(2.0, 1.0))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(json.loads(path.read_text())[platform.node()]) == {f"flow/1/{i}" for i in range(8)}
    assert recall("flow/1/3") == Rate(2.0, 1.0)
    assert not list(path.parent.glob(".*.tmp"))


def test_what_cannot_be_read_now_is_not_erased(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember("flow/1/a", Rate(2.0, 1.0))
    before, read = path.read_text(), Path.read_text

    def fails(place: Path, *args: Any, **more: Any) -> str:
        if place == path:
            raise OSError("Input/output error")
        return read(place, *args, **more)

    monkeypatch.setattr(Path, "read_text", fails)
    remember("flow/1/b", Rate(2.0, 1.0))
    assert recall("flow/1/a") is None
    monkeypatch.setattr(Path, "read_text", read)
    assert path.read_text() == before
    path.write_text("[1, 2")
    remember("flow/1/b", Rate(2.0, 1.0))
    assert recall("flow/1/b") == Rate(2.0, 1.0)


def test_who_holds_the_file_for_long_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember("flow/1/a", Rate(2.0, 1.0))
    monkeypatch.setattr(rates, "PATIENCE_S", 0.05)
    with rates._alone(path):
        remember("flow/1/b", Rate(2.0, 1.0))
    assert set(json.loads(path.read_text())[platform.node()]) == {"flow/1/a"}
