"""Identity belongs to whoever reads a setting: nothing more in a key, and nothing less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import Field, ValidationError

from data.settings import ASIDE, Settings, identity_mark
from data.stages.registry import STAGES, settings_of
from models.recipe import Recipe, SplitConfig, list_recipes, load_recipe, parse_recipe
from models.registry import NETWORKS, find_network

ROOT = Path(__file__).resolve().parents[3]
SOURCES = "\n".join(
    path.read_text()
    for room in ("data", "models", "tasks", "flows")
    for path in (ROOT / room).rglob("*.py")
    if path.name not in ("settings.py", "config.py")
)
# What makes a setting be read that is not always.
WHEN = {
    ("AlignConfig", "smooth_frames"): {"mode": "landmarks_smooth"},
    ("FlowConfig", "samples"): {"pairs": ("sampled",)},
    **{
        ("HstaInputConfig", name): {"augment": True}
        for name in ("max_shift", "max_scale", "max_light", "max_amplitude", "mirror")
    },
}


def settings_classes() -> list[type[Settings]]:
    """Every settings class a recipe is made of."""
    found = [settings_of(name) for name in STAGES]
    for name in NETWORKS:
        network = find_network(name)
        found += [network.settings, network.train, network.decode]
    inner = [
        type(value)
        for kind in found
        for value in (f.get_default() for f in kind.model_fields.values())
        if isinstance(value, Settings)
    ]
    return sorted({*found, *inner, SplitConfig}, key=lambda kind: kind.__name__)


FIELDS = [(kind, name) for kind in settings_classes() for name in kind.model_fields]


def _candidates(annotation: Any) -> list[Any]:
    """Values to try: the literals in an annotation, then plain ones."""
    literals, waiting = [], [annotation]
    while waiting:
        for one in get_args(waiting.pop()):
            if isinstance(one, str | int | float) and not isinstance(one, bool):
                literals.append(one)
            waiting.append(one)
    pairs: list[Any] = [(0.5, 0.5), (24, 24), (2, 2), (1, 2, 0)]
    pairs += [(literal,) for literal in literals]
    plain = [True, False, 2, 3, 4, 6, 64, 200, 0.05, 0.25, 0.5, 3.5, "x"]
    return [*literals, *plain, *pairs]


def other_settings(kind: type[Settings], name: str) -> Settings | None:
    """The default settings with one field changed; None where only one value is allowed."""
    context = WHEN.get((kind.__name__, name), {})
    default = getattr(kind(), name)
    field = kind.model_fields[name]
    file = [str(ROOT / "README.md")] if identity_mark(field) == "content" else []
    for value in file or _candidates(field.annotation):
        try:
            made = kind(**{**context, name: value})
        except ValidationError:
            continue
        if getattr(made, name) not in (default, getattr(kind(**context), name)):
            return made
    return None


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda v: getattr(v, "__name__", v))
def test_every_setting_is_read_and_in_a_key_or_marked_aside(
    kind: type[Settings], name: str
) -> None:
    mark = identity_mark(kind.model_fields[name])
    assert mark in (True, False, "content")
    assert re.search(rf'\.{name}\b|"{name}"', SOURCES), f"nothing reads {kind.__name__}.{name}"
    if isinstance(kind.model_fields[name].get_default(), Settings):
        return  # a class of its own, tried field by field
    changed = other_settings(kind, name)
    if changed is None:
        assert name == "name", f"no other value of {name} was found to try"
        return
    plain = kind(**WHEN.get((kind.__name__, name), {}))
    if mark is False:
        assert changed.identity() == plain.identity()
    else:
        assert changed.identity() != plain.identity()


def test_defaults_are_in_no_key() -> None:
    for kind in settings_classes():
        assert kind().identity() in ({}, {"name": getattr(kind(), "name", None)}), kind


class Old(Settings):
    """Settings of one release."""

    size: int = 224
    threads: int = Field(1, json_schema_extra=ASIDE)
    inner: SplitConfig = SplitConfig()


class New(Old):
    """And of the next, with an option more."""

    sharpen: float = 0.0


def test_an_option_added_later_leaves_old_keys_alone() -> None:
    assert New(size=112).identity() == Old(size=112, threads=9).identity() == {"size": 112}
    assert New(sharpen=1).identity() == {"sharpen": 1.0}
    assert Old(inner=SplitConfig(k=3)).identity() == {"inner": {"k": 3}}


def test_a_default_changes_only_with_a_version() -> None:
    """A changed default would give old results the key of new ones: bump the version instead."""
    from data.stages.registry import find_stage
    from models.runs import training

    known = (ROOT / "tests" / "golden" / "defaults.txt").read_text().splitlines()
    found = []
    for kind in settings_classes():
        owner = next((n for n in STAGES if settings_of(n) is kind), None)
        version = find_stage(owner).version if owner else training.VERSION
        for name, field in kind.model_fields.items():
            if identity_mark(field) and not field.is_required():
                found.append(f"{kind.__name__} v{version} {name} = {field.get_default()!r}")
    missing = [line for line in known if line not in found]
    changed = {line.split(" = ")[0] for line in missing} & {f.split(" = ")[0] for f in found}
    assert not changed, f"defaults changed under an old version: {sorted(changed)}"


def test_a_stage_added_to_the_project_changes_no_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.stages.test_planning import ToyConfig, toy
    from tests.fakes.steps import register

    before = {name: load_recipe(name).digest for name in list_recipes()}
    register(monkeypatch, toy(), ToyConfig)
    after = {name: load_recipe(name) for name in list_recipes()}
    assert {name: recipe.digest for name, recipe in after.items()} == before
    recipe = load_recipe("demo_hsta", {"also": ["toy"], "toy.scale": 2})
    assert recipe.stages[-1] == "toy" and recipe.stage_config("toy").scale == 2


def test_presentation_and_unused_stages_do_not_change_a_recipes_digest() -> None:
    def digest(**changes: Any) -> str:
        return load_recipe("demo_me_tst", changes).digest

    for same in (
        {"name": "again"},
        {"about": "x"},
        {"flow.size": 64},
        {"strict": True},
        {"model.scan": "fast"},
    ):
        assert digest(**same) == digest(), same
    for other in ({"motion.k": 40}, {"decode.p": 0.6}, {"seed": 1}, {"train.epochs": 3}):
        assert digest(**other) != digest(), other


def test_recipes_travel_to_workers_whole() -> None:
    from multiprocessing import Pipe

    recipe = load_recipe("demo_hsta")
    here, there = Pipe()
    here.send(recipe)
    back = there.recv()
    assert isinstance(back, Recipe) and back == recipe and back.digest == recipe.digest


def test_decoding_is_no_setting_of_a_network_that_classifies() -> None:
    from data.errors import ConfigError

    with pytest.raises(ConfigError, match=r"decode\.p: unknown key"):
        load_recipe("demo_hsta", {"decode.p": 0.5})
    stored = {**load_recipe("demo_hsta").model_dump(mode="json"), "decode": {"p": 0.55}}
    with pytest.raises(ConfigError):
        parse_recipe(stored)
