"""The base of all settings: frozen, strict, self-describing.

Titles and descriptions feed the Prefect form and `--help`. An unknown key is an error. Every value
a result depends on is a setting, so that keys can be made from settings.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


ASIDE = {"identity": False}  # json_schema_extra of a field that does not change results


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
