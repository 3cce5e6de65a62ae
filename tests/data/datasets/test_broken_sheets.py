"""Sheets broken at random: ingest gives tables or a DatasetError, and no row goes missing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.datasets import open_dataset
from data.errors import DatasetError
from tests.fakes import dataset_trees as trees

CELLS = st.one_of(
    st.none(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["/", "\\", "?", "", "=A1+1", "=1/0", "01", "EP02_01f", "EP99", "MISSING", "-1"]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
)
EDITS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), CELLS), max_size=12)
ROUGH = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def write_broken(path, header, rows, edits) -> None:
    table = [list(header), *(list(r) for r in rows)]
    for r, c, cell in edits:
        if r < len(table) and c < len(table[r]):
            table[r][c] = cell
    trees.write_xlsx(path, {"Sheet1": table})


def account(name, root) -> None:
    try:
        dataset = open_dataset(name, root)
    except DatasetError as error:
        assert error.code in ("wrong_sheet", "no_sheet")
        return
    dropped = dataset.ledger[dataset.ledger.action == "dropped"].kind.value_counts()
    assert dataset.counts["rows"] == len(dataset.events) + dropped.get("row", 0)
    assert dataset.events.event.is_unique
    assert (dataset.events.onset <= dataset.events.offset).all()
    length = dataset.videos.set_index("video").num_frames
    assert (dataset.events.offset.to_numpy() < length[dataset.events.video].to_numpy()).all()


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Sound frames of two datasets, written once; each example replaces the sheet."""
    return {
        "casme2": trees.casme2(tmp_path_factory.mktemp("a") / "b" / "casme2"),
        "casme3": trees.casme3(tmp_path_factory.mktemp("c") / "d" / "casme3"),
    }


@ROUGH
@given(EDITS)
@example([(1, 0, "=A1+1"), (1, 3, 1.5), (2, 4, "?"), (0, 8, None)])
def test_broken_casme2_sheets(copies, edits):
    root = copies["casme2"]
    sheet = root / "CASME2-coding-20140508.xlsx"
    write_broken(sheet, trees.CASME2_HEADER, trees.CASME2_ROWS, edits)
    account("casme2", root)


@ROUGH
@given(EDITS)
def test_broken_casme3_sheets(copies, edits):
    root = copies["casme3"]
    sheet = root / "annotation" / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
    write_broken(sheet, trees.CASME3_HEADER, trees.CASME3_ROWS, edits)
    account("casme3", root)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@example(text="subject,path,fps\n,,\n")
@example(text="subject,path,fps,onset,offset\np,../x,25,1,2\n\x00,\x00,\x00\n")
def test_broken_manifests(tmp_path_factory, text):
    root = tmp_path_factory.mktemp("csv") / "deep" / "set"
    trees.write_frames(root / "p", [1, 2, 3], "{}.png")
    (root / "manifest.csv").write_text(text, encoding="utf-8", newline="")
    try:
        open_dataset("csv", root)
    except DatasetError as error:
        assert error.code in ("wrong_sheet", "no_sheet", "no_videos", "several_manifests")
