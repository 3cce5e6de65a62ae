"""All that waits for a GPU, in one call of at most eight minutes, without network.

    python -m tests.benchmarks.gpu_day --prepare       here: wheels for the GPU machine into .whl/
    python3 -m tests.benchmarks.gpu_day [--out DIR]    there: run every part
    python -m tests.benchmarks.gpu_day --dry-run       here: every part's road, tiny, on the CPU

The GPU machine needs torch with Triton, numba, h5py, pandas and OpenCV; what else is missing comes
from .whl/, if that was carried along, and goes into .site/. Each part has its own time box and the
whole a deadline; a part that fails or runs out of time ends itself only. After every part
`gpu_day.json` (all that was measured) and `gpu_day.txt` (one table) are written anew to --out
(default: $OUT, else bench/gpu_day).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WHEELS, SITE = ROOT / ".whl", ROOT / ".site"
CARRIED = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-extensions",
    "typing-inspection",
    "safetensors",
    "pyarrow",
    "pyyaml",
    "pytest",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
    "xlrd",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MINUTES = 8.0
DRY_PATIENCE = 4  # times a part's box in a dry run: a CI machine is busy with other tests
GRACE = 5.0  # seconds between asking a part to end and making it
LINES = 15  # of a part's output that are kept where it failed

Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part: seconds it may take, its command on a GPU and in a dry run, what to show of it.

    Commands are words after `python -m`; `{json}` is where figures go.
    """

    name: str
    box: float
    command: tuple[str, ...]
    dry: tuple[str, ...]
    figures: Callable[[Any], Figures] = lambda found: {}
    dry_environment: dict[str, str] = field(default_factory=dict)


def gpu_tests() -> list[str]:
    """Files with tests that need a GPU."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if "mark.gpu" in f.read_text()]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def parts() -> list[Part]:
    """The parts in the order in which they matter, boxes for eight minutes in all."""
    bench = "tests.benchmarks.bench_"
    pytest = ("pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")
    tests = tuple(gpu_tests())
    tiny = "--networks tiny --folds 3 --steps 1,2 --skip processes"
    return [
        Part("tests", 70, (*pytest, *tests), (*pytest, "--collect-only", *tests)),
        Part(
            "folds",
            75,
            _words(f"{bench}folds --device cuda --networks me_tst --folds 29 --json {{json}}"),
            _words(f"{bench}folds {tiny} --json {{json}}"),
            folds_figures,
        ),
        Part(
            "tvl1",
            95,
            _words(f"{bench}tvl1_gpu --pairs 1024 --repeats 3 --json {{json}}"),
            _words(f"{bench}tvl1_gpu --sizes 12 --pairs 2 --repeats 1 --json {{json}}"),
            tvl1_figures,
            {"TRITON_INTERPRET": "1"},
        ),
        Part(
            "hsta_step",
            85,
            _words(f"{bench}hsta_step --device cuda --repeats 5 --json {{json}}"),
            _words(f"{bench}hsta_step --device cuda --json {{json}}"),
            hsta_figures,
        ),
        Part(
            "scan",
            45,
            _words(f"{bench}scan --device cuda --json {{json}}"),
            _words(f"{bench}scan --batch 1 --length 3 --repeats 1 --networks= --json {{json}}"),
            scan_figures,
        ),
        Part(
            "folds_more",
            70,
            _words(
                f"{bench}folds --device cuda --networks hsta_cpu,me_tst_plus --steps 3,10 "
                "--skip plain --json {json}"
            ),
            _words(f"{bench}folds {tiny},plain --json {{json}}"),
            folds_figures,
        ),
        Part(
            "flow_stage",
            40,
            _words(f"{bench}flow_stage --backend triton --events 200 --json {{json}}"),
            _words(f"{bench}flow_stage --events 1 --size 32 --rounds 1 --json {{json}}"),
            flow_figures,
        ),
    ]


# ------------------------------------------------------------------------- what a table shows of it


def folds_figures(found: Any) -> Figures:
    """Per network the seconds and ratios of every contender, and what auto takes."""
    shown: Figures = {}
    for network in found:
        name = network["network"]
        for contender, row in network["rows"].items():
            ratios = [f"{row[f'against_{o}']:.1f} x {o}" for o in ("plain", "solo")
                      if f"against_{o}" in row and o != contender]  # fmt: skip
            memory = "" if row["memory_mb"] is None else f", {row['memory_mb']:.0f} MB"
            busy = "" if row["busy"] != row["busy"] else f", {row['busy']:.0f} % busy"
            text = ", ".join([f"{1e3 * row['seconds']:.1f} ms a step", *ratios])
            shown[f"{name} {contender}"] = text + memory + busy
        shown[f"{name} auto"] = network["auto"]["why"]
    return shown


def tvl1_figures(found: Any) -> Figures:
    """Numbers of the TV-L1 benchmark, flattened."""
    return _flat(found, 40)


def hsta_figures(found: Any) -> Figures:
    """Steps of both styles, their ratio, share of the bf16 peak."""
    keep = ("ratio", "share_of_peak", "matmul_tflops", "step_tflops", "data_seconds")
    shown: Figures = {key: found[key] for key in keep if key in found}
    for kind, row in found.get("steps", {}).items():
        shown[f"{kind} clips/s"] = row["clips_per_second"]
        shown[f"{kind} MB/clip"] = row["memory_mb_per_clip"]
    return shown


def scan_figures(found: Any) -> Figures:
    """Seconds, memory and parity of each backend and network."""
    shown: Figures = {}
    for row in found:
        text = f"{1e3 * row['wall_s']:.2f} ms, {row['memory_mb']:.0f} MB"
        parity = f", parity {row['parity']}" if "parity" in row else ""
        shown[f"{row['what']} {row['backend']}"] = text + parity
    return shown


def flow_figures(found: Any) -> Figures:
    """The kernel's share of the stage, and milliseconds a pair."""
    return {
        f"{row['preset']} {row['backend']}": f"kernel share {row['share']:.0%}, "
        + ", ".join(f"{k} {v:.2f} ms" for k, v in row["ms"].items())
        for row in found
    }


def _flat(found: Any, most: int, prefix: str = "") -> Figures:
    """Nested numbers and texts as one level, the first `most` of them."""
    shown: Figures = {}
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in pairs:
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            shown |= _flat(value, most, f"{name}.")
        else:
            shown[name] = value
    return dict(list(shown.items())[:most])


# ------------------------------------------------------------------------------------------ running


@dataclass
class Outcome:
    """How a part ended: done, skipped, failed, out of time, or not begun; with its figures."""

    name: str
    status: str
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    found: Any = None
    tail: str = ""


def run_part(part: Part, folder: Path, box: float, dry: bool) -> Outcome:
    """One part in a process of its own, which is ended with its children when the box is full."""
    target, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    target.unlink(missing_ok=True)
    words = [w.replace("{json}", str(target)) for w in (part.dry if dry else part.command)]
    environment = {**os.environ, "PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"}
    environment |= part.dry_environment if dry else {}
    started, status = time.monotonic(), "done"
    with log.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(timeout=max(1.0, box))
            status = "done" if code == 0 else f"failed (exit {code})"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end(child)
    outcome = Outcome(part.name, status, round(time.monotonic() - started, 1))
    try:
        if target.exists():
            outcome.found = json.loads(target.read_text())
            if isinstance(outcome.found, dict) and "skipped" in outcome.found:
                outcome.status = f"skipped: {outcome.found['skipped']}"
            else:
                outcome.figures = part.figures(outcome.found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        outcome.status = f"{outcome.status}; figures unreadable: {type(error).__name__} {error}"
    if outcome.status != "done" or not outcome.figures:
        outcome.tail = "\n".join(log.read_text(errors="replace").splitlines()[-LINES:])
    return outcome


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a part's whole process group, gently first."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        try:
            child.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue


def run_all(
    chosen: Sequence[Part], folder: Path, seconds: float, dry: bool = False
) -> list[Outcome]:
    """All parts until the deadline; the files are written after each."""
    folder.mkdir(parents=True, exist_ok=True)
    started, facts, outcomes = time.monotonic(), card(), []
    for part in chosen:
        left = seconds - (time.monotonic() - started)
        if left < 1:
            outcomes.append(Outcome(part.name, "not begun: the time is up"))
        else:
            box = part.box * (DRY_PATIENCE if dry else 1)
            print(f"== {part.name} (at most {min(box, left):.0f} s)", flush=True)
            try:
                outcomes.append(run_part(part, folder, min(box, left - GRACE), dry))
            except OSError as error:
                outcomes.append(Outcome(part.name, f"failed to start: {error}"))
        print(f"   {outcomes[-1].status}, {outcomes[-1].seconds} s", flush=True)
        write(folder, facts, outcomes)
    return outcomes


def card() -> dict[str, str]:
    """The machine, in its own words; empty entries where it does not say."""
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
    asked = {
        "gpu": ["nvidia-smi", query, "--format=csv,noheader"],
        "versions": [
            sys.executable, "-c",
            "import torch, numba; print('torch', torch.__version__, 'cuda', torch.version.cuda, "
            "'numba', numba.__version__)\ntry:\n import triton; print('triton', "
            "triton.__version__)\nexcept ImportError: print('no triton')",
        ],
    }  # fmt: skip
    found = {"python": platform.python_version(), "cpu": platform.processor() or "?"}
    environment = {**os.environ, "PYTHONPATH": _path()}
    for name, command in asked.items():
        try:
            told = subprocess.run(
                command, capture_output=True, text=True, timeout=60, env=environment, check=False
            )
            found[name] = " ".join(told.stdout.split())
        except (OSError, subprocess.SubprocessError):
            found[name] = ""
    return found


def write(folder: Path, facts: dict[str, str], outcomes: Sequence[Outcome]) -> None:
    """gpu_day.json and gpu_day.txt, replaced whole."""
    content = {"machine": facts, "parts": {one.name: asdict(one) for one in outcomes}}
    for name, text in (
        ("gpu_day.json", json.dumps(content, indent=1, default=str)),
        ("gpu_day.txt", table(facts, outcomes)),
    ):
        temporary = folder / f".{name}"
        temporary.write_text(text)
        temporary.replace(folder / name)


def table(facts: dict[str, str], outcomes: Sequence[Outcome]) -> str:
    """What people read: the machine, then every part with its figures, or what went wrong."""
    lines = [f"{key:<10} {value}" for key, value in facts.items() if value]
    for one in outcomes:
        lines += ["", f"{one.name:<12} {one.status}, {one.seconds} s"]
        for key, value in one.figures.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(f"    {key:<28} {shown}")
        lines += [f"    | {line}" for line in one.tail.splitlines()]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------ wheels


def _path() -> str:
    return os.pathsep.join([str(ROOT), str(SITE), os.environ.get("PYTHONPATH", "")]).rstrip(":")


def prepare(python: str) -> int:
    """Download the carried wheels for another machine's Python; the same versions as here."""
    from importlib.metadata import PackageNotFoundError, version

    wanted = []
    for name in CARRIED:
        try:
            wanted.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            wanted.append(name)
    WHEELS.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "-d", str(WHEELS)]
    for platform_name in PLATFORMS:
        command += ["--platform", platform_name]
    code = subprocess.run([*command, *wanted], check=False).returncode
    size = sum(p.stat().st_size for p in WHEELS.glob("*.whl")) / 2**20
    print(f"{len(list(WHEELS.glob('*.whl')))} wheels, {size:.0f} MB, in {WHEELS}")
    return code


def install_wheels() -> None:
    """Put carried wheels that this Python lacks into .site/."""
    names = {"pyyaml": "yaml"}
    missing = [
        n for n in CARRIED if importlib.util.find_spec(names.get(n, n.replace("-", "_"))) is None
    ]
    wheels = sorted(str(p) for p in WHEELS.glob("*.whl"))
    if not missing or not wheels or SITE.exists():
        return
    print(f"from {WHEELS.name}: {', '.join(missing)}", flush=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run(
        [*command, "--no-compile", "--no-cache-dir", "--target", str(SITE), *wheels], check=False
    )


def main(argv: list[str] | None = None) -> int:
    """0 when every part is done or skipped, else 1; whatever happens, both files are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = {part.name: part for part in parts()}
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--parts", default="", help=f"among {', '.join(known)}")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--prepare", action="store_true", help="download wheels, nothing else")
    parser.add_argument("--python", default="3.12", help="of the other machine, for --prepare")
    o = parser.parse_args(argv)
    if o.prepare:
        return prepare(o.python)
    names = o.parts.split(",") if o.parts else list(known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    install_wheels()
    default = Path(os.environ["OUT"]) if os.environ.get("OUT") else ROOT / "bench" / "gpu_day"
    folder = (o.out or default).resolve()
    outcomes = run_all([known[name] for name in names], folder, 60 * o.minutes, o.dry_run)
    print((folder / "gpu_day.txt").read_text())
    return int(any(not one.status.startswith(("done", "skipped")) for one in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
