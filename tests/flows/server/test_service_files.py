"""The unit and compose files that come with the project say what the command line understands."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from flows.cli import app

ROOT = Path(__file__).resolve().parents[3]
SERVICE = ROOT / "docs" / "service"
UNITS = ("apexflow.service", "apexflow-worker.service")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((SERVICE / "compose.yaml").read_text())
    return found


def commands() -> list[list[str]]:
    found = [compose()["services"][name]["command"] for name in ("server", "worker")]
    for unit in UNITS:
        [line] = [t for t in (SERVICE / unit).read_text().splitlines() if t.startswith("ExecStart")]
        words = shlex.split(line.partition("=")[2])
        assert words[1:3] == ["-m", "flows"]
        found.append(words[3:])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_option_is_one_of_the_commands(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    own = command.commands[words[0]]
    made = own.make_context(words[0], list(words[1:]))
    assert made.params


def test_compose_names_what_it_uses() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source[0] in "./$" or source in volumes
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])
    assert (ROOT / services["server"]["build"]["dockerfile"]).is_file()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    python = "/srv/apexflow/.venv/bin/python"
    text = (SERVICE / unit).read_text().replace(python, sys.executable)
    (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if unit in line]
    assert done.returncode == 0 and not ours, done.stderr
