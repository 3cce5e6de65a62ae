"""A recipe: everything that decides a run, in one strict, readable YAML file.

A recipe names datasets, never their folders: where data lies is a fact about a machine and is given
on the command line (`--data NAME=ROOT`). Unknown keys are errors that list the known ones.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from data.errors import ConfigError
from data.settings import ASIDE, Settings
from data.stages.identity import stable_hash
from data.stages.registry import STAGES, settings_of, with_needs
from models.contract import Network, NoDecode
from models.recipe_text import MAX_DEPTH, read_file, short
from models.registry import NETWORKS, find_network
from models.targets import AUS

LONGEST_NAME = 200  # of a recipe on the command line; disks take 255 bytes


class SplitConfig(Settings):
    """How subjects are divided into training and test folds."""

    kind: Literal[
        "leave_one_subject_out",
        "subject_kfold",
        "leave_one_dataset_out",
        "megc2019",
        "cd6me",
        "published",
    ] = Field(
        "leave_one_subject_out",
        description="Who is held out in a fold; docs/scores.md defines each.",
    )
    k: int = Field(5, ge=2, le=100_000, description="Number of folds of subject_kfold.")
    seed: int = Field(0, ge=0, le=2**53, description="Seed of subject_kfold.")
    name: str | None = Field(None, description="Name of a published split.")
    path: str | None = Field(None, description="Folder or file of a published split.")


class EpochScores(Settings):
    """What is scored beside the last epoch. The headline is the last epoch's, whatever is set."""

    record: int = Field(
        0,
        ge=0,
        le=1000,
        title="Recorded epochs",
        description="Test predictions of so many epochs, evenly spread, the last among them; 0: of "
        "the last only.",
    )
    nested: bool = Field(
        False,
        title="Nested choice",
        description="Choose each fold's epoch on inner people of its training side, by one more "
        "training without them.",
    )
    inner_folds: int = Field(
        5,
        ge=2,
        le=100,
        title="Inner groups",
        description="The training people are dealt into so many groups; one of them chooses.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> EpochScores:
        if self.nested and self.record < 2:
            raise ValueError("nested chooses among recorded epochs: set record to 2 or more")
        return self

    def unread(self) -> frozenset[str]:
        """Without a nested choice nobody is dealt into groups."""
        return frozenset() if self.nested else frozenset({"inner_folds"})


class Recipe(Settings):
    """One experiment: data, settings of each stage, model, training, scoring.

    `parse_recipe` makes one, with a field of settings for every stage of `data.stages.registry`.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
        max_length=100,
        description="Names the folder under runs/.",
        json_schema_extra=ASIDE,
    )
    about: str = Field(
        "", description="What is from the paper, from the code, and ours.", json_schema_extra=ASIDE
    )
    expected: str = Field(
        "not found", description="Published or known numbers.", json_schema_extra=ASIDE
    )
    data: tuple[str, ...] = Field(min_length=1, description="Dataset names; roots come by --data.")
    labels: Literal[
        "label_3", "label_4", "label_5", "label_7", "objective_class", "emotion", "aus"
    ] = Field(
        "label_3",
        description="Which label map is learned; aus: the set of action units, each yes or no.",
    )
    split: SplitConfig = SplitConfig()
    also: tuple[str, ...] = Field(
        (), description="Stages to run that the model does not need.", json_schema_extra=ASIDE
    )
    model: Any = Field(description="`name` says which; the rest is its own.")
    train: SerializeAsAny[Settings] = Field(description="Settings of the model's training.")
    decode: Any = Field(
        NoDecode(), description="From a spotting network's outputs to intervals and counts."
    )
    seed: int = Field(0, ge=0, le=2**53, description="Seed of weights, sampling and augmentation.")
    seeds: tuple[Annotated[int, Field(ge=0, le=2**53)], ...] = Field(
        (),
        max_length=100,
        description="Several seeds in one run, e.g. [0, 1, 2]: every fold is trained with each, "
        "and scores are means over them. Empty: `seed` alone.",
    )
    epoch_scores: EpochScores = EpochScores()
    chunk_minutes: float = Field(
        15.0,
        ge=0.1,
        le=10_000,
        description="Minutes of one core that a chunk of a new store may take.",
        json_schema_extra=ASIDE,
    )
    strict: bool = Field(
        False, description="Stop at the first unit that fails.", json_schema_extra=ASIDE
    )
    with_faces: bool = Field(
        False,
        description="Show faces of licensed datasets in pictures of this run.",
        json_schema_extra=ASIDE,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_as_the_models(cls, values: Any) -> Any:
        """Read `model`, `train` and `decode` with the network's classes: errors name its keys."""
        if not isinstance(values, dict) or isinstance(values.get("model"), Settings):
            return values
        model = values.get("model")
        if not isinstance(model, dict) or str(model.get("name")) not in NETWORKS:
            raise ValueError(
                f"model.name: expected one of {', '.join(NETWORKS)}, got {short(model)}"
            )
        network = find_network(str(model["name"]))
        read = {}
        kinds = (("model", network.settings), ("train", network.train), ("decode", network.decode))
        for key, kind in kinds:
            try:
                read[key] = kind.model_validate(values.get(key) or {})
            except ValidationError as error:
                raise ValueError("; ".join(_problems(error, kind, key))) from error
        return {**values, **read}

    @model_validator(mode="after")
    def _learnable(self) -> Recipe:
        """A set of action units is learned by networks of a family that can."""
        if self.labels == AUS and not import_module(self.network.family).FAMILY.multi_label:
            raise ValueError(
                "labels: aus needs a network with a yes or no for each action unit, such as "
                f"hsta (got {self.network_name})"
            )
        return self

    @field_validator("data")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """A dataset is a folder of the workspace and stands in a recipe once."""
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name):
                raise ValueError(f"{name[:80]!r} is no dataset's name")
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return names

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """A seed trained twice gives the same fold twice."""
        if twice := sorted({s for s in seeds if seeds.count(s) > 1}):
            raise ValueError(f"{', '.join(map(str, twice))} stands there twice")
        return seeds

    def unread(self) -> frozenset[str]:
        """`seed` where there are `seeds`."""
        return frozenset({"seed"} if self.seeds else {"seeds"})

    @property
    def each_seed(self) -> tuple[int, ...]:
        """The seeds of the run, the one shown in pictures first."""
        return self.seeds or (self.seed,)

    def __reduce__(self) -> tuple[Any, ...]:
        """To a worker process as plain values: its class is made there again."""
        return parse_recipe, (self.model_dump(mode="json"),)

    @property
    def network_name(self) -> str:
        """The network's name."""
        return str(self.model.name)

    @property
    def network(self) -> Network:
        """What the project knows of the recipe's network."""
        return find_network(self.network_name)

    @property
    def stages(self) -> tuple[str, ...]:
        """What comes before training, in order: ingest, and the stages the model needs."""
        return ("ingest", *with_needs((*self.network.needs(self.model), *self.also)))

    @property
    def steps(self) -> tuple[str, ...]:
        """Everything the recipe does, in order."""
        return (*self.stages, "train", "evaluate")

    def stage_config(self, stage: str) -> Any:
        """Settings of one preprocessing stage, of its own settings class."""
        return getattr(self, stage)

    @property
    def digest(self) -> str:
        """Identity of what decides results, for people who compare two runs."""
        used = {name: self.stage_config(name).identity() for name in self.stages[1:]}
        own = {
            name: value for name, value in self.identity().items() if name not in STAGES
        }  # fmt: skip
        return stable_hash(self.network_name, own, used)


def recipe_class() -> type[Recipe]:
    """`Recipe` with the settings of every stage that is known now."""
    return _recipe_class(tuple(STAGES))


@cache
def _recipe_class(stages: tuple[str, ...]) -> type[Recipe]:
    kinds = {name: settings_of(name) for name in stages}
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in kinds.items()}
    made: type[Recipe] = create_model("Recipe", __base__=Recipe, **fields)
    return made


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
        if len(name_or_path) > LONGEST_NAME or not path.exists():
            near = difflib.get_close_matches(name_or_path[:80], list_recipes(), n=3)
            raise ConfigError(
                f"recipe {name_or_path[:300]}",
                expected="a name in flows/recipes/ or a .yaml path",
                got="neither",
                todo=f"Did you mean {', '.join(near)}?" if near else f"Known: {list_recipes()}",
            )
    values = read_file(path)
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path}", expected="a mapping", got=type(values).__name__)
    values.setdefault("name", path.stem)
    for key, value in (overrides or {}).items():
        _set(values, key, value)
    return parse_recipe(values, str(path), tuple(overrides or ()))


def parse_recipe(
    values: dict[str, Any], who: str = "recipe", changed: tuple[str, ...] = ()
) -> Recipe:
    """Validate a plain mapping. Raises ConfigError listing every wrong key with the known ones.

    `changed`: dotted keys that a person set; when all that is wrong is theirs, they are named and
    the file is not.
    """
    try:
        return recipe_class().model_validate(values)
    except ValidationError as error:
        lines = _problems(error, recipe_class())
        typed = [key for key in changed if any(_is_about(line, key) for line in lines)]
        if typed and all(any(_is_about(line, key) for key in typed) for line in lines):
            who = f"--set {', '.join(key[:80] for key in typed)}"
        raise ConfigError(
            who, expected="a valid recipe", got=f"{len(lines)} problem(s):\n  " + "\n  ".join(lines)
        ) from error


def _is_about(problem: str, key: str) -> bool:
    """Whether a problem's line begins with a dotted key, or with what the key is in."""
    where = problem.partition(":")[0]
    return where == key or where.startswith(f"{key}.") or key.startswith(f"{where}.")


def parse_stored_recipe(values: dict[str, Any]) -> Recipe:
    """A run's recipe.json, also of runs that an apexflow before 0.2 made."""
    model = values.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if str(name) in NETWORKS and find_network(str(name)).decode is NoDecode:
        values = {**values, "decode": {}}
    return parse_recipe(values, "recipe.json")


def _problems(error: ValidationError, kind: type[Settings], *inside: str) -> list[str]:
    """One line per wrong key: where, what was wrong, and for an unknown key the known ones."""
    lines = []
    for problem in error.errors():
        where = ".".join([*inside, *(str(p)[:80] for p in problem["loc"])])
        if problem["type"] == "extra_forbidden":
            known = _fields_at(kind, problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1])[:80], known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            lines.append(f"{where}: unknown key; {hint}known: {', '.join(known)}")
        elif where:
            lines.append(f"{where}: {problem['msg']} (got {short(problem.get('input'))})")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return lines


def _fields_at(kind: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    """Known keys of the settings class found along `location`."""
    for step in location:
        field = kind.model_fields.get(str(step))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, Settings):
            kind = inner
    return list(kind.model_fields)


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """values['a']['b'] = value for 'a.b'; a key of a missing mapping makes the mapping."""
    *parents, last = dotted.split(".")
    if len(parents) >= MAX_DEPTH:
        raise ConfigError(
            f"--set {dotted[:80]}", expected="a recipe key such as flow.size", got="endless dots"
        )
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"--set {dotted}", expected=f"{parent} to hold keys", got=short(values)
            )
    values[last] = value
