"""Sixteen numbers at once, inside numba kernels.

Numba vectorises a loop when LLVM can, but it cannot keep a vector in a variable, and that is what a kernel with
running sums over sixteen centres needs. A value of type Lanes is one LLVM vector, <16 x float> or <16 x double>:
one or two registers with AVX-512, two or four with AVX2, and whatever LLVM makes of it elsewhere.

Always true: `+ - *` round each lane once, as numpy does, and are never fused, so arithmetic that must be exact
may use them. Only `fused`, `total` and `highest` leave LLVM a choice, so they belong where an error bound
covers the choice. No index is checked, and none counts from the end.

Source: "Extending Numba", low-level API (`intrinsic`, `register_model`); LLVM Language Reference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types
from numba.core import cgutils as llvm
from numba.extending import models, overload, register_model

intrinsic: Any = extending.intrinsic  # its types ask for the typing context too, which numba passes
cgutils: Any = llvm

LANES = 16

_BITS = ir.IntType(LANES)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_EACH = ir.Constant(ir.VectorType(_I32, LANES), list(range(LANES)))
_NAMES = {"float32": "f32", "float64": "f64"}


class Lanes(types.Type):
    """The numba type of sixteen numbers of one dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Lanes({dtype})")


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _vector(lanes.dtype))  # type: ignore[no-untyped-call]


def _vector(dtype: Any) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), LANES)


def _call(builder: Any, name: str, result: Any, arguments: list[Any], fastmath: tuple[str, ...] = ()) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments, fastmath=fastmath)


def _spread(builder: Any, value: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    first = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), first)


def _address(context: Any, builder: Any, array: Any, value: Any, i: Any) -> Any:
    """The address of element i of the values as they lie in memory, however many axes the array has."""
    assert array.layout == "C", f"lanes need an array without gaps, got layout {array.layout}"
    return builder.gep(context.make_array(array)(context, builder, value).data, [i])


def _place(context: Any, builder: Any, array: Any, value: Any, i: Any) -> Any:
    """The address of element i as that of sixteen."""
    return builder.bitcast(_address(context, builder, array, value, i), _vector(array.dtype).as_pointer())


def _read(builder: Any, pointer: Any, dtype: Any, mask: Any) -> Any:
    vector = _vector(dtype)
    zeros = ir.Constant(vector, [0.0] * LANES)
    align = ir.Constant(_I32, dtype.bitwidth // 8)
    name = f"llvm.masked.load.v{LANES}{_NAMES[dtype.name]}.p0"
    return _call(builder, name, vector, [pointer, align, mask, zeros])


def _first(builder: Any, count: Any) -> Any:
    return builder.icmp_signed("<", _EACH, _spread(builder, builder.trunc(count, _I32), _EACH.type))


@intrinsic
def take(_: Any, array: Any, i: Any) -> Any:
    """array[i : i + 16]."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _place(context, builder, array, arguments[0], arguments[1])
        return _read(builder, pointer, array.dtype, ir.Constant(_MASK, [1] * LANES))

    return Lanes(array.dtype)(array, types.intp), code


@intrinsic
def take_some(_: Any, array: Any, i: Any, count: Any) -> Any:
    """array[i : i + count] and zeros, where count may be anything; nothing past them is read."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _place(context, builder, array, arguments[0], arguments[1])
        mask = builder.icmp_signed(
            "<", _EACH, _spread(builder, builder.trunc(arguments[2], _I32), _EACH.type)
        )
        return _read(builder, pointer, array.dtype, mask)

    return Lanes(array.dtype)(array, types.intp, types.intp), code


@intrinsic
def put(_: Any, array: Any, i: Any, lanes: Any) -> Any:
    """array[i : i + 16] = lanes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _place(context, builder, array, arguments[0], arguments[1])
        builder.store(arguments[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@intrinsic
def put_some(_: Any, array: Any, i: Any, count: Any, lanes: Any) -> Any:
    """array[i : i + count] = lanes[:count], where count may be anything; nothing past them is written."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _place(context, builder, array, arguments[0], arguments[1])
        align = ir.Constant(_I32, array.dtype.bitwidth // 8)
        name = f"llvm.masked.store.v{LANES}{_NAMES[array.dtype.name]}.p0"
        mask = _first(builder, arguments[2])
        _call(builder, name, ir.VoidType(), [arguments[3], pointer, align, mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), code


@intrinsic
def spread(_: Any, value: Any) -> Any:
    """The same number in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _spread(builder, arguments[0], _vector(value))

    return Lanes(value)(value), code


@intrinsic
def spread_at(_: Any, array: Any, i: Any) -> Any:
    """array[i] in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _address(context, builder, array, arguments[0], arguments[1])
        one = context.data_model_manager[array.dtype].load_from_data_pointer(builder, pointer)
        return _spread(builder, one, _vector(array.dtype))

    return Lanes(array.dtype)(array, types.intp), code


@intrinsic
def rounded(_: Any, lanes: Any, like: Any) -> Any:
    """The lanes in the precision of the array `like`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _vector(like.dtype)
        if lanes.dtype == like.dtype:
            return arguments[0]
        cast = builder.fpext if like.dtype == types.float64 else builder.fptrunc
        return cast(arguments[0], vector)

    return Lanes(like.dtype)(lanes, like), code


def _operator(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    @intrinsic
    def apply(_: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return a(a, b), code

    @overload(symbol, strict=False)  # strict: annotations would have to be the same
    def typed(a: Any, b: Any) -> Any:
        if isinstance(a, Lanes) and a == b:
            return lambda a, b: apply(a, b)
        return None


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")


@intrinsic
def fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine can, else twice."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(
            builder, f"llvm.fmuladd.v{LANES}{_NAMES[a.dtype.name]}", _vector(a.dtype), list(arguments)
        )

    return a(a, b, c), code


@intrinsic
def size(_: Any, a: Any) -> Any:
    """|a|, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, f"llvm.fabs.v{LANES}{_NAMES[a.dtype.name]}", _vector(a.dtype), list(arguments))

    return a(a), code


@intrinsic
def one_lane(_: Any, lane: Any, value: Any, others: Any) -> Any:
    """The value in one lane, 0 .. 15, and another in the rest."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lane, one, rest = arguments
        here = builder.icmp_signed("==", _EACH, _spread(builder, builder.trunc(lane, _I32), _EACH.type))
        return builder.select(here, *(_spread(builder, number, _vector(value)) for number in (one, rest)))

    return Lanes(value)(types.int64, value, value), code


@intrinsic
def higher(_: Any, a: Any, b: Any) -> Any:
    """The larger of the two, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return a(a, b), code


@intrinsic
def highest(_: Any, a: Any) -> Any:
    """The largest lane; anything if one is not a number."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = f"llvm.vector.reduce.fmax.v{LANES}{_NAMES[a.dtype.name]}"
        return _call(builder, name, _vector(a.dtype).element, list(arguments), ("nnan",))

    return a.dtype(a), code


@intrinsic
def total(_: Any, a: Any) -> Any:
    """The sum of the lanes, added in any order."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = _vector(a.dtype).element
        name = f"llvm.vector.reduce.fadd.v{LANES}{_NAMES[a.dtype.name]}"
        return _call(builder, name, element, [ir.Constant(element, 0.0), *arguments], ("reassoc",))

    return a.dtype(a), code


@intrinsic
def at_least(_: Any, a: Any, limit: Any) -> Any:
    """Bit c is set where lane c >= limit."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = builder.fcmp_ordered(">=", arguments[0], _spread(builder, arguments[1], arguments[0].type))
        return builder.zext(builder.bitcast(found, _BITS), _I64)

    return types.int64(a, a.dtype), code


@intrinsic
def count_bits(_: Any, bits: Any) -> Any:
    return types.int64(types.int64), lambda context, builder, signature, arguments: builder.ctpop(*arguments)


@intrinsic
def lowest_bit(_: Any, bits: Any) -> Any:
    """The place of the lowest set bit; `bits` is not 0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), code
