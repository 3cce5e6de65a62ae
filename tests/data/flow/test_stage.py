"""The flow stage: which pairs, what is stored, what is dropped, same bytes again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.errors import InputError
from data.flow.fields import quantise, read_flow
from data.flow.settings import FlowConfig
from data.flow.stage import STAGE, choose_pairs, compute_many, similarity_motion
from data.flow.strain import optical_strain
from data.optical_flow import tvl1
from data.recordings import Event
from data.registration.settings import RegistrationConfig
from data.stages import parts
from data.stages.contract import Unit
from data.stages.inputs import StageInputs
from data.stages.parts import PartWriter
from models.hsta.clips import read_special_flow
from tests.fakes.flow_pairs import distance, known_motion, photograph
from tests.fakes.registered import fill_event
from tests.fakes.steps import write_tables

SIDE = 40
FAST = FlowConfig(preset="fast")


def make_clip(frames: int = 12, colour: bool = False) -> np.ndarray:
    """A texture that moves smoothly out and back."""
    from scipy import ndimage

    image = photograph("chelsea")[60 : 60 + SIDE, 60 : 60 + SIDE]
    u = known_motion(SIDE, np.random.default_rng(0))
    y, x = np.mgrid[:SIDE, :SIDE]
    clip = []
    for t in range(frames):
        s = np.sin(np.pi * t / (frames - 1))
        at = [y + s * u[..., 1], x + s * u[..., 0]]
        clip.append(np.rint(ndimage.map_coordinates(image, at, order=3, mode="nearest")))
    grey = np.clip(clip, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1) if colour else grey


class Inputs:
    """What the stage asks of its inputs, planner's and worker's, from memory."""

    dataset = "made_up"
    opened: tuple[Any, ...] = ()

    def __init__(self, folder: Path, apex: int | None = 5, **changes: Any) -> None:
        self.folder_, self.apexes = folder, {"s/e1": apex}
        self.path = folder / "registration.h5"
        marks = {"onset": 0, "offset": 11, **changes}
        self.recordings = SimpleNamespace(events={"s/e1": made_event("s/e1", **marks)})

    def write(self, clip: np.ndarray, status: dict[int, str] | None = None) -> None:
        with h5py.File(self.path, "w") as file:
            for event in self.recordings.events:
                fill_event(file.create_group(event), clip, words=status)

    def row(self, stage: str, unit: str) -> dict[str, Any]:
        return {"apex": self.apexes[unit]}

    def frames(self) -> None:
        return None

    def of(self, unit: Unit) -> Inputs:
        return self

    def raw_bytes(self) -> None:
        return None

    def folder(self, stage: str) -> Path:
        return self.folder_

    def close(self) -> None:
        pass

    @contextmanager
    def open(self, stage: str, unit: str) -> Iterator[h5py.Group]:
        with h5py.File(self.path, "r") as file:
            yield file[unit]


def made_event(name: str, **marks: int | None) -> Event:
    """An event of video v."""
    who = {"video": "v", "dataset": "made_up", "subject": "s", "person": "s", "fps": 100.0}
    about = {"type": "micro", "aus": None, "emotion": None, "apex": None}
    return Event(id=name, **who, **about, **marks)


def run(inputs: Inputs, config: FlowConfig, target: Path) -> PartWriter:
    """Process the one unit into the file `target`."""
    writer = PartWriter(target, STAGE, inputs.dataset)
    (unit,) = STAGE.list_units(inputs, config)
    try:
        STAGE.process(unit, inputs, config, writer)
    except InputError as error:
        writer.drop(unit.id, error.code, str(error))
    writer.close([unit], config)
    return writer


def test_default_pairs_and_what_is_stored(tmp_path: Path) -> None:
    inputs, clip = Inputs(tmp_path), make_clip()
    inputs.write(clip)
    writer = run(inputs, FlowConfig(), tmp_path / "part.h5")
    assert writer.status == {"s/e1": "ok"}
    assert writer.counts["s/e1"] == {"pairs": 2, "size": SIDE}
    with h5py.File(tmp_path / "part.h5") as file:
        group = file["s/e1"]
        assert [k.decode() for k in group["kind"][:]] == ["onset_apex", "apex_offset"]
        assert group["pairs"][:].tolist() == [[0, 5], [5, 11]]
        assert group["pairs"].dtype == np.int32
        assert group["flow"].shape == (2, SIDE, SIDE, 2)
        assert group["flow"].chunks == (1, SIDE, SIDE, 2)
        assert group["strain"].shape == (2, SIDE, SIDE)
        assert dict(group.attrs) == {
            "unit": "s/e1", "size": SIDE, "backend": "numba",
        }  # fmt: skip
        truth = tvl1(clip[[0, 5]], clip[[5, 11]])
        fields = read_flow(group)
        loss = np.abs(fields - truth).max()
        assert 0 < loss < 0.005
        assert loss == pytest.approx(group["flow"].attrs["quantisation_error_px"])
        assert np.array_equal(read_flow(group, 1), fields[1])
        assert np.allclose(group["strain"][:], optical_strain(truth), atol=1e-3)
        # float16 holds pixels: a reader that knows nothing of `scale` is right too
        assert group["flow"].dtype == np.float16 and group["flow"].attrs["scale"] == 1


def test_same_bytes_again(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.write(make_clip())
    for name in ("a", "b"):
        run(inputs, FAST, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_all_kinds_sizes_and_colour(tmp_path: Path) -> None:
    config = FlowConfig(
        pairs=("consecutive", "onset_apex", "sampled"), samples=4, size=24, preset="fast"
    )
    inputs = Inputs(tmp_path)
    inputs.write(make_clip(colour=True))
    run(inputs, config, tmp_path / "part.h5")
    grey = Inputs(tmp_path / "..")
    grey.path = tmp_path / "grey.h5"
    grey.write(make_clip())
    run(grey, config, tmp_path / "grey_part.h5")
    with h5py.File(tmp_path / "part.h5") as file, h5py.File(tmp_path / "grey_part.h5") as other:
        group = file["s/e1"]
        assert group["flow"].shape == (11 + 1 + 4, 24, 24, 2)
        assert group["pairs"][:11].tolist() == [[t, t + 1] for t in range(11)]
        assert group["pairs"][11:].tolist() == [[0, 5], [0, 3], [0, 6], [0, 8], [0, 11]]
        assert np.array_equal(group["flow"][:], other["s/e1"]["flow"][:])


def test_a_larger_size_than_the_crop_keeps_the_crop(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.write(make_clip())
    writer = run(inputs, FlowConfig(size=64, preset="fast"), tmp_path / "part.h5")
    assert writer.counts["s/e1"]["size"] == SIDE


def test_pairs_of_a_frame_with_itself_are_left_out(tmp_path: Path) -> None:
    assert choose_pairs(3, 3, 9, FAST) == [("apex_offset", 3, 9)]
    assert choose_pairs(3, 9, 9, FAST) == [("onset_apex", 3, 9)]
    assert choose_pairs(3, 5, None, FAST) == [("onset_apex", 3, 5)]
    assert choose_pairs(3, None, 9, FAST) == []
    assert choose_pairs(3, None, 6, FlowConfig(pairs=("sampled",))) == [
        ("sampled", 3, 4), ("sampled", 3, 5), ("sampled", 3, 6),
    ]  # fmt: skip
    inputs = Inputs(tmp_path, apex=3, offset=None)
    inputs.write(make_clip())
    only = FlowConfig(pairs=("apex_offset",))
    assert run(inputs, only, tmp_path / "part.h5").status == {"s/e1": "no_motion_pair"}


def test_an_event_of_one_frame_has_no_motion_and_is_kept(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, apex=0, offset=0)
    inputs.write(make_clip())
    writer = run(inputs, FAST, tmp_path / "part.h5")
    assert writer.status == {"s/e1": "ok"}
    assert writer.counts["s/e1"] == {"pairs": 0, "size": SIDE}
    assert [row["reason"] for row in writer.ledger] == ["one_frame"]
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["s/e1/flow"].shape == (0, SIDE, SIDE, 2)
        assert read_flow(file["s/e1"]).shape == (0, SIDE, SIDE, 2)
        assert not read_special_flow(file["s/e1"], 16).any()
    (together,) = compute_many([({0: make_clip()[0]}, [])], FAST)
    assert together.shape == (0, SIDE, SIDE, 2)


@pytest.mark.parametrize(
    ("reason", "changes", "written"),
    [
        ("face_absent", {}, {"status": dict.fromkeys([0, *range(2, 12)], "no_face")}),
        ("outside_video", {"offset": 12}, {}),
        ("no_onset", {"onset": None}, {}),
    ],
)
def test_units_that_are_dropped(
    reason: str, changes: dict[str, Any], written: dict[str, Any], tmp_path: Path
) -> None:
    inputs = Inputs(tmp_path, **changes)
    inputs.write(make_clip(), **written)
    writer = run(inputs, FAST, tmp_path / "part.h5")
    assert writer.status == {"s/e1": reason}
    assert [row["reason"] for row in writer.ledger] == [reason]
    with h5py.File(tmp_path / "part.h5") as file:
        assert "s/e1" not in file or "flow" not in file["s/e1"]


@pytest.mark.parametrize("lost", [0, 5, 11])
def test_a_frame_without_a_face_gives_way_to_the_nearest_and_says_so(
    lost: int, tmp_path: Path
) -> None:
    inputs = Inputs(tmp_path)
    inputs.write(make_clip(), status={lost: "no_face"})
    writer = run(inputs, FAST, tmp_path / "part.h5")
    assert writer.counts["s/e1"]["pairs"] == 2
    (row,) = writer.ledger
    assert (row["reason"], row["action"]) == ("frames_without_face", "flagged")
    instead = {0: 1, 5: 4, 11: 10}[lost]
    assert row["detail"].endswith(f"{lost}: {instead}")
    with h5py.File(tmp_path / "part.h5") as file:
        pairs = file["s/e1/pairs"][:]
        assert lost not in pairs and instead in pairs


def test_a_pair_whose_frames_become_one_is_left_out(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, apex=10)
    inputs.write(make_clip(), status={11: "no_face"})
    writer = run(inputs, FAST, tmp_path / "part.h5")
    assert writer.counts["s/e1"]["pairs"] == 1
    assert [r["reason"] for r in writer.ledger] == ["frames_without_face", "pairs_without_face"]


def test_a_frame_that_kept_the_pose_before_is_flagged(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.write(make_clip(), status={5: "align_held", 3: "doubtful"})
    writer = run(inputs, FAST, tmp_path / "part.h5")
    assert writer.status == {"s/e1": "ok"}
    (row,) = writer.ledger
    assert (row["reason"], row["action"]) == ("frames_not_registered", "flagged")
    assert row["detail"].endswith("[5]")


def test_a_unit_declares_what_its_result_depends_on(tmp_path: Path) -> None:
    """Marks of the event, the video's alignment, the event's apex, raw frames: all in its key."""
    (unit,) = STAGE.list_units(Inputs(tmp_path, offset=10), FAST)
    assert unit.facts == {"onset": 0, "offset": 10} and unit.frames
    assert set(unit.reads) == {("registration", "s/e1"), ("apex", "s/e1")}


def test_key_follows_apex_and_alignment(tmp_path: Path) -> None:
    """Another apex frame makes another flow, and so does another alignment."""

    def keys(**settings: Any) -> dict[str, str]:
        configs = {
            "align": AlignConfig(),
            "registration": RegistrationConfig(),
            "apex": ApexConfig(),
            "flow": FAST,
            **settings,
        }
        return StageInputs(tmp_path, "d", None, configs).keys("flow")

    def tables(**event: Any) -> None:
        row = {"video": "v", "event": "e", "onset": 0, "apex": 5, "offset": 9, "type": "micro"}
        video = {"video": "v", "fps": 100.0, "num_frames": 12, "identity": "x"}
        write_tables(
            tmp_path, "d", videos=pd.DataFrame([video]), events=pd.DataFrame([{**row, **event}])
        )

    tables()
    first = keys()
    assert keys() == first
    others = [keys(align=AlignConfig(size=128)), keys(apex=ApexConfig(method="lbp"))]
    others += [keys(flow=FlowConfig()), keys(flow=FlowConfig(preset="fast", size=32))]
    tables(apex=6)
    others.append(keys())
    assert len({str(k) for k in [first, *others]}) == 6
    tables()
    assert keys(flow=FlowConfig(preset="fast", samples=3)) == first, "nothing is sampled"


def test_number_formats() -> None:
    fields = np.random.default_rng(0).normal(0, 3, (2, 9, 9, 2)).astype(np.float32)
    for store, limit in (("float16", 0.005), ("int16", 0.0005), ("float32", 0.0)):
        values, scale, loss, _ = quantise(fields, store)
        assert values.dtype == store
        assert np.abs(values * np.float32(scale) - fields).max() == loss <= limit
    fields[0, 0, 0, 0] = 40.015  # half precision would lose 0.015 px here
    values, scale, loss, _ = quantise(fields, "float16")
    assert values.dtype == np.float32
    values, scale, loss, _ = quantise(fields, "int16")
    assert scale == 2**-9
    assert np.abs(values * np.float32(scale) - fields).max() <= scale / 2


def test_residual_registration_removes_head_motion_and_keeps_expression() -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    head = np.stack([0.7 + 0.004 * x - 0.01 * y, -0.4 + 0.01 * x + 0.004 * y], -1)
    mouth = np.zeros((64, 64, 2))
    mouth[45:55, 20:44] = (0.0, 1.5)
    noise = np.random.default_rng(0).normal(0, 0.02, mouth.shape)
    found = similarity_motion((head + mouth + noise).astype(np.float32))
    assert distance(found, head).max() < 0.02


def test_residual_registration_in_the_stage(tmp_path: Path) -> None:
    clip = make_clip()
    clip[5] = np.roll(clip[0], 1, axis=1)  # the head moved by a pixel, nothing else did
    inputs = Inputs(tmp_path)
    inputs.write(clip)
    moved = {}
    for how in ("stored", "residual"):
        config = FlowConfig(register_to_onset=how, pairs=("onset_apex",))
        run(inputs, config, tmp_path / how)
        with h5py.File(tmp_path / how) as file:
            moved[how] = np.median(np.abs(read_flow(file["s/e1"])[0, ..., 0]))
    assert moved["stored"] > 0.9
    assert moved["residual"] < 0.05


def test_settings_are_strict() -> None:
    for bad in ({"pairs": ()}, {"pairs": ("apex",)}, {"size": 8}, {"preset": "x"}, {"sizes": 3}):
        with pytest.raises(ValidationError):
            FlowConfig(**bad)


class ManyInputs(Inputs):
    """Several events of one video."""

    def __init__(self, folder: Path, apexes: dict[str, int]) -> None:
        super().__init__(folder)
        self.configs = {"flow": FlowConfig(backend="torch", preset="fast")}
        self.apexes = dict(apexes)
        events = {name: made_event(name, onset=0, offset=11) for name in apexes}
        self.recordings = SimpleNamespace(events=events)


def chunk_of(inputs: ManyInputs, target: Path) -> tuple[dict[str, str], bytes]:
    """Statuses and bytes of the part that a worker makes of all events."""
    config: Any = inputs.configs["flow"]
    units = tuple(STAGE.list_units(inputs, config))
    job = parts.ChunkJob(inputs, "flow", config, 0, units, target.name, "t")
    result = parts.compute_chunk(job)
    return result.status, result.temporary.read_bytes()


def test_events_computed_together_are_those_computed_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ManyInputs(tmp_path, {"a": 5, "b": 4, "c": 99, "d": 0, "e": 6})  # c: outside the video
    inputs.write(make_clip())
    alone = chunk_of(inputs, tmp_path / "alone.h5")
    assert alone[0] == {"a": "ok", "b": "ok", "c": "outside_video", "d": "ok", "e": "ok"}
    sizes: list[int] = []

    def counted(events: list[Any], config: FlowConfig) -> list[Any]:
        sizes.append(len(events))
        return compute_many(events, config)

    batches = dataclasses.replace(STAGE.batching, when=lambda config: True, compute=counted)
    stage = dataclasses.replace(STAGE, batching=batches)
    monkeypatch.setattr(parts, "find_stage", lambda name: stage)
    together = chunk_of(inputs, tmp_path / "together.h5")
    assert together == alone
    assert sizes == [4]
    monkeypatch.setattr(parts, "BATCH_BYTES", 5 * 8 * SIDE * SIDE)  # d has one pair
    assert chunk_of(inputs, tmp_path / "by_bytes.h5") == alone
    assert sizes == [4, 3, 1]


def test_one_bad_event_of_a_batch_is_dropped_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ManyInputs(tmp_path, {"a": 5, "b": 4, "c": 3})
    inputs.write(make_clip())

    def fails(events: list[Any], config: FlowConfig) -> list[Any]:
        if any(pairs[0][2] == 4 for _, pairs in events):
            raise InputError("b", expected="what it has not", got="4", code="made_to_fail")
        return compute_many(events, config)

    batches = dataclasses.replace(STAGE.batching, when=lambda config: True, compute=fails)
    stage = dataclasses.replace(STAGE, batching=batches)
    monkeypatch.setattr(parts, "find_stage", lambda name: stage)
    status, _ = chunk_of(inputs, tmp_path / "part.h5")
    assert status == {"a": "ok", "b": "made_to_fail", "c": "ok"}


def test_a_gpu_backend_without_a_gpu_stops_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = ManyInputs(tmp_path, {"a": 5})
    inputs.configs = {"flow": FlowConfig(backend="triton")}
    inputs.write(make_clip())
    with pytest.raises(InputError, match="CUDA device"):
        chunk_of(inputs, tmp_path / "part.h5")


def test_a_full_gpu_stops_the_stage_and_blames_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from data.optical_flow import torch_backend

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch_backend, "solve_batch", full)
    inputs = ManyInputs(tmp_path, {"a": 5, "b": 4})
    inputs.write(make_clip())
    batches = dataclasses.replace(STAGE.batching, when=lambda config: True)
    for together in (None, batches):
        stage = dataclasses.replace(STAGE, batching=together)
        monkeypatch.setattr(parts, "find_stage", lambda name, stage=stage: stage)
        with pytest.raises(MemoryError, match="out of memory"):
            chunk_of(inputs, tmp_path / f"{together is None}.h5")


def test_a_failing_gpu_stops_the_stage_and_blames_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.optical_flow import torch_backend

    def fails(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch_backend, "check_device", lambda backend: "cuda")
    monkeypatch.setattr(torch_backend, "solve_batch", fails)
    inputs = ManyInputs(tmp_path, {"a": 5, "b": 4})
    inputs.write(make_clip())
    with pytest.raises(OSError, match="on the GPU"):  # also where torch has no CUDA at all
        chunk_of(inputs, tmp_path / "part.h5")
