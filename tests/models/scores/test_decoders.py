"""Other decoders on the same curves: the counts, the nested choice, what it may claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.errors import ConfigError
from models.me_tst.labels import SpottingTruth
from models.scores.bootstrap import paired_difference
from models.scores.decoders import KINDS, MATCHERS, Decoder, count, decoders_of
from models.scores.decoding import OBJECTIVES, score_many, study
from models.scores.spotting import (
    FOUR_CLASSES,
    THREE_CLASSES,
    Protocol,
    VideoCurves,
    evaluate,
    spotting_of,
    statistics,
    stitched,
    total,
)
from models.spotting import iou_matrix

K, LENGTH = 20, 240
PEOPLE = ("a", "b", "c", "d")


def curves_of(person: str, number: int, seed: int, level: float = 0.6) -> VideoCurves:
    """Three events, a bump of `level` on most of them, some false bumps, noise."""
    rng = np.random.default_rng(seed)
    onsets = np.array([30, 110, 190]) + rng.integers(-8, 8, 3)
    spans = np.stack([onsets, onsets + 6, onsets + 12 + rng.integers(0, 5, 3)], axis=1)
    time, spot = np.arange(LENGTH), 0.05 + 0.1 * rng.random(LENGTH)
    places = [*(o + 6 for o in onsets if rng.random() < 0.8), *rng.integers(20, 220, 2)]
    for place in places:
        spot += level * rng.uniform(0.4, 1) * np.exp(-(((time - place) / 5) ** 2))
    logits = rng.normal(0, 1, (LENGTH, 5))
    starts = range(0, LENGTH - K // 2, K // 2)
    return VideoCurves(
        dataset="casme3", video=f"{person}{number}", subject=person, person=person,
        fold=f"fold-{person}", k=K, k_p=6, k_p_global=8,
        spot=np.stack([spot[s : s + K] for s in starts]).astype(np.float32),
        logits=np.stack([logits[s : s + K] for s in starts]).astype(np.float32),
        magnitude=np.zeros(LENGTH, np.float32),
        truth=SpottingTruth(spans, rng.integers(0, 4, 3), ("x", "y", "z")),
        others=np.zeros((0, 2), np.int64), view_index=np.arange(LENGTH, dtype=np.int32),
        seconds_per_frame=1 / 30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def videos() -> list[VideoCurves]:
    return [curves_of(p, n, 300 + 10 * i + n) for i, p in enumerate(PEOPLE) for n in range(2)]


@pytest.mark.parametrize("matcher", ["one_to_one", "authors"])
@pytest.mark.parametrize("stitch", ["clean", "authors"])
def test_counts_are_those_of_the_protocol(videos, matcher, stitch) -> None:
    """Whatever a protocol can say, counted as `evaluate` counts it, emotions included."""
    base = Protocol(matcher=matcher, stitch=stitch, k_p="global")
    protocols = [replace(base, p=p, strategy=s) for p in (0.3, 0.55, 0.8) for s in (0, 1, 2)]
    counted = count(videos, [Decoder(p) for p in protocols])
    row = MATCHERS.index("one_to_one" if matcher == "one_to_one" else "soft")
    assert counted.people == list(PEOPLE) and counted.events == 24
    for number, protocol in enumerate(protocols):
        wanted = total(evaluate(videos, protocol))
        assert counted.counts[number, row].sum(axis=0).tolist() == wanted.tolist()


def test_half_width_is_scaled_whole(videos) -> None:
    """A factor on k_p is the same as setting it: box, distance and interval follow."""
    scaled = count(videos, [Decoder(Protocol(), width=1.5)])
    given = count(videos, [Decoder(Protocol(k_p=9))])
    assert (scaled.counts == given.counts).all()


@pytest.mark.parametrize("box", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("height", [0.15, 0.4])
def test_box_and_height_against_a_loop(videos, box, height) -> None:
    """Peaks found frame by frame on a mean taken frame by frame."""
    counted = count(videos, [Decoder(Protocol(), box=box, height=height)])
    tp = found = 0
    for curves, (spot, _) in zip(videos, stitched(videos, Protocol()), strict=True):
        k_p, half = curves.k_p, round(box * curves.k_p)
        padded = np.concatenate([np.zeros(50), spot.astype(float), np.zeros(50)])
        mean = [
            padded[50 + t - half : 50 + t + half].sum() / (2 * half) if half else padded[50 + t]
            for t in range(LENGTH)
        ]
        high = [
            t for t in range(1, LENGTH - 1)
            if mean[t - 1] < mean[t] > mean[t + 1] and mean[t] >= height
        ]  # fmt: skip
        kept: list[int] = []
        for t in sorted(high, key=lambda t: -mean[t]):
            if all(abs(t - other) >= k_p for other in kept):
                kept.append(t)
        spans = np.array([[t - k_p, t + k_p] for t in kept]).reshape(-1, 2)
        hits = iou_matrix(spans, curves.truth.intervals[:, [0, 2]]) >= 0.5
        tp += int(hits.any(axis=0).sum())  # events are far apart: one to one is this
        found += len(kept)
    counts = counted.counts[0, 0].sum(axis=0)
    assert (counts[0], counts[0] + counts[1]) == (tp, found)


def test_scores_of_many_counts_are_those_of_one(videos) -> None:
    """The objective of all resamples at once is what the metrics say of each."""
    counted = count(videos, decoders_of(Protocol())["any"])
    flat = counted.counts[:, 0].reshape(-1, counted.counts.shape[-1])
    reference = flat[: len(flat) // 2].sum(axis=0)
    for classes in (FOUR_CLASSES, THREE_CLASSES):
        for name, function in statistics(classes, reference).items():
            if name in OBJECTIVES:
                many = score_many(flat, name, classes, reference)
                assert many == pytest.approx([function(one) for one in flat]), name


def test_three_matchers_stand_side_by_side(videos) -> None:
    """Two predictions on one event: one hit, two soft hits, one greedy hit; nothing is lost."""
    one = curves_of("a", 0, 3)
    wide = SpottingTruth(np.array([[40, 60, 80]]), np.array([1]), ("x",))
    spot = np.zeros(LENGTH, np.float32)
    spot[52:56] = spot[66:70] = 0.9
    starts = range(0, LENGTH - K // 2, K // 2)
    spots = np.stack([spot[s : s + K] for s in starts])
    video = replace(one, truth=wide, spot=spots)
    counts = count([video, curves_of("b", 0, 4)], [Decoder(Protocol(k_p=14), box=0.2)])
    strict, soft, greedy = counts.counts[0, :, 0, :3].tolist()
    assert (strict, soft, greedy) == ([1, 1, 0], [2, 0, -1], [1, 1, 0])


def test_a_person_has_no_say_in_their_own_decoder(videos) -> None:
    """By hand: leave the person out, take the best of the rest."""
    native = Protocol()
    found = study(videos, native, kinds=["threshold"], draws=50)
    one = paired_difference(
        found.rows[1].counts, found.rows[0].counts, lambda c: spotting_of(c).f1, draws=50
    )
    assert vars(found.rows[1].against_native) == pytest.approx(vars(one))
    some = decoders_of(native)["threshold"]
    chosen = []
    for person in PEOPLE:
        rest = [v for v in videos if v.person != person]
        scores = [spotting_of(total(evaluate(rest, d.protocol))).f1 for d in some]
        chosen.append(some[int(np.argmax(scores))])
    nested = next(row for row in found.rows if row.how == "nested")
    own = [
        total(evaluate([v for v in videos if v.person == p], d.protocol))
        for p, d in zip(PEOPLE, chosen, strict=True)
    ]
    assert nested.counts.tolist() == [c.tolist() for c in own]
    best = next(row for row in found.rows if row.how == "best")
    assert len(nested.chosen) > 1, "else these people could not tell one rule from another"
    everyone = [spotting_of(total(evaluate(videos, d.protocol))).f1 for d in some]
    assert best.value == pytest.approx(max(everyone)) and best.value >= nested.value
    native_row = found.rows[0]
    assert nested.against_native.value == pytest.approx(nested.value - native_row.value)


def test_kinds_begin_with_the_native_decoder_and_hold_it_once() -> None:
    native = Protocol(p=0.5, strategy=1)
    for kind, some in decoders_of(native).items():
        assert some[0] == Decoder(native) and len(set(some)) == len(some), kind
    assert len(decoders_of(native)["any"]) > 100
    assert list(decoders_of(native)) == list(KINDS)


def test_what_cannot_be_studied_is_said(videos) -> None:
    alone = [v for v in videos if v.person == "a"]
    with pytest.raises(ConfigError, match="at least two people"):
        study(alone, Protocol(), kinds=["height"], draws=20)
    with pytest.raises(ConfigError, match="spotting_f1 or strs"):
        study(videos, Protocol(), objective="uf1")
    by_strs = study(videos, Protocol(), kinds=["strategy"], objective="strs", draws=20)
    assert by_strs.rows[0].value == pytest.approx(by_strs.rows[0].strs)
