"""Cells and sheets: numbers as text, fractions, symbols and formulas; the action-unit grammar."""

from __future__ import annotations

import openpyxl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.datasets.action_units import action_units, unit_numbers
from data.datasets.listing import walk
from data.datasets.parsing import (
    frame_number,
    identifier,
    objective_class,
    text,
)
from data.datasets.sheets import Sheet, find_sheets, find_table, read_workbook
from data.errors import DatasetError
from tests.fakes.dataset_trees import write_xls, write_xlsx


@pytest.mark.parametrize(
    ("cell", "value", "note"),
    [
        (46, 46, ""),
        (46.0, 46, ""),
        ("46", 46, ""),
        (" 46 ", 46, ""),
        ("17,581,039", 17581039, ""),
        (17581039, 17581039, ""),
        (566.4000001, 566, "fractional_frame_number"),
        (647.6, 648, "fractional_frame_number"),
        (74.5, 75, "fractional_frame_number"),
        (-1, -1, ""),
        ("/", None, "missing"),
        ("\\", None, "missing"),
        (None, None, "missing"),
        (float("nan"), None, "missing"),
        ("MISSING two frames", None, "not_a_number"),
        ("inf", None, "not_a_number"),
        ("1e400", None, "not_a_number"),
        ("٣", None, "not_a_number"),
    ],
)
def test_frame_numbers(cell, value, note):
    number = frame_number(cell)
    assert (number.value, number.note) == (value, note)


@pytest.mark.parametrize(
    ("cell", "width", "word"),
    [("01", 2, "01"), (1, 2, "01"), (1.0, 2, "01"), ("006", 3, "006"), (101, 4, "0101")],
)
def test_identifiers_keep_or_regain_their_zeros(cell, width, word):
    assert identifier(cell, width) == word


@pytest.mark.parametrize(
    ("cell", "aus"),
    [
        (4, "4"),
        (12.0, "12"),
        ("4+L10", "4+L10"),
        ("R4,5", "R4+5"),
        ("1，2", "1+2"),
        ("(R6 or R12)+R15", "R6|R12+R15"),
        ("R14A or 17A or 24A", "R14A|17A|24A"),
        ("4(B/C)+7B", "4B+7B"),
        ("24+T18", "24+T18"),
        ("B28", "B28"),
        ("A1+2", "A1+2"),
        ("AU4+AU14(k)", "4+14(k)"),
        ("14(k)", "14(k)"),
        ("1/2+4", "1|2+4"),
        ("4?", "4"),
        ("4\uff08B\u2044C\uff09", "4B"),  # full-width parentheses
        ("12L", "L12"),
        ("4R+7", "R4+7"),
        ("5B/C", "5B"),
        ("1D/E+2D/E", "1D+2D"),
        ("A(4B/C)+5B", "A4B+5B"),
        ("(L/A)4B", "L4B"),
        ("A/L12", "A12"),
        ("7A/B+L10A/B)+12C", "7A+L10A+12C"),
        ("26+ADR30", "26+R30"),
        ("4.0", "4"),
        ("4+ref(43)", "4"),
        ("6C+ref(7)12E+25", "6C+12E+25"),
        ("9A ref (L12 or L10)", "9A"),
        ("ref(5A/B)+12C", "12C"),
        ("4 + 7 ", "4+7"),
        ("?", None),
        ("", None),
        (None, None),
    ],
)
def test_action_units(cell, aus):
    assert action_units(cell) == (aus, "")


@pytest.mark.parametrize(
    ("cell", "aus"),
    [
        ("nonsense", None),
        ("4+99999", "4"),
        ("4+glare", "4"),
        ("80 (big swallow)", "80"),
        ("seen twice - L1B+L2B", "L1B+L2B"),
        ("head moves 2x  R2(C and then B)", "R2"),
        ("(1B+2A)or(loses AU4)", "1B+2A"),
        ("(loses 1+2) or (4(B/C))", "4B"),
        ("6B+((8+25)or(50))", "6B+8+25"),
        ("Chewing", None),
    ],
)
def test_action_units_say_what_they_could_not_read(cell, aus):
    found, note = action_units(cell)
    assert found == aus
    assert "not understood" in note


@given(st.text(max_size=30) | st.text("4+(R/ ),L7Ak?orOR-", max_size=30))
@example("smile(5,6")
@example("x(4+5)y")
@example("((4+5)")
@example("+(+(+")
@example("(4+" * 99 + ")")
@example("(4+" * 600 + "5" + ")" * 600)
def test_action_units_never_raise(cell):
    aus, _ = action_units(cell)
    assert aus is None or unit_numbers(aus, kept=True)


def test_a_parenthesis_that_nothing_closes_hides_no_unit():
    assert action_units("4+(5+6") == ("4+5+6", "")
    assert action_units("12(5+6")[0] == "6", "12 5 is no unit, and said"
    assert "12" in action_units("12(5+6")[1]
    assert action_units("x(4+5)y") == (None, "not understood: X(4+5)Y")


def test_unit_numbers_take_the_first_alternative_and_leave_kept_units():
    assert unit_numbers("R6|R12+15+14(k)") == {6, 15}
    assert unit_numbers("R6|R12+15+14(k)", kept=True) == {6, 14, 15}
    assert unit_numbers(None) == set()


@pytest.mark.parametrize(
    ("cell", "value"), [("III", 3), (7, 7), (7.0, 7), ("vii", 7), ("VIII", None)]
)
def test_objective_class(cell, value):
    assert objective_class(cell) == value


@given(st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text()))
def test_any_cell_becomes_text(cell):
    assert text(cell) == text(cell).strip()
    frame_number(cell)


def test_both_workbook_formats_read_alike(tmp_path):
    rows = [("Subject", "Onset"), ("006", 12), ("007", 566.4)]
    new = read_workbook(write_xlsx(tmp_path / "a.xlsx", {"s": rows}))[0]
    old = read_workbook(write_xls(tmp_path / "a.xls", {"s": rows}))[0]
    assert [list(map(text, r)) for r in new.rows] == [list(map(text, r)) for r in old.rows]


def test_formulas_without_stored_values_are_calculated(tmp_path):
    path = write_xlsx(
        tmp_path / "a.xlsx",
        {"s": [(10, 5, "=A1+B1-1", "=C1*2"), (None, "=SUM(A1:B1)", "=1/0", "=A1")]},
    )
    rows = read_workbook(path)[0].rows
    assert rows[0] == [10, 5, 14.0, 28.0]
    assert rows[1] == [None, None, None, 10.0]


def test_formula_text_cannot_run_code(tmp_path):
    bad = ["=__import__('os')", "=9**9**9", "=A1**A1", "=(1", "=" + "9*" * 300 + "9"]
    path = write_xlsx(tmp_path / "a.xlsx", {"s": [(2, *bad)]})
    assert read_workbook(path)[0].rows[0] == [2, None, None, None, None, None]


@pytest.mark.parametrize("suffix", [".xlsx", ".xls"])
@pytest.mark.parametrize("content", [b"", b"not a workbook", b"PK\x03\x04damaged"])
def test_damaged_workbooks_are_named(tmp_path, suffix, content):
    path = tmp_path / f"sheet{suffix}"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="sheet") as error:
        read_workbook(path)
    assert error.value.code == "unreadable_sheet"


def test_header_is_found_below_prose_whatever_its_spelling():
    sheet = Sheet.__new__(Sheet)
    rows = [["prose"], [None], ["Onset Frame'", None, "SUBJECT"], [5, None, "006"]]
    object.__setattr__(sheet, "rows", rows)
    table = find_table(sheet, {"onset": ("onsetframe",), "subject": ("subject",)}, ("onset",))
    assert table is not None and table.header == 2
    assert list(table.records()) == [(4, {"onset": 5, "subject": "006"})]


def test_lock_files_are_passed_over_and_sheets_above_the_root_found(tmp_path):
    root = tmp_path / "set" / "frames"
    root.mkdir(parents=True)
    write_xlsx(tmp_path / "set" / "book.xlsx", {"s": [("a",)]})
    (tmp_path / "set" / "~$book.xlsx").write_bytes(b"lock")
    search = find_sheets(walk(root), lambda sheet: sheet.path.name)
    assert search.found == ["book.xlsx"]


def test_dates_and_booleans_in_cells_do_not_break_reading(tmp_path):
    import datetime

    book = openpyxl.Workbook()
    book.active.append([True, datetime.datetime(2014, 5, 8), datetime.time(1, 2)])
    book.save(tmp_path / "a.xlsx")
    words = [text(c) for c in read_workbook(tmp_path / "a.xlsx")[0].rows[0]]
    assert words[0] == "1" and words[1].startswith("2014-05-08")
