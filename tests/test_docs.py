"""README and docs/ against the code: examples run, names exist, nothing is left without a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}


def requests(kind: str) -> set[str]:
    """What pages ask docs/generated.py for."""
    return {m for text in TEXT.values() for m in re.findall(rf"<!-- {kind}: ([\w.]+) -->", text)}


def test_the_readme_example_runs(tmp_path: Path) -> None:
    from data.synthetic import write_dataset

    root = write_dataset("casme2", tmp_path, preset="smoke", subjects=1, clips=1, workers=1)
    block = re.search(r"## From Python\n\n((?:    .*\n|\n)+)", TEXT["README.md"])
    assert block
    code = block[1].replace("/data/CASME2", str(root))
    found: dict[str, Any] = {}
    exec("import cv2\n" + re.sub(r"^    ", "", code, flags=re.MULTILINE), found)
    assert found["flow"].shape == (*found["onset"].shape, 2)
    assert abs(found["flow"]).max() > 0.05, "the frames of an expression move"
    assert found["network"].config.num_classes == 3


def test_every_layout_stage_and_network_has_its_page() -> None:
    from data.datasets import ADAPTERS
    from data.stages.registry import STAGES
    from models.registry import NETWORKS

    assert requests("layout") == set(ADAPTERS)
    assert set(STAGES) | set(NETWORKS) <= requests("settings")


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def files(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [f for e in (entry.values() if isinstance(entry, dict) else entry) for f in files(e)]

    assert sorted(files(menu)) == sorted(p.removeprefix("docs/") for p in TEXT if p != "README.md")


@pytest.mark.parametrize("page", TEXT)
def test_commands_and_recipes_named_exist(page: str) -> None:
    from flows.cli import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    recipes = {p.stem for p in (ROOT / "flows/recipes").glob("*.yaml")}
    for command, word in re.findall(r"python -m flows +([a-z][\w-]*)(?: +(\S+))?", TEXT[page]):
        assert command in commands, command
        if command in ("run", "plan") and re.fullmatch(r"[a-z]\w*", word):
            assert word in recipes, word


@pytest.mark.parametrize("page", TEXT)
def test_links_between_files_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT[page]):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_generated_tables_say_default_choices_and_identity() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = made.on_page_markdown("<!-- settings: align -->\n<!-- layout: casme3 -->")
    assert "| `size` | `224` |" in page and "(`128`, `224`, `320`)" in page
    compression = next(line for line in page.splitlines() if line.startswith("| `compression`"))
    assert compression.endswith("| no |")
    assert "spNO.149/d_112" in page and "860 micro rows" in page
