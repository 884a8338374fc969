"""Loads and stores at an address, for compiled kernels whose blocks mix numbers of several sizes.

Why: to hand an array to a small compiled function costs more than what such a function does (reference counts,
seven fields, an index that may be negative); an address is one number. Kernels over arrays of bytes were 5 times
slower than these (measured). Nothing is checked: who calls vouches that the address lies within memory that
stays where it is and outlives the call. Numbers are little-endian and need no alignment.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = types.int64


def _load(bits):
    def load(typingctx, address):
        def generate(context, builder, signature, args):
            kind = ir.IntType(bits)
            value = builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=1)
            return value if bits == 64 else builder.sext(value, ir.IntType(64))

        return _I64(_I64), generate

    return intrinsic(load)


def _store(bits):
    def store(typingctx, address, value):
        def generate(context, builder, signature, args):
            kind = ir.IntType(bits)
            value = args[1] if bits == 64 else builder.trunc(args[1], kind)
            builder.store(value, builder.inttoptr(args[0], kind.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(_I64, _I64), generate

    return intrinsic(store)


def _store_float(typingctx, address, value):
    """(address, float64): as a float32."""

    def generate(context, builder, signature, args):
        kind = ir.FloatType()
        target = builder.inttoptr(args[0], kind.as_pointer())
        builder.store(builder.fptrunc(args[1], kind), target, align=1)
        return context.get_dummy_value()

    return types.void(_I64, types.float64), generate


def _move(typingctx, to, source, size):
    """Copy `size` bytes; the two places may overlap."""

    def generate(context, builder, signature, args):
        kind = ir.IntType(8).as_pointer()
        to, source = (builder.inttoptr(arg, kind) for arg in args[:2])
        cgutils.raw_memmove(builder, to, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(_I64, _I64, _I64), generate


def _wipe(typingctx, at, size):
    """Zero `size` bytes."""

    def generate(context, builder, signature, args):
        kind = ir.IntType(8).as_pointer()
        cgutils.memset(builder, builder.inttoptr(args[0], kind), args[1], 0)
        return context.get_dummy_value()

    return types.void(_I64, _I64), generate


def _prefetch(typingctx, address):
    """Ask for the cache line that holds this address; any address will do."""

    def generate(context, builder, signature, args):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [builder.inttoptr(args[0], pointer), number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(_I64), generate


def _ones(typingctx, bits):
    """How many of 64 bits are set."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return _I64(_I64), generate


def _lowest(typingctx, bits):
    """Number of the lowest bit set; 64 for none."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(0))

    return _I64(_I64), generate


# typed Any: numba's own types say that an intrinsic is called with one argument too many
load16: Any = _load(16)  # (address) -> the signed number of so many bits that stands there
load32: Any = _load(32)
load64: Any = _load(64)
store16: Any = _store(16)  # (address, value): the value's lower bits
store32: Any = _store(32)
store64: Any = _store(64)
store_float: Any = intrinsic(_store_float)  # (address, value)
move: Any = intrinsic(_move)  # (to, source, size)
wipe: Any = intrinsic(_wipe)  # (address, size)
prefetch: Any = intrinsic(_prefetch)  # (address)
ones: Any = intrinsic(_ones)  # (bits)
lowest: Any = intrinsic(_lowest)  # (bits)
