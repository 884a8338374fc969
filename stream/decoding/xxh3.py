"""XXH3-64 of short texts, compiled: what `xxhash.xxh3_64_intdigest` gives for up to 128 bytes, seed 0.

Always true: `xxh3_64(data, a, b)` equals the library's hash of `bytes(data[a:b])`, so keys and tokens do not
say which half of decoding made them. Longer texts are not for here.

Source: Y. Collet, "XXH3", xxhash.h 0.8, and its specification (doc/xxhash_spec.md), one branch for each of
the lengths 0, 1-3, 4-8, 9-16 and 17-128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numpy.typing import NDArray

from .compiled import inner, intrinsic, kernel

XXH3_BYTES_MAX = 128

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    "<u8",
).astype(np.uint64)  # (16,) the part of the library's secret that short inputs use
_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_MIX_1 = np.uint64(0x165667919E3779F9)
_MIX_2 = np.uint64(0x9FB21C651E98DF25)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FLIP_0 = _SECRET[7] ^ _SECRET[8]
_FLIP_3 = (_SECRET[0] & _LOW) ^ (_SECRET[0] >> _HALF)
_FLIP_8 = _SECRET[1] ^ _SECRET[2]
_FLIP_16_LOW, _FLIP_16_HIGH = _SECRET[3] ^ _SECRET[4], _SECRET[5] ^ _SECRET[6]


@kernel
def xxh3_64(data: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """The hash of data[start:end], which is at most 128 bytes."""
    size = end - start
    if size > 16:
        return _upto_128(data, start, size)
    if size > 8:
        return _upto_16(data, start, size)
    if size > 3:
        return _upto_8(data, start, size)
    if size > 0:
        return _upto_3(data, start, size)
    return _avalanche_64(_FLIP_0)


@inner
def _upto_3(data, start, size):  # type: ignore[no-untyped-def]
    first, middle, last = data[start], data[start + (size >> 1)], data[start + size - 1]
    word = (first << 16) | (middle << 24) | (size << 8) | last
    return _avalanche_64(np.uint64(word) ^ _FLIP_3)


@inner
def _upto_8(data, start, size):  # type: ignore[no-untyped-def]
    word = (_word_32(data, start) << _HALF) + _word_32(data, start + size - 4)
    h = word ^ _FLIP_8
    h ^= (h << np.uint64(49) | h >> np.uint64(15)) ^ (h << np.uint64(24) | h >> np.uint64(40))
    h *= _MIX_2
    h ^= (h >> np.uint64(35)) + np.uint64(size)
    h *= _MIX_2
    return h ^ (h >> np.uint64(28))


@inner
def _upto_16(data, start, size):  # type: ignore[no-untyped-def]
    low = _word_64(data, start) ^ _FLIP_16_LOW
    high = _word_64(data, start + size - 8) ^ _FLIP_16_HIGH
    return _avalanche(np.uint64(size) + _swapped(low) + high + _folded(low, high))


@inner
def _upto_128(data, start, size):  # type: ignore[no-untyped-def]
    """Pairs of 16 bytes from both ends, inwards."""
    h = np.uint64(size) * _PRIME_1
    for i in range((size - 1) // 32, -1, -1):
        h += _mixed(data, start + 16 * i, 4 * i)
        h += _mixed(data, start + size - 16 * (i + 1), 4 * i + 2)
    return _avalanche(h)


@inner
def _mixed(data, at, secret):  # type: ignore[no-untyped-def]
    return _folded(_word_64(data, at) ^ _SECRET[secret], _word_64(data, at + 8) ^ _SECRET[secret + 1])


@inner
def _avalanche(h):  # type: ignore[no-untyped-def]
    h ^= h >> np.uint64(37)
    h *= _MIX_1
    return h ^ (h >> _HALF)


@inner
def _avalanche_64(h):  # type: ignore[no-untyped-def]
    h ^= h >> np.uint64(33)
    h *= _PRIME_2
    h ^= h >> np.uint64(29)
    h *= _PRIME_3
    return h ^ (h >> _HALF)


@inner
def _swapped(h):  # type: ignore[no-untyped-def]
    """The eight bytes in the other order."""
    byte, pair = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
    h = ((h & byte) << np.uint64(8)) | ((h >> np.uint64(8)) & byte)
    h = ((h & pair) << np.uint64(16)) | ((h >> np.uint64(16)) & pair)
    return (h << _HALF) | (h >> _HALF)


# --- what the compiler can do, and numba has no word for --------------------------------------------------


@intrinsic
def _word_32(typing: Any, data: Any, at: Any) -> Any:
    """Four bytes, the lowest first, at any place."""
    return types.uint64(data, at), _word(32)


@intrinsic
def _word_64(typing: Any, data: Any, at: Any) -> Any:
    """Eight bytes, the lowest first, at any place."""
    return types.uint64(data, at), _word(64)


def _word(bits: int) -> Any:
    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(bits).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return generated


@intrinsic
def _folded(typing: Any, a: Any, b: Any) -> Any:
    """The two halves of the 128-bit product of two words, one on the other."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(factor, wide) for factor in arguments))
        high = builder.trunc(builder.lshr(product, wide(64)), word)
        return builder.xor(builder.trunc(product, word), high)

    return types.uint64(types.uint64, types.uint64), generated
