"""HSTA's training: groups, schedule, sampler, learning, exact resume, abort, folds from stores."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save

from data.errors import ConfigError, StoreError, TrainingError
from data.identity import file_digest
from data.schema import conform
from data.stores import MANIFEST, read_table, write_table
from models.fitting import load_weights, save_weights
from models.hsta import HstaConfig, create
from models.hsta_clips import ClipBank, read_clips, read_special_flow
from models.hsta_fold import class_names, fit_fold, load_fold, score
from models.hsta_input import HstaInputConfig, resize_crops
from models.hsta_training import (
    HstaTrainConfig,
    epoch_order,
    fit,
    learning_rate,
    loss_weights,
    make_optimiser,
    parameter_groups,
    predict,
)
from models.runs import FoldJob, RunFiles

CPU = torch.device("cpu")
SMALL = HstaConfig(
    image_size=16,
    num_frames=2,
    num_classes=2,
    patch_size=8,
    embed_dim=(16, 16),
    num_heads=2,
    depth=(1, 1, 0),
    num_groups=1,
    mlp_ratio=2,
    dropout=0.1,
    drop_path=0.1,
)
QUICK = HstaTrainConfig(
    epochs=6, batch_size=8, base_lr=0.05, warmup_epochs=1, resume_every=1, precision="fp32"
)


def motion_bank(num_events=24, side=16, seed=0):
    """Clips whose class is the direction of motion in the flow slots; frames are noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_events) % 2
    special = rng.normal(0, 0.3, (num_events, 2, 3, side, side)).astype(np.float32)
    special[:, :, 0] += np.where(labels == 1, 1.0, -1.0)[:, None, None, None]
    return ClipBank(
        frames=rng.integers(0, 256, (num_events * 5, side, side, 1), dtype=np.uint8),
        start=np.arange(num_events) * 5,
        count=np.full(num_events, 3),
        special=special,
        names=tuple(f"d:e{i}" for i in range(num_events)),
        labels=labels,
    )


def train(bank, config=QUICK, resume=None, positions=None, seed=0):
    torch.manual_seed(seed)
    model = create(SMALL)
    positions = list(range(len(bank))) if positions is None else positions
    scale = bank.scale(positions)
    done = fit(model, bank, positions, config, seed=seed, device=CPU, scale=scale, resume=resume)
    return model, done


def test_layer_decay_scales_and_no_decay():
    with torch.device("meta"):
        model = create(HstaConfig())
    of = {id(p): g for g in parameter_groups(model, HstaTrainConfig()) for p in g["params"]}
    expected = {
        "embed.0.project.weight": (0.59049, 0.05),
        "embed.1.project.bias": (0.59049, 0),
        "embed.0.class_token": (0.59049, 0),
        "groups.0.blocks.1.0.attention.qkv.weight": (0.6561, 0.05),
        "groups.0.blocks.1.0.attention.query_bias": (0.6561, 0),
        "groups.1.exchange.0.leave.weight": (0.729, 0.05),
        "groups.2.blocks.0.0.norm_mlp.weight": (0.81, 0),
        "groups.3.blocks.0.0.reduce.weight": (0.9, 0.05),
        "norm.0.weight": (1, 0),
        "head.weight": (1, 0.05),
    }
    parameters = dict(model.named_parameters())
    for name, (scale, decay) in expected.items():
        group = of[id(parameters[name])]
        assert (group["scale"], group["weight_decay"]) == (pytest.approx(scale), decay), name
    assert len(of) == 312
    origin = HstaTrainConfig(class_tokens="origin")
    of = {id(p): g for g in parameter_groups(model, origin) for p in g["params"]}
    group = of[id(parameters["embed.0.class_token"])]
    assert (group["scale"], group["weight_decay"]) == (1, 0.05)


@pytest.mark.parametrize(
    "changes", [{"betas": (1.0, 0.9)}, {"betas": (-1, 2)}, {"warmup_epochs": float("inf")}]
)
def test_settings_the_optimiser_cannot_take_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        HstaTrainConfig(**changes)


def test_learning_rate_of_the_published_recipe():
    config = HstaTrainConfig()  # 688 clips: 21 updates an epoch
    rates = [learning_rate(u, 21, config) for u in range(150 * 21 + 1)]
    assert rates[0] == 0 and max(rates) == rates[5 * 21] == pytest.approx(6.25e-5)
    assert rates[-1] == pytest.approx(1.25e-7)
    assert np.allclose(np.diff(rates[: 5 * 21]), rates[1])
    assert (np.diff(rates[5 * 21 :]) < 0).all()
    middle = 5 * 21 + (145 * 21) // 2
    assert rates[middle] == pytest.approx((6.25e-5 + 1.25e-7) / 2, rel=1e-2)
    doubled = HstaTrainConfig(accumulate=2)
    assert learning_rate(50, 10, doubled) == pytest.approx(1.25e-4)


def test_balanced_sampler_draws_classes_alike():
    labels = np.array([0] * 90 + [1] * 10)
    rng = np.random.default_rng(0)
    drawn = np.concatenate(
        [p for _ in range(50) for p in epoch_order(labels, HstaTrainConfig(), rng)]
    )
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.04)
    sizes = [len(p) for p in epoch_order(labels, HstaTrainConfig(), rng)]
    assert sizes == [32, 32, 32]  # the last partial batch is dropped
    plain = np.concatenate(epoch_order(labels, HstaTrainConfig(balanced=False, batch_size=50), rng))
    assert sorted(plain) == list(range(100))
    assert [len(p) for p in epoch_order(labels[:5], HstaTrainConfig(), rng)] == [5]


def test_loss_weights_are_inverse_counts():
    config = HstaTrainConfig(class_weights="inverse")
    weights = loss_weights(np.array([0, 0, 0, 2]), 4, config)
    assert weights.tolist() == pytest.approx([0.5, 0, 1.5, 0])
    assert loss_weights(np.array([0, 1]), 2, HstaTrainConfig()) is None


def test_it_learns_and_predicts_clips_it_has_not_seen():
    bank = motion_bank(40)
    longer = QUICK.model_copy(update={"epochs": 25})
    model, done = train(bank, longer, positions=list(range(24)))
    losses = [row["loss"] for row in done.history]
    assert losses[-1] < 0.3 * losses[0] and done.history[-1]["train_uf1"] > 0.9
    scale = bank.scale(range(24))
    held_out = list(range(24, 40))
    chances = predict(model, bank, held_out, QUICK, seed=0, device=CPU, scale=scale)
    assert chances.shape == (16, 2) and np.allclose(chances.sum(1), 1)
    assert (chances.argmax(1) == bank.labels[24:]).mean() > 0.9
    assert set(done.timings[0]) >= {"data_seconds", "step_seconds", "clips_per_second"}


def test_training_is_deterministic_and_seed_matters():
    bank = motion_bank()
    weights = [train(bank, QUICK.model_copy(update={"epochs": 2}), seed=s)[0] for s in (0, 0, 1)]
    states = [m.state_dict() for m in weights]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert any(not torch.equal(states[0][n], states[2][n]) for n in states[0])


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 4])
def test_resumed_training_equals_undisturbed_training(tmp_path, stop_after):
    bank = motion_bank()
    config = QUICK.model_copy(
        update={"input": HstaInputConfig(augment=True), "accumulate": 2, "resume_every": 1}
    )
    whole, whole_done = train(bank, config)
    path = tmp_path / "resume" / "state.safetensors"

    def stop(share, message):
        if share >= stop_after / config.epochs:
            raise Killed

    torch.manual_seed(0)
    model, scale = create(SMALL), bank.scale(range(len(bank)))
    arguments = {"seed": 0, "device": CPU, "scale": scale, "resume": path}
    with pytest.raises(Killed):
        fit(model, bank, range(len(bank)), config, progress=stop, **arguments)
    torch.manual_seed(99)  # whatever state the new process is in
    model = create(SMALL)
    done = fit(model, bank, range(len(bank)), config, **arguments)
    assert done.history == whole_done.history and len(done.history) == config.epochs
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_resume_point_of_something_else_is_refused(tmp_path):
    bank, path = motion_bank(), tmp_path / "state.safetensors"
    train(bank, QUICK.model_copy(update={"epochs": 1}), resume=path)
    other = create(SMALL.model_copy(update={"num_groups": 2}))
    with pytest.raises(TrainingError, match="resume point"):
        fit(other, bank, [0, 1], QUICK, seed=0, device=CPU, scale=(1, 1, 1, 1), resume=path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-len(whole) // 3] ^= 64
    other_kind = save({"x": torch.zeros(2)})
    for content in (whole[: len(whole) // 2], bytes(flipped), other_kind):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="resume point of this training"):
            train(bank, resume=path)
    path.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="resume point"):
        train(bank, resume=path)


def test_accumulated_batches_equal_one_large_batch():
    config = SMALL.model_copy(update={"dropout": 0.0, "drop_path": 0.0})
    bank, states = motion_bank(16), []
    for size, accumulate in [(16, 1), (4, 4)]:
        torch.manual_seed(0)
        model = create(config).double()
        settings = HstaTrainConfig(
            epochs=2, batch_size=size, accumulate=accumulate, balanced=False, warmup_epochs=0
        )
        model.forward = lambda clip, m=model: type(m).forward(m, clip.double())
        fit(model, bank, range(16), settings, seed=0, device=CPU, scale=(1, 1, 1, 1))
        states.append({n: t.clone() for n, t in model.state_dict().items()})
    # The same clips make the update; frames are drawn one by one in the same order.
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=1e-6)


def test_a_loss_that_is_not_finite_names_the_batch():
    bank = motion_bank()
    bank.special[5] = np.nan
    with pytest.raises(TrainingError, match=r"epoch 0, batch \d.*d:e5") as caught:
        train(bank, QUICK.model_copy(update={"balanced": False}))
    assert caught.value.code == "loss_not_finite"


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"clip_norm": 1.0}, {"label_smoothing": 0.1}]
)
def test_options_still_learn(changes):
    _, done = train(motion_bank(), QUICK.model_copy(update=changes))
    assert done.history[-1]["loss"] < done.history[0]["loss"]


@pytest.mark.slow
def test_compiled_training_follows_the_eager_one():
    eager, _ = train(motion_bank(), QUICK.model_copy(update={"epochs": 1}))
    quick = QUICK.model_copy(update={"epochs": 1, "compile": True})
    compiled, done = train(motion_bank(), quick)
    assert np.isfinite(done.history[0]["loss"])
    assert list(compiled.state_dict()) == list(eager.state_dict())


def test_random_test_draws_are_seeded_and_averaged():
    bank = motion_bank()
    model, scale = create(SMALL), (1.0, 1.0, 1.0, 1.0)
    bank.count[:], bank.start[:] = 5, np.minimum(bank.start, len(bank.frames) - 7)
    random = HstaTrainConfig(input=HstaInputConfig(test_sampling="random", test_draws=3))
    runs = [
        predict(model, bank, [0, 1], config, seed=seed, device=CPU, scale=scale)
        for config, seed in [(random, 0), (random, 0), (random, 1), (HstaTrainConfig(), 0)]
    ]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2]) and not np.array_equal(runs[0], runs[3])


def test_weights_file_is_strict_and_repeatable(tmp_path):
    model = create(SMALL)
    for name in ("a", "b"):
        save_weights(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(TrainingError, match="head"):
        load_weights(create(SMALL.model_copy(update={"num_classes": 5})), tmp_path / "a")


# ---------------------------------------------------------------------------------- folds of stores


def write_store(folder, units, fill):
    """A stage store as the engine leaves it: one HDF5 part and its manifest."""
    folder.mkdir(parents=True)
    part = folder / "part-0.h5"
    with h5py.File(part, "w") as file:
        for unit in units:
            fill(file.create_group(unit), unit)
    write_manifest(folder, units, part)


def write_manifest(folder, units, part):
    facts = {
        "part": part.name,
        "status": "ok",
        "bytes": part.stat().st_size,
        "digest": file_digest(part),
        "version": 1,
        "settings": "{}",
        "counts": "{}",
    }
    rows = pd.DataFrame([{"unit": u, "key": f"key-{u}", **facts} for u in units])
    write_table(rows[list(MANIFEST)].astype(MANIFEST), folder / "manifest.parquet")


@pytest.fixture
def workspace(tmp_path):
    """Four people with six clips each; the class is the direction of the flow at the apex."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(4):
        for clip in range(6):
            rows.append(
                {
                    "dataset": "toy",
                    "subject": f"s{person}",
                    "person": f"toy:s{person}",
                    "video": f"s{person}/v{clip}",
                    "event": f"s{person}/v{clip}",
                    "onset": 2,
                    "apex": 5,
                    "offset": 9,
                    "type": "micro",
                    "label_3": ["negative", "positive", "surprise"][clip % 3],
                }
            )
    events = conform(pd.DataFrame(rows), "events")
    root = tmp_path / "ws" / "toy"
    write_table(events, root / "ingest" / "events.parquet")
    units, label = list(events.event), dict(zip(events.event, events.label_3, strict=True))

    def crops(group, unit):
        group["crops"] = rng.integers(0, 256, (12, 20, 20), dtype=np.uint8)
        status = group.create_dataset("status", data=np.zeros(12, np.uint8))
        status.attrs["status_names"] = ["ok", "unreadable"]

    def fields(group, unit):
        group["kind"] = np.array(["onset_apex", "apex_offset"], dtype="S16")
        flow = rng.normal(0, 0.1, (2, 20, 20, 2)).astype(np.float32)
        flow[:, :10, :, 1] += {"negative": 1, "positive": -1, "surprise": 0}[label[unit]]
        flow[:, :, :10, 0] += label[unit] == "surprise"
        stored = group.create_dataset("flow", data=np.rint(flow * 1024).astype(np.int16))
        stored.attrs["scale"] = 2.0**-10  # as the flow stage's int16 format
        group["strain"] = np.abs(flow[..., 0]).astype(np.float16)

    write_store(root / "align", units, crops)
    write_store(root / "flow", units, fields)
    apex = pd.DataFrame({"unit": units, "event": units, "apex": 5})
    write_table(apex, root / "apex" / "part-0.parquet")
    write_manifest(root / "apex", units, root / "apex" / "part-0.parquet")
    return tmp_path / "ws"


def recipe(special="flow", **changes):
    """What the fold reads of a recipe."""
    train = QUICK.model_copy(update={"epochs": 12, "base_lr": 0.1, **changes})
    model = SMALL.model_copy(update={"special": special})
    return SimpleNamespace(name="toy", labels="label_3", model=model, train=train)


def job(workspace, held_out, out, special="flow", **changes):
    units = [("toy", f"s{p}/v{c}") for p in range(4) for c in range(6)]
    sides = [
        tuple(u for u in units if u[1].startswith(f"s{held_out}/") == test)
        for test in (False, True)
    ]
    return FoldJob(
        workspace=workspace,
        recipe=recipe(special, **changes),
        fold=f"fold-{held_out:02d}",
        datasets=("toy",),
        train_events=sides[0],
        test_events=sides[1],
        train_videos=(),
        test_videos=(),
        seed=0,
        out=out,
    )


def test_fold_writes_its_files_and_scores_above_chance(workspace, tmp_path):
    tables = []
    for person in range(4):
        out = tmp_path / f"fold-{person:02d}"
        out.mkdir()
        fit_fold(job(workspace, person, out, epochs=30))
        table = read_table(out / "predictions.parquet")
        assert set(table.person) == {f"toy:s{person}"} and len(table) == 6
        chances = table[["prob_negative", "prob_positive", "prob_surprise"]].to_numpy()
        assert np.allclose(chances.sum(1), 1)
        tables.append(table)
    history = read_table(out / "history.parquet")
    assert list(history.epoch) == list(range(30)) and "train_uf1" in history
    assert len(read_table(out / "timings.parquet")) == 30
    facts = json.loads((out / "model.json").read_text())
    assert facts["classes"] == ["negative", "positive", "surprise"]
    assert facts["model"]["num_classes"] == 3 and len(facts["input_scale"]) == 5

    pooled = pd.concat(tables, ignore_index=True)
    metrics = score(SimpleNamespace(predictions=lambda: pooled))
    main = metrics[metrics.scope == "pooled"].set_index("name")
    assert main.value["uf1"] > 0.8 and main["count"]["uf1"] == 24
    assert main.low["uf1"] <= main.value["uf1"] <= main.high["uf1"]
    assert main.chance["uar"] == pytest.approx(1 / 3)
    assert main.majority["accuracy"] == pytest.approx(1 / 3)
    hits = (pooled.label == pooled.predicted).mean()
    assert main.value["accuracy"] == pytest.approx(hits)
    assert len(metrics[metrics.scope.str.startswith("fold:")]) == 12
    assert len(metrics[metrics.scope == "class:surprise"]) == 3

    fold = load_fold(out)
    events = read_table(workspace / "toy" / "ingest" / "events.parquet")
    events = events[events.subject == "s3"]
    bank = read_clips(workspace, events, [0] * 6, fold.model.config, fold.train.input)
    stored = tables[3][[f"prob_{c}" for c in fold.classes]].to_numpy()
    assert np.allclose(fold.predict(bank), stored, atol=1e-6)


def test_killed_fold_goes_on_and_ends_the_same(workspace, tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    ours = HstaInputConfig(pixels="motion", level=0.5, augment=True, test_mirror=True)
    changes = {"resume_every": 2, "input": ours}
    fit_fold(job(workspace, 1, tmp_path / "whole", **changes))
    assert load_fold(tmp_path / "whole").scale[4] not in (0, 1)  # the shifts' own unit

    def kill(share, message):
        if share > 0.5:
            raise Killed

    killed = job(workspace, 1, tmp_path / "killed", **changes)
    with pytest.raises(Killed):
        fit_fold(FoldJob(**{**vars(killed), "progress": kill}))
    assert (tmp_path / "killed" / "resume" / "state.safetensors").exists()
    damaged = FoldJob(**{**vars(killed), "out": tmp_path / "damaged"})
    shutil.copytree(killed.out, damaged.out)
    (damaged.out / "resume" / "state.safetensors").write_bytes(b"cut short")
    fit_fold(killed)
    fit_fold(damaged)  # starts again
    for name in ("weights.safetensors", "model.json", "history.parquet", "predictions.parquet"):
        for folder in ("killed", "damaged"):
            assert (tmp_path / "whole" / name).read_bytes() == (
                tmp_path / folder / name
            ).read_bytes()


def test_clips_of_frames_and_memory_mapping_agree(workspace, tmp_path):
    events = read_table(workspace / "toy" / "ingest" / "events.parquet")[:5]
    config = SMALL.model_copy(update={"special": "frames"})
    in_memory = read_clips(workspace, events, [0] * 5, config, HstaInputConfig())
    mapped = read_clips(
        workspace, events, [0] * 5, config, HstaInputConfig(cache_mb=0), tmp_path / "scratch"
    )
    assert isinstance(mapped.frames, np.memmap) and in_memory.special is None
    assert np.array_equal(mapped.frames, in_memory.frames)
    with h5py.File(workspace / "toy" / "align" / "part-0.h5") as file:
        crops = file["s0/v1/crops"][:]
    start, count = in_memory.start[1], in_memory.count[1]
    assert count == 8
    expected = resize_crops(crops[[*range(2, 10), 2, 5]], 16, 1)
    assert np.array_equal(in_memory.frames[start : start + 10], expected)


def test_flow_slots_hold_pixels_and_zeros_where_frames_are_the_same(workspace):
    path = workspace / "toy" / "flow" / "part-0.h5"
    with h5py.File(path) as file:
        group = file["s1/v0"]
        slots = read_special_flow(group, 20)
        pixels = group["flow"][:].astype(np.float32) / 1024
        np.testing.assert_allclose(slots[0, :2], pixels[0].transpose(2, 0, 1), atol=1e-6)
        np.testing.assert_allclose(slots[1, 2], group["strain"][1].astype(np.float32))
        only = {"kind": group["kind"][1:], "flow": group["flow"], "strain": group["strain"]}
        only["kind"] = np.array([b"apex_offset"])  # onset is the apex: no first pair
        assert (read_special_flow(only, 10)[0] == 0).all()
        assert read_special_flow(only, 10)[1].shape == (3, 10, 10)


def test_missing_inputs_are_named(workspace, tmp_path):
    bad = job(workspace, 0, tmp_path)
    with pytest.raises(StoreError, match="toy:nobody"):
        fit_fold(FoldJob(**{**vars(bad), "train_events": (("toy", "nobody"),)}))
    (workspace / "toy" / "flow" / "manifest.parquet").unlink()
    with pytest.raises(StoreError, match="flow"):
        fit_fold(bad)


def test_classes_of_a_label_map():
    assert class_names(recipe(), ["surprise"]) == ("negative", "positive", "surprise")
    own = SimpleNamespace(name="r", labels="emotion")
    assert class_names(own, ["sad", "happy", "sad"]) == ("happy", "sad")
    with pytest.raises(ConfigError, match="happy"):
        class_names(recipe(), ["happy"])
    with pytest.raises(ConfigError, match="two classes"):
        class_names(own, ["sad"])


def test_optimiser_is_fused_and_starts_at_rest():
    optimiser = make_optimiser(create(SMALL), QUICK)
    assert all(g["fused"] and g["lr"] == 0 for g in optimiser.param_groups)
    assert isinstance(RunFiles, type)
