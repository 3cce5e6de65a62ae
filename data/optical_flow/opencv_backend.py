"""OpenCV's own DualTVL1 behind the same signature: the peer that the others are measured against.

Only the contrib wheels of OpenCV hold it. A fresh object is made for each call, because the
object keeps a lowered level count after one small image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import MissingExtraError
from data.optical_flow.settings import SolverSettings

Array = npt.NDArray[Any]


def make_solver(settings: SolverSettings) -> Any:
    """A cv2.optflow object with these parameters."""
    try:
        from cv2 import optflow
    except ImportError as missing:
        raise MissingExtraError(
            "tvl1(backend='opencv')",
            expected="cv2.optflow",
            got="an OpenCV wheel without it",
            todo="Uninstall every opencv-* wheel, then install opencv-contrib-python-headless.",
        ) from missing
    solver = optflow.DualTVL1OpticalFlow_create()  # type: ignore[attr-defined]
    solver.setTau(settings.tau)
    solver.setLambda(settings.lam)
    solver.setTheta(settings.theta)
    solver.setScalesNumber(settings.levels)
    solver.setScaleStep(settings.step)
    solver.setWarpingsNumber(settings.warps)
    solver.setEpsilon(settings.eps)
    solver.setInnerIterations(settings.inner)
    solver.setOuterIterations(settings.outer)
    solver.setMedianFiltering(settings.median)
    return solver


def solve(
    i0: Array,
    i1: Array,
    settings: SolverSettings,
    init: Array | None,
    out: Array,
    gain: float = 1.0,
) -> None:
    """Flow of N pairs into out (N,H,W,2); i0 is (1,H,W) or (N,H,W). OpenCV's own threading."""
    solver = make_solver(settings)
    for n in range(len(i1)):
        first, second = i0[n if len(i0) > 1 else 0], i1[n]
        if first.dtype != np.uint8:  # OpenCV multiplies float images by 255 itself
            first, second = (image * np.float32(gain / 255) for image in (first, second))
        start = None if init is None else init[n].copy()
        solver.setUseInitialFlow(init is not None)
        out[n] = solver.calc(np.ascontiguousarray(first), np.ascontiguousarray(second), start)
