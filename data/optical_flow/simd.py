"""Vectors of float32 inside numba functions: one value that holds 16 (or 8) neighbouring pixels.

Numba leaves vectorising to LLVM, which gives up on loops over many arrays (alias checks) and often
halves the vector width. Here a vector is a type of its own: `load` and `store` move 16 pixels,
`+ - * /` work on all of them, and every line of a kernel is one machine instruction or a few. No
process-wide compiler option is needed and compiling is quick, for there is nothing to search.

Floating point is IEEE except that a product and a sum may fuse, a division may become a reciprocal,
a square root may be approximated to the last bit or so, and the sign of zero is free. Infinity and
NaN keep their meaning.

This module imports numba: import it inside functions only.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16 if llvm.get_host_cpu_features().get("avx512f", False) else 8
FLAGS = ("contract", "nsz", "arcp", "afn")

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


class VectorType(types.Type):
    """Numba's type of LANES float32."""

    def __init__(self) -> None:
        super().__init__(name=f"f32x{LANES}")


class MaskType(types.Type):
    """Numba's type of LANES yes/no answers, as comparisons give."""

    def __init__(self) -> None:
        super().__init__(name=f"maskx{LANES}")


vector, mask = VectorType(), MaskType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _MASK)


def _broadcast(context, builder, value, kind):
    """The value as a vector: itself, or a number copied to every lane."""
    if isinstance(kind, VectorType):
        return value
    number = context.cast(builder, value, kind, types.float32)
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, empty, zeros)


def _pointer(context, builder, signature, args):
    """Address of LANES floats that begin at args[0][args[1]]; unaligned, not bounds-checked."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return builder.bitcast(builder.gep(array.data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typing, array, index):
    """array[index : index + LANES] of a contiguous 1-D float32 array."""

    def generate(context, builder, signature, args):
        return builder.load(_pointer(context, builder, signature, args), align=4)

    return vector(array, index), generate


@intrinsic
def store(typing, array, index, value):
    """array[index : index + LANES] = value, for a contiguous 1-D float32 array."""

    def generate(context, builder, signature, args):
        lanes = _broadcast(context, builder, args[2], signature.args[2])
        builder.store(lanes, _pointer(context, builder, signature, args), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def store_half(typing, array, index, value):
    """Round the value to float16 into a contiguous 1-D uint16 array; returns what it became."""

    def generate(context, builder, signature, args):
        halves = ir.VectorType(ir.HalfType(), LANES)
        rounded = builder.fptrunc(args[2], halves)
        target = context.make_array(signature.args[0])(context, builder, args[0])
        index = context.cast(builder, args[1], signature.args[1], types.intp)
        address = builder.bitcast(builder.gep(target.data, [index]), halves.as_pointer())
        builder.store(rounded, address, align=2)
        return builder.fpext(rounded, _VECTOR)

    return vector(array, index, vector), generate


@intrinsic
def splat(typing, number):
    """A vector with the same number in every lane."""

    def generate(context, builder, signature, args):
        return _broadcast(context, builder, args[0], signature.args[0])

    return vector(number), generate


@intrinsic
def ramp(typing):
    """0, 1, 2, … LANES − 1."""

    def generate(context, builder, signature, args):
        return ir.Constant(_VECTOR, [float(lane) for lane in range(LANES)])

    return vector(), generate


@intrinsic
def select(typing, condition, yes, no):
    """Lane by lane: yes where the condition holds, no elsewhere."""

    def generate(context, builder, signature, args):
        yes, no = (
            _broadcast(context, builder, a, t)
            for a, t in zip(args[1:], signature.args[1:], strict=True)
        )
        return builder.select(args[0], yes, no)

    return vector(condition, yes, no), generate


def _two_operands(result, emit):
    """An intrinsic of two operands, each a vector or a number."""

    @intrinsic
    def operation(typing, left, right):
        def generate(context, builder, signature, args):
            operands = (
                _broadcast(context, builder, a, t)
                for a, t in zip(args, signature.args, strict=True)
            )
            return emit(builder, *operands)

        return result(left, right), generate

    return operation


def _overload_operator(symbol, operation):
    def implementation(left, right):
        if isinstance(left, VectorType) or isinstance(right, VectorType):
            return lambda left, right: operation(left, right)
        return None

    overload(symbol)(implementation)


_overload_operator(operator.add, _two_operands(vector, lambda b, x, y: b.fadd(x, y, flags=FLAGS)))
_overload_operator(operator.sub, _two_operands(vector, lambda b, x, y: b.fsub(x, y, flags=FLAGS)))
_overload_operator(operator.mul, _two_operands(vector, lambda b, x, y: b.fmul(x, y, flags=FLAGS)))
_overload_operator(
    operator.truediv, _two_operands(vector, lambda b, x, y: b.fdiv(x, y, flags=FLAGS))
)
_overload_operator(operator.lt, _two_operands(mask, lambda b, x, y: b.fcmp_ordered("<", x, y)))
_overload_operator(operator.gt, _two_operands(mask, lambda b, x, y: b.fcmp_ordered(">", x, y)))
_overload_operator(operator.eq, _two_operands(mask, lambda b, x, y: b.fcmp_ordered("==", x, y)))

minimum = _two_operands(vector, lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
maximum = _two_operands(vector, lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


def _one_operand(name, result=vector, first=(), fastmath=()):
    """An intrinsic that calls LLVM's own function `name` on a vector."""
    returned = _VECTOR if result is vector else _F32
    function = ir.FunctionType(returned, [c.type for c in first] + [_VECTOR])

    @intrinsic
    def operation(typing, value):
        def generate(context, builder, signature, args):
            callee = cgutils.get_or_insert_function(builder.module, function, f"{name}.v{LANES}f32")
            return builder.call(callee, [*first, args[0]], fastmath=fastmath)

        return result(value), generate

    return operation


sqrt = _one_operand("llvm.sqrt", fastmath=FLAGS)
floor = _one_operand("llvm.floor")
lane_sum = _one_operand(
    "llvm.vector.reduce.fadd", types.float32, (ir.Constant(_F32, 0.0),), ("reassoc", "nsz")
)
lane_min = _one_operand("llvm.vector.reduce.fmin", types.float32, fastmath=("nnan", "nsz"))
lane_max = _one_operand("llvm.vector.reduce.fmax", types.float32, fastmath=("nnan", "nsz"))
