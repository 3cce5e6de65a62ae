"""Label maps are data: aliases, classes as published, drops with reasons."""

from __future__ import annotations

import pytest

from data.datasets import ADAPTERS
from data.datasets import label_maps as labels
from data.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Others", "others"),
        (" Other ", "others"),
        ("happyiness", "happiness"),
        ("HAPPY", "happiness"),
        ("sad", "sadness"),
        ("Surprise+Positive", "positive+surprise"),
        ("", None),
        (None, None),
        ("?", None),
    ],
)
def test_spelling_is_normalised(word, expected):
    assert labels.normalise_emotion(word) == expected


@pytest.mark.parametrize("dataset", ADAPTERS)
def test_each_dataset_has_a_map_with_known_classes(dataset):
    table = labels.label_table(dataset)
    if not table:
        pytest.skip(f"{dataset}: no label map in data/datasets/labels yet")
    for emotion, row in table.items():
        assert row["label_3"] in ("", "negative", "positive", "surprise"), emotion
        assert row["label_4"] in ("", "negative", "positive", "surprise", "others"), emotion
        assert row["valence"] in ("", "negative", "positive"), emotion
        assert emotion == labels.normalise_emotion(emotion)


@pytest.mark.parametrize("dataset", ADAPTERS)
def test_every_drop_has_a_reason(dataset):
    for emotion in labels.label_table(dataset):
        for name in labels.ALL_MAPS:
            kept = labels.label_of(dataset, name, emotion) is not None
            assert kept == (labels.why_dropped(dataset, name, emotion) == "")


@pytest.mark.parametrize(
    ("dataset", "counts", "label_map", "expected"),
    [
        (
            "casme2",
            {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25,
             "sadness": 7, "fear": 2},
            "label_3",
            {"negative": 90, "positive": 32, "surprise": 25},
        ),
        (
            "casme2",
            {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25},
            "label_5",
            {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25},
        ),
        (
            "samm",
            {"anger": 57, "happiness": 26, "others": 26, "surprise": 15, "contempt": 12,
             "disgust": 9, "fear": 8, "sadness": 6},
            "label_3",
            {"negative": 92, "positive": 26, "surprise": 15},
        ),
        (
            "samm",
            {"anger": 57, "happiness": 26, "others": 26, "surprise": 15, "contempt": 12,
             "disgust": 9},
            "label_5",
            {"anger": 57, "happiness": 26, "others": 26, "surprise": 15, "contempt": 12},
        ),
        (
            "casme3",
            {"disgust": 250, "surprise": 187, "others": 161, "fear": 86, "anger": 64,
             "sadness": 57, "happiness": 55},
            "label_4",
            {"negative": 457, "surprise": 187, "others": 161, "positive": 55},
        ),
        (
            "cas_me2",
            {"negative": 21, "others": 19, "surprise": 9, "positive": 8},
            "label_3",
            {"negative": 21, "surprise": 9, "positive": 8},
        ),
    ],
)  # fmt: skip
def test_published_class_counts_come_out(dataset, counts, label_map, expected):
    found: dict[str, int] = {}
    for emotion, count in counts.items():
        label = labels.label_of(dataset, label_map, emotion)
        if label:
            found[label] = found.get(label, 0) + count
    assert found == expected


def test_combined_emotions_need_to_agree():
    assert labels.label_of("4dme", "label_3", "negative+repression") == "negative"
    assert labels.label_of("4dme", "label_3", "positive+surprise") is None
    assert "combined" in labels.why_dropped("4dme", "label_3", "positive+surprise")


def test_unknown_emotions_and_maps():
    assert labels.label_of("casme2", "label_3", "boredom") is None
    assert "boredom" in labels.why_dropped("casme2", "label_3", "boredom")
    with pytest.raises(ConfigError, match="label_9"):
        labels.label_of("casme2", "label_9", "disgust")
