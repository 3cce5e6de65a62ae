"""Every reason code that a source writes is in docs/reasons.md, and every code there is written."""

from __future__ import annotations

import ast
import csv
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from data.datasets.parsing import UNREAD

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "models", "tasks", "flows")
PAGE = ROOT / "docs" / "reasons.md"
CODE = re.compile(r"[a-z][a-z0-9_]*")
HAS_CODES = re.compile(  # the other sources need no reading
    r"\b(code|reason|end_problem|ledger_row)\b|STATUS|problems|\bstatus\b|\.(drop|note|flag|repair)\("
)

# Where a call's positional argument is a code: position by name of the function …
POSITION = {"_drop": 1, "_from_clip": 1, "_repaired": 3, "correct_number": 3, "ledger_row": 3}
# … and of the methods drop, note, flag and repair by what they are called on.
RECEIVERS = {"part": 1, "writer": 1, "report": 2, "self.report": 2, "self": 1}
OTHERS = {"trace", "self.trace", "spotting", "events", "samples"}  # have methods of these names
STATUSES = ("STATUS", "STATUS_NAMES")  # words of frames and windows
RETURNING = ("status", "end_problem")  # functions whose result is a code, used elsewhere
ACTIONS = ("dropped", "flagged", "repaired")  # in a finding written as a list, before its code

# What a formatted code can be; its parts come from elsewhere.
FORMS = {
    "onset_{onset.note or 'missing'}": ("onset_missing", *(f"onset_{w}" for w in UNREAD)),
    "offset_{row.offset.note}": tuple(f"offset_{w}" for w in UNREAD),
    "apex_{apex.note}": tuple(f"apex_{w}" for w in UNREAD),
    "no_{recipe.labels}": ("no_LABEL",),
    "{stage}:{status}": ("STAGE:CODE",),
    "{600 + n:04d}": (),  # what a coder calls a clip
}


class Module:
    """The codes of one source. A name stands for all that its function (or module) gives it."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.forms: set[str] = set()  # the formatted codes met
        self.unknown: set[str] = set()  # receivers that this collector was not told of
        self.inside: dict[ast.AST, list[ast.AST]] = {}  # of functions, without those inside
        waiting: list[tuple[ast.AST, ast.AST]] = [(self.tree, self.tree)]
        while waiting:
            node, scope = waiting.pop()
            below = node if isinstance(node, ast.FunctionDef) else scope
            own = self.inside.setdefault(below, [])
            for child in ast.iter_child_nodes(node):
                own.append(child)
                waiting.append((child, below))
        self.functions = {f.name: f for f in self.inside if isinstance(f, ast.FunctionDef)}
        self.found = self._codes()

    def _codes(self) -> set[str]:
        return {w for own in self.inside.values() for node in own for w in self._sinks(node)} | {
            word
            for scope in self.inside
            for value, index in self._written(scope)
            for word in self._words(value, scope, index)
        }

    def read(self) -> set[str]:
        """Codes that the module compares a code or a reason with."""
        found: set[str] = set()
        for node in itertools.chain.from_iterable(self.inside.values()):
            if isinstance(node, ast.Compare) and _is_code(node.left):
                for part in ast.walk(node.comparators[0]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        found.add(part.value)
        return found - {""}

    def _sinks(self, node: ast.AST) -> Iterator[str]:
        """Codes that can be seen without knowing which function they stand in."""
        if isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][-len(node.defaults) or len(node.args) + 1 :]
            pairs = [*zip(named, node.defaults, strict=True)]
            pairs += [(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d]
            for argument, default in pairs:
                if argument.arg == "code":
                    yield from self._words(default, self.tree)
        elif isinstance(node, ast.Dict):
            if any(isinstance(v, ast.Constant) and v.value == "string" for v in node.values):
                return  # columns and their types
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("reason", "status"):
                    yield from self._words(value, self.tree)
        elif isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and _names(line.targets[0]) == ["code"]:
                    yield from self._words(line.value, self.tree)

    def _written(self, scope: ast.AST) -> Iterator[tuple[ast.AST, int | None]]:
        """(value, which item of it) of everything that takes a code inside a function."""
        for node in self.inside[scope]:
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg in ("code", "reason"):
                        yield keyword.value, None
                at = self._argument(node)
                if at is not None and len(node.args) > at:
                    yield node.args[at], None
                yield from self._collected(node)
            elif isinstance(node, ast.List):
                for word, code in itertools.pairwise(node.elts):
                    if isinstance(word, ast.Constant) and word.value in ACTIONS:
                        yield code, None
            elif isinstance(node, ast.Return) and getattr(scope, "name", "") in RETURNING:
                if node.value is not None:
                    yield node.value, None
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    names = _names(target)
                    single = not isinstance(target, ast.Tuple)
                    for at, name in enumerate(names):
                        if name in ("reason", "code"):
                            yield node.value, None if single else at
                        elif name in STATUSES and isinstance(node.value, ast.Tuple):
                            yield from ((word, None) for word in node.value.elts)
                    if isinstance(target, ast.Subscript) and ast.unparse(target.value) == "odd":
                        yield target.slice, None
                    elif ast.unparse(target) == "self.status[unit]":
                        yield node.value, None

    def _argument(self, call: ast.Call) -> int | None:
        """Position of a call's code, None where it takes none."""
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if isinstance(call.func, ast.Name):
            return POSITION.get(call.func.id)
        if name in ("drop", "note", "flag", "repair") and isinstance(call.func, ast.Attribute):
            receiver = ast.unparse(call.func.value)
            if receiver not in RECEIVERS and receiver not in OTHERS:
                self.unknown.add(f"{receiver}.{name}")
            return RECEIVERS.get(receiver)
        return POSITION.get(name)

    def _collected(self, call: ast.Call) -> Iterator[tuple[ast.AST, int | None]]:
        """Codes put into lists of problems, and keys of what is odd."""
        if not isinstance(call.func, ast.Attribute) or not call.args:
            return
        place, first = ast.unparse(call.func.value), call.args[0]
        if call.func.attr == "append" and isinstance(first, ast.Tuple):
            if place.endswith("problems"):
                yield first.elts[len(first.elts) - 2], None
            elif place in ("dropped", "flagged"):
                yield first.elts[1], None
        elif call.func.attr == "setdefault" and place == "odd":
            yield first, None

    def _words(self, node: ast.AST, scope: ast.AST, index: int | None = None) -> set[str]:
        """The codes that an expression can be; `index`: of which item of it, where it is many."""
        return set(self._values(node, scope, index, frozenset()))

    def _values(
        self, node: ast.AST, scope: ast.AST, index: int | None, seen: frozenset[str]
    ) -> Iterator[str]:
        if isinstance(node, ast.Tuple):
            if index is not None and index < len(node.elts):
                yield from self._values(node.elts[index], scope, None, seen)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and CODE.fullmatch(node.value):
                yield node.value
        elif isinstance(node, ast.IfExp):
            for part in (node.body, node.orelse):
                yield from self._values(part, scope, index, seen)
        elif isinstance(node, ast.BoolOp):
            for part in node.values:
                yield from self._values(part, scope, index, seen)
        elif isinstance(node, ast.JoinedStr):
            yield from self._formatted(node, scope, seen)
        elif isinstance(node, ast.Name) and node.id not in seen:
            for value, at in self._given(node.id, scope):
                yield from self._values(value, scope, at if index is None else index,
                                        seen | {node.id})  # fmt: skip
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            for value, _ in self._given(node.value.id, scope):
                yield from self._items(value, scope, seen)
        elif isinstance(node, ast.Call):
            yield from self._returned(node, scope, index, seen)

    def _formatted(self, node: ast.JoinedStr, scope: ast.AST, seen: frozenset[str]) -> list[str]:
        parts: list[list[str]] = []
        first = node.values[0]
        if isinstance(first, ast.Constant) and ": " in str(first.value):  # a code and its detail
            return [str(first.value).partition(":")[0]]
        for piece in node.values:
            if isinstance(piece, ast.Constant):
                parts.append([str(piece.value)])
            elif isinstance(piece, ast.FormattedValue) and isinstance(piece.value, ast.Name):
                parts.append(list(self._values(piece.value, scope, None, seen)))
            else:
                parts.append([])
        if all(parts):
            return ["".join(words) for words in itertools.product(*parts)]
        form = ast.unparse(node)[2:-1].replace('"', "'")
        self.forms.add(form)
        return list(FORMS.get(form, (form,)))

    def _items(self, node: ast.AST, scope: ast.AST, seen: frozenset[str]) -> Iterator[str]:
        """Values of a dict, or elements of a tuple."""
        parts = node.values if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        for part in parts:
            yield from self._values(part, scope, None, seen)

    def _returned(
        self, call: ast.Call, scope: ast.AST, index: int | None, seen: frozenset[str]
    ) -> Iterator[str]:
        """What a function of this module returns; what `dict.get` can give."""
        if isinstance(call.func, ast.Attribute) and call.func.attr == "get":
            for default in call.args[1:]:
                yield from self._values(default, scope, index, seen)
            if isinstance(call.func.value, ast.Name):
                for value, _ in self._given(call.func.value.id, scope):
                    yield from self._items(value, scope, seen)
        elif isinstance(call.func, ast.Name) and call.func.id in self.functions:
            called = self.functions[call.func.id]
            for node in self.inside[called]:
                if isinstance(node, ast.Return) and node.value is not None:
                    yield from self._values(node.value, called, index, seen)

    def _given(self, name: str, scope: ast.AST) -> Iterator[tuple[ast.AST, int | None]]:
        """What a name is assigned, in its function or else in the module: (value, which item)."""
        found = []
        for place in (scope, self.tree):
            for node in self.inside[place]:
                if isinstance(node, ast.Assign):
                    found += [(node.value, at) for t in node.targets for at in _places(t, name)]
                elif isinstance(node, ast.For | ast.comprehension):
                    elements = getattr(node.iter, "elts", [])
                    found += [(e, at) for e in elements for at in _places(node.target, name)]
            if found:
                break
        yield from found


def _names(target: ast.AST) -> list[str]:
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    return [p.id if isinstance(p, ast.Name) else "" for p in parts]


def _places(target: ast.AST, name: str) -> list[int | None]:
    """At which item of a value the name is assigned; None: all of it."""
    if isinstance(target, ast.Tuple):
        return [at for at, one in enumerate(_names(target)) if one == name]
    return [None] if _names(target) == [name] else []


def _is_code(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("code", "reason")
    return isinstance(node, ast.Subscript) and "'reason'" in ast.unparse(node.slice)


@functools.cache
def modules() -> dict[str, Module]:
    """The project's sources by path."""
    files = (p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py")))
    texts = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in files}
    return {path: Module(text) for path, text in texts.items() if HAS_CODES.search(text)}


def corrections() -> set[str]:
    """Codes of the published corrections."""
    found = set()
    for path in (ROOT / "data" / "datasets" / "corrections").glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            found |= {row["reason"] for row in csv.DictReader(file)}
    return found


def documented() -> list[tuple[str, ...]]:
    """Rows of the page's table: code, where, meaning, what to do."""
    lines = PAGE.read_text(encoding="utf-8").partition("\n## Former names")[0].splitlines()
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines if "| `" in line]
    return [(row[0].strip("| `"), *row[1:]) for row in rows if row[0].strip("| ").startswith("`")]


def test_the_page_has_every_code_that_a_source_writes_and_no_other() -> None:
    sources = modules()
    places: dict[str, list[str]] = {code: ["corrections"] for code in corrections()}
    for path, module in sources.items():
        for code in module.found:
            places.setdefault(code, []).append(path)
    listed = {row[0] for row in documented()}
    assert not {c: p for c, p in places.items() if c not in listed}, "not in docs/reasons.md"
    assert not listed - set(places), "no source writes these"


def test_the_collector_knows_every_form_and_every_ledger() -> None:
    sources = modules()
    assert set().union(*(m.forms for m in sources.values())) == set(FORMS)
    assert not {p: m.unknown for p, m in sources.items() if m.unknown}


def test_codes_that_are_looked_for_exist() -> None:
    listed = {row[0] for row in documented()}
    wrong = {p: m.read() - listed for p, m in modules().items() if m.read() - listed}
    assert not wrong


def test_each_code_stands_once_with_place_meaning_and_advice() -> None:
    rows = documented()
    codes = [row[0] for row in rows]
    assert len(codes) == len(set(codes)) and codes == sorted(codes)
    assert not [row for row in rows if len(row) != 4 or not all(row)]
    meanings = [row[2] for row in rows]
    assert len(meanings) == len(set(meanings)), "two codes with one meaning"


def test_the_collector_sees_codes_in_every_form() -> None:
    text = """
STATUS = ("fine", "held")
class Broken(Exception):
    code = "broken"
def late(row, part, report, problems, code="by_default"):
    reason = "first" if row else _why(row)
    part.drop(row, "dropped_here", "detail")
    report.flag(row, "event", "flagged_here")
    problems.append(("in_a_list", "detail"))
    for what in ("a", "b"):
        raise Broken("x", code=f"{what}_twice")
    for word, end in (("in_a_loop", 1),):
        report.drop(row, "row", word)
    ends = {"x": "in_a_dict"}
    report.repair(row, "row", ends.get(row, "otherwise"))
    table.append({"reason": "in_a_row"})
    number, reason = _both(row)
def _why(row):
    return "returned"
def _both(row):
    return 0, "second_item"
"""
    assert Module(text).found == {
        "fine", "held", "broken", "by_default", "first", "returned", "dropped_here",
        "flagged_here", "in_a_list", "a_twice", "b_twice", "in_a_loop", "in_a_dict", "otherwise",
        "in_a_row", "second_item",
    }  # fmt: skip
