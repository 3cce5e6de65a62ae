"""What a stage did, for the Prefect UI: a Markdown page with pictures inside, a table of its parts.

The page says how many units went in, were kept and dropped and why, then shows what a person must
see to trust the stage. Pictures are data URIs (the UI shows no others) and the page stays small.
Faces appear only where `data.pictures.drawing.faces_shown` allows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import StoreError
from data.pictures.drawing import FACES_HIDDEN, markdown_image, markdown_table, markdown_text
from data.pictures.stages import Shown, step_pictures
from data.stages import stores
from data.stages.contract import Page, Step
from data.stages.workspace import Workspace

NOT_SUMMED = ("size",)  # counts of a unit that say how, not how many
MOST_BYTES = 300_000  # of a page: more makes the UI slow
MOST_REASONS = 12


def stage_page(
    workspace: Workspace,
    dataset: str,
    step: Step,
    *,
    with_faces: bool = False,
    root: Path | None = None,
    keys: Callable[[str], Mapping[str, str] | None] = lambda stage: None,
) -> Page:
    """The page of one dataset's stage store; with the dataset's `root` also raw frames are shown.

    `keys`: stage → the results wanted (unit → key); without it those that were made last.

    Raises StoreError `no_data` if the stage was never run.
    """
    stage = step.name
    folder = workspace.stage(dataset, stage)
    wanted = keys(stage)
    manifest = stores.choose(stores.read_records(folder).manifest, folder, wanted)
    if manifest.empty:
        raise StoreError(
            f"{dataset}/{stage}",
            expected="a finished stage",
            got="no manifest",
            todo=f"Run the {stage} stage first.",
            code="no_data",
        )
    lines = [f"# {stage} · {markdown_text(dataset)}", ""]
    ledger = stores.read_ledger(folder, dict(zip(manifest.unit, manifest.key, strict=True)))
    shown = Shown(workspace, dataset, with_faces, root=root, keys=keys)
    if stage == "ingest":
        ledger = stores.read_ledger(folder)
        lines += [_counts(shown), ""]
        for said in ledger.detail[ledger.reason == "annotation_account"]:
            lines += [f"{markdown_text(str(said))}.", ""]
        rows = _table_rows(manifest)
    else:
        kept = int((manifest.status == "ok").sum())
        lines += [f"{len(manifest)} in, {kept} with data, {len(manifest) - kept} without.", ""]
        rows = _part_rows(folder, manifest)
    lines += _ledger_lines(ledger)
    if step.shows_faces and not shown.faces():
        lines += [FACES_HIDDEN, ""]
    pieces = (
        f"{markdown_image(drawn.picture, drawn.caption)}\n\n{markdown_text(drawn.caption)}\n"
        for drawn in step_pictures(shown, step)
    )
    return Page(f"{stage}-{dataset}", "\n".join([*lines, *_fit(lines, pieces)]), rows)


def _counts(shown: Shown) -> str:
    videos, events = shown.table("videos"), shown.table("events")
    kinds = ", ".join(f"{n} {k}" for k, n in events.type.value_counts().sort_index().items())
    return (
        f"{videos.person.nunique()} people, {len(videos)} videos, "
        f"{int(videos.num_frames.sum())} frames, {len(events)} events ({kinds or 'none'})."
    )


def _fit(before: list[str], pieces: Iterable[str]) -> list[str]:
    """As many pieces as keep the page below MOST_BYTES; says so when some are left out."""
    room = MOST_BYTES - sum(map(len, before))
    fitting, left_out = [], 0
    for piece in pieces:
        if len(piece) < room:
            fitting.append(piece)
            room -= len(piece) + 1
        else:
            left_out += 1
    if left_out:
        fitting.append(f"{left_out} more would make this page too large; the report has them.")
    return fitting


def _ledger_lines(ledger: pd.DataFrame) -> list[str]:
    if ledger.empty:
        return ["Nothing in the ledger.", ""]
    groups = ledger.groupby(["action", "kind", "reason"], sort=True)
    rows = [
        {"action": a, "what": k, "reason": r, "times": len(part), "for example": part.unit.iloc[0]}
        for (a, k, r), part in groups
    ]
    rows.sort(key=lambda row: (row["action"] != "dropped", -int(row["times"])))
    more = len(rows) - MOST_REASONS
    tail = [f"… and {more} more reasons.", ""] if more > 0 else []
    return [markdown_table(rows[:MOST_REASONS]), "", *tail]


def _part_rows(folder: Any, manifest: pd.DataFrame) -> list[dict[str, Any]]:
    seconds = {t.part: t.seconds for t in stores.read_timings(folder).itertuples(index=False)}
    rows = []
    for part, group in manifest.groupby("part", sort=True):
        counts: dict[str, int] = {}
        for text in group.counts:
            for name, value in json.loads(text).items():
                if isinstance(value, int) and name not in NOT_SUMMED:
                    counts[name] = counts.get(name, 0) + value
        rows.append(
            {
                "subjects": ", ".join(sorted({str(u).split("/")[0] for u in group.unit})),
                "units": len(group),
                "failures": int((group.status != "ok").sum()),
                "seconds": round(float(seconds.get(part, 0.0)), 2),
                **counts,
            }
        )
    return rows


def _table_rows(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Ingest: a row per table."""
    return [
        {
            "part": row.part,
            "units": int(json.loads(row.counts).get("rows", 0)),
            "failures": 0,
            "seconds": 0.0,
        }
        for row in manifest.sort_values("part").itertuples(index=False)
    ]
