"""Questions on clips and long videos: classes, counts, units, text; composite recognition."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.challenge.clips import ChallengeClip
from data.challenge.facs import units_in
from data.challenge.questions import Question, kind_of, several
from data.errors import InputError
from models.challenge.answers import (
    AS_ZERO,
    clip_scores,
    count_scores,
    long_scores,
    paired,
    prior_answers,
    set_scores,
    unit_scores,
)
from models.challenge.classes import (
    COARSE,
    FINE,
    TRUTH_ONLY,
    UNION,
    answer_class,
    class_scores,
)
from models.challenge.composite import DROPPED, WEIGHTED, composite_scores
from models.challenge.evaluate import evaluate_files, part_name
from models.challenge.score import PRIORS, ChallengeScore, ScoreSheet
from models.challenge.stem import stem
from models.challenge.words import bleu, corpus_bleu, rouge_1


def sheet(scores: list[ChallengeScore]) -> ScoreSheet:
    return ScoreSheet("test", tuple(scores))


def values(found: ScoreSheet, name: str, rule: str = "") -> list[float | None]:
    return [found.find("x", f"{name} {m}", rule).value for m in ("UF1", "UAR")]


# ------------------------------------------------------------------------------------ classes


def test_an_answer_outside_the_classes_is_wrong() -> None:
    truth = ["negative", "negative", "positive", "surprise"]
    given = ["negative", "positive", "positive", "confused"]
    found = sheet(class_scores("x", "coarse", truth, given, COARSE))
    assert values(found, "coarse") == pytest.approx([0.4444, 0.5], abs=5e-5)
    assert values(found, "coarse", UNION) == pytest.approx([0.3333, 0.375], abs=5e-5)
    assert found.find("x", "coarse UF1").counts["unmapped"] == 1


def test_one_file_has_three_scores() -> None:
    truth = ["disgust", "disgust", "happiness", "surprise"]
    given = ["disgust", "anger", "happiness", "surprise"]
    found = sheet(class_scores("x", "fine", truth, given, FINE))
    assert values(found, "fine") == pytest.approx([0.8889, 0.8333], abs=5e-5)
    assert values(found, "fine", UNION) == pytest.approx([0.6667, 0.625], abs=5e-5)
    every = values(found, "fine", "all 6 declared classes")
    assert every == pytest.approx([0.4444, 0.4167], abs=5e-5)
    assert values(found, "fine", TRUTH_ONLY) == values(found, "fine")
    assert found.find("x", "fine UF1", PRIORS).note == "always disgust"


def test_missing_answers_and_no_rows() -> None:
    found = sheet(class_scores("x", "coarse", ["negative", "positive"], ["negative", ""], COARSE))
    assert values(found, "coarse") == [0.5, 0.5]
    assert values(found, "coarse", UNION) == [1.0, 1.0]  # who drops it gains
    nothing = sheet(class_scores("x", "coarse", [], [], COARSE))
    assert values(nothing, "coarse") == [None, None]
    outside = class_scores("x", "fine", ["repression", "anger"], ["anger", "anger"], FINE)
    assert outside[0].counts["outside"] == 1 and outside[0].value == 1.0


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (" Negative ", "negative"),
        ("It is a surprise.", "surprise"),
        ("positive or negative", "unmapped"),
        ("", "unmapped"),
    ],
)
def test_free_text_to_class(answer: str, name: str) -> None:
    assert answer_class(answer, COARSE) == name


# ------------------------------------------------------------------------------------ words

TWO = "brow lowerer, lid tightener"
LONG = (
    "The action units present are: brow lowerer, lid tightener. Therefore, the fine-grained "
    "expression class is anger, and the coarse expression class is negative."
)
OTHER = (
    "The action unit present is: dimpler. Therefore, the fine-grained expression class is "
    "contempt, and the coarse expression class is negative."
)


@pytest.mark.parametrize(
    ("truth", "answer", "plain", "smooth", "rouge"),
    [
        ("negative", "negative", 0, 0.1778, (1, 1, 1)),
        (TWO, "brow lowerer", 0, 0.0550, (0.5, 1, 0.6667)),
        (TWO, TWO, 1, 1, (1, 1, 1)),
        (TWO, "lid tightener, brow lowerer", 0, 0.0955, (1, 1, 1)),
        ("negative", "banana split", 0, 0, (0, 0, 0)),  # method 1 as NLTK has it: no word, no score
        (LONG, OTHER, 0.4888, None, (0.75, 0.8571, 0.8)),
    ],
)
def test_text_measures(
    truth: str, answer: str, plain: float, smooth: float | None, rouge: tuple[float, ...]
) -> None:
    assert bleu(truth, answer) == pytest.approx(plain, abs=5e-5)
    if smooth is not None:
        assert bleu(truth, answer, smooth=True) == pytest.approx(smooth, abs=5e-5)
    assert rouge_1(truth, answer) == pytest.approx(rouge, abs=5e-5)


def test_corpus_bleu() -> None:
    pairs = [("negative", "negative"), ("negative", "positive"), (TWO, "brow lowerer"),
             (TWO, TWO), (LONG, OTHER)]  # fmt: skip
    assert corpus_bleu(pairs) == pytest.approx(0.5312, abs=5e-5)
    assert corpus_bleu([("negative", "negative")]) == 0.0
    assert bleu(TWO, "") == 0.0 and rouge_1(TWO, "") == (0, 0, 0)


@pytest.mark.parametrize(
    ("word", "root"),
    [
        # examples of the paper, one a rule
        ("caresses", "caress"), ("ponies", "poni"), ("cats", "cat"), ("agreed", "agre"),
        ("plastered", "plaster"), ("bled", "bled"), ("motoring", "motor"), ("conflated", "conflat"),
        ("troubled", "troubl"), ("hopping", "hop"), ("filing", "file"), ("falling", "fall"),
        ("happy", "happi"), ("sky", "sky"), ("relational", "relat"), ("digitizer", "digit"),
        ("formalize", "formal"), ("goodness", "good"), ("revival", "reviv"),
        ("adoption", "adopt"), ("homologous", "homolog"), ("controll", "control"),
        ("rate", "rate"), ("cease", "ceas"), ("units", "unit"),
    ],
)  # fmt: skip
def test_stems(word: str, root: str) -> None:
    assert stem(word) == root


# ------------------------------------------------------------------------------------ questions


def ask(number: int, question: str, answer: str = "", part: str = "x") -> Question:
    return Question(f"{part}_test_{number}", f"v{number}", question, answer)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What is the coarse expression class?", "coarse"),
        ("What is the fine-grained expression class?", "fine"),
        ("What is the action unit present?", "units"),
        ("What are the action units present?", "units"),
        ("Is the action unit lip corner puller shown on the face?", "presence"),
        ("What is the action unit, and based on it, what is the fine-grained expression class and "
         "the coarse expression class?", "free"),
        ("Please analyse the micro-expression in this video.", "free"),
        ("How many expression events are there in this video?", "events"),
        ("How many micro-expression events are there in this video?", "micro_events"),
        ("How many macro-expression events are there in this video?", "macro_events"),
        ("What distinct action units appear in this video?", "all_units"),
        ("What is the expression type of the 2-th expression event in this video?", "event_type"),
    ],
)  # fmt: skip
def test_what_a_question_asks(question: str, kind: str) -> None:
    assert kind_of(question) == kind
    assert several("What are the action units present?") and not several("the action unit")


def rows(question: str, pairs: list[tuple[str, str]]) -> list:
    truth = [ask(i, question, t) for i, (t, _) in enumerate(pairs)]
    return paired(truth, {q.id: a for q, (_, a) in zip(truth, pairs, strict=True)})


def test_counts_of_events() -> None:
    asked = "How many expression events are there?"
    found = sheet(count_scores("x", "events", rows(asked, [("3", "4"), ("0", "0"), ("5", "2")])))
    errors = [found.find("x", f"{m} events").value for m in ("MAE", "RMSE")]
    assert errors == pytest.approx([1.3333, 1.8257], abs=5e-5)
    odd = [("3", "4 events"), ("0", "several"), ("5", "2")]
    found = sheet(count_scores("x", "events", rows(asked, odd)))
    errors = [found.find("x", f"{m} events").value for m in ("MAE", "RMSE")]
    assert errors == pytest.approx([2.0, 2.2361], abs=5e-5)
    assert found.find("x", "MAE events").counts == {"n": 2, "of": 3, "unreadable": 1}
    assert found.find("x", "MAE events", AS_ZERO).value == pytest.approx(4 / 3)
    # Blind: the median, 3 of 0, 3, 5.
    assert found.find("x", "MAE events", PRIORS).value == pytest.approx(5 / 3)
    none = sheet(count_scores("x", "events", []))
    assert none.find("x", "MAE events").value is None


def test_sets_of_action_units() -> None:
    pairs = [({4, 7, 14}, {4, 12}), (set(), {4}), (set(), set()), ({1, 2}, {1, 2})]
    scores = [set_scores(frozenset(t), frozenset(a)) for t, a in pairs]
    assert scores == [(pytest.approx(0.4), 0.25), (0, 0), (1, 1), (1, 1)]
    asked = "What distinct action units appear in this video?"
    words = [(", ".join(f"AU{n}" for n in t), ", ".join(f"AU{n}" for n in a)) for t, a in pairs]
    found = sheet(unit_scores("x", rows(asked, words)))
    assert found.find("x", "AU set F1").value == pytest.approx(0.6)
    assert found.find("x", "AU set Jaccard").value == pytest.approx(0.5625)


def test_names_of_action_units() -> None:
    assert units_in("Brow lowerer, lid tightener.") == (frozenset({4, 7}), ())
    assert units_in("The action units present are: lip corner puller and AU 6") == (
        frozenset({6, 12}), (),
    )  # fmt: skip
    assert units_in("eye closure; lip pressor, nostril dilater")[0] == {43, 24, 38}
    assert units_in("none") == (frozenset(), ())
    assert units_in("brow lowerer, eyebrow wiggle") == (frozenset({4}), ("eyebrow wiggle",))


def test_types_of_events() -> None:
    asked = "What is the expression type of the 1-th expression event?"
    full = {"m": "micro-expression", "M": "macro-expression"}

    def score(truth: str, given: str) -> ScoreSheet:
        return sheet(
            long_scores(
                "x", rows(asked, [(full[t], full[a]) for t, a in zip(truth, given, strict=True)])
            )
        )

    both = score("mmMM", "mMMM")
    assert values(both, "event type") == pytest.approx([0.7333, 0.75], abs=5e-5)
    one = score("mmm", "mmM")
    declared = values(one, "event type", "all 2 declared classes")
    assert declared == pytest.approx([0.4, 0.3333], abs=5e-5)
    assert values(one, "event type") == pytest.approx([0.8, 0.6667], abs=5e-5)


def test_who_sees_no_video_uses_the_questions_wording() -> None:
    one, many = "What is the action unit present?", "What are the action units present?"
    learnt = [ask(0, one, "dimpler"), ask(1, one, "dimpler"), ask(2, many, TWO),
              ask(3, one, "chin raiser", "y")]  # fmt: skip
    asked = [ask(7, one), ask(8, many), ask(9, one, part="y")]
    found = prior_answers(asked, learnt)
    assert [found[q.id] for q in asked] == ["dimpler", TWO, "chin raiser"]


def test_clip_sheet_has_its_recipes() -> None:
    free = "Please analyse the expression."
    truth = [ask(0, "What is the coarse expression class?", "negative"), ask(1, free, LONG)]
    found = sheet(clip_scores("x", paired(truth, {truth[1].id: OTHER})))
    assert found.find("x", "BLEU-4, paper (MEWM)").value == pytest.approx(0.4888, abs=5e-5)
    assert found.find("x", "BLEU-4, paper (MEWM)").counts == {"rows": 1, "unanswered": 0}
    assert found.find("x", "coarse UF1").value == 0.0  # a missing row is a wrong one
    assert found.find("x", "BLEU-4, Humphrey-0125").counts == {"rows": 1, "unanswered": 1}
    assert found.find("x", "BLEU-4, null-xy").counts == {"rows": 2, "unanswered": 1}
    assert found.find("x", "fine UF1").value is None


# ------------------------------------------------------------------------------------ composite


def clips(labels: str, database: str = "casme2") -> list[ChallengeClip]:
    full = {"n": "negative", "p": "positive", "s": "surprise"}
    return [ChallengeClip(database, "1", f"c{i}", full[c]) for i, c in enumerate(labels)]


def test_composite_numbers() -> None:
    found = sheet(composite_scores(clips("nnnpss"), clips("nnppsn")))
    value = [found.find("casme2", m).value for m in ("UF1", "UAR")]
    assert value == pytest.approx([0.6667, 0.7222], abs=5e-5)
    every = "n" * 250 + "p" * 109 + "s" * 83
    found = sheet(composite_scores(clips(every), clips("n" * 442)))
    value = [found.find("casme2", m).value for m in ("UF1", "UAR", "accuracy")]
    assert value == pytest.approx([0.2408, 0.3333, 0.5656], abs=5e-5)
    assert found.find("casme2", "UF1", PRIORS).value == found.find("casme2", "UF1").value


@pytest.mark.parametrize("twice", ["truth", "prediction"])
def test_a_clip_in_two_files_is_refused(twice: str, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.csv" for name in ("one", "two", "again")}
    files["one"].write_text("casme2,sub01,EP1,1\n")
    files["two"].write_text("casme2,sub02,EP1,1\n")
    files["again"].write_text("casme2,1,EP1,0\n")  # the same clip, subject without padding
    good, bad = [files["one"], files["two"]], [files["one"], files["again"]]
    pred, truth = (good, bad) if twice == "truth" else (bad, good)
    with pytest.raises(InputError, match=f"{twice} clips.*casme2/1/EP1 again in again.csv"):
        evaluate_files(pred, truth)
    assert evaluate_files(good, good).find("casme2", "UF1").value == 1.0


def test_names_of_parts_are_told_apart() -> None:
    taken: list[str] = []
    for name in ("overall_truth", "cas_gt", "cas-4", "cas", "overall", "cas", "x"):
        taken.append(part_name(Path(f"{name}.csv"), taken))
    assert taken == ["overall-1", "cas", "cas-4", "cas-5", "overall-5", "cas-6", "x"]


def test_composite_of_one_class() -> None:
    found = sheet(
        composite_scores(clips("nn") + clips("np", "samm"), clips("nn") + clips("nn", "samm"))
    )
    assert found.find("casme2", "UF1").value == 1.0
    assert found.find("casme2", "UF1", "all 3 classes").value == pytest.approx(1 / 3)
    assert found.find("casme2", "UF1", DROPPED).value is None
    right, dropped = (found.find("overall", "UF1", rule).value for rule in ("", DROPPED))
    assert right == dropped == pytest.approx((6 / 7) / 2)
    assert found.find("overall", "UF1", WEIGHTED).value == pytest.approx(6 / 7 * 3 / 4)
    missing = sheet(composite_scores(clips("nn"), clips("n")))
    assert missing.find("casme2", "UF1").value == pytest.approx(2 / 3)
    assert missing.find("casme2", "UF1").counts["unanswered"] == 1
