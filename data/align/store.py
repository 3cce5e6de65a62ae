"""Writing and reading aligned videos: crops beside their poses, or poses alone.

Crops are a chunk per frame: a consumer reads the frames of one event, in any order. With
`store: transforms` a video costs 150 bytes a frame and `open_crops` makes each crop from the raw
frame when it is read, bit for bit the one that would have been stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data.align.fitting import POSE_TERMS
from data.align.geometry import DEPTH_TERMS, CropMaker, Geometry, frame_to_crop, head_depth
from data.align.joint import DepthEvidence, solve_depth
from data.align.modes import STATUS, Image, PlacedFrames, Segment
from data.align.settings import AlignConfig
from data.errors import StoreError
from data.frames import FrameSource

Array = npt.NDArray[np.float64]

HOW = ("first", "chained", "landmarks", "cut")  # how a reference was found
NO_LINK = np.full(POSE_TERMS, np.nan)

FILTERS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "lzf": {"compression": "lzf"},
    "none": {},
}


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
        self._inliers = np.full(frames, np.nan, np.float32)
        self._poses = np.zeros((frames, POSE_TERMS))
        self._transforms = np.zeros((frames, 2, 3))
        self._segment = np.zeros(frames, np.int16)
        self._depth_of = np.zeros(frames, np.int32)
        self._depths: list[Array] = []
        self._shapes = np.zeros((frames, 2), np.int32)
        self._points: Array | None = None
        self._strays: Array | None = None

    def write(self, block: PlacedFrames) -> None:
        """Make and write the block's crops, note its poses."""
        segment, geometry = block.segment, block.geometry
        if self._points is None and block.points is not None:
            self._points, self._strays = block.points, block.point_rms
        self._depths.append(_depth_row(geometry))
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

    def finish(
        self,
        segments: Sequence[Segment],
        cuts: Sequence[int],
        evidence: DepthEvidence,
        **attributes: Any,
    ) -> None:
        """Write everything that is small, and the attributes."""
        geometries = [s.geometry for s in segments]
        first = geometries[0]
        links = [g.before for g in geometries]
        bins = sorted(evidence.bins)
        triangle = np.triu_indices(DEPTH_TERMS)
        small = {
            "transforms": self._transforms,
            "poses": self._poses,
            "status": self.status,
            "inlier_ratio": self._inliers,
            "residual_px": self.residual,
            "segment": self._segment,
            "cuts": np.array(cuts, np.int32),
            "landmarks": first.landmarks.astype(np.float32),
            "landmarks_crop": first.landmarks_crop.astype(np.float32),
            "segment_reference": np.array([s.reference.index for s in segments], np.int32),
            "segment_landmarks": np.stack([g.landmarks for g in geometries]),
            "segment_to_crop": np.stack([g.to_crop for g in geometries]),
            "segment_ipd": np.array([g.ipd for g in geometries]),
            "segment_slope": np.stack([g.depth.slope for g in geometries]),
            "segment_how": np.array([HOW.index(s.how) for s in segments], np.uint8),
            "segment_parent": np.array([s.parent for s in segments], np.int16),
            "segment_carries": np.array([g.carries for g in geometries]),
            "segment_link": np.stack([NO_LINK if b is None else b[1] for b in links]),
            "segment_link_sd": np.array([s.link_sd for s in segments], np.float32),
            "segment_link_depth": np.stack(
                [np.zeros(DEPTH_TERMS + 1) if b is None else _depth_row(b[0]) for b in links]
            ),
            "depth": np.stack(self._depths),
            "depth_of": self._depth_of,
            "image_shape": self._shapes,
            "evidence_bin": np.array(bins, np.int32),
            "evidence_values": _stacked([evidence.bins[b][1] for b in bins], DEPTH_TERMS),
        }
        if self._points is not None:
            small["points"] = self._points.astype(np.float32)
            small["point_rms"] = np.asarray(self._strays, np.float32)
        for name, values in small.items():
            self._group.create_dataset(name, data=values)
        matrices = _stacked([evidence.bins[b][0][triangle] for b in bins], len(triangle[0]))
        rows = {"chunks": (min(len(bins), 8), matrices.shape[1]), **FILTERS["gzip"]}
        self._group.create_dataset("evidence_matrix", data=matrices, **(rows if bins else {}))
        self._group.create_dataset("evidence_total", data=matrices.sum(axis=0, dtype=np.float64))
        self._group["evidence_bin"].attrs["frames"] = evidence.bin_frames
        self._group["status"].attrs["status_names"] = list(STATUS)
        self._group["segment_how"].attrs["names"] = list(HOW)
        self._group.attrs.update(
            size=self._config.size,
            colour=self._config.colour,
            store=self._config.store,
            ipd_px=first.ipd,
            reference_index=int(segments[0].reference.index),
            **attributes,
        )


def _depth_row(geometry: Geometry) -> Array:
    return np.array([*geometry.depth.added, geometry.depth.mean])


def _stacked(rows: Sequence[Array], width: int) -> npt.NDArray[np.float32]:
    return np.asarray(rows, np.float32).reshape(len(rows), width)


class StoredPoses:
    """What an align unit's group says about every frame's geometry."""

    def __init__(self, group: h5py.Group) -> None:
        self.poses: Array = group["poses"][:]
        self.segment, self.depth_of = group["segment"][:], group["depth_of"][:]
        self._depths = group["depth"][:]
        self._landmarks = list(group["segment_landmarks"][:])  # one object each: its identity
        self._to_crop, self._ipd = group["segment_to_crop"][:], group["segment_ipd"][:]
        self._slope, self._carries = group["segment_slope"][:], group["segment_carries"][:]
        self._parent, self._link = group["segment_parent"][:], group["segment_link"][:]
        self._link_depth = group["segment_link_depth"][:]
        self._size = int(group.attrs["size"])
        self._before: dict[int, tuple[Geometry, Array] | None] = {}
        self._geometries: dict[int, Geometry] = {}

    def geometry(self, index: int) -> Geometry:
        """Geometry that frame `index` was placed by; equal wherever `depth_of` is."""
        number = int(self.depth_of[index])
        if number not in self._geometries:
            self._geometries[number] = self._made(int(self.segment[index]), self._depths[number])
        return self._geometries[number]

    def _made(self, segment: int, depth: Array) -> Geometry:
        landmarks = self._landmarks[segment]
        return Geometry(
            landmarks,
            float(self._ipd[segment]),
            self._size,
            self._to_crop[segment],
            head_depth(landmarks, self._slope[segment], depth[:-1], float(depth[-1])),
            self._earlier(segment),
            bool(self._carries[segment]),
        )

    def _earlier(self, segment: int) -> tuple[Geometry, Array] | None:
        if segment not in self._before:
            parent, link = int(self._parent[segment]), self._link[segment]
            self._before[segment] = (
                None
                if parent < 0 or np.isnan(link).any()
                else (self._made(parent, self._link_depth[segment]), link)
            )
        return self._before[segment]


def depth_without(group: h5py.Group, first: int, last: int) -> Array:
    """Depth coefficients (49,) of an align unit, learned without its frames first .. last."""
    frames = int(group["evidence_bin"].attrs["frames"])
    bins = group["evidence_bin"][:]
    inside = np.flatnonzero((bins * frames <= last) & ((bins + 1) * frames > first))
    values = group["evidence_values"][:].astype(np.float64)
    total = group["evidence_total"][:]
    if len(inside):  # bins are sorted: they lie together
        run = slice(int(inside[0]), int(inside[-1]) + 1)
        total = total - group["evidence_matrix"][run].sum(axis=0, dtype=np.float64)
        values[run] = 0
    matrix = np.zeros((DEPTH_TERMS, DEPTH_TERMS))
    rows, columns = np.triu_indices(DEPTH_TERMS)
    matrix[rows, columns] = total
    matrix = matrix + np.triu(matrix, 1).T
    return solve_depth(matrix, values.sum(axis=0))


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
