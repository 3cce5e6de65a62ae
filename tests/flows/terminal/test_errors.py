"""How a command ends when something outside it goes wrong: one line, an exit code."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import typer

from flows import start
from flows.cli import _guard
from flows.terminal.last_resort import sentence


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/ws/part-00.h5"), "/ws/part-00.h5"),
        (PermissionError(errno.EACCES, "Permission denied", "/ws"), "Permission denied"),
        (MemoryError("12 GiB asked for"), "12 GiB"),
    ],
)
def test_a_full_disk_or_memory_ends_in_one_line(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @_guard
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        command()
    text = capsys.readouterr().err
    assert caught.value.exit_code == 1
    assert told in text and "run again" in text and len(text.splitlines()) == 1


def test_a_closed_pipe_is_left_to_the_shell() -> None:
    @_guard
    def command() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        command()


@pytest.mark.parametrize(
    "error", [KeyError("x" * 9000), RecursionError("deep\nwords"), ValueError()]
)
def test_an_unforeseen_error_is_one_line_and_a_file(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    @_guard
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        command()
    text = capsys.readouterr().err
    assert caught.value.exit_code == 1 and len(text.splitlines()) == 1 and len(text) < 900
    assert type(error).__name__ in text and "report it" in text and "Traceback" not in text
    (log,) = tmp_path.rglob("*.log")
    assert str(log) in text and "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0 and log.parent.stat().st_mode & 0o077 == 0


def test_details_that_cannot_be_written_do_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    assert "could not be written" in sentence(ValueError("odd"), "plan")


def test_a_worker_that_was_killed_is_named() -> None:
    said = sentence(BrokenProcessPool("terminated abruptly"), "run")
    assert "worker process" in said and "memory" in said and "--workers" in said
    assert "no memory was left" in sentence(MemoryError(), "run")
    library = ImportError("libx.so: failed to map segment from shared object")
    assert "no memory was left" in sentence(library, "check")


def test_an_exit_code_of_a_command_passes() -> None:
    @_guard
    def command() -> None:
        raise typer.Exit(3)

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 3


# ------------------------------------------------------------------------------- address space


def limited(megabytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command under `ulimit -v`."""
    size = megabytes << 20
    return subprocess.run(
        [sys.executable, "-m", "flows", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("megabytes", [150, 500, 700, start.LEAST_MB - 1])
def test_too_little_address_space_is_refused_before_a_library_dies_of_it(megabytes: int) -> None:
    """Unrefused: a traceback, an import error, a segfault and a run that fails half way."""
    done = limited(megabytes, "check", "csv", "/nosuch")
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: ulimit -v allows {megabytes} MB") and "unlimited" in line


def test_help_needs_little_and_a_run_is_warned() -> None:
    done = limited(600, "check", "--help")
    assert done.returncode == 0 and "LAYOUT" in done.stdout
    done = limited(start.LEAST_MB + 100, "check", "csv", "/nosuch")
    assert done.returncode == 4 and "no_such_folder" in done.stdout
    assert done.stderr.startswith("warning: ulimit -v allows 2500 MB")
    assert start.said_of_limit(start.RUN_MB) == start.said_of_limit(float("inf")) == ""


def test_words_of_memory_name_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (3 << 30, 3 << 30))
    assert "ulimit -v allows 3072 MB" in sentence(MemoryError(), "run")
