"""Workspace lock, atomic writes, stores, frame reading, identity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from data.errors import ApexflowError, InputError, LockedError, StoreError
from data.frames import FrameSource, read_image, to_uint8
from data.schema import conform, empty
from data.stages import stores
from data.stages.files import TEMP_SUFFIX, commit, replacing, save_parquet, temporary_name
from data.stages.identity import bucket_of, file_digest, stable_hash
from data.stages.workspace import Workspace
from data.video_file import examine_video

ROOT = Path(__file__).resolve().parents[3]


def test_error_survives_a_process_boundary() -> None:
    error = InputError("video a", expected="frames", got="none", todo="look", code="empty_folder")
    make, arguments = error.__reduce__()  # type: ignore[misc]
    back = make(*arguments)  # type: ignore[operator]
    assert isinstance(back, InputError) and str(back) == str(error) and back.code == "empty_folder"


def test_second_run_is_refused_by_name_and_a_dead_one_is_not(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    with (
        workspace.lock(what="run first"),
        pytest.raises(LockedError, match="run first"),
        workspace.lock(),
    ):
        pass
    code = (
        "from data.stages.workspace import Workspace; import os\n"
        f"lock = Workspace({str(tmp_path / 'ws')!r}).lock(what='doomed'); lock.__enter__()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -9
    with workspace.lock() as token:  # the kernel dropped the dead holder's lock
        assert token


def test_lock_sweeps_temporary_files_but_not_parts(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "align"
    folder.mkdir(parents=True)
    (folder / ".part-00-aa.h5.dead.tmp").write_bytes(b"half")
    (folder / "part-00-aa.h5").write_bytes(b"whole")
    resume = tmp_path / "runs" / "recipe" / "id" / "fold-00" / "resume"
    resume.mkdir(parents=True)
    (resume / ".state.safetensors.8-ab.tmp").write_bytes(b"half")
    (resume / "state.safetensors").write_bytes(b"whole")
    with Workspace(tmp_path).lock():
        assert [p.name for p in folder.iterdir()] == ["part-00-aa.h5"]
        assert [p.name for p in resume.iterdir()] == ["state.safetensors"]


def test_replacing_keeps_the_old_whole_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_of_one_file_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with replacing(path) as one, replacing(path) as two:
        assert one != two and one.name.endswith(TEMP_SUFFIX)
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_files_that_belong_together_change_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Killed before the journal is whole: the old files. After it: the next holder has the new."""
    folder = tmp_path / "d" / "ingest"
    folder.mkdir(parents=True)
    finals = [folder / name for name in ("a", "b", "sub/c")]
    moves = [(temporary_name(folder / path.name, "t"), path) for path in finals]
    for temporary, final in moves:
        temporary.write_text(f"new {final.name}")
    replace, done = Path.replace, []

    def die(self: Path, target: Path) -> Path:
        if target in finals:
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        commit(folder, moves, "t")
    monkeypatch.undo()
    with Workspace(tmp_path).lock():
        assert [path.read_text() for path in finals] == ["new a", "new b", "new c"]
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    "text", ["", "[[", "\xff", "{}", "[1]", '[["a"]]', "[[1, 2]]", '[[".old.tmp", "../stolen"]]']
)
def test_a_damaged_journal_of_a_commit_moves_nothing(tmp_path: Path, text: str) -> None:
    workspace = Workspace(tmp_path / "ws")
    folder = workspace.stage("d", "flow")
    folder.mkdir(parents=True)
    (folder / ".old.tmp").write_text("old")
    (folder / ".commit-t.json").write_text(text, "latin-1")
    with workspace.lock():
        assert not (folder.parent / "stolen").exists()
    assert not list(folder.glob(".commit-*"))


@pytest.mark.parametrize("how", ["removed", "replaced", "taken over"])
def test_a_lost_lock_stops_the_publication(tmp_path: Path, how: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.check_hold()  # a reader that never locked it is not asked
    with workspace.lock():
        workspace.check_hold()
        lock = tmp_path / ".lock"
        if how == "removed":
            lock.unlink()
        elif how == "replaced":
            text = lock.read_text()
            lock.unlink()
            lock.write_text(text)
        else:
            lock.write_text(lock.read_text().replace('"token": "', '"token": "0'))
        with pytest.raises(LockedError, match="removed or taken over"):
            workspace.check_hold()


def test_parquet_is_deterministic_and_keeps_nulls_integer(tmp_path: Path) -> None:
    table = conform(pd.DataFrame({"event": ["a", "b"], "apex": [3, None]}), "events")
    for name in ("x", "y"):
        stores.write_table(table, tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    back = stores.read_table(tmp_path / "x")
    assert back.apex.tolist() == [3, pd.NA] and back.apex.dtype == "Int64"


def test_damaged_table_and_unknown_column_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(StoreError, match=r"t\.parquet"):
        stores.read_table(tmp_path / "t.parquet")


def test_one_flipped_bit_in_a_column_is_seen_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    save_parquet(pd.DataFrame({"x": np.random.default_rng(0).normal(size=4000)}), path)
    whole = path.read_bytes()
    for at in range(200, len(whole) - 2000, 4001):  # inside the values: it would still parse
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreError, match="checksum"):
            stores.read_table(path)
    with pytest.raises(StoreError, match="colour"):
        conform(pd.DataFrame({"colour": ["red"]}), "videos")
    assert empty("ledger").columns[0] == "stage"


def test_flipped_byte_is_found_on_read(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "flow"
    folder.mkdir(parents=True)
    part = folder / "part-00-x.h5"
    with h5py.File(part, "w") as file:
        file.create_group("a/b")["flow"] = np.arange(1000)
    with h5py.File(part, "r") as file:
        content = stores.group_digest(file["a/b"])
    row = {
        "unit": "a/b",
        "key": "k",
        "part": part.name,
        "status": "ok",
        "bytes": part.stat().st_size,
        "digest": file_digest(part),
        "content": content,
        "version": 1,
        "settings": "{}",
        "counts": "{}",
    }
    stores.write_table(empty("ledger"), folder / "ledger.parquet")
    stores.save_manifest(pd.DataFrame([row]), folder / "manifest.parquet")
    tables = {name: folder / f"{name}.parquet" for name in ("ledger", "manifest")}
    stores.save_sums(folder / stores.SUMS, tables)
    with stores.StageStore(tmp_path, "d", "flow").open("a/b") as group:
        assert group["flow"][5] == 5
    raw = bytearray(part.read_bytes())
    raw[raw.find(np.arange(1000).tobytes()) + 800] ^= 1
    part.write_bytes(raw)
    with pytest.raises(StoreError) as caught, stores.StageStore(tmp_path, "d", "flow").open("a/b"):
        pass
    assert caught.value.code == "damaged_part"
    with pytest.raises(StoreError) as caught, stores.StageStore(tmp_path, "d", "flow").open("zz"):
        pass
    assert caught.value.code == "no_data"


def test_hash_is_order_free_and_type_true() -> None:
    assert stable_hash({"a": 1, "b": [1, 2]}) == stable_hash({"b": (1, 2), "a": 1})
    assert stable_hash(1) != stable_hash("1")
    assert stable_hash(np.float64(0.5)) == stable_hash(0.5)
    with pytest.raises(TypeError):
        stable_hash(object())
    assert len({bucket_of(f"video {i}", 64) for i in range(2000)}) == 64


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_bad_image_is_one_named_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "img1.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"no image")
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert caught.value.code == "unreadable_frame" and "img1.jpg" in str(caught.value)


def test_frames_are_grey_or_rgb_uint8_and_16_bit_keeps_one_scale(tmp_path: Path) -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 2] = 200  # BGR on disk
    cv2.imwrite(str(tmp_path / "a.png"), red)
    assert read_image(tmp_path / "a.png", colour=True)[0, 0].tolist() == [200, 0, 0]
    bright = np.full((4, 5), 4000, np.uint16)
    cv2.imwrite(str(tmp_path / "b.png"), bright)
    cv2.imwrite(str(tmp_path / "c.png"), bright // 8)
    source = FrameSource([tmp_path / "b.png", tmp_path / "c.png"])
    assert source.read(0)[0, 0] == 4000 >> 4 and source.read(1)[0, 0] == 500 >> 4
    with pytest.raises(InputError):
        source.read(2)
    with pytest.raises(ApexflowError):
        to_uint8(np.zeros((2, 2), np.float32), "x")


def test_iteration_gives_none_for_the_broken_frame_and_goes_on(tmp_path: Path) -> None:
    for name in "ac":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((3, 3), 9, np.uint8))
    (tmp_path / "b.png").write_bytes(b"\x89PNG truncated")
    found = list(FrameSource([tmp_path / f"{n}.png" for n in "abc"]).iter())
    assert [i for i, _ in found] == [0, 1, 2]
    assert found[1][1] is None and found[2][1] is not None


def test_video_file_frames_by_index_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48), True)
    for value in range(0, 100, 10):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    assert examine_video(path).num_frames == 10
    source = FrameSource(path, 10)
    for index in (7, 2, 9, 0):
        assert abs(int(source.read(index).mean()) - 10 * index) <= 2
    (tmp_path / "bad.avi").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"bad\.avi"):
        examine_video(tmp_path / "bad.avi")
