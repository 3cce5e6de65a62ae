"""Reading registered events: crops by the video's frame index, stored or made from raw frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data.align.geometry import CropMaker, Geometry, head_depth
from data.errors import StoreError
from data.frames import FrameSource
from data.registration.events import USABLE
from data.stages.inputs import UnitInputs

Image = npt.NDArray[np.uint8]


def event_geometry_of(group: h5py.Group) -> Geometry:
    """The geometry of a registered event's reference frame."""
    landmarks, depth = group["landmarks"][:].astype(np.float64), group["depth"][:]
    return Geometry(
        landmarks,
        float(group.attrs["ipd_px"]),
        int(group.attrs["size"]),
        group["to_crop"][:],
        head_depth(landmarks, group["slope"][:], depth[:-1], float(depth[-1])),
    )


@contextmanager
def open_event(inputs: UnitInputs, event: str) -> Iterator[EventCrops]:
    """A registered event for a later stage, its crops stored or made from the raw frames."""
    with inputs.open("registration", event) as group:
        yield EventCrops(group, None if "crops" in group else inputs.frames())


class EventCrops:
    """An event's crops and what is known of each frame; all indices are the video's."""

    def __init__(self, group: h5py.Group, source: FrameSource | None = None) -> None:
        """`source`: the video's raw frames, needed where crops are not stored."""
        self._group, self._source = group, source
        self.first = int(group.attrs["first"])
        self.reference = int(group.attrs["reference"])
        names = [str(n) for n in group["status"].attrs["status_names"]]
        self.words = [names[code] for code in group["status"][:].tolist()]
        self.last = self.first + len(self.words) - 1
        size = int(group.attrs["size"])
        self.colour = bool(group.attrs["colour"])
        self.shape = (size, size) + ((3,) if self.colour else ())
        self._maker: CropMaker | None = None

    @property
    def landmarks(self) -> npt.NDArray[np.float64]:
        """Landmarks of the reference frame (68,2), crop px."""
        return np.asarray(self._group["landmarks_crop"][:], np.float64)

    def status(self, frame: int) -> str:
        """How the frame was placed."""
        return self.words[frame - self.first]

    def usable(self, frame: int) -> bool:
        """Whether the frame lies in the event and shows the face."""
        return self.first <= frame <= self.last and self.status(frame) in USABLE

    def measured(self, frame: int) -> bool:
        """Whether the frame lies in the event and its own pixels say where the face is."""
        return self.usable(frame) and self.status(frame) != "align_held"

    def nearest(self, frame: int) -> int:
        """The usable frame nearest to `frame`. A stored event has at least one."""
        good = [f for f in range(self.first, self.last + 1) if self.usable(f)]
        return min(good, key=lambda f: (abs(f - frame), f))

    def take(self, frames: Sequence[int] | Any) -> Image:
        """Crops (n,S,S) or (n,S,S,3) of `frames` (n ≥ 1, any order), each read or made once.

        Raises StoreError where they must be made and there are no raw frames.
        """
        wanted, back = np.unique(np.asarray(frames), return_inverse=True)
        low, high = int(wanted[0]) - self.first, int(wanted[-1]) - self.first + 1
        if "crops" in self._group:
            crops = self._group["crops"]
            if high - low <= 4 * len(wanted):  # a run of chunks reads faster than a list
                chosen = crops[low:high][wanted - self.first - low]
            else:
                chosen = np.stack([crops[i - self.first] for i in wanted])
        else:
            chosen = np.stack([self._make(int(i)) for i in wanted])
        return np.asarray(chosen[back], np.uint8)

    def _make(self, frame: int) -> Image:
        if self._source is None:
            raise StoreError(
                str(self._group.name),
                expected="stored crops, or the raw frames to make them from",
                got="transforms only",
                todo="Pass the video's FrameSource.",
            )
        if self._maker is None:
            self._maker = CropMaker(event_geometry_of(self._group))
        shown = int(self._group["shown"][frame - self.first])
        image = self._source.read(shown, colour=self.colour)
        return self._maker(image, self._group["poses"][frame - self.first])
