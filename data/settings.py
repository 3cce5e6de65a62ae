"""The base of all settings: frozen, strict, self-describing.

Titles and descriptions feed the Prefect form and `--help`. An unknown key is an error. Every value
a result depends on is a setting, so that keys can be made from settings.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

ASIDE: dict[str, Any] = {"identity": False}  # speed, memory, names, display, device: not in a key


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
