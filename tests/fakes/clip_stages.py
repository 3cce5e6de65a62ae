"""The preprocessing stages over frames in memory, without a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.errors import ApexflowError, InputError
from data.registration.settings import RegistrationConfig
from data.stages.contract import Unit
from data.stages.parts import PartWriter
from data.stages.registry import find_stage


class Memory:
    """Frames in memory as a `FrameSource`; None is one that cannot be read."""

    def __init__(self, frames: list[np.ndarray | None]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int, *, colour: bool = False) -> np.ndarray:
        """One frame, as it was given."""
        frame = self._frames[index]
        if frame is None:
            raise InputError(f"frame {index}", expected="a frame", got="none",
                             code="unreadable_frame")  # fmt: skip
        return frame

    def iter(self, indices: Any = None, *, colour: bool = False) -> Any:
        """(index, frame) in the order given."""
        for index in range(len(self)) if indices is None else indices:
            yield index, self._frames[index]


class ClipStages:
    """Stages over one clip, video "v" with events "e000", …; each part a file in `folder`.

    It is also what a unit reads from: `open`, `frames`.
    """

    dataset = "made_up"

    def __init__(
        self,
        frames: Sequence[np.ndarray | None],
        events: Sequence[tuple[int, int | None]],
        folder: Path,
        *,
        fps: float = 30.0,
        align: dict[str, Any] | None = None,
        registration: dict[str, Any] | None = None,
    ) -> None:
        """`events`: onset and offset, inclusive; `align`, `registration`: settings."""
        self.configs = {
            "align": AlignConfig(**{"compression": "none", **(align or {})}),
            "registration": RegistrationConfig(**{"compression": "none", **(registration or {})}),
            "apex": ApexConfig(),
        }
        self._frames, self.spans, self._fps, self._folder = list(frames), list(events), fps, folder
        self.names = [f"e{n:03d}" for n in range(len(events))]
        self.files: dict[str, Path] = {}
        self.parts: dict[str, PartWriter] = {}

    def frames(self) -> Any:
        """The clip's frames."""
        return Memory(self._frames)

    @contextmanager
    def open(self, stage: str, unit: str) -> Any:
        """The unit's group. Raises ApexflowError `no_upstream` where the stage dropped it."""
        with h5py.File(self.files[stage]) as file:
            if unit not in file:
                raise ApexflowError(unit, expected=f"a result of {stage}", got="none",
                                    code="no_upstream")  # fmt: skip
            yield file[unit]

    def run(self, stage: str) -> PartWriter:
        """Run a stage over all its units; a unit's own failure is in the writer's status."""
        room = find_stage(stage)
        path = self._folder / f"{stage}{room.suffix}"
        writer = PartWriter(path, room, self.dataset)
        video = {"num_frames": len(self._frames), "fps": self._fps, "provided_crop": False}
        units = [Unit("v", "v", video)]
        if stage != "align":
            more = {"fps": self._fps} if stage == "apex" else {}
            units = [
                Unit(n, "v", {"onset": a, "apex": None, "offset": b, **more})
                for n, (a, b) in zip(self.names, self.spans, strict=True)
            ]
        for unit in units:
            try:
                room.process(unit, self, self.configs[stage], writer)
            except ApexflowError as error:
                writer.drop(unit.id, error.code, str(error))
        writer.close(units, self.configs[stage])
        self.files[stage], self.parts[stage] = path, writer
        return writer
