"""Every command under arguments and files that make no sense: a named error, an exit code, bounds.

Fast: inside this process, one case of each kind. Slow: each in a process of its own, with a bound
on seconds and on memory, and random ones besides.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.cli import app
from tests.fakes import dataset_trees as trees

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 120  # on a machine that does other things; a hang is what is looked for
MEGABYTES = 2500  # peak of a command that fails on its input; torch alone takes 600
GOOD_CODES = {0, 1, 2, 3, 4}
WORDS = (
    "", " ", ".", "..", "~", "~nosuch/x", "a" * 5000, "x\x01y", "ünï", "-1", "=", "a=", "casme2",
    "file", "pipe", "folder", "empty.yaml", "bad.yaml", "deep.yaml", "bomb.yaml", "pipe.yaml",
    "zero.yaml", "loop", "null.mp4", "pipe.mp4", "junk.mp4", "run", "nan", "1e999", "[", "{a: b",
    "../../etc/passwd", "demo_hsta", "9" * 6000, "=HYPERLINK(1)", "%s%n", "$(id)", "\u202etxt",
)  # fmt: skip
PLAN = ("plan", "demo_hsta", "-w", "ws")
RUN = ("run", "demo_hsta", "-w", "ws", "--runner", "none")
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "check": (("check", "casme2", "*"), ("check", "*", "folder"), ("check", "csv", "*", "--deep")),
    "plan": (
        ("plan", "*", "-w", "ws"), ("plan", "demo_hsta", "-w", "*"), (*PLAN, "-d", "*"),
        (*PLAN, "-d", "casme2=*"), (*PLAN, "--set", "*"), (*PLAN, "--set", "seed=*"),
        (*PLAN, "--set", "*=1"), (*PLAN, "--set", "flow.size=*"), (*PLAN, "--set", "model.name=*"),
        (*PLAN, "--force", "*"),
    ),
    "run": (
        ("run", "*", "-w", "ws", "--runner", "none"), (*RUN, "-d", "casme2=*"),
        (*RUN, "--stage", "*"), (*RUN, "--from", "*"), (*RUN, "--force", "*"),
        ("run", "demo_hsta", "-w", "ws", "--runner", "*", "--stage", "align"),
        (*RUN, "--stage", "align", "--device", "*"), (*RUN, "--workers", "*"),
        (*RUN, "--stage", "align", "--landmark-model", "*"), (*RUN, "--wait", "*"),
    ),
    "report": (("report", "*"), ("report", "run", "--out", "*")),
    "compare": (("compare", "*", "*"), ("compare", "run", "*")),
    "prune": (("prune", "*"), ("prune", "*", "--delete")),
    "predict": (
        ("predict", "*", "--run", "run"), ("predict", "junk.mp4", "--run", "*"),
        ("predict", "folder", "--run", "run", "--fps", "*"),
    ),
    "evaluate": (("evaluate", "*", "--truth", "*"), ("evaluate", "file", "--truth", "*")),
    "export": (
        ("export", "*", "folder", "out"), ("export", "tables", "*", "out"),
        ("export", "tables", "folder", "out", "--dataset", "*"),
        ("export", "spotting", "*", "out"),
    ),
    "clip": (
        ("clip", "*", "o.gif"), ("clip", "folder", "*"), ("clip", "folder", "o.gif", "--fps", "*"),
    ),
    "synthesize": (("synthesize", "*", "out"), ("synthesize", "csv", "out2", "--preset", "*")),
}  # fmt: skip
SIDE_FILES = (b"", b"[]", b"{}", b"[" * 100_000, b'{"name": "x"}', b"\xff\xfe", b"null")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with every kind of thing that a name may lead to."""
    return furnish(tmp_path, monkeypatch)


def furnish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    (folder / "file").write_text("x")
    (folder / "folder").mkdir()
    (folder / "empty.yaml").write_text("")
    (folder / "bad.yaml").write_text("[")
    (folder / "deep.yaml").write_text("x: " + "[" * 50_000)
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{p}'] * 10)}]" for p, n in zip("abcdefgh", "bcdefghi")]  # noqa: B905
    (folder / "bomb.yaml").write_text("\n".join([*lines, "seed: *i"]))
    for name in ("pipe", "pipe.yaml", "pipe.mp4"):
        os.mkfifo(folder / name)
    (folder / "zero.yaml").symlink_to("/dev/zero")
    (folder / "null.mp4").symlink_to("/dev/null")
    (folder / "loop").symlink_to("loop")
    (folder / "junk.mp4").write_bytes(bytes(range(256)) * 20)
    (folder / "run").mkdir()
    (folder / "run" / "recipe.json").write_bytes(b"[]")
    return folder


def filled(pattern: tuple[str, ...], word: str) -> list[str]:
    return [part.replace("*", word) for part in pattern]


def invoke(arguments: list[str]) -> str:
    """Run a command here; what it printed. Fails on anything a person should not see."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), arguments
    assert result.exit_code in GOOD_CODES, arguments
    assert "Traceback" not in result.output and "unforeseen" not in result.output, arguments
    return result.output


EVERY = [pattern for patterns in COMMANDS.values() for pattern in patterns]
ONE_EACH = [
    ("check", "casme2", "pipe.mp4"), ("check", "csv", "a" * 5000), ("check", "..", "folder"),
    (*PLAN, "--set", "seed=["), (*PLAN, "--set", "flow.size={"), (*PLAN, "--set", "seed=*x"),
    (*PLAN, "--set", "seed=!!python/object/apply:os.system [ls]"), (*PLAN, "--set", "name=.."),
    (*PLAN, "--set", "seed=" + "9" * 6000), (*PLAN, "--set", "seed=" + "[" * 5000),
    (*PLAN, "--set", ".".join("a" * 3000) + "=1"), (*PLAN, "-d", "casme2=~nosuch/x"),
    ("plan", "bomb.yaml", "-w", "ws"), ("plan", "deep.yaml", "-w", "ws"),
    ("plan", "pipe.yaml", "-w", "ws"), ("plan", "zero.yaml", "-w", "ws"),
    ("report", "run"), ("compare", "run", "run"), ("predict", "pipe.mp4", "--run", "run"),
    ("export", "spotting", "run", "out"), ("export", "tables", "folder", "out", "--dataset", ".."),
    ("prune", "pipe"), ("clip", "folder", "x"), ("synthesize", "x" * 5000, "out"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", ONE_EACH, ids=lambda a: " ".join(a)[:40])
def test_what_was_once_a_traceback_or_a_hang_is_a_sentence(place, arguments):
    said = invoke(list(arguments))
    assert "expected" in said or "rror" in said or "unusable" in said
    assert len(said) < 5000


@pytest.mark.parametrize("content", SIDE_FILES)
def test_a_damaged_run_is_named(place, content):
    (place / "run" / "recipe.json").write_bytes(content)
    assert "recipe" in invoke(["report", "run"])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", EVERY, ids=" ".join)
def test_every_command_and_every_word(place, pattern):
    for word in WORDS:
        invoke(filled(pattern, word))


@pytest.mark.slow
@settings(
    max_examples=150,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(EVERY), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_random_words(place, pattern, word):
    if (
        not word.startswith(("-", "/")) and "\0" not in word
    ):  # an option, the whole disk, no argument
        invoke(filled(pattern, word))


def bounded(arguments: list[str], folder: Path) -> tuple[int, str, float]:
    """(exit code, output, peak megabytes) of a command in a process of its own; kills a hang."""
    with open(folder / "output.txt", "w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{arguments}: nothing after {SECONDS} s")
        output.seek(0)
        text = output.read().decode(errors="replace")
    return process.returncode, text, peak_megabytes(process.pid)


def peak_megabytes(_: int) -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", ["pipe", "bomb.yaml", "zero.yaml", "junk.mp4", "a" * 5000, "[["])
def test_each_command_ends_in_time_and_memory(place, command, word):
    for pattern in COMMANDS[command][:2]:
        code, text, peak = bounded(filled(pattern, word), place)
        assert code in GOOD_CODES and "Traceback" not in text, (pattern, text[-2000:])
        assert peak < MEGABYTES


@pytest.mark.slow
def test_files_that_take_memory_or_never_end_are_bounded(place):
    root = trees.manifest(place / "set", "subject,path,fps,onset,offset\np,pipe.mp4,25,1,2\n")
    os.mkfifo(root / "pipe.mp4")
    for name in ("x.csv", "y.xlsx", "truth.json"):
        os.mkfifo(root / name)
    code, text, peak = bounded(["check", "csv", "set", "--deep"], place)
    assert code == 4 and "not_a_file" in text and "Traceback" not in text and peak < MEGABYTES


@pytest.mark.slow
def test_an_unforeseen_error_of_a_whole_process_is_one_line(place):
    code = "import data.ingest.check as c\nc.check_dataset = lambda *a, **k: {}['x']\n"
    code += (
        "import sys\nsys.argv = ['flows', 'check', 'csv', '.']\nfrom flows.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=SECONDS,
    )
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "KeyError" in done.stderr and "report it" in done.stderr
