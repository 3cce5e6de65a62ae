"""Errors that name who failed, what was expected, what came, and what to do.

Every error a user can cause is an `ApexflowError`. Its `code` is the reason code that a ledger row
carries when the error is confined to one unit (video, event, row) and the rest goes on.
"""

from __future__ import annotations


class ApexflowError(Exception):
    """Base of all errors this project raises on purpose.

    `who` is the dataset / subject / video / event / frame, or the parameter and its function.
    `code` is the ledger's reason word; a subclass has a default and a call may narrow it.
    """

    code = "error"

    def __init__(
        self, who: str, *, expected: str, got: str, todo: str = "", code: str | None = None
    ) -> None:
        self.who, self.expected, self.got, self.todo = who, expected, got, todo
        if code is not None:
            self.code = code
        super().__init__(f"{who}: expected {expected}, got {got}." + (f" {todo}" if todo else ""))

    def __reduce__(self) -> tuple[object, ...]:
        """Keyword arguments survive the trip back from a worker process."""
        return _rebuild, (type(self), self.who, self.expected, self.got, self.todo, self.code)


def _rebuild(
    kind: type[ApexflowError], who: str, expected: str, got: str, todo: str, code: str
) -> ApexflowError:
    return kind(who, expected=expected, got=got, todo=todo, code=code)


class ConfigError(ApexflowError):
    """A recipe, a setting or a command-line value is wrong."""

    code = "bad_config"


class InputError(ApexflowError):
    """An array, image or video handed to an algorithm is not what it accepts."""

    code = "bad_input"


class DatasetError(ApexflowError):
    """A dataset folder or annotation sheet cannot be used as it is."""

    code = "bad_dataset"


class SplitError(ApexflowError):
    """A split is not what it claims: people or videos on both sides, empty folds, unknown ids."""

    code = "bad_split"


class StoreError(ApexflowError):
    """A store, manifest or part is missing, damaged or stale."""

    code = "bad_store"


class LockedError(ApexflowError):
    """Another run holds the workspace."""

    code = "locked"


class MissingExtraError(ApexflowError):
    """An optional dependency is needed for this and is not installed."""

    code = "missing_extra"


class TrainingError(ApexflowError):
    """Training cannot go on (NaN loss, no samples, mismatched checkpoint)."""

    code = "training_failed"


class StrictError(ApexflowError):
    """A unit failed while the recipe says `strict: true`."""

    code = "strict"
