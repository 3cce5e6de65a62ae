"""The gallery's pages as HTML text: every word from a folder or sheet is escaped, nothing is loaded
from elsewhere. See `data.pictures.gallery`."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("gallery.css")
SORT = Path(__file__).with_name("gallery.js")
SORTS = (
    ("name", "name"), ("status", "status, lost first"), ("residual", "residual, largest first"),
    ("confidence", "confidence, least first"),
)  # fmt: skip
OWN = ("unit", "subject", "stage", "status", "residual", "confidence", "picture", "page",
       "curve", "curve_start")  # fmt: skip


def _page(title: str, body: str, script: str = "") -> str:
    tail = f"<script>{script}</script>" if script else ""
    allowed = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'"
    allowed += "; script-src 'unsafe-inline'" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">'
        f"<title>{_e(title)} · apexflow</title><style>{STYLE.read_text()}</style></head>"
        f"<body>{body}{tail}</body></html>\n"
    )


def index_page(dataset: str, counts: Mapping[str, tuple[int, int]], shown: str) -> str:
    """Stages with how many units and how many without data."""
    rows = "".join(
        f'<tr><td><a href="{_e(stage)}.html">{_e(stage)}</a></td><td>{units}</td>'
        f"<td{' class=bad' if lost else ''}>{lost}</td></tr>"
        for stage, (units, lost) in counts.items()
    )
    body = (
        f"<h1>{_e(dataset)}</h1><p class=note>{_e(shown)}.</p><table><thead><tr><th>Stage</th>"
        f"<th>Units</th><th>Without data</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    return _page(dataset, body)


def stage_page(
    dataset: str, stage: str, stages: Sequence[str], cards: Sequence[Mapping[str, Any]]
) -> str:
    """Thumbnails of all units, sorted and searched in the browser."""
    links = "".join(
        f"<b>{_e(s)}</b>" if s == stage else f'<a href="{_e(s)}.html">{_e(s)}</a>' for s in stages
    )
    known = {k for k in ("residual", "confidence") for c in cards if c[k] == c[k]}
    sorts = [s for s in SORTS if s[0] in ("name", "status") or s[0] in known]
    buttons = "".join(
        f'<button data-by="{name}" aria-pressed="{str(name == "name").lower()}">{words}</button>'
        for name, words in sorts
    )
    lost = sum(c["status"] != "ok" for c in cards)
    body = (
        f'<nav><a href="index.html">{_e(dataset)}</a>{links}</nav><h1>{_e(stage)}</h1>'
        f"<p class=note>{len(cards)} units, {lost} without data.</p>"
        f'<div class=bar><span>Sort by</span>{buttons}<input type="search" placeholder="name, '
        f'subject or status" aria-label="Search"><span class=note><span id="count">{len(cards)}'
        f"</span> shown</span></div><div class=grid>{''.join(map(_card, cards))}</div>"
    )
    return _page(f"{dataset} {stage}", body, SORT.read_text())


def _card(card: Mapping[str, Any]) -> str:
    picture = "no picture"
    if card["picture"]:
        picture = f'<img src="{_e(card["picture"])}" alt="" loading="lazy">'
    elif card.get("curve"):
        picture = curve_svg(card["curve"], 112, 70)
    said = []
    if card["residual"] == card["residual"]:
        said.append(f"residual {card['residual']:.2f} px")
    if card["confidence"] == card["confidence"]:
        said.append(f"confidence {card['confidence']:.1f}")
    lost = card["status"] != "ok"
    state = f"<span class=bad>{_e(card['status'])}</span>" if lost else ""
    return (
        f'<a class="card{" lost" if lost else ""}" href="{_e(card["page"])}" '
        f'data-name="{_e(card["unit"])}" data-subject="{_e(card["subject"])}" '
        f'data-status="{_e(card["status"])}" data-residual="{_number(card["residual"])}" '
        f'data-confidence="{_number(card["confidence"])}"><span class=pic>{picture}</span>'
        f"<b>{_e(card['unit'])}</b>{_e(', '.join(said))} {state}</a>"
    )


def video_page(
    video: str,
    cards: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    strips: Mapping[str, str],
    ledger: Sequence[tuple[Any, ...]],
    with_face: bool,
) -> str:
    """One video: what is annotated, and of every stage its pictures, numbers and ledger rows."""
    names = ("event", "type", "onset", "apex", "offset", "emotion", "aus")
    body = [
        f'<nav><a href="../index.html">gallery</a></nav><h1>{_e(video)}</h1>',
        ""
        if with_face
        else "<p class=note>Faces are not shown: the licence forbids passing them on.</p>",
        "<h2>Annotations</h2>",
        _table(names, [[_cell(event.get(n)) for n in names] for event in events]),
    ]
    for stage in dict.fromkeys(card["stage"] for card in cards):
        body.append(f"<h2>{_e(stage)}</h2>")
        for card in (c for c in cards if c["stage"] == stage):
            facts = {k: v for k, v in card.items() if k not in OWN and not isinstance(v, dict)}
            told = ", ".join(f"{k.replace('_', ' ')} {_cell(v)}" for k, v in facts.items())
            state = card["status"] if card["status"] != "ok" else ""
            body.append(_figure(card, strips.get(f"{stage} {card['unit']}", "")))
            body.append(
                f"<p class=note><b>{_e(card['unit'])}</b> <span class=bad>{_e(state)}</span> "
                f"{_e(told)}</p>"
            )
    body.append("<h2>Ledger</h2>")
    head = ("stage", "unit", "reason", "detail", "action")
    body.append(_table(head, [[_cell(c) for c in row] for row in ledger]))
    return _page(video, "".join(body))


def _figure(card: Mapping[str, Any], strip: str) -> str:
    if strip:
        alt = f"{card['stage']} of {card['unit']}"
        return f'<figure><img src="{_e(strip)}" alt="{_e(alt)}"></figure>'
    if card.get("curve"):
        start, apex = int(card.get("curve_start", 0)), card.get("apex")
        drawn = curve_svg(card["curve"], 620, 150, None if apex is None else float(apex) - start)
        return f"<figure>{drawn}<figcaption>motion from frame {start} on</figcaption></figure>"
    if card["picture"]:
        return f'<figure><img src="../{_e(card["picture"])}" alt=""></figure>'
    return ""


def curve_svg(curve: Sequence[float], width: int, height: int, mark: float | None = None) -> str:
    """A curve as SVG, with a line at position `mark` of it."""
    values = [v if v == v else 0.0 for v in curve]
    low, high = min([0.0, *values]), max([1e-9, *values])
    step = (width - 4) / max(1, len(values) - 1)
    points = " ".join(
        f"{2 + i * step:.1f},{height - 3 - (height - 6) * (v - low) / (high - low):.1f}"
        for i, v in enumerate(values)
    )
    line = ""
    if mark is not None and math.isfinite(mark):
        x = 2 + mark * step
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="#e69f00"></line>'
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
        f'{line}<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="1.5">'
        "</polyline></svg>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p class=note>none</p>"
    top = "".join(f"<th>{_e(name)}</th>" for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


def _cell(value: Any) -> str:
    """A value for people; nothing for what is missing."""
    if value is None or value != value or str(value) in ("<NA>", "nan", "NaT"):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.6g}" if value == value else ""


def _e(text: Any) -> str:
    return html.escape(str(text), quote=True)
