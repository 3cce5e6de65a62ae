"""Recognition, spotting, STRS and bootstrap against hand counts and plain transcriptions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)

from data.errors import InputError
from models import metrics
from models.scores.bootstrap import (
    group_counts,
    paired_difference,
    subject_interval,
    subject_weights,
)


def authors_f1_of_means(true: list[int], predicted: list[int], labels: list[int]) -> float:
    """Harmonic mean of macro P and R as public ME code does it: class by class, 0/0 -> 0, a class
    with neither true nor predicted samples skipped."""
    precisions, recalls = [], []
    for label in labels:
        tp = sum(t == label and p == label for t, p in zip(true, predicted, strict=True))
        fp = sum(t != label and p == label for t, p in zip(true, predicted, strict=True))
        fn = sum(t == label and p != label for t, p in zip(true, predicted, strict=True))
        if tp + fp + fn == 0:
            continue
        precisions.append(tp / (tp + fp) if tp + fp else 0.0)
        recalls.append(tp / (tp + fn) if tp + fn else 0.0)
    p, r = np.mean(precisions), np.mean(recalls)
    return float(2 * p * r / (p + r)) if p + r else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_recognition_equals_scikit_learn_when_every_class_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = ["negative", "positive", "surprise"]
    true = labels + list(rng.choice(labels, 40))
    predicted = list(rng.choice(labels, 43, p=[0.6, 0.3, 0.1]))
    got = metrics.recognition(true, predicted, labels)
    kwargs = {"labels": labels, "average": "macro", "zero_division": 0}
    assert got.uf1 == pytest.approx(f1_score(true, predicted, **kwargs), abs=1e-12)
    assert got.uar == pytest.approx(recall_score(true, predicted, **kwargs), abs=1e-12)
    assert got.macro_precision == pytest.approx(
        precision_score(true, predicted, **kwargs), abs=1e-12
    )
    assert got.accuracy == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    assert (got.confusion == confusion_matrix(true, predicted, labels=labels)).all()
    assert got.classes_used == tuple(labels) and got.absent == () and got.num_samples == 43


@pytest.mark.parametrize("seed", range(30))
def test_f1_of_means_equals_the_plain_rule_with_absent_and_foreign_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [0, 1, 2]
    true = rng.choice(labels[: 1 + seed % 3], 9).tolist()
    predicted = rng.choice([0, 1, 2, 3], 9, p=[0.5, 0.3, 0.05, 0.15]).tolist()
    got = metrics.recognition(true, predicted, labels)
    assert got.f1_of_means == pytest.approx(authors_f1_of_means(true, predicted, labels), abs=1e-12)


def test_hand_counted_case_with_a_class_absent() -> None:
    got = metrics.recognition([0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 2])
    assert got.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert got.uf1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert got.uar == pytest.approx((2 / 3 + 1) / 2)
    assert got.f1_of_means == pytest.approx(2 * 0.75 * (5 / 6) / (0.75 + 5 / 6))
    assert got.classes_used == (0, 1) and got.absent == (2,)
    assert "2" in got.note and "left out" in got.note
    zero = metrics.recognition([0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 2], absent="zero")
    assert zero.uf1 == pytest.approx((4 / 5 + 2 / 3) / 3)
    assert zero.uar == pytest.approx((2 / 3 + 1) / 3)
    assert zero.macro_precision == pytest.approx(1.5 / 3)
    assert zero.classes_used == (0, 1, 2) and zero.absent == (2,) and "counted as 0" in zero.note


def test_class_predicted_but_never_true_costs_f1_and_leaves_uar_alone() -> None:
    got = metrics.recognition([0, 0], [0, 1], [0, 1])
    assert got.uf1 == pytest.approx((2 / 3 + 0) / 2)
    with pytest.warns(UserWarning):
        assert got.uar == pytest.approx(balanced_accuracy_score([0, 0], [0, 1]))
    assert "never true: 1" in got.note


def test_prediction_outside_the_labels_is_an_error_of_its_true_class() -> None:
    """SAMM-LV's 3-class rule: true "others" removed, predicted "others" stays wrong."""
    got = metrics.recognition([0, 0, 1], [0, 3, 1], [0, 1])
    assert got.other.tolist() == [1, 0]
    assert got.recall.tolist() == [0.5, 1.0] and got.precision.tolist() == [1.0, 1.0]
    assert got.accuracy == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="Remove those samples"):
        metrics.recognition([0, 3], [0, 0], [0, 1])


def test_trivial_all_negative_composite_baseline() -> None:
    """442 composite samples, all called negative: accuracy 0.566, UF1 0.241, UAR 1/3."""
    true = [0] * 250 + [1] * 109 + [2] * 83
    got = metrics.recognition(true, [0] * 442, [0, 1, 2])
    assert (round(got.accuracy, 3), round(got.uf1, 3)) == (0.566, 0.241)
    assert got.uar == pytest.approx(1 / 3)


def test_megc2025_baseline_row() -> None:
    """P .1667, R .3333 give F1 .2222; 0.0278 x 0.2222 = 0.0062."""
    got = metrics.recognition([0] * 3 + [1] * 2 + [2] * 1, [0] * 6, [0, 1, 2])
    assert got.macro_precision == pytest.approx(1 / 6)
    assert got.f1_of_means == pytest.approx(0.2222, abs=1e-4)


def test_empty_lists() -> None:
    got = metrics.recognition([], [], [0, 1])
    assert np.isnan([got.uf1, got.uar, got.accuracy]).all()
    assert got.f1_of_means == 0.0 and got.classes_used == () and got.absent == (0, 1)
    zero = metrics.recognition([], [], [0, 1], absent="zero")
    assert (zero.uf1, zero.uar, zero.accuracy) == (0.0, 0.0, 0.0)
    assert metrics.strs(metrics.spotting(0, 3, 5), got) == 0.0


@pytest.mark.parametrize(
    ("true", "predicted", "labels"), [([0], [0, 1], [0, 1]), ([0], [0], [0, 0]), ([0], [0], [])]
)
def test_recognition_refuses(true: list[int], predicted: list[int], labels: list[int]) -> None:
    with pytest.raises(InputError):
        metrics.recognition(true, predicted, labels)
    with pytest.raises(InputError, match="exclude"):
        metrics.recognition([0], [0], [0], absent="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f1"),
    [
        ((52, 171, 107), 0.2332, 0.3270, 0.2723),
        ((76, 733, 782), 0.0939, 0.0886, 0.0912),
        ((26, 363, 133), 0.0668, 0.1635, 0.0949),
        ((0, 0, 7), 0.0, 0.0, 0.0),
        ((0, 4, 0), 0.0, 0.0, 0.0),
        ((3, 1, -1), 0.75, 1.5, 1.0),
    ],
)
def test_spotting_published_rows(
    counts: tuple[int, int, int], precision: float, recall: float, f1: float
) -> None:
    got = metrics.spotting(*counts)
    assert (got.precision, got.recall) == pytest.approx((precision, recall), abs=5e-5)
    assert got.f1 == pytest.approx(f1, abs=5e-5)


def test_strs_is_the_product() -> None:
    rec = metrics.recognition([0, 0, 0, 1], [0, 0, 1, 1], [0, 1])
    spot = metrics.spotting(52, 171, 107)
    assert metrics.strs(spot, rec) == pytest.approx(spot.f1 * rec.f1_of_means, abs=1e-15)


def test_scores_of_summed_counts_are_scores_of_the_pooled_list() -> None:
    rng = np.random.default_rng(3)
    true, predicted = rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    subjects = rng.integers(0, 5, 60)
    one_each = np.stack(
        [
            metrics.confusion_counts([t], [p], [0, 1, 2])
            for t, p in zip(true, predicted, strict=True)
        ]
    )
    names, per_subject = group_counts(subjects.tolist(), one_each)
    assert names == [0, 1, 2, 3, 4]
    pooled = metrics.recognition_from_counts(per_subject.sum(axis=0), [0, 1, 2])
    assert pooled.uf1 == metrics.recognition(true, predicted, [0, 1, 2]).uf1


def f1(counts: np.ndarray) -> float:
    return metrics.spotting(*counts).f1


def test_subject_interval_covers_and_repeats() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (20, 3))
    got = subject_interval(counts, f1, draws=400, seed=5)
    assert got.value == f1(counts.sum(axis=0)) and got.low < got.value < got.high
    assert got == subject_interval(counts, f1, draws=400, seed=5)
    assert got != subject_interval(counts, f1, draws=400, seed=6)
    constant = subject_interval(np.tile([[3, 1, 2]], (9, 1)), f1, draws=50)
    assert constant.low == constant.high == pytest.approx(constant.value)
    alone = subject_interval(counts[:1], f1)
    assert np.isnan([alone.low, alone.high]).all() and alone.draws == 0


def test_an_interval_leaves_out_one_draw_in_forty_at_either_end() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 9, (20, 3))
    sums = subject_weights(20, 400, seed=5) @ counts
    scores = np.array([f1(total) for total in sums])
    got = subject_interval(counts, f1, draws=400, seed=5)
    np.testing.assert_allclose((got.low, got.high), np.percentile(scores, [2.5, 97.5]))
    other = counts[::-1]
    gap = scores - np.array([f1(t) for t in subject_weights(20, 400, seed=5) @ other])
    both = paired_difference(counts, other, f1, draws=400, seed=5)
    np.testing.assert_allclose((both.low, both.high), np.percentile(gap, [2.5, 97.5]))


def test_weights_draw_whole_subjects() -> None:
    weights = subject_weights(7, 200, seed=1)
    assert weights.shape == (200, 7) and (weights.sum(axis=1) == 7).all()
    assert abs(weights.mean(axis=0) - 1).max() < 0.25


def test_undefined_resamples_are_left_out_and_counted() -> None:
    counts = np.array([[0, 0], [2, 4], [0, 0]])

    def share(total: np.ndarray) -> float:
        return float(total[0] / total[1]) if total[1] else float("nan")

    got = subject_interval(counts, share, draws=300)
    assert got.value == 0.5 and got.low == got.high == 0.5 and 0 < got.draws < 300


def test_paired_difference_uses_the_same_draws() -> None:
    rng = np.random.default_rng(2)
    hard = rng.integers(0, 12, (15, 1))
    b = np.concatenate([hard, 12 - hard, 12 - hard], axis=1)
    a = b + [1, 0, 0]
    got = paired_difference(a, b, f1, draws=500)
    assert got.low > 0 and got.share_above == 1.0
    wide = subject_interval(a, f1, draws=500)
    assert got.high - got.low < 0.3 * (wide.high - wide.low)
    same = paired_difference(b, b, f1, draws=50)
    assert (same.value, same.low, same.high, same.share_above) == (0.0, 0.0, 0.0, 0.5)
    with pytest.raises(InputError, match="same subjects"):
        paired_difference(a, b[:-1], f1)
