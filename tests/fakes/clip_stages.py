"""The preprocessing stages over frames in memory, without a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.errors import ApexflowError, InputError
from data.flow.settings import FlowConfig
from data.registration.settings import RegistrationConfig
from data.stages.engine import PartWriter, StageInputs, Unit, get_stage


class _Memory:
    """Frames in memory as a `FrameSource`."""

    def __init__(self, frames: list[np.ndarray | None]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int, *, colour: bool = False) -> np.ndarray:
        frame = self._frames[index]
        if frame is None:
            raise InputError(f"frame {index}", expected="a frame", got="none",
                             code="unreadable_frame")  # fmt: skip
        return frame

    def iter(self, indices: Any = None, *, colour: bool = False) -> Any:
        for index in range(len(self)) if indices is None else indices:
            yield index, self._frames[index]


class ClipStages(StageInputs):
    """The preprocessing stages over one clip in memory, each written to a file in `folder`."""

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
        configs = {
            "align": AlignConfig(**{"compression": "none", **(align or {})}),
            "registration": RegistrationConfig(**{"compression": "none", **(registration or {})}),
            "apex": ApexConfig(),
            "flow": FlowConfig(),
        }
        super().__init__(folder, "real", folder, configs)
        self.frame_list, self.spans, self.fps = list(frames), list(events), fps
        self.names = [f"e{n:03d}" for n in range(len(events))]
        row = {
            "video": "v",
            "identity": "made up",
            "num_frames": len(self.frame_list),
            "fps": fps,
            "provided_crop": False,
            "source": "frames",
            "folder": ".",
        }
        table = pd.DataFrame(
            [{"event": n, "video": "v", "onset": a, "apex": None, "offset": b, "type": "micro"}
             for n, (a, b) in zip(self.names, events, strict=True)],
            columns=["event", "video", "onset", "apex", "offset", "type"],
        )  # fmt: skip
        self._cache.update(videos=pd.DataFrame([row]), events=table)
        self.files: dict[str, Path] = {}
        self.parts: dict[str, PartWriter] = {}

    def frame_source(self, video: str) -> Any:
        return _Memory(self.frame_list)

    @contextmanager
    def open(self, stage: str, unit: str) -> Any:
        """The unit's group; KeyError where the stage dropped it."""
        with h5py.File(self.files[stage]) as file:
            yield file[unit]

    def run(self, stage: str) -> PartWriter:
        """Run a stage over all its units; a unit's own failure is in the writer's status."""
        room = get_stage(stage)
        path = self.workspace / f"{stage}{room.suffix}"
        writer = PartWriter(path, room, "real")
        units = (
            [Unit("v", "v", "k")] if stage == "align" else
            [Unit(n, "v", "k", {"onset": a, "apex": None, "offset": b}
                  | ({"fps": self.fps} if stage == "apex" else {}))
             for n, (a, b) in zip(self.names, self.spans, strict=True)]
        )  # fmt: skip
        for unit in units:
            try:
                room.process(unit, self, self.configs[stage], writer)
            except ApexflowError as error:
                writer.drop(unit.id, error.code, str(error))
            except KeyError:
                writer.drop(unit.id, "no_upstream", "")
        writer.close({})
        self.files[stage], self.parts[stage] = path, writer
        return writer
