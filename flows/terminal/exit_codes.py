"""The exit codes of every command: scripts and schedulers read these, people the words.

docs/exit_codes.md has the same table; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command ends with."""

    GOOD = 0
    FAILED = 1
    WRONG_USAGE = 2
    REPAIRED = 3
    UNUSABLE = 4
    STOPPED = 130


MEANING = {
    Exit.GOOD: "done, or nothing to do; `check`: no defects",
    Exit.FAILED: "it could not be done: what was finished is whole and kept, run again to go on",
    Exit.WRONG_USAGE: "a word of the command, a recipe or a setting is wrong: the same again would "
    "not help; what a run had finished is kept",
    Exit.REPAIRED: "`check` only: usable, with the repairs listed",
    Exit.UNUSABLE: "`check` only: unusable, with the reason",
    Exit.STOPPED: "stopped by a person (Ctrl-C, `kill`, a closed terminal): finished parts are "
    "kept, run again to go on",
}
