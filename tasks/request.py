"""What a person asks for: the one form behind the command line and the Prefect deployments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from data.datasets import ADAPTERS
from data.errors import ConfigError
from models.recipe import list_recipes
from models.steps import step_names


def _choice(*names: str, **more: Any) -> Any:
    """A drop-down in a form. Others are refused where they are used, in words."""
    return Field(json_schema_extra={"enum": list(names)}, **more)


StageName = Annotated[str, _choice(*step_names())]
DatasetName = Annotated[str, _choice(*ADAPTERS)]
DeviceName = Annotated[str, _choice("auto", "cpu", "cuda", *(f"cuda:{n}" for n in range(16)))]
RecipeName = Annotated[str, _choice(*list_recipes(), title="One of ours")]
RecipePath = Annotated[str, Field(title="A YAML file's path")]
PLACES = ("recipe", "workspace", "scheduler", "landmark_model")  # fields that may be paths


def _expanded(text: str) -> str:
    """~ and ~name as a shell would have them; forms have no shell."""
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise ValueError(str(error)) from error


class DataRow(BaseModel):
    """Where one dataset lies."""

    model_config = ConfigDict(extra="forbid")

    dataset: DatasetName = Field(title="Dataset", description="Its layout.")
    folder: str = Field(title="Folder", description="As its owner ships it.")


def _as_rows(value: Any) -> Any:
    """Name → folder means the same as rows."""
    if isinstance(value, dict):
        return [{"dataset": name, "folder": folder} for name, folder in value.items()]
    return value


def _each_once(rows: list[DataRow]) -> list[DataRow]:
    names = [row.dataset for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each dataset once, got {', '.join(twice)} twice")
    return rows


DataRows = Annotated[list[DataRow], BeforeValidator(_as_rows), AfterValidator(_each_once)]


class RunRequest(BaseModel):
    """One run: a recipe, where its data lies, where results go, and which stages to do."""

    model_config = ConfigDict(extra="forbid")

    recipe: RecipeName | RecipePath = Field(
        "demo_hsta",
        title="Recipe",
        description="A name in flows/recipes/ or the path of a YAML file.",
    )
    workspace: str = Field(
        "demo/workspace",
        title="Workspace",
        description="Folder for stores and runs; made when missing.",
    )
    data: DataRows = Field(
        default_factory=list,
        title="Data",
        description="A row for each of the recipe's datasets.",
    )
    stages: list[StageName] = Field(
        default_factory=list,
        title="Only these stages",
        description="Empty: all the recipe needs. Otherwise only these, refusing stale inputs.",
    )
    from_stage: StageName | None = Field(
        None, title="From stage", description="This stage and all that follow."
    )
    until: StageName | None = Field(
        None, title="Until stage", description="Up to and including this stage."
    )
    subjects: list[str] = Field(
        default_factory=list,
        title="Only these subjects",
        description="As the dataset spells them; preprocessing only, no training.",
    )
    videos: list[str] = Field(
        default_factory=list,
        title="Only these videos",
        description="By their ids; preprocessing only, no training.",
    )
    only_failed: bool = Field(
        False,
        title="Only what failed",
        description="Preprocess again the units that have no data; no training.",
    )
    force: list[StageName] = Field(
        default_factory=list,
        title="Force",
        description="Redo these stages, and all that depends on them, even if fresh.",
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        title="Settings to change",
        description='Recipe keys, dotted, e.g. {"flow.size": 128, "train.epochs": 20}.',
    )
    workers: int = Field(0, ge=0, le=256, title="Worker processes", description="0: one per core.")
    scheduler: str = Field(
        "",
        title="Scheduler",
        description="Have the jobs done by Dask workers: tcp://HOST:PORT, a scheduler's file, or "
        "slurm:PROFILE.yaml; empty: processes of this machine.",
    )
    memory: str = Field(
        "",
        title="Memory",
        description="Ceiling for the run and its workers, e.g. 8G: as many workers as fit into it.",
    )
    time_limit_s: float = Field(
        0.0,
        ge=0,
        title="Time limit",
        description="Seconds one video or event may take in a stage; 0: 20 times what the slowest "
        "took so far. Whoever takes longer is a ledger row.",
    )
    max_gpu_memory_mb: float | None = Field(
        None,
        gt=0,
        title="GPU memory, MB",
        description="At most so much for training; empty: all that is free.",
    )
    device: DeviceName = Field(
        "auto",
        title="Device",
        description="auto, cpu, cuda or cuda:N. auto takes the GPU when there is one.",
    )
    landmark_model: str = Field(
        "",
        title="Landmark model",
        description="Path of a dlib 68-point model of your own, for align and motion.",
    )
    wait_s: float = Field(
        0.0,
        ge=0,
        title="Wait for the workspace",
        description="Seconds to wait while another run holds it; 0 refuses at once.",
    )
    folds: list[str] = Field(
        default_factory=list,
        title="Only these folds",
        description="By number, name or held-out subject; empty: all that are not trained.",
    )
    verify: Literal["", "files", "inputs"] = Field(
        "",
        title="Verify",
        description="files: read the bytes of everything published; inputs: and of the raw "
        "recordings. What is not as recorded is made anew.",
    )
    allow_shrink: bool = Field(
        False,
        title="Allow a dataset to shrink",
        description="Go on when many of a dataset's known videos are gone; nothing is deleted.",
    )
    with_faces: bool = Field(
        False,
        title="Show faces",
        description="Show faces of licensed datasets in pictures; licences usually forbid it.",
    )

    @field_validator(*PLACES)
    @classmethod
    def _at_home(cls, value: str) -> str:
        return _expanded(value)

    def roots(self) -> dict[str, Path]:
        """Dataset roots as paths. Raises ConfigError for the home of somebody who is not here."""
        pairs = [(row.dataset, row.folder) for row in self.data]
        try:
            return {name: Path(root).expanduser() for name, root in pairs}
        except RuntimeError as error:
            raise ConfigError("--data", expected="folders", got=str(error)) from error
