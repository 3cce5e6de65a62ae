"""YAML as a person writes a recipe: small, plain, every key once.

The safe loader already runs nothing. What it still lets in is refused here, each by its name:
anchors and aliases (a few lines of them stand for gigabytes), a key given twice (the last would win
without a word), nesting without end, numbers of thousands of digits, pipes and endless files.
"""

from __future__ import annotations

import reprlib
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from data.errors import ConfigError

MAX_BYTES = 200_000  # the largest that comes with the project has 3 KB
MAX_DEPTH = 20
MAX_DIGITS = 40
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


def short(value: Any) -> str:
    """A value for a message, whatever its size."""
    return _SHORT.repr(value)


def read_file(path: Path) -> Any:
    """The YAML document in a file. Raises ConfigError naming the file, the line and the cause."""
    who = f"recipe {str(path)[:300]}"
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigError(who, expected="a readable YAML file", got="no ordinary file")
        if facts.st_size > MAX_BYTES:
            raise ConfigError(
                who, expected=f"at most {MAX_BYTES} bytes", got=f"{facts.st_size} bytes"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            who, expected="a readable YAML file", got=str(error.strerror or error)
        ) from error
    return read_text(raw, who)


def read_text(raw: bytes | str, who: str) -> Any:
    """The YAML document in a text. Raises ConfigError, `who` first."""
    try:
        loader = _Loader(raw)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        said = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
        raise ConfigError(who, expected="plain YAML", got=f"{said}{place}") from error
    except (ValueError, OverflowError) as error:  # 2024-99-99 is no date, though it looks like one
        raise ConfigError(who, expected="plain YAML", got=str(error)[:200]) from error


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, repeated keys, endless numbers and endless nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused("anchors (&) and aliases (*) are not read: write the value out", event)
        if self.depth >= MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _refused(f"the key {key.value[:60]!r} stands here twice", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> Any:
        """An integer of a sane length."""
        if len(node.value) > MAX_DIGITS:
            raise _refused(f"a number of {len(node.value)} digits", node)
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def _refused(said: str, at: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=said, problem_mark=at.start_mark)
