"""Networks of flow pictures: what they compute, how they are trained, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.errors import ConfigError, InputError, TrainingError
from models import create_model, list_models, load_authors_checkpoint
from models.fitting import seed_everything
from models.flow_nets.fold import fit, scale_of
from models.flow_nets.settings import FlowNetTrainConfig
from models.recipe import load_recipe
from tests.fakes.flow_pictures import picture

LBFGS = {"solver": "lbfgs", "epochs": 500, "standardise": "pixel"}


def pictures(count: int, seed: int, noise: float = 90.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3, 28, 28) in 0 … 1 and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = np.stack([picture(int(label), rng, noise) for label in labels])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 255, labels


def test_the_shape_of_the_paper() -> None:
    """400 numbers reach the last map at 28 px; streams of 3, 5 and 8 kernels side by side."""
    net = create_model("ststnet").eval()
    assert net.head.in_features == 400 and net(torch.zeros(2, 3, 28, 28)).shape == (2, 3)
    parts = [27 * k + k + 2 * k for k in (3, 5, 8)]  # convolution, bias, batch normalisation
    assert sum(p.numel() for p in net.parameters()) == sum(parts) + 400 * 3 + 3
    for side in (16, 25, 40):
        assert create_model("ststnet", image_size=side)(torch.zeros(2, 3, side, side)).shape == (
            2,
            3,
        )


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_regression_is_the_textbooks(penalty: float, balanced: bool) -> None:
    """The same probabilities as scikit-learn's, C = 1 / (penalty · weighted pictures)."""
    from sklearn.linear_model import LogisticRegression

    x, y = pictures(60, 0)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y != 0)[:25]])
    x, y = x[kept], y[kept]
    scale = scale_of(x, "pixel")
    flat = scale.apply(x)
    net = create_model("flow_regression")
    settings = FlowNetTrainConfig(weight_decay=penalty, balanced=balanced, **LBFGS)
    fit(net, torch.from_numpy(flat), torch.from_numpy(y), settings)
    theirs = LogisticRegression(
        C=1 / (penalty * len(y)), max_iter=5000, tol=1e-8,
        class_weight="balanced" if balanced else None,
    ).fit(flat.reshape(len(y), -1), y)  # fmt: skip
    with torch.no_grad():
        ours = torch.softmax(net(torch.from_numpy(flat)), 1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(flat.reshape(len(y), -1)), atol=2e-3)


def test_both_learn_what_can_be_told_and_repeat() -> None:
    x, y = pictures(90, 1)
    new, truth = pictures(90, 2)
    scale = scale_of(x, "channel")
    found = []
    for name, settings in (
        ("ststnet", FlowNetTrainConfig(epochs=25, batch_size=32, lr=4e-3)),
        ("flow_regression", FlowNetTrainConfig(weight_decay=0.01, **LBFGS)),
    ):
        answers = []
        for _ in range(2):
            seed_everything(3)
            net = create_model(name)
            history = fit(net, torch.from_numpy(scale.apply(x)), torch.from_numpy(y), settings)
            with torch.no_grad():
                answers.append(net.eval()(torch.from_numpy(scale.apply(new))))
        assert torch.equal(*answers) and history[-1]["loss"] < 1.1
        found.append(float((answers[0].argmax(1).numpy() == truth).mean()))
    assert min(found) > 0.7, found


def test_a_network_that_diverges_gets_no_score() -> None:
    x, y = pictures(20, 3)
    x[0, 0, 0, 0] = np.inf
    with pytest.raises(TrainingError, match="one that is not"):
        fit(create_model("ststnet"), torch.from_numpy(x), torch.from_numpy(y),
            FlowNetTrainConfig(epochs=3))  # fmt: skip


def test_a_pixel_that_never_changes_is_left_in_peace() -> None:
    x, _ = pictures(10, 4)
    x[:, 1] = 0.5
    for by in ("channel", "pixel"):
        scaled = scale_of(x, by).apply(x)
        assert np.isfinite(scaled).all() and (scaled[:, 1] == 0).all()


@pytest.mark.parametrize("size", [0, 1])
def test_a_step_of_one_picture_is_refused(size: int) -> None:
    """It has no deviation to normalise by, so that nothing would be trained."""
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        load_recipe("ststnet_megc2019", {"train.batch_size": size})


@pytest.mark.parametrize("size", [2, 3, 7, 256])
def test_every_size_of_step_trains(size: int) -> None:
    x, y = pictures(10, 0)
    net = create_model("flow_regression")
    before = net.head.weight.detach().clone()
    fit(net, torch.from_numpy(x), torch.from_numpy(y), FlowNetTrainConfig(batch_size=size))
    assert not torch.equal(before, net.head.weight)


@pytest.mark.parametrize("name", list_models())
def test_weights_of_no_authors_are_refused_by_name(name: str) -> None:
    """`bad_checkpoint` where authors published a layout, else ConfigError."""
    with pytest.raises((ConfigError, InputError), match="(?i)" + name.partition("_")[0]):
        load_authors_checkpoint(name, {})
