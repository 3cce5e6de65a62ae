"""The Triton kernels compiled to machine code for an NVIDIA Hopper GPU. This needs no GPU.

The interpreter tests check what the kernels compute; this one that a GPU's compiler takes them,
with the specialisations a launch may make (an integer argument of 1 becomes a constant).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

COMPILE = r"""
import re
import subprocess
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from data.optical_flow import triton_backend as flow
from models.layers import selective_scan_triton as scan

WHOLE = {"warps", "inner", "outer", "i0_stride", "length", "width", "states", "batch", "segment",
         "segments", "rows"}
REAL = {"lt", "theta", "taut", "limit"}

def build(kernel, constants, **options):
    names = [parameter.name for parameter in kernel.params]
    kinds = {}
    for name in names:
        kinds[name] = (
            "constexpr" if name in constants else "i32" if name in WHOLE else
            "fp32" if name in REAL else "*i32" if name == "steps" else "*fp32"
        )
    fixed = {(names.index(name),): value for name, value in constants.items() if name in names}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=fixed)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(made.asm["cubin"]) > 1000
    assert made.metadata.shared < 200_000
    return made

def usage(cubin):
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True)
    return told.stdout.decode()

once = {"warps": 1, "inner": 1, "outer": 1}
for (height, width), median, ones in (
    ((53, 53), 1, once), ((102, 128), 3, {}), ((224, 224), 5, {}),
):
    cut = flow.choose_tiling(height, width)
    made = build(
        flow.solve_level_kernel,
        {"H": height, "W": width, "MEDIAN": median, "ROWS": cut.rows, "AHEAD": cut.ahead,
         "DOWN": cut.down, "ACROSS": cut.across, "STRIPS": flow.STRIPS, "COLUMNS": flow.COLUMNS,
         "SLOTS": flow.SLOTS, **ones},
        num_warps=flow.STRIPS, maxnreg=flow.REGISTERS,
    )
    # A tile's ten planes stay in registers: hardly a value of a thread goes to its stack.
    stack = re.search(r"STACK:(\d+)", usage(made.asm["cubin"]))
    assert int(stack[1]) <= 64 * 4, stack[0]
blocks = {"BLOCK_D": scan.BLOCK_CHANNELS, "BLOCK_N": 16}
for ones in ({}, {"length": 1, "segment": 1, "segments": 1}, {"batch": 1}):
    build(scan._forward_kernel, {"KEEP": True, **blocks, **ones})
    build(scan._backward_kernel, {**blocks, **ones})
build(scan._forward_kernel, {"KEEP": False, **blocks})
print("compiled")
"""


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (extra kernels)")
def test_kernels_compile_for_a_hopper_gpu(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    script = tmp_path / "compile_kernels.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(root)!r})\n{COMPILE}")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip().endswith("compiled"), done.stderr[-3000:]
