"""The house rules a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "models", "tasks", "flows")
SOURCES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))

# What runs, or lets run, code that stands in a file: modules, functions, arguments.
PICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
LOADERS = {f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load")}
UNSAFE = {"weights_only": False, "allow_pickle": True}


def test_import_contracts_hold() -> None:
    """Layers point one way, algorithms know no Prefect, data needs no torch."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Also not inside functions, and not for types alone: what two need lies below both."""
    import grimp

    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    waiting = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    while leaves := {m for m, needed in waiting.items() if not needed}:
        waiting = {m: needed - leaves for m, needed in waiting.items() if m not in leaves}
    assert not waiting, f"in or above a circle: {sorted(waiting)}"


def test_importing_the_lower_layers_is_silent_and_light() -> None:
    """Importing data and models prints nothing and pulls in neither Prefect nor dlib."""
    code = (
        "import sys, data.stages.planning, data.optical_flow, data.align.geometry, data.synthetic\n"
        "import models.recipe\n"
        "heavy = {'prefect', 'dlib', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import data.settings, data.stages.stores\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""


def test_data_imports_without_torch() -> None:
    """The data layer works on a machine without torch."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import data.stages.planning, data.optical_flow, data.synthetic, data.datasets\n"
        "import data.align.geometry\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_in_flows_is_named_like_a_package() -> None:
    """Prefect puts flows/ first on the path: flows/models.py would hide models/."""
    taken = {*PACKAGES, "prefect", "torch", "numpy", "pandas", "h5py", "typer", "rich"}
    assert not taken & {p.stem for p in (ROOT / "flows").iterdir()}


def test_tests_have_no_packages() -> None:
    """tests/data/__init__.py would shadow data/."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_source_files_stay_readable_and_documented(path: Path) -> None:
    """At most 500 lines, a module docstring, and a docstring on every public function and class."""
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "module docstring"
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if "overload" not in {ast.unparse(d) for d in node.decorator_list}:
            assert ast.get_docstring(node), f"docstring of {node.name}"


def test_no_pickle_and_no_unsafe_loading() -> None:
    """No pickle in or out, tensors as weights only, safe YAML."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if _unsafe(node)
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        *(f"import numpy, {name} as harmless" for name in sorted(PICKLERS)),
        *(f"from {name} import load" for name in sorted(PICKLERS)),
        *(f"{name}(x)" for name in sorted(LOADERS)),
        *(f"load(x, {name}={value})" for name, value in UNSAFE.items()),
    ],
)
def test_what_would_be_unsafe_is_seen(code: str) -> None:
    assert any(map(_unsafe, ast.walk(ast.parse(code))))
    assert not any(map(_unsafe, ast.walk(ast.parse("f(x, weights_only=True); yaml.safe_load(x)"))))


def _unsafe(node: ast.AST) -> TypeGuard[ast.stmt | ast.expr]:
    """Whether this runs, or lets run, code that stands in a file."""
    if isinstance(node, ast.Import):
        return bool(PICKLERS & {alias.name.split(".")[0] for alias in node.names})
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in PICKLERS
    if not isinstance(node, ast.Call):
        return False
    values = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
    return UNSAFE.items() & values.items() != set() or ast.unparse(node.func) in LOADERS


def test_the_project_builds_no_importable_package() -> None:
    """Installed elsewhere, names as generic as `data` must never reach site-packages."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"] == []
