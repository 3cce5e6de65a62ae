"""What the site says of settings and layouts, written from the code whenever it is built.

A page asks for it in a line of its own:

    <!-- settings: align -->     settings of a stage; of a network: hsta, hsta.train, hsta.decode
    <!-- layout: casme2 -->      a dataset's facts, its folders and its known corrections
    <!-- about: data.apex.stage -->  what a module says of itself
"""

from __future__ import annotations

import csv
import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
ASKED = re.compile(r"^<!-- (settings|layout|about): ([\w.]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every request of a page by what it asks for (called by MkDocs)."""
    if str(ROOT) not in sys.path:  # MkDocs takes away what is put there while this file is read
        sys.path.insert(0, str(ROOT))
    writers = {"settings": settings, "layout": layout, "about": about}
    return ASKED.sub(lambda m: writers[m[1]](m[2]), markdown)


def settings(name: str) -> str:
    """A Markdown table of a settings class: key, default, meaning, and whether it is in the key."""
    from data.settings import identity_mark

    rows = ["| setting | default | what it does | changes results |", "|---|---|---|---|"]
    for key, field in _settings_class(name).model_fields.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            shown = "(must be given)"
        elif default is None:
            shown = "none"
        elif hasattr(default, "model_fields"):
            shown = "(settings of its own)"
        else:
            shown = f"`{default}`"
        words = ". ".join(w.rstrip(".") for w in (field.title, field.description) if w)
        if choices := _choices(field.annotation):
            words += f" ({', '.join(choices)})" if words else ", ".join(choices)
        mark = "no" if identity_mark(field) is False else "yes"
        rows.append(f"| `{key}` | {_cell(shown)} | {_cell(words)} | {mark} |")
    return "\n".join(rows)


def layout(name: str) -> str:
    """A dataset's facts as Markdown: title, rate, published counts, folders, corrections."""
    from data.datasets import ADAPTERS, get_adapter

    adapter = get_adapter(name)
    facts = [f"**Layout `{name}`**"]
    if adapter.fps:
        facts.append(f"{adapter.fps:g} frames a second")
    facts += [f"{count} {what}" for what, count in adapter.reference.items()]
    lines = [", ".join(facts) + ".", "", about(ADAPTERS[name])]
    fixes = ROOT / "data/datasets/corrections" / f"{name}.csv"
    if fixes.exists():
        lines += [
            "",
            "Corrections, applied where a cell is as described, each a row of the ledger:",
        ]
        with fixes.open(newline="") as file:
            found = list(csv.DictReader(file))
        lines += ["", "| event | column | sheet says | used | source |", "|---|---|---|---|---|"]
        lines += [
            "| " + " | ".join(_cell(r[k]) for k in ("who", "column", "old", "new", "source")) + " |"
            for r in found
        ]
    return "\n".join(lines)


def about(module: str) -> str:
    """A module's own words."""
    return inspect.cleandoc(import_module(module).__doc__ or "")


def _settings_class(name: str) -> Any:
    from data.stages.registry import STAGES, settings_of
    from models.registry import find_network

    if name in STAGES:
        return settings_of(name)
    network, _, part = name.partition(".")
    found = find_network(network)
    return {"train": found.train, "decode": found.decode}.get(part, found.settings)


def _choices(annotation: Any) -> list[str]:
    """The words a Literal allows, also one that may be None or is one of several types."""
    if get_origin(annotation) is Literal:
        return [f"`{word}`" for word in get_args(annotation)]
    return [found for inner in get_args(annotation) for found in _choices(inner)]


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
