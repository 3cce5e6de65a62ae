"""Every kind of file of a workspace × every damage: never in silence, and healed by one command.

A finished workspace with both networks' runs. A plain run may heal what it reads; what it leaves is
as it was, and nothing was made from damaged bytes. `run --verify` then makes it whole, to the byte.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.datasets import open_dataset
from models.runs.history import read_history
from tasks.carriers import LocalCarrier
from tasks.context import PlainExecutor, open_context
from tasks.request import RunRequest
from tasks.steps import run_steps

pytestmark = pytest.mark.slow
HOW = ("deleted", "cut", "one bit", "one bit, old time", "replaced")
SMALL: dict[str, dict[str, Any]] = {
    "demo_hsta": {"data": ["csv"], "align.size": 128, "flow.size": 32, "train.epochs": 1,
                  "model.image_size": 24},
    "demo_me_tst": {"data": ["csv"], "align.size": 128, "motion.k": 8, "motion.frame_skip": 1,
                    "train.epochs": 1, "model.dim": 8, "model.blocks": 1, "decode.draws": 10},
}  # fmt: skip
ASIDE = {"timings.parquet", ".lock", "root.txt", "history.jsonl"}  # outside byte-identity
KINDS = 60  # of files, at least


def requests(workspace: Path, root: Path, *names: str, **more: Any) -> list[RunRequest]:
    return [
        RunRequest(
            recipe=name,
            workspace=str(workspace),
            data={"csv": str(root)},
            overrides=SMALL[name],
            **more,
        )
        for name in names or SMALL
    ]


def run_all(asked: list[RunRequest]) -> None:
    for request in asked:
        with open_context(request, PlainExecutor(LocalCarrier(0))) as context:
            run_steps(context)


@pytest.fixture(scope="module")
def root(smoke: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fourth frame of two people's clips, as a dataset of one's own."""
    source, out = open_dataset("casme2", smoke["casme2"]), tmp_path_factory.mktemp("few")
    rows = []
    for event in source.events.itertuples():
        frames = source.frames[source.frames.video == event.video]
        folder = out / str(event.video)
        folder.mkdir(parents=True)
        for number, path in enumerate(frames.path.iloc[::4], start=1):
            shutil.copy(smoke["casme2"] / path, folder / f"img{number}.jpg")
        numbers = {n: getattr(event, n) // 4 + 1 for n in ("onset", "apex", "offset")}
        rows.append({"subject": event.subject, "path": event.video, "fps": 50,
                     "emotion": event.emotion, **numbers})  # fmt: skip
    pd.DataFrame(rows).to_csv(out / "manifest.csv", index=False)
    return out


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which nothing is left to do."""
    workspace = tmp_path_factory.mktemp("finished") / "ws"
    run_all(requests(workspace, root))
    return workspace


@pytest.fixture(scope="module")
def foreign(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same under other settings: where its files of the same kind come from."""
    workspace = tmp_path_factory.mktemp("foreign") / "ws"
    [one, two] = requests(workspace, root)
    other = {"seed": 7, "align.size": 224}
    one.overrides = {**one.overrides, **other, "flow.size": 40, "apex.method": "lbp"}
    two.overrides = {**two.overrides, **other, "motion.k": 10}
    run_all([one, two])
    return workspace


def kind(path: Path) -> str:
    """What a file is, whatever it is called: parts, folds and runs are numbered."""
    text = re.sub(r"part-[0-9a-f]+-[0-9a-f]+", "part", path.as_posix())
    text = re.sub(r"(runs/[^/]+)/[^/]+", r"\1/run", text)
    return re.sub(r"fold-[^/]+", "fold", text)


def files(workspace: Path) -> dict[str, Path]:
    """Kind → one file of it, relative."""
    every = sorted(p.relative_to(workspace) for p in workspace.rglob("*") if p.is_file())
    return {kind(path): path for path in every if path.name != ".lock"}


def contents(workspace: Path) -> dict[Path, bytes]:
    return {
        p.relative_to(workspace): p.read_bytes()
        for p in sorted(workspace.rglob("*"))
        if p.is_file() and p.name not in ASIDE
    }


def damage(path: Path, how: str, other: Path | None, seed: int) -> None:
    raw, stat = path.read_bytes(), path.stat()
    at = int(np.random.default_rng(seed).integers(len(raw)))
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(raw[:at])
    elif how == "replaced":
        path.write_bytes(other.read_bytes() if other else raw[::-1])
    else:
        bit = 1 << seed % 8
        path.write_bytes(raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :])
    if how == "one bit, old time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_there_are_many_kinds_of_file(finished: Path) -> None:
    assert len(files(finished)) >= KINDS, sorted(files(finished))


def readers(name: str) -> list[str]:
    """The recipes that a kind of file is for; ingest and align are for both, and one is enough."""
    motion = name.startswith(("csv/motion", "runs/demo_me_tst"))
    return ["demo_me_tst" if motion else "demo_hsta"]


@pytest.mark.parametrize("number", range(70))
def test_no_damage_is_silent_or_wedges(
    finished: Path, foreign: Path, root: Path, tmp_path: Path, number: int
) -> None:
    whole, here = contents(finished), files(finished)
    if number >= len(here):
        pytest.skip("fewer kinds of file than that")
    name = sorted(here)[number]
    path, other = here[name], files(foreign).get(name)
    for turn, how in enumerate(HOW):
        workspace = tmp_path / f"ws{turn}"
        shutil.copytree(finished, workspace)
        damage(workspace / path, how, foreign / other if other else None, 97 * number + turn)
        hurt = contents(workspace)
        run_all(requests(workspace, root, *readers(name)))
        after = contents(workspace)
        wrong = {str(p) for p in after if after[p] not in (whole.get(p), hurt.get(p))}
        assert not wrong, f"{name}, {how}: made from damaged bytes, or not the same: {wrong}"
        assert {p for p in after if after[p] != whole.get(p)} <= {path}, f"{name}, {how}"
        run_all(requests(workspace, root, *readers(name), verify="files"))
        healed = contents(workspace)
        if path.name == "history.jsonl":  # cannot be made again; no line is false
            told, true = (read_history(place / path.parent) for place in (workspace, finished))
            assert all(session in true for session in told), how
        different = {str(p) for p in set(healed) | set(whole) if healed.get(p) != whole.get(p)}
        assert not different, f"{name}, {how}: not healed by run --verify: {different}"
        shutil.rmtree(workspace)


def test_a_raw_frame_changed_behind_everybodys_back_is_found_by_verify_inputs(
    finished: Path, root: Path, tmp_path: Path
) -> None:
    """The first time already: align has read every byte. Same size and time, not in the middle."""
    workspace, mine = tmp_path / "ws", tmp_path / "few"
    shutil.copytree(finished, workspace)
    shutil.copytree(root, mine)
    victim = mine / "sub01" / "EP02_53" / "img6.jpg"
    damage(victim, "one bit, old time", None, 3)
    before = contents(workspace)
    run_all(requests(workspace, mine, "demo_hsta", verify="files"))
    assert contents(workspace) == before, "files is not inputs"
    run_all(requests(workspace, mine, "demo_hsta", verify="inputs"))
    videos = pd.read_parquet(workspace / "csv" / "ingest" / "raw.parquet")
    changed = videos[videos["first"] != videos["now"]].video.tolist()
    assert changed == ["sub01/EP02_53"]
    new = [p for p in contents(workspace) if p not in before and p.parts[1] == "align"]
    assert len(new) == 1, "its crops are made again, nobody else's"
