"""Text measures under named recipes: BLEU-4 and ROUGE-1 as three programs of the challenge do.

The organisers' tokens, smoothing and rows are not published, so a value means nothing without its
recipe. A right answer of one word has no pair of words and scores 0 without smoothing; averaging
over all rows therefore punishes right answers, and ROUGE recall is 1 for anything that contains the
truth's words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.challenge.stem import stem

Tokens = Callable[[str], list[str]]
ORDER = 4
EPSILON = 0.1  # what smoothing method 1 (Chen and Cherry 2014) puts for a count of 0
LONG_WORD = 3  # letters; words up to this length are not stemmed


@dataclass(frozen=True)
class TextRecipe:
    """`rows`: free (the last question only) or all; `empty`: whether unanswered rows count 0."""

    name: str
    rows: str
    empty: bool
    about: str


PAPER = TextRecipe(
    "paper (MEWM)", "free", True,
    "sentence BLEU-4 of blank-separated words without smoothing, mean over the free question",
)  # fmt: skip
SMOOTHED = TextRecipe(
    "Humphrey-0125",
    "all",
    False,
    "sentence BLEU-4 of blank-separated words, smoothing method 1, mean over all answered rows",
)
CORPUS = TextRecipe(
    "null-xy", "all", True,
    "corpus BLEU-4 of words in a-z0-9 without smoothing, over all rows",
)  # fmt: skip


def plain_words(text: str) -> list[str]:
    """Words between blanks, in lower case."""
    return text.strip().lower().split()


def bare_words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def stemmed_words(text: str) -> list[str]:
    """The same, those of more than three letters cut to their stem."""
    return [stem(w) if len(w) > LONG_WORD else w for w in bare_words(text)]


def bleu(truth: str, answer: str, *, smooth: bool = False, tokens: Tokens = plain_words) -> float:
    """Sentence BLEU-4 of one answer against one truth; 0 for an empty answer."""
    return corpus_bleu([(truth, answer)], smooth=smooth, tokens=tokens)


def corpus_bleu(
    pairs: Sequence[tuple[str, str]], *, smooth: bool = False, tokens: Tokens = bare_words
) -> float:
    """BLEU-4 of (truth, answer) pairs, n-grams and lengths summed before any ratio.

    Without smoothing an order without a match makes 0; no word in common does with it, too. The
    brevity factor is exp(1 - r/c) for answers shorter than the truth.
    """
    said = [(tokens(t), tokens(a)) for t, a in pairs]
    length, reference = sum(len(a) for _, a in said), sum(len(t) for t, _ in said)
    if not length:
        return 0.0
    logs = 0.0
    for n in range(1, ORDER + 1):
        matches = sum(sum((_grams(t, n) & _grams(a, n)).values()) for t, a in said)
        total = sum(max(0, len(a) - n + 1) for _, a in said)
        if not matches and (n == 1 or not smooth):
            return 0.0
        logs += math.log((matches or EPSILON) / max(1, total))
    return math.exp(min(1 - reference / length, 0.0) + logs / ORDER)


def rouge_1(
    truth: str, answer: str, *, tokens: Tokens = stemmed_words
) -> tuple[float, float, float]:
    """Recall, precision and F1 of single words; 0 where a side is empty."""
    t, a = Counter(tokens(truth)), Counter(tokens(answer))
    same = sum((t & a).values())
    recall = same / sum(t.values()) if t else 0.0
    precision = same / sum(a.values()) if a else 0.0
    f1 = 2 * recall * precision / (recall + precision) if same else 0.0
    return recall, precision, f1


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
