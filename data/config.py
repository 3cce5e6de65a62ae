"""Settings of the preprocessing stages: frozen, strict, self-describing.

Titles and descriptions feed the Prefect form and `--help`. An unknown key is an error. Every value
a stage's result depends on is here, so that the stage's key can be made from it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AlignConfig(Settings):
    """Face crops, aligned by registration to a reference frame."""


class ApexConfig(Settings):
    """Apex frames: labelled, filled in, or spotted."""


class FlowConfig(Settings):
    """TV-L1 flow and strain between chosen frames of an event."""


class MotionConfig(Settings):
    """ME-TST's ROI motion series per window."""
