"""Protocols, strategies, baselines, challenge counts and the metrics table on made-up curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from models.me_tst.labels import SpottingTruth
from models.me_tst.scores import score_table, unit_rows
from models.metrics import recognition
from models.scores.baselines import (
    flow_magnitude,
    perfect_intervals,
    random_intervals,
    threshold_motion,
)
from models.scores.spotting import (
    FOUR_CLASSES,
    THREE_CLASSES,
    Protocol,
    VideoCurves,
    VideoResult,
    average_precision,
    errors,
    evaluate,
    megc_counts,
    megc_overall,
    recognition_of,
    score_intervals,
    scored_classes,
    spotting_of,
    stitched,
    total,
)
from models.spotting import decode, vote

K, HALF = 20, 10


def windows_of(series: np.ndarray) -> np.ndarray:
    """(T, ...) cut into overlapping windows, T a multiple of K / 2."""
    return np.stack([series[s : s + K] for s in range(0, len(series) - HALF, HALF)])


def make(
    name: str,
    events: list[tuple[int, int, int]],
    subject: str = "s1",
    seen: list[tuple[int, int, int]] | None = None,
    length: int = 200,
    dataset: str = "casme3",
    seed: int = 0,
) -> VideoCurves:
    """Curves of a network that sees `seen` (default: the truth), noise elsewhere."""
    rng = np.random.default_rng(seed)
    spot = rng.uniform(0, 0.05, length)
    logits = rng.normal(0, 0.1, (length, 5))
    logits[:, 4] += 1
    for onset, offset, emotion in seen if seen is not None else events:
        spot[onset : offset + 1] = 0.9
        logits[onset : offset + 1, emotion] += 3
    spans = np.array([[s, (s + e) // 2, e] for s, e, _ in events], np.int64).reshape(-1, 3)
    ids = tuple(f"{name}-{i}" for i in range(len(events)))
    truth = SpottingTruth(spans, np.array([c for *_, c in events], np.int64), ids)
    magnitude = rng.uniform(0, 0.2, length).astype(np.float32)
    return VideoCurves(
        dataset=dataset, video=name, subject=subject, person=f"{dataset}:{subject}",
        fold=f"fold-{subject}", k=K, k_p=6, k_p_global=5, spot=windows_of(spot).astype(np.float32),
        logits=windows_of(logits).astype(np.float32), magnitude=magnitude, truth=truth,
        others=np.zeros((0, 2), np.int64), view_index=np.arange(length, dtype=np.int32),
        seconds_per_frame=1 / 30,
    )  # fmt: skip


@pytest.fixture
def videos() -> list[VideoCurves]:
    return [
        make("a", [(40, 52, 0), (120, 132, 1)], "s1", seed=1),
        make("b", [(60, 72, 2)], "s1", seen=[(60, 72, 2), (150, 162, 4)], seed=2),
        make("c", [(30, 42, 3), (90, 102, 0)], "s2", seen=[(30, 42, 3)], seed=3),
        make("d", [], "s2", seen=[(100, 112, 1)], seed=4),
        make("e", [(80, 92, 1)], "s3", seen=[(80, 92, 0)], seed=5),
    ]


def test_a_network_that_sees_everything_scores_one() -> None:
    found = evaluate([make("a", [(40, 52, 0), (120, 132, 1)])], Protocol())
    counts = total(found)
    assert spotting_of(counts).f1 == 1.0
    assert recognition_of(counts, FOUR_CLASSES).f1_of_means == 1.0


def test_counts_of_the_made_up_videos(videos: list[VideoCurves]) -> None:
    spot = spotting_of(total(evaluate(videos, Protocol(strategy=2))))
    assert (spot.tp, spot.fp, spot.fn) == (5, 2, 1)
    recog = recognition_of(total(evaluate(videos, Protocol())), FOUR_CLASSES)
    want = recognition([0, 1, 2, 3, 1], [0, 1, 2, 3, 0], range(4))
    assert np.array_equal(recog.confusion, want.confusion)
    assert recog.f1_of_means == want.f1_of_means


def test_videos_without_events_count_unless_left_out(videos: list[VideoCurves]) -> None:
    every = evaluate(videos, Protocol())
    only = evaluate(videos, Protocol(only_with_events=True))
    assert len(every) == 5 and len(only) == 4
    assert spotting_of(total(every)).fp == 2 and spotting_of(total(only)).fp == 1


def test_strategy_one_removes_intervals_voted_neutral(videos: list[VideoCurves]) -> None:
    base = spotting_of(total(evaluate(videos, Protocol(strategy=0))))
    removed = evaluate(videos, Protocol(strategy=1))
    spot = spotting_of(total(removed))
    assert (spot.tp, spot.fp, spot.fn) == (base.tp, base.fp - 1, base.fn)
    assert not any((r.votes == 4).any() for r in removed)
    assert any((r.votes == 4).any() for r in evaluate(videos, Protocol(strategy=0)))


def test_strategy_two_votes_among_emotions_only(videos: list[VideoCurves]) -> None:
    assert all((r.votes < 4).all() for r in evaluate(videos, Protocol(strategy=2)))


def released_strategy_one(
    pred: list[tuple[int, int]], votes: list[int], truth: list[tuple[int, int]]
) -> tuple[int, int, int]:
    """Soft counts, then the stated corrections by the greedy list."""

    def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
        inter = max(0, min(a[1], b[1]) - max(a[0], b[0]) + 1)
        return inter / (a[1] - a[0] + 1 + b[1] - b[0] + 1 - inter)

    tp = sum(overlap(p, t) >= 0.5 for p in pred for t in truth)
    fp = sum(all(overlap(p, t) < 0.5 for t in truth) for p in pred)
    fn, taken = len(truth) - tp, set()
    for p, voted in zip(pred, votes, strict=True):
        scores = [overlap(p, t) for t in truth]
        best = max(range(len(truth)), key=lambda j: (scores[j], j)) if truth else -1
        hit = best >= 0 and scores[best] >= 0.5 and best not in taken
        if hit:
            taken.add(best)
        if voted == 4 and hit:
            tp, fn = tp - 1, fn + 1
        elif voted == 4:
            fp -= 1
    return tp, fp, fn


@pytest.mark.parametrize("seed", range(40))
def test_authors_strategy_one_corrects_the_soft_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 60, 6)
    pred = sorted((int(s), int(s) + 12) for s in starts)
    truth = sorted((int(s), int(s) + int(rng.integers(6, 18))) for s in rng.integers(0, 60, 4))
    votes = rng.integers(0, 5, 6)
    curves = make("v", [(s, e, int(rng.integers(4))) for s, e in truth])
    intervals = np.array([[s, e, s + 6] for s, e in pred])
    got = score_intervals(
        curves, intervals, votes, np.ones(6), Protocol(matcher="authors", strategy=1)
    )
    assert tuple(got.counts[:3]) == released_strategy_one(pred, votes.tolist(), truth)
    assert len(got.votes) == (votes != 4).sum()


def test_three_class_rule_of_samm_lv() -> None:
    """True "others" are removed, a vote for "others" stays an error."""
    true, voted = [0, 0, 1, 2, 3, 3], [0, 3, 1, 4, 3, 0]
    counts = np.zeros(23, np.int64)
    for t, v in zip(true, voted, strict=True):
        counts[3 + 5 * t + v] += 1
    want = recognition([0, 0, 1, 2], [0, 3, 1, 4], range(3))
    got = recognition_of(counts, THREE_CLASSES)
    assert got.f1_of_means == want.f1_of_means and got.uf1 == want.uf1
    assert got.num_samples == 4
    four = recognition(true, voted, range(4))
    assert recognition_of(counts, FOUR_CLASSES).f1_of_means == four.f1_of_means
    assert scored_classes(["samm_lv"]) == THREE_CLASSES
    assert scored_classes(["samm_lv", "casme3"]) == scored_classes(["casme3"]) == FOUR_CLASSES


def test_half_widths(videos: list[VideoCurves]) -> None:
    wide = [replace(v, k_p=9, k_p_global=6) for v in videos]
    width = {p: evaluate(wide, Protocol(k_p=p))[0].intervals for p in ("train_fold", "global", 4)}
    spans = {p: set((i[:, 1] - i[:, 0]).tolist()) for p, i in width.items()}
    assert spans == {"train_fold": {18}, "global": {12}, 4: {8}}


def test_clean_curves_do_not_depend_on_the_company(videos: list[VideoCurves]) -> None:
    together = stitched(videos, Protocol())
    for video, (spot, logits) in zip(videos, together, strict=True):
        alone = stitched([video], Protocol(batch_size=3))[0]
        assert np.array_equal(alone[0], spot) and np.array_equal(alone[1], logits)
        assert len(spot) == video.length == 200


def test_authors_stitching_runs_over_a_subject_and_its_batches(videos: list[VideoCurves]) -> None:
    protocol = Protocol(stitch="authors", batch_size=32)
    (a, _), (b, _), (c, _), *_ = stitched(videos, protocol)
    clean = [spot for spot, _ in stitched(videos, Protocol())]
    assert np.array_equal(a, clean[0]) and np.array_equal(c, clean[2])
    assert not b[:HALF].any() and np.array_equal(b[HALF:], clean[1][HALF:])
    (_, _), (b, _), *_ = stitched(videos, replace(protocol, batch_size=19))
    assert b[:HALF].any(), "19 windows: the second video begins at a batch boundary"


def test_subjects_are_told_apart_by_their_whole_name() -> None:
    """Hazard: grouping by the last character would stitch "1" and "11" as one subject."""
    videos = [make("a", [(40, 52, 0)], "1"), make("b", [(60, 72, 2)], "11")]
    (_, _), (b, _) = stitched(videos, Protocol(stitch="authors", batch_size=32))
    assert b[:HALF].any()


# --- errors


def test_every_event_and_interval_has_one_fate() -> None:
    curves = make("v", [(20, 32, 0), (60, 72, 1), (100, 112, 2), (150, 162, 0)])
    curves = replace(curves, others=np.array([[180, 195]]))
    intervals = np.array(
        [[20, 32, 26], [70, 82, 76], [98, 110, 104], [118, 130, 124], [182, 194, 188]]
    )
    votes = np.array([0, 1, 3, 0, 0])
    result = score_intervals(curves, intervals, votes, np.ones(5), Protocol())
    found = errors([result], FOUR_CLASSES)
    assert found == {
        "missed": 1, "shifted": 1, "false": 2, "false_macro": 1, "near": 1, "wrong_emotion": 1,
    }  # fmt: skip
    tp, fp, fn = result.counts[:3]
    assert found["missed"] + found["shifted"] == fn and found["false"] + found["near"] == fp
    assert tp == 2


# --- baselines


def test_flow_magnitude_is_the_lagged_roi_speed() -> None:
    rng = np.random.default_rng(0)
    path = rng.normal(0, 1, (60, 10)).cumsum(axis=0)
    motion = np.stack([(path[s : s + K] - path[s]).T for s in range(0, 50, HALF)])
    for lag in (1, 6, 10):
        want = np.zeros(60)
        for t in range(60 - lag):
            step = (path[t + lag] - path[t]).reshape(5, 2)
            want[t + lag // 2] = np.hypot(*step.T).mean()
        np.testing.assert_allclose(flow_magnitude(motion.astype(np.float32), lag), want, atol=1e-5)
    assert flow_magnitude(motion.astype(np.float32), 30).any(), "a lag beyond k/2 is cut"


def test_thresholded_motion_finds_a_burst() -> None:
    curves = make("v", [(80, 92, 0)])
    magnitude = curves.magnitude.copy()
    magnitude[82:92] = 3.0
    found = threshold_motion([replace(curves, magnitude=magnitude)], Protocol())
    assert tuple(total(found)[:3]) == (1, 0, 0)
    assert np.array_equal(found[0].intervals, decode(magnitude, 6))


def test_perfect_intervals_leave_recognition_only(videos: list[VideoCurves]) -> None:
    for strategy in (1, 2):
        counts = total(perfect_intervals(videos, Protocol(strategy=strategy)))
        assert spotting_of(counts).f1 == 1.0
        recog = recognition_of(counts, FOUR_CLASSES)
        assert recog.num_samples == 6 and recog.accuracy < 1
    curves = videos[0]
    logits = stitched([curves], Protocol())[0][1][:, :4]
    onset, _, offset = curves.truth.intervals[0]
    result = perfect_intervals([curves], Protocol())[0]
    assert result.votes[0] == vote(logits.argmax(-1), onset, offset)


def test_random_intervals_keep_the_rate_and_score_low(videos: list[VideoCurves]) -> None:
    results = evaluate(videos, Protocol())
    a = random_intervals(results, Protocol(), FOUR_CLASSES, seed=1, draws=50)
    assert a == random_intervals(results, Protocol(), FOUR_CLASSES, seed=1, draws=50)
    assert 0 < a["spotting_f1"] < 0.3 and a["strs"] < a["spotting_f1"]
    crowded = replace(results[0], intervals=np.repeat(results[0].intervals, 20, axis=0))
    b = random_intervals([crowded], Protocol(), FOUR_CLASSES, draws=50)
    assert b["spotting_precision"] < 0.2 and b["spotting_recall"] > 0.6


# --- the challenge and average precision


def test_megc_counts_pool_all_videos() -> None:
    predicted = [np.array([[0, 9], [20, 29]]), np.zeros((0, 2), int), np.array([[5, 9]])]
    truth = [np.array([[0, 9]]), np.array([[3, 8]]), np.zeros((0, 2), int)]
    got = megc_counts(predicted, truth)
    assert (got.tp, got.fp, got.fn) == (1, 2, 1)
    official = megc_counts(predicted, truth, num_events=5)
    assert (official.tp, official.fp, official.fn) == (1, 2, 4)
    both = megc_overall([got, official])
    assert (both.tp, both.fp, both.fn) == (2, 4, 5)


def ranked(name: str, confidence: list[float], hits: list[int], num_events: int) -> VideoResult:
    """Intervals of which `hits` lie on their own event."""
    curves = make(name, [(20 * i, 20 * i + 9, 0) for i in range(num_events)])
    spans = [[20 * h, 20 * h + 9, 0] if h >= 0 else [20 * i + 10, 20 * i + 19, 0]
             for i, h in enumerate(hits)]  # fmt: skip
    n = len(hits)
    return VideoResult(
        curves, np.array(spans).reshape(-1, 3), np.zeros(n, np.int64), np.array(confidence),
        np.array(hits), np.zeros(23, np.int64),
    )  # fmt: skip


def test_average_precision_by_hand() -> None:
    # Ranked: hit, miss, hit, miss of 4 events: precision 1 at recall 1/4, 2/3 at recall 1/2.
    result = ranked("v", [0.9, 0.8, 0.7, 0.1], [0, -1, 2, -1], 4)
    assert average_precision([result]) == pytest.approx(0.25 + 0.25 * 2 / 3)
    # A second interval on the same event is false.
    twice = ranked("v", [0.9, 0.8], [0, 0], 1)
    assert average_precision([twice]) == pytest.approx(1.0)
    first_false = ranked("v", [0.1, 0.8], [0, -1], 1)
    assert average_precision([first_false]) == pytest.approx(0.5)
    assert average_precision([ranked("v", [], [], 2)]) == 0.0
    assert np.isnan(average_precision([ranked("v", [], [], 0)]))
    split = [ranked("v", [0.9, 0.8], [0, -1], 2), ranked("w", [0.7, 0.1], [0, -1], 2)]
    assert average_precision(split) == pytest.approx(0.25 + 0.25 * 2 / 3)


# --- the table


def value(table: pd.DataFrame, name: str, scope: str) -> pd.Series:
    rows = table[(table["name"] == name) & (table["scope"] == scope)]
    assert len(rows) == 1, (name, scope)
    return rows.iloc[0]


def test_score_table(videos: list[VideoCurves]) -> None:
    table = score_table(videos, Protocol(batch_size=32), draws=50)
    pooled = value(table, "spotting_f1", "pooled")
    assert pooled["value"] == pytest.approx(2 * 5 / (2 * 5 + 2 + 1))
    assert pooled["low"] <= pooled["value"] <= pooled["high"] and pooled["count"] == 6
    assert 0 < pooled["chance"] < pooled["value"]
    strs = value(table, "strs", "pooled")
    recog = value(table, "f1_of_means", "pooled")
    assert strs["value"] == pytest.approx(pooled["value"] * recog["value"])
    assert recog["count"] == 5 and 0 < recog["chance"] < 0.6 and recog["majority"] < recog["value"]
    assert value(table, "spotting_f1", "videos:all")["value"] == pooled["value"]
    only = value(table, "spotting_precision", "videos:with micro-expressions")["value"]
    assert only > value(table, "spotting_precision", "videos:all")["value"]
    assert value(table, "spotting_f1", "fold:fold-s3")["value"] == 1.0
    assert value(table, "recall", "class:positive")["value"] == 0.5
    assert value(table, "spotting_f1", "baseline:perfect intervals")["value"] == 1.0
    assert value(table, "strs", "baseline:random intervals")["value"] < strs["value"]
    assert value(table, "spotting_f1", "variant:strategy 1")["value"] > pooled["value"]
    assert value(table, "share", "errors:missed")["count"] == 1
    assert value(table, "average_precision", "iou:0.5")["value"] > 0.5
    assert "m = 6" in value(table, "spotting_f1", "megc:casme3 micro")["note"]
    assert not table.duplicated(["name", "scope"]).any()
    pd.testing.assert_frame_equal(table, score_table(videos, Protocol(batch_size=32), draws=50))


def test_recall_by_action_unit(videos: list[VideoCurves]) -> None:
    """b-0 and e-0 are found, c-1 is not seen; a sheet without units gives no row."""
    results = evaluate(videos, Protocol())
    aus = {
        ("casme3", "b-0"): "1+R2",
        ("casme3", "c-1"): "1+38",
        ("casme3", "e-0"): "12",
        ("x", "a-0"): "4",
    }
    rows = {r["scope"]: r for r in unit_rows(results, aus)}
    assert set(rows) == {"unit:AU1", "unit:AU2", "unit:AU12"}
    assert rows["unit:AU1"]["value"] == 0.5 and rows["unit:AU1"]["count"] == 2
    assert rows["unit:AU2"]["value"] == 1.0 and "1 of 1" in rows["unit:AU12"]["note"]
    assert unit_rows(results, {}) == []


def test_score_table_without_any_interval() -> None:
    """A network that says nothing: zeros and undefined scores, no crash."""
    quiet = [make(n, [(40, 52, 0)], s, seen=[]) for n, s in (("a", "s1"), ("b", "s2"))]
    flat = [replace(v, spot=np.zeros_like(v.spot), magnitude=v.magnitude * 0) for v in quiet]
    table = score_table(flat, Protocol(), draws=20)
    assert value(table, "spotting_f1", "pooled")["value"] == 0.0
    assert value(table, "strs", "pooled")["value"] == 0.0
    assert np.isnan(value(table, "uf1", "pooled")["value"])


def test_official_counts_are_stated() -> None:
    table = score_table([make("a", [(40, 52, 0)], dataset="samm_lv")], Protocol(), draws=10)
    assert "official list: 159" in value(table, "spotting_f1", "megc:samm_lv micro")["note"]
    assert not table.scope.str.contains("official m").any()


def test_official_counts_make_missing_events_misses() -> None:
    spans = [(20 * i, 20 * i + 9, i % 4) for i in range(65)]
    whole = [replace(make(n, spans, n, dataset="samm_lv"), others=np.array([[3, 8]])) for n in "ab"]
    table = score_table(whole, Protocol(), draws=10)
    own, official = (
        value(table, "spotting_f1", f"megc:samm_lv{which} micro") for which in ("", ", official m,")
    )
    assert own["count"] == 130 and official["count"] == 159
    hits = own["value"] * (130 + int(own["note"].split("FP ")[1].split(",")[0])) / 2
    assert f"FN {159 - int(own['note'].split('TP ')[1].split(',')[0])};" in official["note"]
    assert official["value"] < own["value"] and hits > 0
    macro = value(table, "spotting_f1", "megc:samm_lv macro")
    assert macro["value"] == 0.0 and macro["count"] == 2 and "FN 2" in macro["note"]
    overall = value(table, "spotting_f1", "megc:samm_lv overall")
    assert overall["count"] == 132 and 0 < overall["value"] < own["value"]


def test_mean_average_precision_over_overlaps(videos: list[VideoCurves]) -> None:
    table = score_table(videos, Protocol(), draws=10)
    mean = value(table, "average_precision", "iou:0.5:0.95")["value"]
    results = evaluate(videos, Protocol())
    levels = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    each = [average_precision(results, iou) for iou in levels]
    assert mean == pytest.approx(np.mean(each)) and 0 < mean <= each[0]
