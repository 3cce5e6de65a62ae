"""The benchmarks that the documents name still fit the code they measure."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "benchmarks"
ALL = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("__"))
NEEDS = {"triton", "mamba_ssm"}  # what a benchmark for a GPU may want


@pytest.mark.parametrize("name", ALL)
def test_what_a_benchmark_takes_from_a_module_is_there(name: str) -> None:
    """Every imported name, and every `module.name` in its text."""
    try:
        module = importlib.import_module(f"tests.benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name in NEEDS:
            pytest.skip(f"{error.name} is not installed")
        raise
    lost = []
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.col_offset and _ours(node.module or ""):
            source = importlib.import_module(str(node.module))
            lost += [f"{node.module}.{a.name}" for a in node.names if not _has(source, a.name)]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = getattr(module, node.value.id, None)
            if isinstance(owner, ModuleType) and not _has(owner, node.attr):
                lost.append(f"{node.value.id}.{node.attr}, line {node.lineno}")
    assert not lost


@pytest.mark.slow
def test_the_benchmark_of_scale_goes_through_all_its_phases(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_scale", "--clips", "80", "--frames", "10",
         "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for phase in ("plan", "jobs", "publish", "again", "run", "chunk"):
        assert f" {phase} " in done.stdout, done.stdout


def _ours(name: str) -> bool:
    return name.split(".")[0] in ("data", "models", "tasks", "flows", "tests")


def _has(module: ModuleType, name: str) -> bool:
    if hasattr(module, name):
        return True
    try:
        importlib.import_module(f"{module.__name__}.{name}")
    except ImportError:
        return False
    return True
