"""Flow fields as they are stored: number formats, what they lose, and reading them back."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data.optical_flow.numba_backend import strain_and_half

MAX_LOSS_PX = 0.005
FlowField = npt.NDArray[np.float32]


def quantise(
    fields: FlowField, store: str
) -> tuple[npt.NDArray[Any], float, float, npt.NDArray[np.float16]]:
    """Flows in the number format `store`, what to multiply by to have pixels, the loss, the strain.

    The loss is the largest change of a component in pixels. int16 uses steps of 1/1024 px, doubled
    until the largest value fits. float16 that would lose more than MAX_LOSS_PX becomes float32.
    """
    half, strain, loss = strain_and_half(fields)
    if store == "int16":
        scale = 2.0**-10
        while _largest(fields) / scale > np.iinfo(np.int16).max:
            scale *= 2
        whole = np.rint(fields / np.float32(scale)).astype(np.int16)
        return whole, scale, _largest(whole * np.float32(scale) - fields), strain
    if store == "float16" and loss <= MAX_LOSS_PX:
        return half, 1.0, loss, strain
    return fields, 1.0, 0.0, strain


def _largest(values: FlowField) -> float:
    return float(max(values.max(initial=0), -values.min(initial=0)))


def read_flow(group: h5py.Group, index: int | None = None) -> FlowField:
    """Stored flow in pixels, float32: one pair (H,W,2), or all (P,H,W,2)."""
    flow = group["flow"]
    values = flow[:] if index is None else flow[index]
    return values.astype(np.float32) * np.float32(flow.attrs["scale"])
