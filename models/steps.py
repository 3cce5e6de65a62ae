"""Every step of a run, in order: ingest, the preprocessing stages, training, scoring."""

from __future__ import annotations

from data.errors import ConfigError
from data.stages.contract import Step
from data.steps import find_preprocessing_step, preprocessing_steps


def step_names() -> tuple[str, ...]:
    """Names of all steps that are known, in running order."""
    return (*preprocessing_steps(), "train", "evaluate")


def find_step(name: str) -> Step:
    """The step called `name`. Raises ConfigError for an unknown one."""
    if name == "train":
        from models.runs.training import STEP as TRAIN

        return TRAIN
    if name == "evaluate":
        from models.runs.scoring import STEP as EVALUATE

        return EVALUATE
    if name not in preprocessing_steps():
        raise ConfigError("stage", expected=f"one of {', '.join(step_names())}", got=name)
    return find_preprocessing_step(name)
