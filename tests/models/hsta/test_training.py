"""HSTA's training: groups, schedule, sampler, learning, exact resume, abort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save

from data.errors import TrainingError
from models.fitting import load_weights, save_weights
from models.hsta.clips import ClipBank
from models.hsta.input import HstaInputConfig
from models.hsta.many import fit
from models.hsta.network import HstaConfig, create
from models.hsta.training import (
    HstaTrainConfig,
    epoch_order,
    learning_rate,
    loss_weights,
    make_optimiser,
    parameter_groups,
    predict,
)
from models.runs.files import RunFiles
from tests.fakes.hsta_small import QUICK, SMALL

CPU = torch.device("cpu")


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


def test_optimiser_is_fused_and_starts_at_rest():
    optimiser = make_optimiser(create(SMALL), QUICK)
    assert all(g["fused"] and g["lr"] == 0 for g in optimiser.param_groups)
    assert isinstance(RunFiles, type)
