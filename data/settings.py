"""The base of all settings: frozen, strict, self-describing, and which of them identify a result.

Titles and descriptions feed the Prefect form and `--help`. An unknown key is an error. A result's
key holds `Settings.identity()` of the settings it was made with: the fields that change the result
and differ from their default. So an option that is added later, with a default that means "as
before", leaves every old key alone; a changed default needs a new version of whoever reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from data.errors import ConfigError
from data.stages.identity import digest_of

ASIDE: dict[str, Any] = {"identity": False}  # speed, memory, names, display, device: not in a key
BY_CONTENT: dict[str, Any] = {"identity": "content"}  # a file: its bytes are in the key, not where

# Field(..., json_schema_extra=ASIDE) or BY_CONTENT marks a field; without a mark it is in the key.


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def unread(self) -> frozenset[str]:
        """Fields that these settings, as they are set, never read (a subclass may know some)."""
        return frozenset()

    def identity(self) -> dict[str, Any]:
        """What identifies a result made with these settings; plain values, defaults left out.

        Raises ConfigError when a file that is part of the identity cannot be read.
        """
        plain = self.model_dump(mode="json")
        unread = self.unread()
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            mark = identity_mark(field)
            value = getattr(self, name)
            if mark is False or name in unread:
                continue
            if isinstance(value, Settings):
                if inner := value.identity():
                    found[name] = inner
            elif field.is_required() or value != field.get_default(call_default_factory=True):
                found[name] = _content(name, value) if mark == "content" else plain[name]
        return found


def identity_mark(field: Any) -> Any:
    """A field's mark: True (in the key), False (aside) or "content"."""
    extra = field.json_schema_extra
    return extra.get("identity", True) if isinstance(extra, dict) else True


def _content(name: str, path: Any) -> str:
    try:
        return digest_of(Path(path))
    except OSError as error:
        raise ConfigError(name, expected="a readable file", got=str(error)) from error
