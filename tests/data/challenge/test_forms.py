"""The challenges' files, read and written; the command that scores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data.challenge.clips import is_clip_file, read_clips
from data.challenge.forms import (
    SpottedInterval,
    read_intervals,
    write_recognised,
    write_spotting,
)
from data.challenge.questions import read_questions, write_answers
from data.errors import InputError
from flows.cli import app

SPOT = "vid,pred_onset,pred_offset,type\n"
STR = "subject,video,onset,offset,emotion\n"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_spotting_file_goes_there_and_back(tmp_path: Path) -> None:
    rows = [SpottedInterval("sub02", 5, 90, "mae"), SpottedInterval("sub01", 7, 19)]
    path = tmp_path / "cas_pred.csv"
    assert write_spotting(rows, path) == 2
    assert path.read_bytes() == (SPOT + "sub01,7,19,me\nsub02,5,90,mae\n").encode()
    form, back = read_intervals(path)
    assert form == "spotting" and back == (rows[1], rows[0])


def test_both_headers_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = "vid,onset,offset,type\n001_2,3,9,micro-expression\n\n"
    form, rows = read_intervals(write(tmp_path / "a.csv", text, "utf-8-sig"))
    assert form == "spotting" and rows == (SpottedInterval("001_2", 3, 9),)


def test_recognised_file_goes_there_and_back(tmp_path: Path) -> None:
    rows = [
        SpottedInterval("6/006_1", 3, 9, "me", "Negative", "6"),
        SpottedInterval("v", 1, 40, "mae"),
    ]
    path = tmp_path / "samm_pred.csv"
    assert write_recognised(rows, path) == 1
    assert path.read_text() == STR + "6,006_1,3,9,negative\n"
    form, back = read_intervals(path)
    assert form == "str" and back == (SpottedInterval("6/006_1", 3, 9, "me", "negative", "6"),)
    with pytest.raises(InputError, match="an emotion"):
        write_recognised([SpottedInterval("v", 1, 4)], path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an empty file"),
        ("a,b\n1,2\n", "a,b"),
        (SPOT + "v,9,3,me\n", "line 2"),
        (SPOT + "v,1,3,blink\n", "type me or mae"),
        (SPOT + "v,1.5,3,me\n", "whole frame number"),
        (SPOT + "v,1,3\n", "3"),
        (STR + "1,v,1,3,\n", "an emotion"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_intervals(write(tmp_path / "x.csv", text))
    assert caught.value.code == "bad_challenge_file"


@pytest.mark.parametrize("read", [read_intervals, read_clips])
def test_a_quote_that_nothing_closes_is_named(tmp_path: Path, read: Any) -> None:
    head = {read_intervals: SPOT, read_clips: "casme2,sub01,a,1\n"}[read]
    path = write(tmp_path / "x.csv", head + 'casme2,"' + "1,2,me," * 30_000)
    with pytest.raises(InputError, match=r"x.csv, line 2: .*field larger") as error:
        read(path)
    assert error.value.code == "bad_challenge_file"


def test_a_bad_row_has_the_number_of_its_line(tmp_path: Path) -> None:
    text = SPOT.replace("vid", '"vid"') + "\n\n" + "a,1,2,me\n" + "\n" + "b,x,2,me\n"
    with pytest.raises(InputError, match="line 6: "):
        read_intervals(write(tmp_path / "x.csv", text))


def test_lines_end_where_they_end(tmp_path: Path) -> None:
    """Other signs that Python takes for line ends lie in texts; what is written is read again."""
    asked = {"video_id": "a_1", "video": "v", "question": "What\u2028is\x85it?", "answer": ""}
    path = write(tmp_path / "q.jsonl", json.dumps(asked, ensure_ascii=False) + "\n")
    questions = read_questions(path)
    assert [q.question for q in questions] == [asked["question"]]
    write_answers(questions, {"a_1": "a smile"}, tmp_path / "a.jsonl")
    assert [q.answer for q in read_questions(tmp_path / "a.jsonl")] == ["a smile"]
    clips = write(tmp_path / "c.csv", "casme2,sub01,a\u2028b,1\r\ncasme2,sub01,c,2\r\n")
    assert [c.clip for c in read_clips(clips)] == ["a\u2028b", "c"] and is_clip_file(clips)


def test_answers_keep_order_and_keys(tmp_path: Path) -> None:
    lines = [
        {"video_id": f"samm_test_{i}", "video": "SAMM-1", "extra": i, "question": "What is the "
         "coarse expression class?", "answer": ""} for i in (2, 1)
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines))
    asked = read_questions(write(tmp_path / "me_vqa_samm_test_to_answer.jsonl", text))
    assert [q.id for q in asked] == ["samm_test_2", "samm_test_1"] and asked[0].part == "samm"
    out = tmp_path / "me_vqa_samm_test_pred.jsonl"
    with pytest.raises(InputError, match="1 empty"):
        write_answers(asked, {"samm_test_1": "negative"}, out)
    with pytest.raises(InputError, match="1 unknown"):
        write_answers(asked, {"samm_test_1": "a", "samm_test_2": "b", "z": "c"}, out)
    assert not out.exists()
    write_answers(asked, {"samm_test_1": "negative", "samm_test_2": "surprise\n"}, out)
    back = [json.loads(line) for line in out.read_text().splitlines()]
    assert back == [{**lines[0], "answer": "surprise"}, {**lines[1], "answer": "negative"}]


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"video_id": 3, "question": "x"}',
                                  '{"video_id": "a", "question": "x"}\n' * 2])  # fmt: skip
def test_bad_question_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_questions(write(tmp_path / "x.jsonl", text))
    assert caught.value.code == "bad_challenge_file"


def test_composite_list_and_log(tmp_path: Path) -> None:
    listed = write(tmp_path / "gt.csv", "casme2,sub01,EP02_01f,1\r\nsmic,s01,s01_ne_01,0\r\n,,,\r\n"
                   "samm,6,006_1_2,0\r\n")  # fmt: skip
    log = write(tmp_path / "log.txt", "casme2 sub01\nEP02_01f 1 1\n\nsmic s1\ns1_ne_01 0 2\n\n"
                "samm 006\n006_1_2 0 0\n")  # fmt: skip
    assert is_clip_file(listed) and is_clip_file(log)
    true, given = read_clips(listed), read_clips(log)
    assert [c.key for c in true] == [c.key for c in given]  # padded or not
    assert [c.label for c in given] == ["positive", "surprise", "negative"]
    with pytest.raises(InputError, match="every clip once"):
        read_clips(write(tmp_path / "twice.csv", "smic,s1,s1_ne_01,0\nsmic,s01,s01_ne_01,0\n"))


# ------------------------------------------------------------------------------------ command


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    return result.exit_code, result.output


def test_command_scores_two_parts(tmp_path: Path) -> None:
    files = {
        "cas_pred.csv": "sub01,10,19,me\nsub01,60,69,me\n", "cas_truth.csv": "sub01,10,19,me\n",
        "samm_pred.csv": "001_2,1,9,mae\n", "samm_truth.csv": "001_2,50,59,me\n",
    }  # fmt: skip
    cas, cas_t, samm, samm_t = (write(tmp_path / n, SPOT + t) for n, t in files.items())
    out = tmp_path / "sheet.csv"
    code, text = run(cas, samm, "--truth", cas_t, "--truth", samm_t, "--out", out)
    assert code == 0 and "overall" in text and "unavailable" in text
    code, text = run(cas, samm, "--truth", cas_t, "--truth", samm_t, "--json")
    scores = {(s["part"], s["measure"], s["rule"]): s for s in json.loads(text)["scores"]}
    assert scores["cas", "F1 micro", ""]["value"] == pytest.approx(2 / 3)
    assert scores["overall", "F1 micro", ""]["counts"] == {"TP": 1, "P": 2, "T": 2, "videos": 2}
    assert scores["samm", "F1 macro", ""]["value"] == 0.0
    assert len(out.read_text().splitlines()) == len(scores) + 1


def test_command_tells_the_form_from_the_truth(tmp_path: Path) -> None:
    truth = write(tmp_path / "samm_truth.csv", STR + "006,v,1,9,negative\n007,w,1,9,positive\n")
    pred = write(tmp_path / "samm_pred.csv", STR + "6,v,1,9,negative\n")
    code, text = run(pred, "--truth", truth, "--defined")
    assert code == 0 and text.startswith("spot-then-recognise") and "0.2222" in text
    code, text = run(pred, "--truth", write(tmp_path / "t.csv", SPOT + "v,1,9,me\n"))
    assert code == 2 and "the form of the truth" in text
    code, text = run(pred, "--truth", truth, "--truth", truth)
    assert code == 2 and "same order" in text


def test_command_scores_questions(tmp_path: Path) -> None:
    asked = {"video_id": "samm_test_1", "question": "How many expression events are there?"}
    other = {"video_id": "casme3_test_1", "question": "How many expression events are there?"}
    lines = [{**asked, "answer": "3"}, {**other, "answer": "1"}]
    truth = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)))
    pred = write(tmp_path / "p.jsonl", json.dumps({**asked, "answer": "5"}))
    code, text = run(pred, "--truth", truth, "--json")
    sheet = json.loads(text)
    scores = {(s["part"], s["measure"], s["rule"]): s for s in sheet["scores"]}
    assert code == 0 and sheet["form"] == "LVQA"
    assert scores["samm", "MAE expression events", ""]["value"] == 2
    assert scores["casme3", "MAE expression events", ""]["value"] is None
    assert scores["overall", "MAE expression events", ""]["counts"]["unreadable"] == 1
    assert "1 of 2 rows unanswered" in sheet["notes"][1]
    code, text = run(truth, "--truth", pred)
    assert code == 1 and "1 unknown" in text
    empty = write(tmp_path / "e.jsonl", json.dumps({**asked, "answer": ""}))
    code, text = run(pred, "--truth", empty)
    assert code == 1 and "_to_answer" in text
