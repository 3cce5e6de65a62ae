"""Spotting and spot-then-recognise: published counts, hand-made cases, the slips of public code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from data.challenge.forms import SpottedInterval
from data.errors import InputError
from models.challenge.matchers import RULES, find, iou_2020
from models.challenge.score import PRIORS, ChallengeScore, ScoreSheet
from models.challenge.spotting import (
    BASELINE_2020,
    MATCHERS,
    STRICT,
    ChallengePart,
    Counts,
    spotting_scores,
)
from models.challenge.str_task import RELEASED, Emotions, released_scores, scores_of, str_scores
from models.spotting import iou_matrix

Pairs = list[tuple[str, str]]


def sheet(scores: list[ChallengeScore]) -> ScoreSheet:
    return ScoreSheet("test", tuple(scores))


# ------------------------------------------------------------------------------------ overlaps


@pytest.mark.parametrize(
    ("a", "b", "overlap", "matched"),
    [
        ((0, 9), (5, 14), 0.3333, False),
        ((0, 9), (0, 4), 0.5, True),
        ((0, 9), (0, 18), 0.5263, True),
        ((0, 9), (0, 19), 0.5, True),
        ((100, 199), (100, 148), 0.49, False),
        ((10, 70), (45, 85), 0.3421, False),
        ((0, 70), (20, 75), 0.6711, True),
        ((0, 9), (10, 19), 0.0, False),
    ],
)
def test_overlap_of_inclusive_frames(
    a: tuple[int, int], b: tuple[int, int], overlap: float, matched: bool
) -> None:
    assert iou_matrix([a], [b])[0, 0] == pytest.approx(overlap, abs=5e-5)
    assert find([a], [b]).tp == matched
    assert find([a], [b], strict=True).tp == (matched and overlap > 0.5)


def test_slip_of_2020_gives_disjoint_intervals_a_frame() -> None:
    assert iou_2020((0, 9), (20, 25)) == pytest.approx(0.0667, abs=5e-5)
    assert iou_2020((0, 9), (3, 3)) == 0  # an interval of one frame never matches
    assert iou_2020((0, 9), (0, 4)) == 0.5


def figures(pred: list[tuple[int, int]], truth: list[tuple[int, int]]) -> dict[str, object]:
    found = {rule: find(pred, truth, rule) for rule in RULES}
    return {
        rule: (f.tp, f.fp, f.fn, Counts(f.tp, f.hits, f.num_pred, f.num_truth).f1)
        for rule, f in found.items()
    }


def test_two_predictions_on_one_event() -> None:
    found = figures([(0, 9), (1, 9)], [(0, 9)])
    one_to_one = (1, 1, 0, pytest.approx(0.6667, abs=5e-5))
    for rule in ("optimal", "distinct_truths", "best_truth", "row_order", "iou_greedy"):
        assert found[rule] == one_to_one, rule
    assert found["soft_pairs"] == (2, 0, -1, pytest.approx(4 / 3))  # "recall" 2


def test_one_prediction_over_two_events() -> None:
    found = figures([(0, 9)], [(0, 4), (5, 9)])
    for rule in ("optimal", "best_truth", "iou_greedy"):
        assert found[rule] == (1, 0, 1, pytest.approx(2 / 3)), rule
    for rule in ("distinct_truths", "row_order"):
        assert found[rule] == (2, 0, 0, pytest.approx(1.0)), rule


def test_ties() -> None:
    pred, truth = [(0, 11), (4, 15)], [(2, 13), (8, 15)]
    found = figures(pred, truth)
    assert found["optimal"] == found["iou_greedy"] == (2, 0, 0, 1.0)
    assert found["best_truth"] == (1, 1, 1, 0.5)
    assert figures(pred[::-1], truth)["iou_greedy"] == (1, 1, 1, 0.5)  # the other tie order
    assert figures(pred[::-1], truth)["optimal"] == (2, 0, 0, 1.0)


def test_an_interval_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(InputError):
        find([(5, 4)], [(0, 9)])
    with pytest.raises(InputError, match="row_order"):
        find([(0, 9)], [(0, 9)], "greedy")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ published


@pytest.mark.parametrize(
    ("counts", "f1"),
    [
        ((21, 5035, 57), 0.00825),
        ((109, 1523, 300), 0.11958),
        ((130, 6558, 357), 0.03760),
        ((29, 1436, 159), 0.03636),
        ((22, 356, 343), 0.06295),
        ((51, 1792, 502), 0.04446),
    ],
)
def test_counts_of_the_2020_baseline(counts: tuple[int, int, int], f1: float) -> None:
    tp, p, t = counts
    assert Counts(tp, tp, p, t).f1 == pytest.approx(f1, abs=5e-6)


def test_overall_is_of_summed_counts() -> None:
    both = Counts(130, 130, 6558, 357) + Counts(51, 51, 1792, 502)
    assert (both.tp, both.num_pred, both.num_truth) == (181, 8350, 859)
    assert both.f1 == pytest.approx(0.03931, abs=5e-6)


@pytest.mark.parametrize(
    ("cas", "samm", "overall"),
    [
        ((4, 10), (6, 71), (0.1739, 0.1176, 0.1351)),
        ((7, 46), (3, 47), (0.1707, 0.0769, 0.1250)),
        ((7, 36), (4, 58), (0.1944, 0.0899, 0.1366)),
    ],
)
def test_entries_of_2022(
    cas: tuple[int, int], samm: tuple[int, int], overall: tuple[float, float, float]
) -> None:
    """36 and 31 events, told from the printed F1; no overall is the mean of the parts."""
    parts = [Counts(tp, tp, p, t) for (tp, p), t in ((cas, 36), (samm, 31))]
    found = [*(c.f1 for c in parts), (parts[0] + parts[1]).f1]
    assert found == pytest.approx(overall, abs=5e-5)
    assert abs((found[0] + found[1]) / 2 - found[2]) > 1e-3  # type: ignore[operator]


# ------------------------------------------------------------------------------------ spotting


def part(name: str, truth: list[SpottedInterval], pred: list[SpottedInterval]) -> ChallengePart:
    return ChallengePart(name, tuple(truth), tuple(pred))


def test_types_are_matched_apart_and_videos_without_either_side_count() -> None:
    truth = [
        SpottedInterval("a", 10, 19),
        SpottedInterval("a", 50, 99, "mae"),
        SpottedInterval("b", 5, 14),
    ]
    pred = [
        SpottedInterval("a", 10, 19),
        SpottedInterval("a", 50, 99, "me"),  # the wrong type
        SpottedInterval("c", 1, 9, "mae"),  # a video without events
    ]
    found = sheet(spotting_scores([part("cas", truth, pred)]))
    micro = found.find("cas", "F1 micro")
    assert micro.counts == {"TP": 1, "P": 2, "T": 2, "videos": 2} and micro.value == 0.5
    assert found.find("cas", "F1 macro").value == 0.0
    total = found.find("cas", "F1 total")
    assert total.counts == {"TP": 1, "P": 3, "T": 3, "videos": 3}
    loose = found.find("cas", "F1 total, types not compared")
    assert loose.counts["TP"] == 2 and loose.value == pytest.approx(2 / 3)
    # The baseline of 2020 loses b's event, for nothing was predicted there.
    assert found.find("cas", "F1 micro", BASELINE_2020).counts["T"] == 1
    assert found.find("cas", "F1 micro", STRICT).value == 0.5
    for name in MATCHERS.values():  # without doubles they agree
        assert found.find("cas", "F1 total", name).value == total.value


def test_parts_are_pooled_and_one_with_nothing_is_unavailable() -> None:
    a = part(
        "cas",
        [SpottedInterval("x", 0, 9)],
        [SpottedInterval("x", 0, 9), SpottedInterval("x", 30, 39)],
    )
    b = part("samm", [SpottedInterval("y", 0, 9)] * 1, [])
    found = sheet(spotting_scores([a, b]))
    assert found.find("cas", "F1 micro").value == pytest.approx(2 / 3)
    assert found.find("samm", "F1 micro").value == 0.0  # an event, no prediction: a plain zero
    assert found.find("overall", "F1 micro").counts["T"] == 2
    assert found.find("overall", "F1 micro").value == 0.5
    macro = found.find("overall", "F1 macro")
    assert macro.value is None and "neither" in macro.note
    assert found.find("samm", "F1 total", PRIORS).value is None  # one video: no other to ask


def test_another_videos_intervals_are_the_prior() -> None:
    truth = [SpottedInterval("a", 0, 9), SpottedInterval("b", 0, 9), SpottedInterval("c", 100, 109)]
    found = sheet(spotting_scores([part("p", truth, truth)]))
    assert found.find("p", "F1 micro").value == 1.0
    # Of the two shifts each brings a's or b's interval to the other once: 2 of 6.
    assert found.find("p", "F1 micro", PRIORS).value == pytest.approx(2 / 6)


def shapes(name: str, videos: int, hit: bool) -> ChallengePart:
    """An event a video, all at one place (`hit`) or each at its own; answers are the truth."""
    truth = [SpottedInterval(f"{name}{v}", 0 if hit else 40 * v, 9 if hit else 40 * v + 9, "me",
                             "negative") for v in range(videos)]  # fmt: skip
    return part(name, truth, truth)


@pytest.mark.parametrize("scores", [spotting_scores, str_scores])
def test_priors_of_parts_weigh_by_their_events(scores: Callable[..., list[ChallengeScore]]) -> None:
    """12 videos whose intervals all fit and 3 of which none does: 2 · 12 of 15 + 15."""
    measure = "F1 micro" if scores is spotting_scores else "F1 spotting"
    found = sheet(scores([shapes("a", 12, True), shapes("b", 3, False)]))
    line = found.find("overall", measure, PRIORS)
    assert line.value == pytest.approx(12 / 15)
    assert line.counts == {"TP": 12, "P": 15, "T": 15, "videos": 15}
    one = sheet(scores([shapes("a", 12, True), shapes("b", 1, True)]))
    line = one.find("overall", measure, PRIORS)
    assert line.value is None and line.note.startswith("b has one video only")
    assert one.find("a", measure, PRIORS).value == 1.0


# ------------------------------------------------------------------------------------ STRS

N, P, S = "negative", "positive", "surprise"


def emotions(pairs: Pairs) -> Emotions:
    return Emotions(tuple(t for t, _ in pairs), tuple(p for _, p in pairs))


def strs(pairs: Pairs, fp: int = 0, fn: int = 0) -> ScoreSheet:
    tp = len(pairs)
    counts = Counts(tp, tp, tp + fp, tp + fn, 1)
    found = emotions(pairs)
    return sheet(scores_of("x", counts, found) + released_scores("x", counts, found))


NAMES = ("F1 spotting", "precision emotion", "recall emotion (UAR)", "F1 emotion", "UF1", "STRS")
A = [(N, N), (N, N), (P, N)]
B = [(S, S), (P, P)]


@pytest.mark.parametrize(
    ("pairs", "fp", "fn", "want"),
    [
        ([(N, N), (P, N)], 0, 0, (1, 0.1667, 0.3333, 0.2222, 0.2222, 0.2222)),  # S1
        ([(N, N), (N, P)], 0, 0, (1, 0.3333, 0.1667, 0.2222, 0.2222, 0.2222)),  # S2
        ([(N, N), (N, N)], 0, 0, (1, 0.3333, 0.3333, 0.3333, 0.3333, 0.3333)),  # S3
        ([(N, N), (P, P)], 0, 0, (1, 0.6667, 0.6667, 0.6667, 0.6667, 0.6667)),  # S4
        (A, 3, 2, (0.5455, 0.2222, 0.3333, 0.2667, 0.2667, 0.1455)),  # S5 A
        (B, 0, 2, (0.6667, 0.6667, 0.6667, 0.6667, 0.6667, 0.4444)),  # S5 B
        (A + B, 3, 4, (0.5882, 0.8889, 0.8333, 0.8602, 0.8222, 0.5060)),  # S5 pooled
        (A, 7, 5, (0.3333, 0.2222, 0.3333, 0.2667, 0.2667, 0.0889)),  # S6
        ([(N, N)] * 3, 2, 2, (0.6, 0.3333, 0.3333, 0.3333, 0.3333, 0.2)),  # S7's counts
        ([(N, N)] * 3 + [(P, N)] * 3, 217, 202, (0.0278, 0.1667, 0.3333, 0.2222, 0.2222, 0.0062)),
        ([(N, N)] * 1 + [(N, P)] * 1, 115, 34, (0.0261, 0.3333, 0.1667, 0.2222, 0.2222, 0.0058)),
    ],
)
def test_str_numbers(pairs: Pairs, fp: int, fn: int, want: tuple[float, ...]) -> None:
    found = strs(pairs, fp, fn)
    assert [found.find("x", n).value for n in NAMES] == pytest.approx(list(want), abs=5e-5)


def test_the_table_of_2025_prints_precision_as_uar() -> None:
    """Rows SAMM (6 / 217 / 202) and CAS(ME)3 (3 / 115 / 34) of the organisers' baseline."""
    samm = strs([(N, N)] * 3 + [(P, N)] * 3, 217, 202)
    uar = "recall emotion (UAR)"
    assert samm.find("x", uar, RELEASED).value == pytest.approx(0.1667, abs=5e-5)
    assert samm.find("x", uar).value == pytest.approx(0.3333, abs=5e-5)
    assert samm.find("x", "STRS", RELEASED).value == pytest.approx(0.0062, abs=5e-5)
    assert Counts(3, 3, 118, 37).f1 == pytest.approx(0.0387, abs=5e-5)
    assert Counts(3, 3, 118, 37).f1 * 2 / 9 == pytest.approx(0.0086, abs=5e-5)  # type: ignore[operator]
    assert Counts(159, 159, 244, 244).f1 == pytest.approx(0.6516, abs=5e-5)  # S8


@pytest.mark.parametrize(("pairs", "f1"), [([(N, N), (N, P)], 0.6667), ([(N, N), (N, N)], 1.0)])
def test_supported_classes_only(pairs: Pairs, f1: float) -> None:
    found = strs(pairs)
    rule = "classes spotted only"
    for name in ("F1 emotion", "UF1", "STRS"):
        assert found.find("x", name, rule).value == pytest.approx(f1, abs=5e-5)


def test_edges_of_str() -> None:
    nothing = strs([], fp=4, fn=3)
    assert nothing.find("x", "F1 spotting").value == 0.0
    assert nothing.find("x", "STRS").value == 0.0
    assert nothing.find("x", "F1 emotion").value is None
    assert nothing.find("x", "STRS", RELEASED).value is None  # it stops
    wrong = strs([(N, P), (P, N)])
    assert wrong.find("x", "F1 emotion").value == wrong.find("x", "STRS").value == 0.0
    assert wrong.find("x", "STRS", RELEASED).value is None  # it prints NaN
    assert "NaN" in strs([(N, N), (N, N)]).find("x", "STRS", RELEASED).note
    empty = sheet(str_scores([part("x", [], [])]))
    assert empty.find("x", "STRS").value is None


def one(video: str, a: int, b: int, emotion: str) -> SpottedInterval:
    return SpottedInterval(video, a, b, "me", emotion, video.partition("/")[0])


def test_row_order_changes_the_released_score_only() -> None:
    truth = [one("1/v", 0, 9, N), one("1/v", 100, 109, P)]
    a, b, c = one("1/v", 3, 9, P), one("1/v", 0, 9, N), one("1/v", 100, 109, P)
    first = sheet(str_scores([part("x", truth, [a, b, c])]))
    second = sheet(str_scores([part("x", truth, [b, a, c])]))
    assert first.find("x", "F1 spotting", RELEASED).value == pytest.approx(0.8)
    released = [s.find("x", "STRS", RELEASED).value for s in (first, second)]
    assert released == pytest.approx([0.1778, 0.5333], abs=5e-5)
    assert [s.find("x", "STRS").value for s in (first, second)] == pytest.approx(
        [0.5333] * 2, abs=5e-5
    )


def test_truths_and_false_alarms_do_not_vanish() -> None:
    truth = [one("1/v", 0, 9, N), one("1/v", 50, 59, P), one("2/v", 0, 9, N)]
    found = sheet(str_scores([part("x", truth, truth[:2])]))
    assert found.find("x", "F1 spotting").value == pytest.approx(0.8)
    assert found.find("x", "F1 spotting", RELEASED).value == 1.0
    extra = [*truth[:2], one("1/w", 0, 9, N)]  # a video without an event
    found = sheet(str_scores([part("x", truth[:2], extra)]))
    assert found.find("x", "F1 spotting").value == pytest.approx(0.8)
    assert found.find("x", "F1 spotting", RELEASED).value == 1.0


def test_emotions_outside_the_list() -> None:
    truth = [one("1/v", 0, 9, "others"), one("1/v", 50, 59, N)]
    pred = [one("1/v", 0, 9, N), one("1/v", 50, 59, "others")]
    found = sheet(str_scores([part("x", truth, pred)]))
    assert found.find("x", "F1 spotting").value == 1.0
    emotion = found.find("x", "F1 emotion")
    assert emotion.counts == {"pairs": 1, "outside the classes": 1} and emotion.value == 0.0


def test_overall_strs_may_stand_above_both_parts() -> None:
    def half(name: str, pairs: Pairs, fp: int, fn: int) -> ChallengePart:
        hit = [(one("1/v", 100 * i, 100 * i + 9, t), one("1/v", 100 * i, 100 * i + 9, p))
               for i, (t, p) in enumerate(pairs)]  # fmt: skip
        alone = [one("1/v", 5000 + 100 * i, 5009 + 100 * i, N) for i in range(fp)]
        missed = [one("1/w", 100 * i, 100 * i + 9, N) for i in range(fn)]
        return part(name, [t for t, _ in hit] + missed, [p for _, p in hit] + alone)

    found = sheet(str_scores([half("a", A, 3, 2), half("b", B, 0, 2)]))
    values = [found.find(name, "STRS").value for name in ("a", "b", "overall")]
    assert values == pytest.approx([0.1455, 0.4444, 0.5060], abs=5e-5)
    assert found.find("a", "F1 emotion", PRIORS).note == "always negative"
    assert found.find("a", "F1 emotion", PRIORS).value == pytest.approx(0.2667, abs=5e-5)


def test_a_score_without_value_needs_a_reason() -> None:
    with pytest.raises(InputError, match="a reason"):
        ChallengeScore("x", "F1", None)
    with pytest.raises(InputError, match="finite"):
        ChallengeScore("x", "F1", float("nan"))
