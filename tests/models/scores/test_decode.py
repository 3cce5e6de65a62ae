"""Stitching, decoding, matching and voting against plain transcriptions of the stated rules."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.signal import find_peaks

from data.errors import InputError
from models import spotting


def overlap(a: list[int], b: list[int]) -> float:
    inter = max(0, min(a[1], b[1]) - max(a[0], b[0]) + 1)
    return inter / ((a[1] - a[0] + 1) + (b[1] - b[0] + 1) - inter)


def soft_counter(pred: list[list[int]], truth: list[list[int]]) -> tuple[int, int, int]:
    """Every prediction adds the number of events it overlaps; with none it is a false positive."""
    tp = fp = 0
    for p in pred:
        hits = sum(overlap(p, t) >= 0.5 for t in truth)
        tp += hits
        fp += hits == 0
    return tp, fp, len(truth) - tp


def greedy(pred: list[list[int]], truth: list[list[int]]) -> list[int]:
    taken, out = set(), []
    for p in pred:
        order = np.argsort([overlap(p, t) for t in truth])[::-1]
        index = int(order[0]) if len(order) else -1
        good = index >= 0 and overlap(p, truth[index]) >= 0.5 and index not in taken
        taken |= {index} if good else set()
        out.append(index if good else -1)
    return out


def random_intervals(rng: np.random.Generator, n: int) -> list[list[int]]:
    start = rng.integers(0, 40, n)
    return sorted([int(s), int(s + w)] for s, w in zip(start, rng.integers(0, 14, n), strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_authors_matcher_equals_the_plain_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred, truth = (
        random_intervals(rng, rng.integers(0, 7)),
        random_intervals(rng, rng.integers(0, 7)),
    )
    got = spotting.match(pred, truth, "authors")
    assert got.gt_index.tolist() == greedy(pred, truth)
    assert (got.tp, got.fp, got.fn) == soft_counter(pred, truth)


@pytest.mark.parametrize("seed", range(40))
def test_one_to_one_is_the_largest_set_of_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred, truth = random_intervals(rng, 4), random_intervals(rng, 4)
    best = max(
        sum(overlap(p, truth[j]) >= 0.5 for p, j in zip(pred, order, strict=True))
        for order in permutations(range(4))
    )
    got = spotting.match(pred, truth)
    assert (got.tp, got.fp, got.fn) == (best, 4 - best, 4 - best)
    used = got.gt_index[got.gt_index >= 0].tolist()
    assert len(set(used)) == len(used) == best
    assert all(overlap(pred[i], truth[j]) >= 0.5 for i, j in enumerate(got.gt_index) if j >= 0)
    order = rng.permutation(4)
    again = spotting.match([pred[i] for i in order], truth)
    assert again.tp == got.tp


def test_authors_matcher_takes_the_later_of_two_equal_events() -> None:
    assert spotting.match([[0, 9]], [[0, 9], [0, 9]], "authors").gt_index.tolist() == [1]


def test_soft_counter_counts_one_event_twice() -> None:
    soft = spotting.match([[0, 9], [1, 10]], [[0, 10]], "authors")
    assert (soft.tp, soft.fp, soft.fn) == (2, 0, -1) and soft.gt_index.tolist() == [0, -1]
    strict = spotting.match([[0, 9], [1, 10]], [[0, 10]])
    assert (strict.tp, strict.fp, strict.fn) == (1, 1, 0)


def test_iou_is_on_inclusive_frames_and_half_is_enough() -> None:
    assert spotting.iou_matrix([[0, 9]], [[5, 9]])[0, 0] == 0.5
    assert spotting.match([[0, 9]], [[5, 9]]).tp == 1
    assert spotting.match([[0, 9]], [[5, 9]], iou=0.51).tp == 0
    assert spotting.iou_matrix([[0, 4]], [[5, 9]])[0, 0] == 0.0
    assert spotting.match([[0, 9]], [[0, 9]], iou=0.0).tp == 1


@pytest.mark.parametrize("matcher", ["one_to_one", "authors"])
def test_match_with_nothing_on_a_side(matcher: spotting.Matcher) -> None:
    empty = np.zeros((0, 3), int)
    assert spotting.match(empty, [[1, 2]], matcher).fn == 1
    none = spotting.match([[1, 2], [5, 6]], empty, matcher)
    assert (none.tp, none.fp, none.fn, none.gt_index.tolist()) == (0, 2, 0, [-1, -1])
    assert spotting.match(empty, empty, matcher).gt_index.shape == (0,)


@pytest.mark.parametrize("bad", [[[5, 4]], [[1], [2]], [1, 2]])
def test_match_refuses_bad_intervals(bad: list[object]) -> None:
    with pytest.raises(InputError, match="start <= end"):
        spotting.match(bad, [[0, 3]])
    with pytest.raises(InputError, match="one_to_one"):
        spotting.match([[0, 1]], [[0, 1]], "hungarian")  # type: ignore[arg-type]


# --- stitching


def stitch_batchwise(
    windows: np.ndarray, counts: list[int], k: int, batch: int
) -> list[np.ndarray]:
    """The released loop: batches of all windows, "first" tested on the index in the batch."""
    pieces, video, inside = [], 0, 0
    curve = np.zeros((counts[0] + 1) * k // 2)
    for begin in range(0, len(windows), batch):
        for i, window in enumerate(windows[begin : begin + batch]):
            at = inside * k // 2
            if i == 0:
                curve[at : at + k] = window
            else:
                curve[at + k // 2 : at + k] = window[k // 2 :]
            inside += 1
            if inside == counts[video]:
                pieces.append(curve)
                video, inside = video + 1, 0
                if video < len(counts):
                    curve = np.zeros((counts[video] + 1) * k // 2)
    return pieces


@pytest.mark.parametrize("batch", [1, 3, 4, 32])
def test_stitch_authors_equals_the_batch_loop(batch: int) -> None:
    rng = np.random.default_rng(batch)
    counts, k = [3, 1, 6, 2], 10
    windows = rng.random((12, k))
    got = spotting.stitch(windows, counts, k, mode="authors", batch_size=batch)
    for a, b in zip(got, stitch_batchwise(windows, counts, k, batch), strict=True):
        assert np.array_equal(a, b)


def test_stitch_clean_writes_first_window_whole_and_then_second_halves() -> None:
    windows = np.arange(3 * 4).reshape(3, 4)
    a, b = spotting.stitch(windows, [2, 1], 4)
    assert a.tolist() == [0, 1, 2, 3, 6, 7] and b.tolist() == [8, 9, 10, 11]
    assert np.array_equal(spotting.stitch(windows, [2, 1], 4, batch_size=2)[0], a)
    buggy = spotting.stitch(windows, [2, 1], 4, mode="authors", batch_size=32)
    assert buggy[1].tolist() == [0, 0, 10, 11]


def test_stitch_keeps_classes_and_type() -> None:
    windows = np.random.default_rng(0).random((5, 6, 5)).astype(np.float32)
    flat = spotting.stitch(windows[..., 2], [5], 6)[0]
    got = spotting.stitch(windows, [5], 6)[0]
    assert got.shape == (18, 5) and got.dtype == np.float32
    assert np.array_equal(got[:, 2], flat)


@pytest.mark.parametrize(
    ("counts", "k", "kwargs"),
    [
        ([2, 0, 1], 4, {}),
        ([2], 4, {}),
        ([3], 5, {}),
        ([3], 6, {}),
        ([3], 4, {"mode": "authors"}),
        ([3], 4, {"mode": "average"}),
    ],
)
def test_stitch_refuses(counts: list[int], k: int, kwargs: dict) -> None:
    with pytest.raises(InputError):
        spotting.stitch(np.zeros((3, 4)), counts, k, **kwargs)


# --- decoding


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("k_p", [1, 2, 5, 17])
def test_decode_equals_the_released_arithmetic(seed: int, k_p: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random(int(rng.integers(40, 300)))
    box = np.convolve(score, np.ones(2 * k_p) / (2 * k_p), mode="same")
    limit = box.mean() + 0.55 * (max(box) - box.mean())
    peaks, _ = find_peaks(box, height=limit, distance=k_p)
    got = spotting.decode(score, k_p)
    assert got.dtype == np.int64
    assert got.tolist() == [[p - k_p, p + k_p, p] for p in peaks]


def test_smooth_is_the_stated_window() -> None:
    score = np.random.default_rng(0).random(23)
    for k_p in (1, 3, 15):
        padded = np.concatenate([np.zeros(k_p), score, np.zeros(k_p)])
        want = [padded[t : t + 2 * k_p].sum() / (2 * k_p) for t in range(23)]
        np.testing.assert_allclose(spotting.smooth(score, k_p), want, atol=1e-12)


def test_decode_keeps_intervals_that_leave_the_video() -> None:
    frames = np.arange(40)
    score = np.exp(-(((frames - 4) / 4) ** 2)) + np.exp(-(((frames - 36) / 4) ** 2))
    got = spotting.decode(score, 6)
    assert len(got) == 2 and got[1, 1] >= 40
    assert (got[:, 1] - got[:, 0] == 12).all()


def test_decode_without_a_peak_gives_nothing() -> None:
    assert spotting.decode(np.ones(1), 3).shape == (0, 3)
    assert spotting.decode(np.zeros(50), 3).tolist() == []
    rising = np.concatenate([np.zeros(30), np.linspace(0, 1, 30)])
    assert (spotting.decode(rising, 1) == np.zeros((0, 3))).all()


def test_decode_takes_the_middle_of_a_plateau() -> None:
    # A block of 7 under a box of 4 leaves a plateau of 4 equal frames.
    score = np.zeros(40)
    score[10:17] = 1.0
    flat = np.flatnonzero(spotting.smooth(score, 2) > 0.999)
    assert spotting.decode(score, 2)[:, 2].tolist() == [int((flat[0] + flat[-1]) // 2)]


@pytest.mark.parametrize("score", [[], [[1.0]], [0.1, np.nan]])
def test_decode_refuses_bad_scores(score: list) -> None:
    with pytest.raises(InputError):
        spotting.decode(score, 3)


@pytest.mark.parametrize("k_p", [0, -2, 1.5])
def test_decode_refuses_bad_half_widths(k_p: int) -> None:
    with pytest.raises(InputError, match="k_p"):
        spotting.decode(np.ones(9), k_p)


def test_half_width() -> None:
    assert spotting.half_width([[0, 10], [5, 16]]) == int((10.5 + 1) / 2) == 5
    assert spotting.half_width([[0, 34]]) == 17
    assert spotting.half_width([[3, 3]]) == 1
    with pytest.raises(InputError):
        spotting.half_width(np.zeros((0, 2)))


# --- voting


def test_vote_uses_the_inner_frames() -> None:
    classes = np.array([9, 9, 1, 2, 2, 9, 9])
    # peak 3, k_p 3 -> [0, 6]: slice [1:5] = 9 1 2 2
    assert spotting.vote(classes, 0, 6) == 2
    assert spotting.vote(np.array([9, 1, 9, 1, 2, 2]), 0, 4) == 1


@pytest.mark.parametrize("start", [-1, -2, -5])
def test_vote_leaves_out_the_first_frame_of_a_cut_interval(start: int) -> None:
    # Cut at frame 0 first, then the inner frames are 1 ... end - 2: frame 0 would tip it to 9.
    assert spotting.vote(np.array([9, 1, 9, 1, 0, 0]), start, 4) == 1


@pytest.mark.parametrize("seed", range(30))
def test_vote_tie_goes_to_the_class_met_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 4, 30)
    start, end = int(rng.integers(-4, 20)), int(rng.integers(24, 40))
    piece = classes[max(0, start) + 1 : end - 1].tolist()
    assert spotting.vote(classes, start, end) == Counter(piece).most_common(1)[0][0]


def test_vote_of_short_or_outlying_intervals() -> None:
    classes = np.array([0, 1, 2, 3])
    assert spotting.vote(classes, 1, 3) == 2  # k_p = 1 has no inner frame: the peak itself
    assert spotting.vote(classes, 8, 12) == 3
    assert spotting.vote(classes, -9, -5) == 0
    with pytest.raises(InputError):
        spotting.vote(np.zeros(0), 0, 3)


def test_frame_classes_by_strategy() -> None:
    logits = np.array([[0.1, 0.2, 0.0, 0.0, 0.9]])
    assert [int(spotting.frame_classes(logits, s)[0]) for s in (0, 1, 2)] == [4, 4, 1]
    with pytest.raises(InputError):
        spotting.frame_classes(logits, 3)
