"""The steps before training: ingest, and every preprocessing stage."""

from __future__ import annotations

from data.errors import ConfigError
from data.stages.contract import Step
from data.stages.planning import StageStep
from data.stages.registry import STAGES


def preprocessing_steps() -> tuple[str, ...]:
    """Their names, in running order."""
    return ("ingest", *STAGES)


def find_preprocessing_step(name: str) -> Step:
    """The step called `name`. Raises ConfigError for an unknown one."""
    if name == "ingest":
        from data.ingest.stage import STEP

        return STEP
    if name not in STAGES:
        known = ", ".join(preprocessing_steps())
        raise ConfigError("stage", expected=f"one of {known}", got=name)
    return StageStep(name)
