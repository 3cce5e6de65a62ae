"""The run's own graph: what each stage took in, kept and lost, how long it took, what was there.

Drawn as SVG from the accounts of the stages and the timings of their stores; how much of it this
run made and how much it found made is in the run's history, where that was kept.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.pictures.drawing import BLUE, GRID, INK, MUTED, RED
from data.stages import stores
from models.progress import in_words
from models.report.data import Account
from models.runs.files import run_times
from models.runs.history import read_history

if TYPE_CHECKING:
    from models.runs.files import RunFiles

WIDE, TALL, GAP_X, GAP_Y, EDGE = 118, 74, 22, 16, 2


@dataclass(frozen=True)
class Node:
    """One box: a stage of one dataset, or training and scoring of all."""

    stage: str
    lane: int
    lines: tuple[str, ...]
    lost: bool


def graph_svg(run: RunFiles, accounts: Sequence[Account]) -> str:
    """The graph as one SVG element, text that can be read and searched."""
    recipe = run.recipe
    made = _made_by_this_run(run)
    lanes = {name: number for number, name in enumerate(recipe.data)}
    columns = [*recipe.stages, "train", "evaluate"]
    nodes = []
    for account in accounts:
        if account.stage == "train":
            continue
        seconds = _seconds(run, account.dataset, account.stage)
        nodes.append(
            Node(
                account.stage,
                lanes[account.dataset],
                _lines(account, seconds, made.get(f"{account.stage} {account.dataset}")),
                account.dropped > 0,
            )
        )
    middle = (len(lanes) - 1) / 2
    boxes = [(n, columns.index(n.stage), float(n.lane)) for n in nodes]
    for account in accounts:
        if account.stage == "train":
            folds = run_times(run.folder)
            lines = (
                f"{account.kept} {account.unit}",
                f"{account.dropped} left out" if account.dropped else "none left out",
                f"{len(run.split['folds'])} folds, {in_words(sum(folds.values()))}"
                if folds
                else f"{len(run.split['folds'])} folds",
            )
            boxes.append((Node("train", 0, lines, account.dropped > 0), len(columns) - 2, middle))
    scored = (f"{len(run.folds)} folds pooled", "scores", "report")
    boxes.append((Node("evaluate", 0, scored, False), len(columns) - 1, middle))
    return _draw(boxes, len(columns), len(lanes), list(recipe.data))


def _lines(account: Account, seconds: float, made: tuple[int, int] | None) -> tuple[str, ...]:
    if account.absent:
        return ("not computed",)
    first = f"{account.taken} {account.unit}"
    second = f"{account.kept} kept, {account.dropped} lost" if account.dropped else "all kept"
    third = in_words(seconds) if seconds else ""
    if made is not None:
        here, of = made
        told = "all from store" if not here else ("all made" if here == of else f"{here} made")
        third = f"{third}, {told}" if third else told
    return tuple(filter(None, (first, second, third)))


def _seconds(run: RunFiles, dataset: str, stage: str) -> float:
    """Seconds of one worker that the results in use took."""
    folder = run.workspace.stage(dataset, stage)
    times = stores.read_timings(folder)
    if times.empty:
        return 0.0
    if stage == "ingest":
        return float(times.seconds.max())
    parts = set(run.store(dataset, stage).manifest.part)
    return float(times.seconds[times.part.isin(parts)].sum())


def _made_by_this_run(run: RunFiles) -> Mapping[str, tuple[int, int]]:
    """'align casme2' → (units made, units) of the session that scored or trained it first."""
    for session in read_history(run.folder):
        if session.stages:
            return {name: (made, of) for name, (made, of) in session.stages.items()}
    return {}


def _draw(boxes: list[tuple[Node, int, float]], columns: int, lanes: int, names: list[str]) -> str:
    width = columns * (WIDE + GAP_X) - GAP_X + 2 * EDGE
    head = 16 if lanes > 1 else 0
    height = lanes * (TALL + GAP_Y + head) - GAP_Y + 2 * EDGE

    def at(column: int, lane: float) -> tuple[float, float]:
        return EDGE + column * (WIDE + GAP_X), EDGE + head + lane * (TALL + GAP_Y + head)

    parts = []
    ordered = sorted(boxes, key=lambda b: (b[2], b[1]))
    places = [(node, *at(column, lane), lane) for node, column, lane in ordered]
    trunk = {node.stage: (x, y) for node, x, y, _ in places if node.stage in ("train", "evaluate")}
    for lane in range(lanes):
        own = [(x, y) for node, x, y, place in places
               if place == lane and node.stage not in trunk]  # fmt: skip
        steps = [*own, trunk["train"]] if "train" in trunk else own
        for (x0, y0), (x1, y1) in itertools.pairwise(steps):
            parts.append(_arrow(x0 + WIDE, y0 + TALL / 2, x1, y1 + TALL / 2))
        if lanes > 1 and own:
            parts.append(_text(own[0][0], own[0][1] - 5, names[lane], 11, MUTED))
    if {"train", "evaluate"} <= set(trunk):
        (x0, y0), (x1, y1) = trunk["train"], trunk["evaluate"]
        parts.append(_arrow(x0 + WIDE, y0 + TALL / 2, x1, y1 + TALL / 2))
    for node, x, y, _ in places:
        colour = RED if node.lost else BLUE
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{TALL}" rx="7" fill="#fff" '
            f'stroke="{GRID}"></rect><rect x="{x:g}" y="{y:g}" width="4" height="{TALL}" rx="2" '
            f'fill="{colour}"></rect>'
        )
        parts.append(_text(x + 13, y + 19, node.stage, 12.5, INK, bold=True))
        for number, line in enumerate(node.lines):
            parts.append(_text(x + 13, y + 36 + 14 * number, line, 10.5, MUTED))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="100%" role="img" aria-label="Stages of this run">{"".join(parts)}</svg>'
    )


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    bend = (x1 - x0) / 2
    return (
        f'<path d="M{x0:g} {y0:g} C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}" '
        f'fill="none" stroke="{MUTED}" stroke-width="1.3"></path>'
    )


def _text(x: float, y: float, text: str, size: float, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="650"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}"{weight}>'
        f"{html.escape(text)}</text>"
    )
