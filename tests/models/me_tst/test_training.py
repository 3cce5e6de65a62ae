"""Labels, sampling, losses and the fit loop of ME-TST."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from data.errors import TrainingError
from data.schema import EVENTS, conform
from models.me_tst import training
from models.me_tst.labels import (
    SpottingTruth,
    class_weights,
    cut_windows,
    frame_labels,
    jitter_factors,
    read_truth,
    require_positives,
    sample_windows,
    view_frames,
)
from models.me_tst.many import fit
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.training import MeTstTrainConfig, Windows, predict


def events(*rows: dict) -> pd.DataFrame:
    base = {"dataset": "d", "subject": "s", "person": "d:s", "video": "v", "type": "micro",
            "apex": None, "label_4": "negative"}  # fmt: skip
    listed = [{**base, "event": f"e{i}", **row} for i, row in enumerate(rows)]
    return conform(pd.DataFrame(listed, columns=list(EVENTS)), "events")


# --- the view's time base


def test_view_is_the_authors_division_when_every_seventh_frame_is_kept() -> None:
    view = np.arange(0, 400, 7)
    numbers = np.arange(1, 400)
    assert (view_frames(numbers - 1, view) == ((numbers - 1) / 7).astype(int)).all()


def test_view_with_gaps_filled_is_number_minus_one() -> None:
    """Files 1, 2, 5, 6: positions 2 and 3 show file 5 too, and file 5's own position is 4."""
    view = np.array([0, 1, 2, 2, 2, 3])
    assert view_frames([0, 1, 2, 3], view).tolist() == [0, 1, 4, 5]


def test_frames_before_the_view_are_minus_one() -> None:
    assert view_frames([0, 3], np.array([2, 3])).tolist() == [-1, 1]


# --- truth


def test_pairs_are_accepted_or_dropped_whole() -> None:
    """Hazard: an interval whose emotion is dropped, or the reverse, shifts all that follow."""
    table = events(
        {"onset": 5, "apex": 7, "offset": 9, "label_4": "positive"},
        {"onset": None, "offset": 12, "label_4": "surprise"},
        {"onset": 15, "offset": 19, "label_4": None},
        {"onset": 20, "apex": 24, "offset": None, "label_4": "others"},
        {"onset": 30, "offset": 29, "label_4": "surprise"},
        {"onset": 31, "offset": None, "label_4": "surprise"},
        {"onset": 32, "offset": 36, "label_4": "surprise", "type": "macro"},
        {"onset": 33, "offset": 36, "label_4": "surprise"},
    )
    truth = read_truth(table, np.arange(60), 5, 20, "label_4")
    assert truth.events == ("e0", "e3", "e7")
    assert truth.intervals.tolist() == [[5, 7, 9], [20, 24, 24], [33, -1, 36]]
    assert truth.emotions.tolist() == [1, 3, 2]
    assert dict(truth.dropped) == {
        "e1": "no_onset",
        "e2": "no_emotion_class",
        "e4": "offset_before_onset",
        "e5": "no_offset",
    }


def test_events_out_of_order_or_range_are_flagged_not_dropped() -> None:
    table = events(
        {"onset": 5, "apex": 3, "offset": 9},
        {"onset": 55, "apex": 58, "offset": 70},
    )
    truth = read_truth(table, np.arange(100), 5, 20, "label_4")
    assert len(truth.events) == 2
    assert dict(truth.flagged) == {"e0": "apex_outside", "e1": "beyond_windows"}


def test_events_before_a_dropped_first_frame() -> None:
    truth = read_truth(events({"onset": 0, "offset": 9}), np.arange(1, 50), 3, 20, "label_4")
    assert truth.events == () and dict(truth.dropped) == {"e0": "onset_before_first_frame"}


def test_emotions_may_come_from_another_column() -> None:
    truth = read_truth(
        events({"onset": 1, "offset": 4, "emotion": "surprise"}), np.arange(20), 1, 10, "emotion"
    )
    assert truth.emotions.tolist() == [2]


# --- labels


def make_truth(*rows: tuple[int, int, int]) -> SpottingTruth:
    spans = np.array([[s, s, e] for s, e, _ in rows], np.int64).reshape(-1, 3)
    ids = tuple(f"e{i}" for i in range(len(rows)))
    return SpottingTruth(spans, np.array([c for *_, c in rows], np.int64), ids)


def test_labels_have_exclusive_ends_and_later_events_overwrite() -> None:
    spot, classes = frame_labels(make_truth((2, 7, 1), (5, 9, 2)), 2, 10)
    assert spot.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert classes.tolist() == [4, 4, 4, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4, 4]


def test_labels_beyond_the_windows_are_cut() -> None:
    spot, _ = frame_labels(make_truth((12, 30, 0), (40, 50, 1)), 2, 10)
    assert spot.tolist() == [0.0] * 13 + [1.0] * 2
    empty, classes = frame_labels(make_truth(), 2, 10)
    assert not empty.any() and (classes == 4).all()


def test_an_event_of_two_frames_has_no_inner_frame() -> None:
    assert frame_labels(make_truth((3, 4, 0)), 1, 10)[0].sum() == 0


def test_windows_of_a_toy_video() -> None:
    assert cut_windows(np.arange(8), 3, 4).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


# --- sampling


@pytest.mark.parametrize(
    ("positive", "negative", "ratio", "drawn"),
    [
        (6, 30, 0.5, 3),
        (6, 30, 4, 24),
        (5, 30, 0.5, 2),
        (10, 12, 4, 10),
        (10, 1, 4, 0),
        (4, 0, 1, 0),
    ],
)
def test_sampling_keeps_positives_and_draws_negatives(
    positive: int, negative: int, ratio: float, drawn: int
) -> None:
    spot = np.zeros((positive + negative, 4))
    rng = np.random.default_rng(0)
    marked = np.sort(rng.permutation(len(spot))[:positive])
    spot[marked, 2] = 1
    chosen = sample_windows(spot, ratio, np.random.default_rng(1))
    assert set(marked) <= set(chosen) and len(chosen) == positive + drawn
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, sample_windows(spot, ratio, np.random.default_rng(1)))


def test_no_positive_window_stops_the_fold() -> None:
    with pytest.raises(TrainingError, match="micro-expression"):
        require_positives([np.zeros((3, 4))], "fold-00")
    require_positives([np.zeros((3, 4)), np.ones((1, 4))], "fold-00")


def test_class_weights_are_balanced_with_the_neutral_factor() -> None:
    classes = np.repeat([0, 1, 2, 3, 4], [30, 10, 5, 3, 152]).reshape(10, 20)
    want = compute_class_weight("balanced", classes=np.arange(5), y=classes.ravel())
    got = class_weights(classes, 6.0, strategy=2)
    np.testing.assert_allclose(got[:4], want[:4], rtol=1e-6)
    assert got[4] == pytest.approx(6 * want[4], rel=1e-6)
    assert class_weights(classes, 6.0, strategy=0)[4] == 0
    assert np.array_equal(class_weights(classes, 6.0, 1), got)


def test_class_weights_of_an_absent_class_are_zero() -> None:
    classes = np.repeat([0, 1, 4], [10, 10, 80])
    got = class_weights(classes, 1.0, strategy=2)
    np.testing.assert_allclose(got, [2, 2, 0, 0, 0.25])


def test_jitter_draws_whole_hundredths() -> None:
    factors = jitter_factors(5000, 0.1, np.random.default_rng(0))
    steps = np.round(factors * 100).astype(int)
    np.testing.assert_allclose(factors, steps / 100, atol=1e-6)
    assert set(steps) == set(range(90, 111))
    assert (jitter_factors(10, 0.0, np.random.default_rng(0)) == 1).all()


# --- losses


def test_recognition_loss_divides_by_frames() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(3, 7, 5), torch.randint(0, 5, (3, 7))
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0, 0.5])
    got = training.recog_loss(logits, classes, weights)
    log_p = torch.log_softmax(logits, -1)
    want = -sum(
        weights[classes[b, t]] * log_p[b, t, classes[b, t]] for b in range(3) for t in range(7)
    )
    assert got.item() == pytest.approx(want.item() / 21, rel=1e-5)
    one_hot = F.one_hot(classes, 5).float()
    as_released = F.cross_entropy(logits.reshape(-1, 5), one_hot.reshape(-1, 5), weight=weights)
    assert got.item() == pytest.approx(as_released.item(), rel=1e-5)
    by_index = F.cross_entropy(logits.reshape(-1, 5), classes.reshape(-1), weight=weights)
    assert abs(by_index.item() - got.item()) > 0.05


def test_spot_loss_is_the_mean_square() -> None:
    assert training.spot_loss(torch.tensor([[0.2, 1.0]]), torch.tensor([[0.0, 1.0]])).item() == (
        pytest.approx(0.02)
    )


# --- the loop


def toy_windows(n: int = 24, k: int = 20, seed: int = 0) -> Windows:
    """A bump of motion in one channel pair per emotion."""
    rng = np.random.default_rng(seed)
    motion = rng.normal(0, 0.2, (n, 10, k)).astype(np.float32)
    spot, classes = np.zeros((n, k), np.float32), np.full((n, k), 4, np.int64)
    for i in range(0, n, 2):
        start, emotion = int(rng.integers(2, k - 8)), i // 2 % 4
        spot[i, start : start + 6], classes[i, start : start + 6] = 1, emotion
        motion[i, 2 * emotion : 2 * emotion + 2, start : start + 6] += 2
    return Windows(motion, spot, classes)


def small(seed: int = 0) -> MeTst:
    torch.manual_seed(seed)
    return MeTst(MeTstConfig(dim=16, blocks=2, d_state=4, drop_path=0.1))


def test_fit_learns_a_planted_pattern() -> None:
    windows, network = toy_windows(), small()
    config = MeTstTrainConfig(epochs=25, max_lr=0.01, batch_size=8)
    history = fit(network, windows, config, seed=1)
    assert len(history) == 25 and history[-1]["spot"] < 0.3 * history[0]["spot"]
    assert not network.training
    unseen = toy_windows(seed=9)
    spot, logits = predict(network, unseen.motion)
    inside = unseen.spot > 0
    assert spot[inside].mean() > spot[~inside].mean() + 0.4
    assert (logits.argmax(-1)[inside] == unseen.classes[inside]).mean() > 0.6


def test_learning_rate_and_momentum_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    step = torch.optim.Adam.step

    def record(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        group = self.param_groups[0]
        seen.append((group["lr"], group["betas"][0]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    config = MeTstTrainConfig(epochs=10, max_lr=1e-3, batch_size=8)
    fit(small(), toy_windows(), config)
    rates, betas = np.array(seen).T
    assert len(rates) == 30 and rates[0] == pytest.approx(1e-3 / 25)
    assert rates.max() == pytest.approx(1e-3) and rates.argmax() == 8
    assert rates[-1] == pytest.approx(1e-3 / 25 / 1e4, rel=1e-3)
    assert betas[0] == pytest.approx(0.95) and betas[8] == pytest.approx(0.85)
    assert betas[-1] == pytest.approx(0.95)


@pytest.mark.parametrize(("epochs", "windows"), [(1, 2), (1, 20), (2, 4), (3, 4), (4, 4)])
def test_very_short_schedules_run(epochs: int, windows: int) -> None:
    config = MeTstTrainConfig(epochs=epochs, batch_size=4)
    assert len(fit(small(), toy_windows(windows), config)) == epochs


def weights_of(network: MeTst) -> list[np.ndarray]:
    return [t.numpy().copy() for t in network.state_dict().values()]


def test_same_seed_same_weights_whatever_ran_before() -> None:
    config = MeTstTrainConfig(epochs=2, batch_size=8)
    runs = []
    for before in (0, 17):
        network = small()
        torch.manual_seed(before)
        fit(network, toy_windows(), config, seed=3)
        runs.append(weights_of(network))
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    other = small()
    fit(other, toy_windows(), config, seed=4)
    assert not all(np.array_equal(a, b) for a, b in zip(runs[0], weights_of(other), strict=True))


def test_a_killed_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", -1.0)
    config = MeTstTrainConfig(epochs=6, max_lr=1e-3, batch_size=8)
    undisturbed = small()
    want = fit(undisturbed, toy_windows(), config, seed=3)

    class Killed(Exception):
        pass

    def kill_at(limit: float) -> Callable[[float, str], None]:
        def progress(done: float, text: str) -> None:
            assert "loss" in text
            if done >= limit:
                raise Killed

        return progress

    state = tmp_path / "resume" / "state.safetensors"
    for limit in (2 / 6, 4 / 6):
        with pytest.raises(Killed):
            fit(small(), toy_windows(), config, seed=3, resume=state, progress=kill_at(limit))
    flipped = bytearray(state.read_bytes())
    flipped[-len(flipped) // 3] ^= 64
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(TrainingError, match="digest"):
        fit(small(), toy_windows(), config, seed=3, resume=tmp_path / "flipped")
    resumed = small(9)  # another start: what it ends with can only come from the saved state
    got = fit(resumed, toy_windows(), config, seed=3, resume=state)
    assert got == want
    pairs = zip(weights_of(resumed), weights_of(undisturbed), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_a_loss_that_is_not_finite_stops_by_name() -> None:
    windows = toy_windows()
    windows.motion[0] = np.inf
    with pytest.raises(TrainingError, match="finite"):
        fit(small(), windows, MeTstTrainConfig(epochs=2, batch_size=8))


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    network, motion = small().eval(), toy_windows(13).motion
    whole = predict(network, motion, batch_size=64)
    for size in (1, 4):
        for a, b in zip(predict(network, motion, batch_size=size), whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_evaluation_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: the release evaluates with autograd on."""
    network, seen = small().train(), []
    forward = MeTst.forward

    def watched(self: MeTst, motion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((torch.is_grad_enabled(), self.training))
        return forward(self, motion)

    monkeypatch.setattr(MeTst, "forward", watched)
    predict(network, toy_windows(5).motion, batch_size=2)
    assert seen == [(False, False)] * 3
