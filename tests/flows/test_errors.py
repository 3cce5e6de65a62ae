"""How a command ends when something outside it goes wrong: one line, an exit code."""

from __future__ import annotations

import errno

import pytest
import typer

from flows.cli import _guard


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
