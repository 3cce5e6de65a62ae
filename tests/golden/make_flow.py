"""Write the golden flows: what cv2 5.0's DualTVL1 gives for small pairs of known motion.

    python -m tests.golden.make_flow            (needs cv2.optflow 5.0 and scikit-image)

Each flow_<case>.npz holds i0, i1 (N,H,W) uint8 cut from tests/fakes/flow_pairs.py, flow
(N,H,W,2) as OpenCV returned it (float32 where the test is sharp, else float16), and as scalars the
parameters that differ from the defaults. The pairs are ones that rounding moves little: on many
others OpenCV's own result changes by 1e-3 px (fixed steps) or 0.02 px (defaults) when its input is
shaken by 1e-5 grey levels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.optical_flow import tvl1
from tests.fakes.flow_pairs import make_pair

HERE = Path(__file__).parent
SINGLE = {"levels": 1, "warps": 1, "outer": 1, "inner": 30, "median": 1, "eps": 0.0}
CASES = {  # name: (pairs, height, width, dtype, parameters)
    "single_level": ((0, 3), 48, 48, np.float32, SINGLE),
    "fixed_steps": ((0,), 64, 64, np.float32, {"outer": 2, "eps": 0.0}),
    "fixed_steps_odd": ((1,), 61, 75, np.float32, {"outer": 2, "eps": 0.0, "step": 0.5}),
    "median3": ((6,), 64, 48, np.float32, {"outer": 2, "eps": 0.0, "median": 3, "levels": 2}),
    "defaults": ((0, 1), 96, 96, np.float16, {}),
}


def cut(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The centre of a 128-pixel pair."""
    first, second, _ = make_pair(128, number)
    top, left = (128 - height) // 2, (128 - width) // 2
    window = slice(top, top + height), slice(left, left + width)
    return first[window], second[window]


def main() -> None:
    """Write every case beside this file."""
    for name, (numbers, height, width, dtype, parameters) in CASES.items():
        pairs = [cut(number, height, width) for number in numbers]
        i0, i1 = (np.stack(images) for images in zip(*pairs, strict=True))
        flow = tvl1(i0, i1, backend="opencv", **parameters).astype(dtype)
        np.savez_compressed(
            HERE / f"flow_{name}.npz",
            i0=i0, i1=i1, flow=flow, opencv=cv2.__version__, **parameters,
        )  # fmt: skip


if __name__ == "__main__":
    main()
