"""Recipes as text: what the safe loader still lets in is refused by name, quickly and small."""

from __future__ import annotations

import os
import string
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigError, TrainingError
from data.plain_json import read_object
from models.hsta.fold import load_fold as load_hsta
from models.me_tst.fold import load_fold as load_me_tst
from models.recipe import list_recipes, load_recipe, recipes_folder
from models.recipe_text import MAX_DEPTH, read_text, short

BASE = (recipes_folder() / "demo_hsta.yaml").read_text(encoding="utf-8")


def refused(tmp_path: Path, content: str | bytes, overrides: dict | None = None) -> str:
    path = tmp_path / "r.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as error:
        load_recipe(str(path), overrides)
    assert len(str(error.value)) < 3000
    return str(error.value)


def bomb(levels: int = 10) -> str:
    names = string.ascii_lowercase[:levels]
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for old, new in pairwise(names):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]")
    return "\n".join([*lines, f"seed: *{names[-1]}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "anchors"),
        ("a: &a [*a]", "anchors"),
        ("a: {<<: *b}", "anchors"),
        ("x: " + "[" * 20_000, "levels"),
        ("x: " + "{a: " * 3000, "levels"),
        ("\n".join("  " * i + "a:" for i in range(300)), "levels"),
        ("seed: " + "9" * 6000, "6000 digits"),
        ("seed: 1\nseed: 2", "twice"),
        ("train: {epochs: 1, epochs: 2}", "twice"),
        ("day: 2024-99-99", "month"),
        ("x: !!python/object/apply:os.system [ls]", "constructor"),
        ("? [a]\n: b", "unhashable"),
        ("--- a\n--- b", "another document"),
        ("seed: [", "expected"),
        (b"\x00\x01", "special characters"),
        (b"\xff\xfea", "truncated"),
        ("x" * 300_000, "at most 200000 bytes"),
        ("", "a mapping"),
        ("- a", "a mapping"),
        (BASE + "\nseed: 1", "twice"),
    ],
)
def test_what_no_recipe_needs_is_refused_by_name(tmp_path, text, said):
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "..", "pattern"),
        ("name", ".", "pattern"),
        ("name", ".hidden", "pattern"),
        ("name", "a/b", "pattern"),
        ("name", "x" * 5000, "100 characters"),
        ("data", ["casme2", "casme2"], "twice"),
        ("data", ["../casme2"], "no dataset's name"),
        ("data", [".."], "no dataset's name"),
        ("seed", 10**60, "seed"),
        ("seed", -1, "seed"),
        ("split.k", 10**12, "split.k"),
        ("train.batch_size", 10**12, "train.batch_size"),
        ("train.base_lr", float("inf"), "finite"),
        ("train.base_lr", "1e400", "finite"),
        ("flow.size", float("nan"), "flow.size"),
        ("model.name", {"a": {"b": [1]}}, "model.name"),
        ("model.name", "x" * 10_000, "model.name"),
        ("model", [1], "model.name"),
        (".".join("a" * 3000), 1, "endless dots"),
        ("", 1, "unknown key"),
        ("name.x", 1, "to hold keys"),
        ("flow.szie", 1, "did you mean size"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_option(tmp_path, key, value, said):
    text = refused(tmp_path, BASE + "\nname: demo\n", {key: value})
    assert said in text and "--set" in text


@pytest.mark.parametrize("name", ["x" * 5000, "", "/", "no/such.yaml", "../r", "\udcff", "a\0b"])
def test_names_of_recipes_that_are_none(name):
    with pytest.raises(ConfigError):
        load_recipe(name)


def test_pipes_folders_and_endless_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("pipe", "zero", "folder", "loop", "missing"):
        with pytest.raises(ConfigError, match=f"{name}.yaml"):
            load_recipe(str(tmp_path / f"{name}.yaml"))


def test_the_recipes_of_the_project_are_read_as_before():
    for name in list_recipes():
        assert load_recipe(name).name == name


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.text("[]{}&*:-?!|>'\"%@`#,. \n\t0a", max_size=60))
def test_any_text_is_a_value_or_a_named_error(text):
    try:
        read_text(text, "--set x")
    except ConfigError as error:
        assert "--set x" in str(error)


@settings(max_examples=40, deadline=None)
@given(YAML)
def test_any_value_has_a_short_form(value):
    assert len(short(value)) < 2000


def test_the_depth_of_a_real_recipe_is_far_from_the_limit():
    assert MAX_DEPTH >= 10
    deep = "a: " + "[" * (MAX_DEPTH - 3) + "]" * (MAX_DEPTH - 3)
    assert read_text(deep, "x")


JSONS = [b"", b"[]", b"5", b"null", b"{", b"\xff", b"[" * 100_000, b'{"model": []}',
         b'{"model": {"name": []}}', b'{"model": {"name": "hsta"}, "train": 5}', b"{}",
         b'{"seed": ' + b"9" * 6000 + b"}"]  # fmt: skip


@pytest.mark.parametrize("content", JSONS)
@pytest.mark.parametrize("load", [load_hsta, load_me_tst])
def test_any_side_file_is_read_or_named(tmp_path, content, load):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"model\.json"):
        load(tmp_path)


def test_a_json_file_is_an_object_or_a_value_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no ordinary file"):
        read_object(path)
