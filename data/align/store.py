"""Writing and reading aligned videos: crops beside their poses, or poses alone.

Crops are a chunk per frame: a consumer reads the frames of one event, in any order. With
`store: transforms` a video costs 150 bytes a frame and `open_crops` makes each crop from the raw
frame when it is read, bit for bit the one that would have been stored.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from data.align.geometry import CropMaker, Geometry, frame_to_crop, head_depth
from data.align.modes import STATUS, Block, Image
from data.align.settings import AlignConfig
from data.errors import StoreError
from data.frames import FrameSource

T = TypeVar("T")

FILTERS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "lzf": {"compression": "lzf"},
    "none": {},
}


def ahead(items: Iterable[T], depth: int = 4) -> Iterator[T]:
    """The same items, produced by a thread up to `depth` ahead. Errors arrive where they belong."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def hand_over(kind: str, item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put((kind, item), timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not hand_over("item", item):
                    return
            hand_over("end", None)
        except BaseException as error:
            hand_over("error", error)

    thread = threading.Thread(target=produce, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


class BlockWriter:
    """Fills one video's group from blocks in playing order, then `finish`."""

    def __init__(self, group: h5py.Group, frames: int, config: AlignConfig) -> None:
        self._group, self._config = group, config
        shape = (config.size, config.size) + ((3,) if config.colour else ())
        self._crops = None
        if config.store == "crops":
            self._crops = group.create_dataset(
                "crops", (frames, *shape), np.uint8, chunks=(1, *shape),
                **FILTERS[config.compression],
            )  # fmt: skip
        self.status = np.zeros(frames, np.uint8)
        self.residual = np.full(frames, np.nan, np.float32)
        self.references: list[int] = []
        self._inliers = np.full(frames, np.nan, np.float32)
        self._poses = np.zeros((frames, 6))
        self._transforms = np.zeros((frames, 2, 3))
        self._segment = np.zeros(frames, np.int16)
        self._depth_of = np.zeros(frames, np.int32)
        self._depths: list[npt.NDArray[np.float64]] = []
        self._geometries: list[Geometry] = []
        self._shapes = np.zeros((frames, 2), np.int32)
        self._points: npt.NDArray[np.float64] | None = None
        self._strays: npt.NDArray[np.float64] | None = None

    def write(self, block: Block) -> None:
        """Make and write the block's crops, note its poses."""
        segment, geometry = block.segment, block.geometry
        if segment.number == len(self.references):
            self.references.append(segment.reference.index)
            self._geometries.append(geometry)
        if self._points is None and block.points is not None:
            self._points, self._strays = block.points, block.point_rms
        self._depths.append(np.array([*geometry.depth.added, geometry.depth.mean]))
        maker = CropMaker(geometry)
        for frame in block.frames:
            i = frame.index
            self.status[i] = STATUS.index(frame.status)
            self.residual[i], self._inliers[i] = frame.residual, frame.inlier_ratio
            self._poses[i], self._segment[i] = frame.pose, segment.number
            self._depth_of[i] = len(self._depths) - 1
            self._shapes[i] = frame.shape[:2]
            self._transforms[i] = frame_to_crop(geometry, frame.pose)
            if self._crops is not None:
                self._crops[i] = maker(frame.patch, frame.pose, frame.origin, frame.shape)

    def finish(self, **attributes: Any) -> None:
        """Write everything that is small, and the attributes."""
        first = self._geometries[0]
        landmarks = np.stack([g.landmarks for g in self._geometries])
        small = {
            "transforms": self._transforms,
            "poses": self._poses,
            "status": self.status,
            "inlier_ratio": self._inliers,
            "residual_px": self.residual,
            "segment": self._segment,
            "landmarks": first.landmarks.astype(np.float32),
            "landmarks_crop": first.landmarks_crop.astype(np.float32),
            "segment_reference": np.array(self.references, np.int32),
            "segment_landmarks": landmarks,
            "segment_to_crop": np.stack([g.to_crop for g in self._geometries]),
            "depth": np.stack(self._depths),
            "depth_of": self._depth_of,
            "image_shape": self._shapes,
        }
        if self._points is not None:
            small["points"] = self._points.astype(np.float32)
            small["point_rms"] = np.asarray(self._strays, np.float32)
        for name, values in small.items():
            self._group.create_dataset(name, data=values)
        self._group["status"].attrs["status_names"] = list(STATUS)
        self._group.attrs.update(
            size=self._config.size,
            colour=self._config.colour,
            store=self._config.store,
            ipd_px=first.ipd,
            reference_index=self.references[0],
            **attributes,
        )


class StoredPoses:
    """What an align unit's group says about every frame's geometry."""

    def __init__(self, group: h5py.Group) -> None:
        self.poses: npt.NDArray[np.float64] = group["poses"][:]
        self._segment, self.depth_of = group["segment"][:], group["depth_of"][:]
        self._depths = group["depth"][:]
        self._landmarks, self._to_crop = group["segment_landmarks"][:], group["segment_to_crop"][:]
        self._size = int(group.attrs["size"])

    def geometry(self, index: int) -> Geometry:
        """Geometry that frame `index` was placed by; equal wherever `depth_of` is."""
        segment, depth = self._segment[index], self._depths[self.depth_of[index]]
        landmarks = self._landmarks[segment]
        prior = head_depth(landmarks)
        learned = replace(prior, added=depth[:-1], mean=float(depth[-1]))
        return Geometry(landmarks, prior.ipd, self._size, self._to_crop[segment], learned)


class MadeCrops:
    """Crops (T,S,S) or (T,S,S,3) made from raw frames when indexed, as a stored dataset would be.

    Indexing by an int, a slice or a list of ints. Raises InputError `unreadable_frame` where a
    frame that could be read when the video was aligned no longer can be.
    """

    def __init__(self, group: h5py.Group, source: FrameSource) -> None:
        self._source, self._stored = source, StoredPoses(group)
        self._colour = bool(group.attrs["colour"])
        self._unreadable = group["status"][:] == STATUS.index("unreadable")
        self._first = int(group.attrs["reference_index"])
        self._makers: dict[int, CropMaker] = {}
        size = int(group.attrs["size"])
        self.dtype = np.dtype(np.uint8)
        self.shape = (len(self._unreadable), size, size) + ((3,) if self._colour else ())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | Sequence[int]) -> Image:
        frames = range(len(self))
        if isinstance(key, int | np.integer):
            return self._make(frames[int(key)])
        wanted = frames[key] if isinstance(key, slice) else [frames[int(i)] for i in key]
        crops = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for row, index in enumerate(wanted):
            crops[row] = self._make(index)
        return crops

    def _make(self, index: int) -> Image:
        shown = index
        while shown >= 0 and self._unreadable[shown]:
            shown -= 1  # such a frame shows the last good one, or the reference
        image = self._source.read(shown if shown >= 0 else self._first, colour=self._colour)
        number = int(self._stored.depth_of[index])
        if number not in self._makers:
            self._makers[number] = CropMaker(self._stored.geometry(index))
        return self._makers[number](image, self._stored.poses[index])


def open_crops(group: h5py.Group, source: FrameSource | None = None) -> h5py.Dataset | MadeCrops:
    """The crops of an align unit: stored ones, or made on reading from `source`.

    Both have `shape`, `len` and indexing by frame. Raises StoreError when nothing is stored and no
    source is given.
    """
    if "crops" in group:
        return group["crops"]
    if source is None:
        raise StoreError(
            str(group.name),
            expected="stored crops, or the raw frames to make them from",
            got="transforms only",
            todo="Pass the video's FrameSource.",
        )
    return MadeCrops(group, source)
