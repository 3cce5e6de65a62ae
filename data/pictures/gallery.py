"""A gallery of everything a dataset's stages made: a page a stage, a page a video.

Static files in WORKSPACE/DATASET/gallery that any browser opens from the disk: thumbnails of all
units, sorted by status, residual or confidence, and one click away the video's own page with its
strip, flow, apex curve and ledger. Faces only where they may be shown; elsewhere landmarks stand
for them. What has not changed since the last time is not drawn again; what is no longer there goes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import ApexflowError, ConfigError
from data.pictures import gallery_pages as pages
from data.pictures.drawing import evenly, faces_shown, side_by_side, thumbnail
from data.recordings import Recordings
from data.stages import stores
from data.stages.files import replacing
from data.stages.registry import STAGES, find_stage
from data.stages.stores import StageStore
from data.stages.workspace import Workspace

NAME = "gallery"
THUMB, STRIP, FRAMES = 112, 150, 9  # px of a thumbnail, of a strip's frame; frames of a strip
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]
Image = npt.NDArray[np.uint8]


@dataclass
class Card:
    """One unit of one stage."""

    unit: str
    video: str
    subject: str
    stage: str
    status: str
    key: str
    residual: float = float("nan")
    confidence: float = float("nan")
    facts: dict[str, Any] = field(default_factory=dict)
    picture: str = ""  # path relative to the gallery, "" without one


def write_gallery(
    workspace: Workspace,
    dataset: str,
    *,
    with_faces: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write or refresh a dataset's gallery; returns its first page.

    Pages and pictures of videos and units that are not there any more are deleted. Raises
    ConfigError for a dataset without finished stages.
    """
    recordings = Recordings(workspace, dataset)
    stages = [s for s in STAGES if (workspace.stage(dataset, s) / "manifest.parquet").is_file()]
    if not stages:
        raise ConfigError(
            f"dataset {dataset}",
            expected=f"a dataset with finished stages in {workspace.path}",
            got="none",
            todo=f"It holds {', '.join(workspace.datasets()) or 'no dataset'}.",
        )
    folder = workspace.path / dataset / NAME
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    videos, events = recordings.table("videos"), recordings.table("events")
    free = faces_shown(videos, with_faces)
    owner = dict(zip(videos.video, videos.subject, strict=True))
    of_event = dict(zip(events.event, events.video, strict=True))
    opened = {stage: StageStore(workspace, dataset, stage) for stage in stages}
    cards = {s: list(_cards(s, opened[s], owner, of_event)) for s in stages}
    ledger = pd.concat(
        [stores.read_ledger(workspace.stage(dataset, s)) for s in ("ingest", *stages)],
        ignore_index=True,
    )
    drawn = _read_drawn(folder)
    named: set[Path] = set()
    cards_of: dict[str, dict[str, list[Card]]] = {v: {s: [] for s in stages} for v in owner}
    for card in (card for own in cards.values() for card in own):
        cards_of[card.video][card.stage].append(card)
    marks_of = {v: rows.to_dict("records") for v, rows in events.groupby("video")}
    notes_of = ledger.groupby("unit").indices
    try:
        for number, video in enumerate(sorted(owner), start=1):
            own = cards_of[video]
            units = {card.unit for part in own.values() for card in part} | {video}
            noted = ledger.iloc[sorted(n for unit in units for n in notes_of.get(unit, ()))]
            marks = marks_of.get(video, [])
            _draw_video(folder, opened, own, video, video in free, drawn, marks, noted)
            named |= _files_of(folder, video, own)
            if progress is not None:
                progress(number, len(owner), video)
        _delete_others(folder / "videos", named)
        drawn = {video: digest for video, digest in drawn.items() if video in owner}
    finally:
        for store in opened.values():
            store.close()
        _write(folder / "drawn.json", json.dumps(drawn, sort_keys=True))
    for stage in stages:
        rows = [_facts(card) for card in sorted(cards[stage], key=lambda card: card.unit)]
        _write(folder / f"{stage}.html", pages.stage_page(dataset, stage, stages, rows))
    counts = {s: (len(c), sum(x.status != "ok" for x in c)) for s, c in cards.items()}
    shown = f"{len(free)} of {len(owner)} videos may show faces"
    _write(folder / "index.html", pages.index_page(dataset, counts, shown))
    return folder / "index.html"


def _files_of(folder: Path, video: str, own: dict[str, list[Card]]) -> set[Path]:
    """Everything that a video may have in the gallery: its page, pictures and strips."""
    page = folder / "videos" / f"{page_name(video)}.html"
    units = {f"{card.stage}-{page_name(card.unit)}.jpg" for c in own.values() for card in c}
    place = page.with_suffix("")
    return {page, *(place / name for unit in units for name in (unit, f"strip-{unit}"))}


def _delete_others(folder: Path, named: set[Path]) -> None:
    """Nothing stays of who is gone: a face that was shown once would be passed on."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before it
        if path.is_symlink() or not path.is_dir():
            if path not in named:
                path.unlink(missing_ok=True)
        elif not any(path.iterdir()):
            path.rmdir()


def page_name(video: str) -> str:
    """A video's file name: readable, and never that of another."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", video).strip("_.")[:60]
    return f"{readable}-{hashlib.sha256(video.encode()).hexdigest()[:8]}"


def _cards(
    stage: str, store: StageStore, owner: dict[str, str], of_event: dict[str, str]
) -> Iterator[Card]:
    table = store.table().set_index("unit") if find_stage(stage).suffix == ".parquet" else None
    for row in store.manifest.itertuples(index=False):
        unit = str(row.unit)
        video = unit if unit in owner else of_event.get(unit, "")
        if not video:  # of a video that is not there any more
            continue
        facts = json.loads(row.counts or "{}")
        card = Card(unit, video, owner[video], stage, str(row.status), str(row.key), facts=facts)
        value = facts.get("residual_px")
        card.residual = float(value) if isinstance(value, int | float) else float("nan")
        if table is not None and unit in table.index:
            one = table.loc[unit]
            card.facts = {**facts, **{k: one[k] for k in ("apex", "source") if k in one}}
            card.confidence = float(one.get("confidence", float("nan")))
            card.facts["curve"] = [round(float(v), 4) for v in one.get("curve", ())]
            card.facts["curve_start"] = one.get("curve_start", 0)
        yield card


def _draw_video(
    folder: Path,
    opened: dict[str, StageStore],
    own: dict[str, list[Card]],
    video: str,
    with_face: bool,
    drawn: dict[str, str],
    marks: list[dict[str, Any]],
    noted: pd.DataFrame,
) -> None:
    """Pictures and the page of one video; both are kept when nothing of them changed.

    `marks`: its events, `noted`: its rows of the ledgers.
    """
    name = page_name(video)
    said = [(r.stage, r.unit, r.reason, r.detail, r.action) for r in noted.itertuples(index=False)]
    facts = [[c.stage, c.unit, c.key, c.status] for cards in own.values() for c in cards]
    shown = json.dumps([facts, with_face, said, marks, 2], default=str)
    digest = hashlib.sha256(shown.encode()).hexdigest()[:16]
    place = folder / "videos" / name
    for cards in own.values():
        for card in cards:
            path = place / f"{card.stage}-{page_name(card.unit)}.jpg"
            card.picture = str(path.relative_to(folder))
    page = folder / "videos" / f"{name}.html"
    if drawn.get(video) == digest and page.is_file():
        _forget_missing(folder, own)
        return
    place.mkdir(exist_ok=True)
    strips: dict[str, str] = {}
    for stage, cards in own.items():
        for card in cards:
            _draw_card(folder, place, opened[stage], card, with_face, strips)
    _forget_missing(folder, own)
    flat = [_facts(card) for cards in own.values() for card in cards]
    _write(page, pages.video_page(video, flat, marks, strips, said, with_face))
    drawn[video] = digest


def _forget_missing(folder: Path, own: dict[str, list[Card]]) -> None:
    for cards in own.values():
        for card in cards:
            if not (folder / card.picture).is_file():
                card.picture = ""


def _draw_card(
    folder: Path,
    place: Path,
    store: StageStore,
    card: Card,
    with_face: bool,
    strips: dict[str, str],
) -> None:
    path = folder / card.picture
    path.unlink(missing_ok=True)  # a face that may no longer be shown must not stay
    strip = place / f"strip-{card.stage}-{page_name(card.unit)}.jpg"
    strip.unlink(missing_ok=True)
    if card.status != "ok" or find_stage(card.stage).suffix != ".h5":
        return
    try:
        with store.open(card.unit) as group:
            if (small := _thumbnail(group, with_face)) is not None:
                _save(path, _fitted(small))
            if (wide := _strip(group, with_face)) is not None:
                _save(strip, wide)
                strips[f"{card.stage} {card.unit}"] = f"{place.name}/{strip.name}"
            if "kind" in group:
                card.facts["pairs"] = ", ".join(map(str, group["kind"].asstr()[:FRAMES]))
    except (ApexflowError, OSError, LookupError, ValueError) as error:
        card.facts["picture"] = f"could not be drawn: {error}"


def _thumbnail(group: h5py.Group, with_face: bool) -> Image | None:
    """A crop in the middle, the first flow, the motion map; landmarks where a face may not be."""
    from data.flow.fields import read_flow
    from data.flow.pictures import flow_colours

    if "flow" in group and len(group["flow"]):
        return flow_colours(read_flow(group, 0))
    if "features" in group:
        return _heat(group["features"][:])
    if with_face and "crops" in group and len(group["crops"]):
        return np.asarray(group["crops"][len(group["crops"]) // 2], np.uint8)
    if "landmarks_crop" in group:
        return _points(group["landmarks_crop"][:], int(group.attrs["size"]))
    return None


def _strip(group: h5py.Group, with_face: bool) -> Image | None:
    """Frames of a unit side by side; flow and strain of each pair; None where there is neither."""
    from data.flow.fields import read_flow
    from data.flow.pictures import flow_colours, speed_limit

    if "flow" in group and len(group["flow"]):
        pairs = evenly(range(len(group["flow"])), FRAMES)
        fields = [read_flow(group, i) for i in pairs]
        limit = speed_limit(np.stack(fields))
        colours = [_sized(flow_colours(f, limit), STRIP) for f in fields]
        top = max(float(np.percentile(group["strain"][:], 99.5)), 1e-3)
        strains = [_sized(_magma(group["strain"][i] / top), STRIP) for i in pairs]
        return np.vstack([side_by_side(colours), side_by_side(strains)])
    if with_face and "crops" in group and len(group["crops"]):
        frames = evenly(range(len(group["crops"])), FRAMES)
        return side_by_side([_sized(group["crops"][i], STRIP) for i in frames])
    return None


def _fitted(image: Image) -> Image:
    """An image whose longer side is a thumbnail's, enlarged or reduced."""
    scale = THUMB / max(image.shape[:2])
    if scale <= 1:
        return thumbnail(image, THUMB)
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _sized(image: Any, side: int) -> Image:
    scaled = cv2.resize(np.asarray(image, np.uint8), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, np.uint8)


def _magma(share: Any) -> Image:
    values = (255 * np.clip(np.nan_to_num(np.asarray(share, np.float32)), 0, 1)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(values, cv2.COLORMAP_MAGMA)[..., ::-1], np.uint8)


def _heat(features: npt.NDArray[np.float32]) -> Image:
    """Windows (W,C,k) of motion as a small map: region down, time to the right."""
    half = features.shape[2] // 2
    series = np.concatenate([features[0], *(w[:, half:] for w in features[1:])], axis=1)
    length = np.hypot(series[0::2], series[1::2])
    top = max(float(np.quantile(length, 0.995)), 1e-6)
    wide = cv2.resize(_magma(length / top), (2 * THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return np.asarray(wide, np.uint8)


def _points(landmarks: npt.NDArray[Any], size: int) -> Image:
    image = np.full((size, size, 3), 245, np.uint8)
    for x, y in np.rint(landmarks).astype(int):
        cv2.circle(image, (int(x), int(y)), max(1, size // 90), (0, 114, 178), -1)
    return image


def _save(path: Path, image: Image) -> None:
    ordered = image if image.ndim == 2 else image[..., ::-1]
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(ordered), JPEG)
    if done:
        with replacing(path) as temporary:
            temporary.write_bytes(data.tobytes())


def _facts(card: Card) -> dict[str, Any]:
    return {
        "unit": card.unit, "subject": card.subject, "stage": card.stage, "status": card.status,
        "residual": card.residual, "confidence": card.confidence, "picture": card.picture,
        "page": f"videos/{page_name(card.video)}.html", **card.facts,
    }  # fmt: skip


def _read_drawn(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / "drawn.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def galleries(workspace: Workspace, datasets: Sequence[str]) -> list[str]:
    """Datasets of these that have something to show."""
    return [
        name
        for name in datasets
        if any((workspace.stage(name, s) / "manifest.parquet").is_file() for s in STAGES)
    ]
