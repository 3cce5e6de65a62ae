"""A recipe: everything that decides a run, in one strict, readable YAML file.

A recipe names datasets, never their folders: where data lies is a fact about a machine and is given
on the command line (`--data NAME=ROOT`). Unknown keys are errors that list the known ones.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from data.config import AlignConfig, ApexConfig, FlowConfig, MotionConfig, Settings
from data.errors import ConfigError
from data.identity import stable_hash
from models.hsta import HstaConfig
from models.hsta_training import HstaTrainConfig
from models.me_tst import MeTstConfig
from models.me_tst_plus import MeTstPlusConfig
from models.me_tst_training import DecodeConfig, MeTstTrainConfig

LABELS = ("label_3", "label_4", "label_5", "label_7", "objective_class", "emotion")


class SplitConfig(Settings):
    """How subjects are divided into training and test folds."""

    kind: Literal["leave_one_subject_out", "subject_kfold", "published"] = Field(
        "leave_one_subject_out", description="Who is held out in a fold."
    )
    k: int = Field(5, ge=2, description="Number of folds of subject_kfold.")
    seed: int = Field(0, description="Seed of subject_kfold.")
    name: str | None = Field(None, description="Name of a published split.")
    path: str | None = Field(None, description="Folder or file of a published split.")


class Recipe(Settings):
    """One experiment: data, preprocessing, model, training, scoring."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Names the folder under runs/.")
    about: str = Field("", description="What is from the paper, from the code, and ours.")
    expected: str = Field("not found", description="Published or known numbers.")
    data: tuple[str, ...] = Field(min_length=1, description="Dataset names; roots come by --data.")
    labels: Literal["label_3", "label_4", "label_5", "label_7", "objective_class", "emotion"] = (
        Field("label_3", description="Which label map is learned.")
    )
    split: SplitConfig = SplitConfig()
    align: AlignConfig = AlignConfig()
    apex: ApexConfig = ApexConfig()
    flow: FlowConfig = FlowConfig()
    motion: MotionConfig = MotionConfig()
    model: Annotated[HstaConfig | MeTstConfig | MeTstPlusConfig, Field(discriminator="name")]
    train: HstaTrainConfig | MeTstTrainConfig
    decode: DecodeConfig = DecodeConfig()
    seed: int = Field(0, ge=0, description="Seed of weights, sampling and augmentation.")
    strict: bool = Field(False, description="Stop at the first unit that fails.")
    with_faces: bool = Field(
        False, description="Show faces of licensed datasets in pictures of this run."
    )

    @model_validator(mode="before")
    @classmethod
    def _train_fits_model(cls, values: Any) -> Any:
        """Read `train` as the model family's own settings, so that errors name the right keys."""
        if isinstance(values, dict) and not isinstance(values.get("train"), Settings):
            model = values.get("model")
            name = model.get("name") if isinstance(model, dict) else getattr(model, "name", "")
            kind = HstaTrainConfig if name == "hsta" else MeTstTrainConfig
            values = {**values, "train": kind.model_validate(values.get("train") or {})}
        return values

    @property
    def family(self) -> Literal["hsta", "me_tst"]:
        """Which training code runs."""
        return "hsta" if self.model.name == "hsta" else "me_tst"

    @property
    def stages(self) -> tuple[str, ...]:
        """Preprocessing stages the model needs, in order, ingest first."""
        if self.family == "me_tst":
            return ("ingest", "motion")
        return ("ingest", "align", "apex", "flow")

    def stage_config(self, stage: str) -> Settings:
        """Settings of one preprocessing stage."""
        return {
            "align": self.align,
            "apex": self.apex,
            "flow": self.flow,
            "motion": self.motion,
        }[stage]

    @property
    def digest(self) -> str:
        """Identity of what decides results: all but prose and switches of presentation."""
        plain = self.model_dump(mode="json", exclude={"about", "expected", "strict", "with_faces"})
        return stable_hash(plain)


def recipes_folder() -> Path:
    """Where the recipes that come with the project lie."""
    return Path(__file__).resolve().parent.parent / "flows" / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(p.stem for p in recipes_folder().glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by name or path and apply `dotted.key` → value overrides.

    Raises ConfigError naming the file, the key, what was expected and what came.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = recipes_folder() / f"{name_or_path}.yaml"
        if not path.exists():
            near = difflib.get_close_matches(name_or_path, list_recipes(), n=3)
            raise ConfigError(
                f"recipe {name_or_path}",
                expected="a name in flows/recipes/ or a .yaml path",
                got="neither",
                todo=f"Did you mean {', '.join(near)}?" if near else f"Known: {list_recipes()}",
            )
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"recipe {path}", expected="a readable YAML file", got=str(error)
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path}", expected="a mapping", got=type(values).__name__)
    values.setdefault("name", path.stem)
    for key, value in (overrides or {}).items():
        _set(values, key, value)
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], who: str = "recipe") -> Recipe:
    """Validate a plain mapping. Raises ConfigError listing every wrong key with the known ones."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(p) for p in problem["loc"])
            line = f"{where}: {problem['msg']} (got {str(problem.get('input'))[:60]!r})"
            if problem["type"] == "extra_forbidden":
                line = f"{where}: unknown key; known: {', '.join(_known_keys(problem['loc']))}"
            lines.append(line)
        raise ConfigError(
            who, expected="a valid recipe", got=f"{len(lines)} problem(s):\n  " + "\n  ".join(lines)
        ) from error


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys allowed beside the wrong one."""
    kinds: dict[str, type[Settings]] = {
        "split": SplitConfig,
        "align": AlignConfig,
        "apex": ApexConfig,
        "flow": FlowConfig,
        "motion": MotionConfig,
        "decode": DecodeConfig,
        "hsta": HstaConfig,
        "me_tst": MeTstConfig,
        "me_tst_plus": MeTstPlusConfig,
    }
    parents = [str(p) for p in location[:-1] if str(p) in kinds]
    kind: type[Settings] = kinds[parents[-1]] if parents else Recipe
    return list(kind.model_fields)


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """values['a']['b'] = value for 'a.b'; a key of a missing mapping makes the mapping."""
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {dotted}", expected=f"{parent} to hold keys", got=str(values))
    values[last] = value
