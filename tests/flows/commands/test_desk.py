"""The desk: exit codes, names of runs, recipes and runs in tables, completion, errors by option."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from data.errors import ConfigError
from data.stages.files import save_parquet
from data.stages.workspace import Workspace
from flows.cli import app
from flows.commands.looking import recipe_costs, recipe_names
from flows.terminal.exit_codes import MEANING, Exit
from models.runs.compare import compare
from models.runs.files import RunFiles
from models.runs.history import note_session, read_history
from models.runs.listing import list_runs, side_by_side
from models.runs.names import begun, find_folder, run_folders, short_names
from tests.fakes.fabricated_run import (
    enter_again,
    write_clip_stores,
    write_hsta_run,
    write_ingest,
)

ROOT = Path(__file__).resolve().parents[3]


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


# ------------------------------------------------------------------------------------- exit codes


def test_the_documented_exit_codes_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "exit_codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.+) \|$", text, re.M)
    assert [(int(c), n, m) for c, n, m in rows] == [(e.value, e.name, MEANING[e]) for e in Exit]


def test_no_command_ends_with_a_code_of_its_own() -> None:
    for path in (ROOT / "flows").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("typer.Exit", "sys.exit", "SystemExit") and isinstance(node, ast.Call):
                given = [ast.unparse(a) for a in node.args]
                assert not any(a.isdigit() for a in given), f"{path.name}:{node.lineno} {given}"


# ------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three made-up runs of one recipe and a forced repetition."""
    space = Workspace(tmp_path_factory.mktemp("desk") / "ws")
    events = write_ingest(space, "casme2")
    write_clip_stores(space, "casme2", events)
    made = write_hsta_run(space)
    for name, seed in (("aaaa11111111", 1), ("aaaa22222222", 2), ("aaaa22222222-2", 2)):
        folder = made.with_name(name)
        subprocess.run(["cp", "-r", str(made), str(folder)], check=True)
        facts = json.loads((folder / "recipe.json").read_text())
        (folder / "recipe.json").write_text(json.dumps({**facts, "seed": seed}))
        note_session(folder, "train", 2, 12.0, "cpu")
    return space.path


def test_a_short_name_tells_a_run_from_all_others(workspace: Path) -> None:
    folders = run_folders(workspace)
    names = short_names(folders)
    assert len(set(names.values())) == len(folders) == 4
    assert {"aaaa1", "aaaa2", "aaaa2-2"} <= set(names.values())
    for folder, name in names.items():
        for text, where in (
            (name, workspace),
            (f"{workspace}/{name}", None),
            (f"{workspace}/{folder.parent.name}/{name}", None),
            (str(folder), None),
        ):
            assert find_folder(text, where) == folder


def test_a_recipes_name_is_its_newest_run(workspace: Path) -> None:
    found = find_folder(run_folders(workspace)[0].parent.name, workspace)
    assert found == run_folders(workspace)[-1]


@pytest.mark.parametrize("name", ["aaaa", "bbbb", "", "aaaa2-3", "../.."])
def test_a_name_of_no_or_of_many_runs_is_refused_with_those_there_are(
    workspace: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="aaaa1"):
        find_folder(name, workspace)


def test_runs_are_listed_with_scores_chance_and_what_differs(workspace: Path) -> None:
    done = call("runs", str(workspace))
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    row = next(line for line in lines if line.startswith("aaaa1"))
    assert "UF1 0." in row and "seed=1" in row and re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", row)
    facts = json.loads(call("runs", str(workspace), "--json").output)
    one = next(f for f in facts if f["name"] == "aaaa1")
    assert one["differs"] == {"seed": 1} and one["seconds"] == 12.0
    session = one["history"][0]
    assert {"began", "device", "host", "version", "commit", "versions"} <= set(session)
    assert "torch" in session["versions"]


def test_the_pair_proposed_is_one_that_compare_takes(workspace: Path, tmp_path: Path) -> None:
    """Also where the newest run but one is of another protocol; without a pair, the report."""
    copy = tmp_path / "ws"
    subprocess.run(["cp", "-r", str(workspace), str(copy)], check=True)
    folders = run_folders(copy)
    recipe = folders[-2] / "recipe.json"
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "labels": "label_native"}))
    proposed = re.search(r"compare -w \S+ (\S+) (\S+)", call("runs", str(copy)).output)
    assert proposed is not None
    names = short_names(folders)
    assert proposed.groups() == (names[folders[-3]], names[folders[-1]])
    done = call("compare", "-w", str(copy), *proposed.groups())
    assert done.exit_code == 0, done.output
    for folder in folders[:-2]:
        shutil.rmtree(folder)
    said = call("runs", str(copy)).output
    assert "compare" not in said and str(folders[-1] / "report.html") in said


def test_runs_of_recipes_that_differ_in_name_only_are_told_apart(
    workspace: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "ws"
    subprocess.run(["cp", "-r", str(workspace), str(copy)], check=True)
    first = run_folders(copy)[0]
    twin = copy / "runs" / "renamed" / first.name
    subprocess.run(["mkdir", "-p", str(twin.parent)], check=True)
    subprocess.run(["cp", "-r", str(first), str(twin)], check=True)
    facts = json.loads((twin / "recipe.json").read_text())
    (twin / "recipe.json").write_text(json.dumps({**facts, "name": "renamed"}))
    names = short_names(run_folders(copy))
    assert len(set(names.values())) == len(names) == 5
    assert {names[f].rpartition("/")[0] for f in (first, twin)} == {first.parent.name, "renamed"}
    assert all(find_folder(name, copy) == folder for folder, name in names.items())
    assert find_folder(f"{copy}/{names[twin]}") == twin


def test_no_pair_is_proposed_that_compare_refuses_for_its_truth(
    workspace: Path, tmp_path: Path
) -> None:
    """Another true label in the run before: ingested again under another map."""
    copy = tmp_path / "ws"
    subprocess.run(["cp", "-r", str(workspace), str(copy)], check=True)
    folders = run_folders(copy)
    for fold in RunFiles(folders[-2]).folds:
        table = pd.read_parquet(fold / "predictions.parquet")
        save_parquet(table.assign(label="negative"), fold / "predictions.parquet")
    enter_again(folders[-2])
    pair = side_by_side(list_runs(copy))
    assert pair is not None
    assert [one.folder for one in pair] == [folders[-3], folders[-1]]
    with pytest.raises(ConfigError, match="true labels"):
        compare([RunFiles(folders[-2]), RunFiles(folders[-1])])


def test_a_damaged_run_is_listed_as_such(workspace: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(workspace), str(tmp_path / "ws")], check=True)
    folder = run_folders(tmp_path / "ws")[0]
    (folder / "recipe.json").write_text("{")
    (folder / "history.jsonl").write_text("no json\n")
    assert read_history(folder) == []
    found = next(r for r in list_runs(tmp_path / "ws") if r.folder == folder)
    assert found.state == "damaged" and "recipe.json" in found.problem


@pytest.mark.parametrize("line", [b"\xff\xfe", b'{"a": 1}', b"[]", b"[" * 9999, b"BEGAN", b"FAR"])
def test_a_line_of_history_that_cannot_be_read_is_left_out(line: bytes, tmp_path: Path) -> None:
    note_session(tmp_path, "train", 2, 12.0, "cpu")
    good = (tmp_path / "history.jsonl").read_text()
    one = {key: value for key, value in json.loads(good).items() if key != "check"}
    line = json.dumps({**one, "began": ""}).encode() if line == b"BEGAN" else line
    line = json.dumps({**one, "began": "0001-01-01"}).encode() if line == b"FAR" else line
    (tmp_path / "history.jsonl").write_bytes(line + b"\n" + good.encode())
    assert [session.step for session in read_history(tmp_path)] == ["train"]
    assert begun(tmp_path) > 0


@pytest.mark.parametrize("text", ["a" * 300, "b/" * 3000 + "c", "~nobody/ws/aaaa", "a\0b", ""])
def test_a_name_that_is_no_path_is_a_name_of_no_run(
    text: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for where in (None, workspace):
        with pytest.raises(ConfigError, match=r"^run "):
            find_folder(text, where)


# ---------------------------------------------------------------------------------------- recipes


def test_every_recipe_has_its_line_and_its_costs() -> None:
    rows = {row["recipe"]: row for row in json.loads(call("recipes", "--json").output)}
    assert list(rows) == recipe_names() and set(recipe_costs()) == set(rows)
    for row in rows.values():
        assert all(row.values()) and "?" not in row.values(), row
    assert call("recipes").output.count("\n") > len(rows)


def test_a_recipes_whole_text_is_shown() -> None:
    text = (ROOT / "flows" / "recipes" / "hsta_cpu.yaml").read_text()
    assert call("recipes", "hsta_cpu").output.strip() == text.strip()


# ----------------------------------------------------------------------------- version, completion


def test_the_version_is_the_checkouts() -> None:
    said = call("--version").output
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None and said.startswith(f"apexflow {version[1]}")


def test_the_shell_completes_commands_recipes_and_options(cli: Callable[..., Any]) -> None:
    script = cli("completion", "bash").stdout
    asked = "COMP_WORDS=(apexflow run hsta_c); COMP_CWORD=2; _apexflow_completion"
    test = f"{script}\n{asked}; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", test], cwd="/", capture_output=True, text=True, check=True)
    assert "hsta_casme2_3" in done.stdout and "hsta_cpu" in done.stdout, done.stderr
    assert "me_tst" not in done.stdout


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["--set", "flow.sise=3"], "--set flow.sise:"),
        (["--set", "train.epochs=0"], "--set train.epochs:"),
        (["--max-gpu-memory", "-3"], "--max-gpu-memory:"),
        (["--workers", "999"], "--workers:"),
        (["--stage", "motion"], "--stage:"),
        (["--from", "evaluate", "--until", "align"], "--from and --until:"),
        (["--force", "nothing"], "--force:"),
        (["--device", "potato"], "--device:"),
        (["-d", "casme2=/nowhere"], "--data casme2=/nowhere:"),
        ([], "--data:"),
    ],
)
def test_an_error_begins_with_the_option_that_was_typed(
    words: list[str], begins: str, tmp_path: Path
) -> None:
    data = [] if "-d" in words or not words else ["-d", f"casme2={tmp_path}"]
    done = call("run", "demo_hsta", "-w", str(tmp_path / "ws"), *data, *words, "--runner", "none")
    assert done.exit_code in (Exit.FAILED, Exit.WRONG_USAGE)
    assert done.stderr.startswith(f"error: {begins}"), done.stderr


def test_who_holds_a_workspace_is_said_in_words(tmp_path: Path) -> None:
    from data.stages.workspace import _holder

    space = Workspace(tmp_path / "ws")
    with space.lock(what="run hsta_cpu"):
        said = _holder(space.path / ".lock")
    assert said.startswith("run hsta_cpu, process ") and ", since 20" in said and "{" not in said
    (space.path / ".lock").write_text("torn {")
    assert _holder(space.path / ".lock") == "torn {"
