"""How small a movement a camera, its light and this pipeline can see: planted against measured.

For every planted event the flow from onset to apex is projected on the planted field e, laid on
the landmarks in the crop:

    displacement = amplitude · Σ f·e / Σ e·e      over pixels where |e| is 0.3 of its peak or more

so that it is 1.0 of the amplitude where the flow is the planted field. The twin's flow at the same
frames, projected in the same way, is what people and noise do by themselves. Subtracted, it leaves
the planted movement; its 95th percentile is the level that a movement must exceed to be detected.
NaN stands for what was not measured.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from data.errors import DatasetError
from data.faces import Array
from data.flow.fields import read_flow
from data.inject.write import TWIN
from data.recordings import Recordings
from data.stages.files import replacing
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from data.synthetic.real_frames import parse_units, planted_field

CORE = 0.3  # share of the field's peak from which a pixel counts
LEVEL = 0.95  # of the twins' displacements that the detection level lies above
SEEN = 0.9  # share of events detected from which an amplitude counts as seen
FILES = ("measured_events.csv", "measured.csv", "measured.json", "measured.png")

FlowField = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Measured:
    """What was seen of the planted movements. All displacements in the recordings' own pixels.

    `events`: a row an event: event, video, aus, amplitude_px, amplitude_ipd, ipd_px, status (`ok`
    or why there is no flow), displacement_px as measured, twin_px, moved_px (twin subtracted, else
    as measured), gain = moved / planted, correlation with the planted field, detected.
    `by_amplitude`, `by_units`: the same summed up. `level_px`: detection level, of `twins` events.
    `smallest_px`: the smallest planted amplitude from which on SEEN of the events are detected.
    """

    events: pd.DataFrame
    by_amplitude: pd.DataFrame
    by_units: pd.DataFrame
    level_px: float
    level_ipd: float
    twins: int
    smallest_px: float

    def to_json(self) -> dict[str, Any]:
        """Plain types; null for what was not measured."""
        tables = {n: json.loads(getattr(self, n).to_json(orient="records"))
                  for n in ("events", "by_amplitude", "by_units")}  # fmt: skip
        facts = {n: getattr(self, n) for n in ("level_px", "level_ipd", "twins", "smallest_px")}
        return {k: None if v != v else v for k, v in facts.items()} | tables

    def to_text(self) -> str:
        """The tables for a terminal, and one sentence."""
        reached = int((self.events.status == "ok").sum())
        lines = [f"{reached} of {len(self.events)} planted events reached flow"]
        lines += ["", *_lines(self.by_amplitude), "", *_lines(self.by_units), ""]
        if np.isnan(self.level_px):
            lines.append("Without a twin nothing says what people do by themselves: plant --twin.")
        else:
            lines.append(
                f"Detection level: {self.level_px:.2f} px ({100 * self.level_ipd:.2f} % of the "
                f"inter-pupil distance), above {LEVEL:.0%} of {self.twins} unplanted events."
            )
            seen = "none of the planted amplitudes" if np.isnan(self.smallest_px) else (
                f"{self.smallest_px:g} px"
            )  # fmt: skip
            lines.append(f"Smallest movement seen in {SEEN:.0%} of the events: {seen}.")
        return "\n".join(lines)


def measure(workspace: Path, truth: dict[str, Any], dataset: str = "csv") -> Measured:
    """Compare the truth of `inject` with the flow store of a finished workspace.

    Raises DatasetError where the workspace has no flow of the planted dataset.
    """
    place = Workspace(workspace)
    if not (place.stage(dataset, "flow") / "manifest.parquet").exists():
        raise DatasetError(
            str(workspace),
            expected=f"a workspace with stage flow of dataset {dataset}",
            got=f"datasets {', '.join(place.datasets()) or 'none'}",
            todo="Run the stages from ingest to flow on the planted dataset first.",
        )
    recordings = Recordings(place, dataset)
    stores = {name: StageStore(place, dataset, name) for name in ("align", "registration", "flow")}
    rows = []
    try:
        for video in truth["videos"]:
            for event in video["events"]:
                rows.append(_event(video, event, recordings, stores))
    finally:
        for store in stores.values():
            store.close()
    return summarise(pd.DataFrame(rows))


def _event(
    video: dict[str, Any],
    event: dict[str, Any],
    recordings: Recordings,
    stores: dict[str, StageStore],
) -> dict[str, Any]:
    """One row of `Measured.events`, without what needs the others."""
    name, own = str(event["event"]), str(video["video"])
    size = (int(video["size"][0]), int(video["size"][1]))
    found = _displacement(name, own, event, size, recordings, stores)
    twin = (np.nan, np.nan)
    if video["twin"]:
        twin = _displacement(name + TWIN, str(video["twin"]), event, size, recordings, stores)
    return {
        "event": name,
        "video": own,
        "aus": event["aus"],
        **{k: event[k] for k in ("amplitude_px", "amplitude_ipd", "ipd_px")},
        "status": stores["flow"].status(name)
        if name in recordings.events
        else "not_in_the_dataset",
        "displacement_px": found[0],
        "twin_px": twin[0],
        "correlation": found[1],
    }


def _displacement(
    name: str,
    video: str,
    event: dict[str, Any],
    size: tuple[int, int],
    recordings: Recordings,
    stores: dict[str, StageStore],
) -> tuple[float, float]:
    """(displacement px, correlation) of one event's flow with the planted field; NaN without."""
    marked, flow = recordings.events.get(name), stores["flow"]
    onset = marked.onset if marked else None
    if onset is None or flow.status(name) != "ok":
        return np.nan, np.nan
    found = _to_crop(name, video, onset, stores)
    if found is None:
        return np.nan, np.nan
    to_crop, crop = found
    with flow.open(name) as group:
        kinds = [k.decode() if isinstance(k, bytes) else str(k) for k in group["kind"][:]]
        if "onset_apex" not in kinds:
            return np.nan, np.nan
        field = read_flow(group, kinds.index("onset_apex"))
    landmarks = np.asarray(event["landmarks"], np.float64)
    expected = expected_field(
        landmarks, str(event["aus"]), float(event["amplitude_px"]), to_crop, crop, len(field), size
    )
    share, correlation = project(field, expected)
    # The frame called apex may lie a little off the plateau at low frame rates.
    return share * float(event["amplitude_px"]) / float(event["at_apex"]), correlation


def _to_crop(
    name: str, video: str, onset: int, stores: dict[str, StageStore]
) -> tuple[Array, int] | None:
    """Frame px → crop px (2, 3) of an event's onset, and the crop's side; None where unknown.

    Where events are registered to their own onset, theirs; else the video's alignment.
    """
    if stores["registration"].status(name) == "ok":
        with stores["registration"].open(name) as group:
            if "to_crop" in group:
                return group["to_crop"][:], int(group.attrs["size"])
    if stores["align"].status(video) != "ok":
        return None
    with stores["align"].open(video) as group:
        return group["transforms"][onset], int(group.attrs["size"])


def expected_field(
    landmarks: Array,
    aus: str,
    amplitude: float,
    to_crop: Array,
    crop: int,
    side: int,
    size: tuple[int, int],
) -> FlowField:
    """The planted field (side, side, 2) in pixels of the flow.

    The field is made as it was planted, on the frame, and brought into the crop by `to_crop`
    (2, 3), frame px → px of a crop of side `crop`; the flow's field has side `side`.
    """
    planted = planted_field(landmarks, size, parse_units(aus), amplitude)
    whole = np.zeros((size[1], size[0], 2), np.float32)
    x, y, w, h = planted.box
    whole[y : y + h, x : x + w] = planted.u
    zoom = side / crop
    linear = to_crop[:, :2] * zoom
    offset = to_crop[:, 2] * zoom + (zoom - 1) / 2  # pixel centres keep their place
    matrix = np.column_stack([linear, offset])
    moved = cv2.warpAffine(whole, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(moved @ linear.T, np.float32)


def project(field: FlowField, expected: FlowField) -> tuple[float, float]:
    """How much of the expected field (H, W, 2) is in the field: (share, correlation)."""
    size = np.hypot(expected[..., 0], expected[..., 1])
    core = size >= CORE * max(float(size.max(initial=0.0)), 1e-9)
    f, e = field[core].astype(np.float64), expected[core].astype(np.float64)
    power = float((e * e).sum())
    if power <= 0:
        return np.nan, np.nan
    loose = size >= 0.1 * float(size.max())
    a, b = field[loose].astype(np.float64).ravel(), expected[loose].astype(np.float64).ravel()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((f * e).sum()) / power, float((a * b).sum()) / norm if norm > 0 else np.nan


def summarise(events: pd.DataFrame) -> Measured:
    """Twins subtracted, detection level, and the tables by amplitude and by action units."""
    events = events.copy()
    twins = events.twin_px.dropna()
    own = events.displacement_px
    events["moved_px"] = own - events.twin_px if len(twins) else own
    events["gain"] = events.moved_px / events.amplitude_px
    level = level_ipd = np.nan
    if len(twins):
        level = float(np.quantile(twins, LEVEL, method="higher"))
        ipd = (events.twin_px / events.ipd_px).dropna()
        level_ipd = float(np.quantile(ipd, LEVEL, method="higher"))
    # Faces differ in size: each event is judged in inter-pupil distances.
    judged = own / events.ipd_px > level_ipd
    events["detected"] = judged.astype("float64").where(own.notna() & ~np.isnan(level_ipd))
    by_amplitude = _grouped(events, "amplitude_px")
    smallest = np.nan
    for amplitude, share in zip(
        by_amplitude.amplitude_px[::-1], by_amplitude.detected[::-1], strict=True
    ):
        if not share >= SEEN:
            break
        smallest = float(amplitude)
    return Measured(
        events, by_amplitude, _grouped(events, "aus"), level, level_ipd, len(twins), smallest
    )


def _grouped(events: pd.DataFrame, by: str) -> pd.DataFrame:
    """One row a value: how many, how many reached flow, median (10–90 %) of what was measured."""
    rows = []
    for value, part in events.groupby(by):
        moved, gain = part.moved_px.dropna(), part.gain.dropna()
        rows.append(
            {
                by: value,
                "planted": len(part),
                "reached": int(part.displacement_px.notna().sum()),
                "detected": part.detected.mean(),
                "moved_px": moved.median() if len(moved) else np.nan,
                "low_px": moved.quantile(0.1) if len(moved) else np.nan,
                "high_px": moved.quantile(0.9) if len(moved) else np.nan,
                "gain": gain.median() if len(gain) else np.nan,
                "correlation": part.correlation.median(),
                "percent_ipd": 100 * part.amplitude_ipd.median(),
            }
        )
    return pd.DataFrame(rows)


def _lines(table: pd.DataFrame) -> list[str]:
    """A table as aligned text; – for what was not measured."""
    heads = ["planted px" if table.columns[0] == "amplitude_px" else "units", "% IPD", "events",
             "in flow", "detected", "measured px (10–90 %)", "gain", "corr."]  # fmt: skip
    rows = [heads]
    for row in table.itertuples(index=False):
        spread = "–" if np.isnan(row.moved_px) else (
            f"{row.moved_px:.2f} ({row.low_px:.2f}–{row.high_px:.2f})"
        )  # fmt: skip
        rows.append([str(row[0]), f"{row.percent_ipd:.2f}", str(row.planted), str(row.reached),
                     _or_dash(row.detected, "{:.0%}"), spread, _or_dash(row.gain, "{:.2f}"),
                     _or_dash(row.correlation, "{:.2f}")])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]


def _or_dash(value: float, form: str) -> str:
    return "–" if np.isnan(value) else form.format(value)


def write_measured(found: Measured, out: Path) -> list[Path]:
    """Write the tables, their JSON and the figure into `out`; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    events, table, plain, figure = (out / name for name in FILES)
    for path, content in ((events, found.events), (table, found.by_amplitude)):
        with replacing(path) as temporary:
            content.to_csv(temporary, index=False)
    with replacing(plain) as temporary:
        temporary.write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
    with replacing(figure) as temporary:
        temporary.write_bytes(draw(found))
    return [events, table, plain, figure]


def draw(found: Measured) -> bytes:
    """A PNG: measured against planted displacement, and the share detected."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    events, table = found.events, found.by_amplitude
    left.plot(events.amplitude_px, events.moved_px, "o", ms=4, alpha=0.5, label="event")
    left.plot(table.amplitude_px, table.moved_px, "k_", ms=16, mew=2, label="median")
    top = float(events.amplitude_px.max()) * 1.05
    left.plot([0, top], [0, top], "--", color="grey", lw=1, label="as planted")
    if not np.isnan(found.level_px):
        left.axhline(found.level_px, color="C3", lw=1, label="detection level")
    left.set(xlabel="planted, px", ylabel="measured, px", title="Displacement")
    left.legend(fontsize=8)
    if not table.detected.isna().all():
        right.plot(table.amplitude_px, 100 * table.detected, "ko-")
    for row in table.itertuples(index=False):
        right.annotate(
            f"{row.reached}/{row.planted}", (row.amplitude_px, 3), fontsize=8, ha="center"
        )
    right.set(xlabel="planted, px", ylabel="detected, %", ylim=(0, 105), xlim=left.get_xlim(),
              title="Detected (below: in flow / planted)")  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()
