"""Long jobs tell how far they are, in any process; news never disturb the work."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from models.progress import ProgressFile
from tasks.context import PlainExecutor
from tasks.news import Teller, telling


class Job:
    """Says what a test puts into it."""

    count = 1

    def __init__(self, *said: Any) -> None:
        self.said = list(said)

    def news(self) -> Any:
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


def test_the_line_is_the_newest_word_and_the_time_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([0.0, 100.0, 100.0, 200.0], itertools.repeat(300.0))
    monkeypatch.setattr("tasks.news.time.monotonic", lambda: next(clock))
    jobs = [Job((0.0, "fold-00 epoch 0/4"), (0.5, "fold-00 epoch 2/4")), Job(None), Job((1.0, "x"))]
    teller = Teller(jobs)
    assert teller.line() == "fold-00 epoch 0/4", "the first look knows no rate"
    # half of one of three jobs in 100 s: five sixths are left
    assert teller.line() == "fold-00 epoch 2/4; all in about 8 min"
    assert Teller([Job(None), Job((1.0, "done"))]).line() == ""
    many = Teller([Job((0.1, "a")), Job((0.2, "b"))])
    assert many.line() == "a (and 1 more)"


def test_a_thread_tells_while_the_block_runs_and_no_longer() -> None:
    shown: list[tuple[int, str]] = []
    executor = PlainExecutor(0, lambda name, done, total, text: shown.append((done, text)))
    broken = Job()
    with telling(executor, "train", [Job((0.25, "epoch 1/4")), broken], every_s=0.01) as news:
        time.sleep(0.03)
        assert shown == [], "a job without a word to say disturbs nothing"
        broken.said = [None]
        while not shown:
            time.sleep(0.01)
        news.done = 1
        while shown[-1][0] != 1:
            time.sleep(0.01)
    count = len(shown)
    time.sleep(0.05)
    assert len(shown) == count and "epoch 1/4" in shown[0][1]
    with telling(executor, "align", [object()], every_s=0.01):
        time.sleep(0.03)
    assert len(shown) == count, "jobs of other stages have no news"


def test_a_pack_tells_of_its_slowest_fold(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from models.runs.packs import PackJob, news_of

    folds = [
        SimpleNamespace(out=tmp_path / n, unit=f"fold-{n}", label=f"train-fold-{n}") for n in "01"
    ]
    pack = PackJob(tuple(folds))  # type: ignore[arg-type]
    assert pack.news() is None
    for job, share in zip(folds, (0.5, 0.25), strict=True):
        ProgressFile(news_of(job.out))(share, f"epoch of {job.unit}, 9 s left")
    share, text = pack.news() or (0, "")
    assert share == 0.375 and text.endswith("epoch of fold-1, 9 s left")
