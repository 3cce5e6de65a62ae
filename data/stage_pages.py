"""What a stage did, for the Prefect UI: a Markdown page with pictures inside, a table of its parts.

The page says how many units went in, were kept and dropped and why, then shows what a person must
see to trust the stage. Pictures are data URIs (the UI shows no others) and the page stays small.
Faces appear only where `data.pictures.faces_shown` allows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from data import stores
from data.errors import StoreError
from data.pictures import (
    class_colour,
    figure,
    legend,
    markdown_image,
    markdown_table,
)
from data.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BYTES = 300_000  # of a page: more makes the UI slow
MOST_REASONS = 12


@dataclass(frozen=True)
class StagePage:
    """Markdown with pictures, and rows of a table: part, units, failures, seconds."""

    markdown: str
    rows: list[dict[str, Any]]


def stage_page(
    workspace: Workspace, dataset: str, stage: str, *, with_faces: bool = False
) -> StagePage:
    """The page of one dataset's stage store. Raises StoreError `no_data` if it was never run."""
    folder = workspace.stage(dataset, stage)
    manifest = stores.read_manifest(folder)
    if manifest.empty:
        raise StoreError(
            f"{dataset}/{stage}",
            expected="a finished stage",
            got="no manifest",
            todo=f"Run the {stage} stage first.",
            code="no_data",
        )
    kept = int((manifest.status == "ok").sum())
    lines = [f"# {stage} · {dataset}", ""]
    if stage != "ingest":
        lines += [
            f"{len(manifest)} units in, {kept} with data, {len(manifest) - kept} without.",
            "",
        ]
    lines += _ledger_lines(stores.read_ledger(folder))
    lines += _fit(lines, _PICTURES[stage](Shown(workspace, dataset, with_faces)))
    rows = _table_rows(manifest) if stage == "ingest" else _part_rows(folder, manifest)
    return StagePage("\n".join(lines), rows)


@dataclass(frozen=True)
class Shown:
    """What a page's pictures are made from."""

    workspace: Workspace
    dataset: str
    with_faces: bool

    def table(self, name: str) -> pd.DataFrame:
        """One of ingest's tables."""
        return stores.read_table(self.workspace.stage(self.dataset, "ingest") / f"{name}.parquet")

    def store(self, stage: str) -> stores.StageStore:
        """One of the dataset's stores."""
        return stores.StageStore(self.workspace, self.dataset, stage)


def _fit(before: list[str], pieces: list[str]) -> list[str]:
    """As many pieces as keep the page below MOST_BYTES; says so when some are left out."""
    room = MOST_BYTES - sum(map(len, before))
    fitting: list[str] = []
    for piece in pieces:
        room -= len(piece) + 1
        if room < 0:
            return [*fitting, "", "More pictures would make this page too large; see the report."]
        fitting.append(piece)
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
        counts: dict[str, float] = {}
        for text in group.counts:
            for name, value in json.loads(text).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    counts[name] = counts.get(name, 0) + value
        rows.append(
            {
                "part": part,
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
        for row in manifest.sort_values("unit").itertuples(index=False)
    ]


# ------------------------------------------------------------------------------ pictures of a stage


def _ingest(shown: Shown) -> list[str]:
    videos, events = shown.table("videos"), shown.table("events")
    kinds = ", ".join(f"{n} {k}" for k, n in events.type.value_counts().sort_index().items())
    text = (
        f"{videos.person.nunique()} people, {len(videos)} videos, "
        f"{int(videos.num_frames.sum())} frames, {len(events)} events ({kinds or 'none'})."
    )
    if events.empty:
        return [text]
    picture = events_figure(events, videos)
    return [text, "", markdown_image(picture, "Events per subject, and how long they last")]


def events_figure(events: pd.DataFrame, videos: pd.DataFrame) -> Figure:
    """Events per subject by class (type where there is no class), and a histogram of durations."""
    fig, (people, lengths) = figure(860, 240, cols=2, gridspec_kw={"width_ratios": [2, 1]})
    column = next((c for c in ("label_3", "label_5", "emotion") if events[c].notna().any()), "type")
    classes = events[column].astype("string").fillna("none")
    counts = pd.crosstab(events.subject.astype(str), classes)
    bottom = np.zeros(len(counts))
    for number, name in enumerate(counts.columns):
        colour = class_colour(str(name), number)
        people.bar(range(len(counts)), counts[name], bottom=bottom, color=colour, label=str(name))
        bottom += counts[name].to_numpy()
    few = len(counts) <= 30
    people.set_xticks(range(len(counts)) if few else [], counts.index if few else [], rotation=90)
    people.set_title(f"events per subject, by {column}", loc="left")
    if len(counts.columns) <= 6:
        legend(people, loc="upper right", ncols=3)
        people.set_ylim(0, bottom.max() * 1.25)
    rate = events.video.map(videos.set_index("video").fps).astype(float)
    known = events.onset.notna() & events.offset.notna()
    seconds = (events.offset - events.onset + 1)[known].astype(float) / rate[known]
    lengths.hist(seconds, bins=20, color=class_colour("negative"))
    lengths.set_title("duration, seconds", loc="left")
    return fig


_PICTURES: dict[str, Callable[[Shown], list[str]]] = {"ingest": _ingest}
