"""The list of preprocessing stages, in the order in which they run.

A stage is one file or one folder and one line here. It holds SETTINGS (a settings class; in a
folder in `settings.py`) and STAGE (`data.stages.contract.Stage`; in `stage.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from data import plugins
from data.settings import Settings
from data.stages.contract import Stage

STAGES = {
    "align": "data.align",
    "registration": "data.registration",
    "apex": "data.apex",
    "flow": "data.flow",
    "motion": "data.motion",
    "flow_pictures": "data.flow_pictures",
}


def find_stage(name: str) -> Stage:
    """The stage called `name`, imported when asked for. Raises ConfigError for an unknown name."""
    stage: Stage = plugins.find(plugins.place_of(STAGES, name, "stage"), "STAGE", "stage")
    return stage


def settings_of(name: str) -> type[Settings]:
    """A stage's settings class, without importing the stage."""
    found: type[Settings] = plugins.find(
        plugins.place_of(STAGES, name, "stage"), "SETTINGS", "settings"
    )
    return found


def with_needs(names: Iterable[str]) -> tuple[str, ...]:
    """The stages and all they depend on, in running order; ingest is none of them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name != "ingest" and name not in found:
            found.add(name)
            waiting.extend(find_stage(name).needs)
    return tuple(name for name in STAGES if name in found)
