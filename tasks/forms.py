"""The forms of the deployments: of what a run can be asked, the fields that mean something there.

A stage's own form has none that would do nothing; it says `redo` where the full run's lists stages
to force, and a run made from a form waits for its workspace. All of them come to a RunRequest.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from data.errors import ConfigError
from data.stages.registry import find_stage
from models.steps import find_step, step_names
from tasks.request import RunRequest

DAY_S = 86_400.0
EVERYWHERE = ("recipe", "workspace", "data", "overrides", "verify", "wait_s")
OF_THE_WHOLE = ("stages", "from_stage", "until", "force")  # which stages: only the full run asks
ONLY_OF = {
    "allow_shrink": ("ingest",),
    "folds": ("train",),
    "device": ("flow", "train"),
    "max_gpu_memory_mb": ("train",),
}
IN_PARENT = ("ingest", "evaluate")  # made in one process
LATER = ("train", "evaluate")
PARTS = ("subjects", "videos", "only_failed", "time_limit_s")  # of preprocessing


class FullForm(RunRequest):
    """The full run: everything, and it waits for its workspace."""

    wait_s: float = Field(
        DAY_S,
        ge=0,
        title="Wait for the workspace",
        description="Seconds to wait while another run holds it; 0 refuses at once.",
    )


class StageForm(BaseModel):
    """What all forms of single stages have."""

    model_config = ConfigDict(extra="forbid")

    def request(self, stage: str) -> RunRequest:
        """The run that is asked for. Raises ConfigError for what does not concern this stage."""
        asked = self.model_dump()
        redo, known = asked.pop("redo"), fields(stage)
        for name, value in asked.items():
            field = type(self).model_fields[name]
            if name not in known and value != field.get_default(call_default_factory=True):
                raise ConfigError(
                    f"stage {stage}",
                    expected="what it has a use for",
                    got=f"{field.title}: {value}",
                )
        of_it = {name: value for name, value in asked.items() if name in known}
        return RunRequest(**of_it, stages=[stage], force=[stage] if redo else [])


def fields(stage: str) -> tuple[str, ...]:
    """Names of the request's fields that do something in a stage, in the request's order."""
    return tuple(name for name in RunRequest.model_fields if _means_something(name, stage))


def _means_something(name: str, stage: str) -> bool:
    if name in EVERYWHERE:
        return True
    if name in OF_THE_WHOLE:
        return False
    if name in ONLY_OF:
        return stage in ONLY_OF[name]
    if name in PARTS:
        return stage not in (*LATER, "ingest")
    if name == "with_faces":
        return stage == "evaluate" or (stage not in LATER and find_step(stage).shows_faces)
    if name == "landmark_model":
        return _reads_landmarks(stage)
    return stage not in IN_PARENT  # how jobs are carried out


def _reads_landmarks(stage: str) -> bool:
    """Whether it finds landmarks, or something that it was made from did."""
    if stage in (*LATER, "align", "motion"):
        return True
    return stage != "ingest" and any(map(_reads_landmarks, find_stage(stage).needs))


@cache
def form(stage: str = "") -> type[StageForm]:
    """The form of one stage, or, without a name, of any."""
    names = (
        fields(stage) if stage else [n for n in RunRequest.model_fields if n not in OF_THE_WHOLE]
    )
    chosen: dict[str, Any] = {}
    for name in names:
        model = FullForm if name in FullForm.__annotations__ else RunRequest
        chosen[name] = (model.model_fields[name].annotation, model.model_fields[name])
    chosen["redo"] = (bool, Field(False, title="Redo", description="Even what is fresh."))
    title = f"{stage.title().replace('_', '')}Form" if stage else "AnyStageForm"
    return create_model(title, __base__=StageForm, **chosen)


FORMS = {name: form(name) for name in step_names()}
if TYPE_CHECKING:
    AnyStageForm = StageForm
else:
    AnyStageForm = form()
