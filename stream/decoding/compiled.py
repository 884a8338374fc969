"""How the kernels of decoding are compiled: a few ways in, and what is nowhere to be seen but inside them.

None of them counts references to the arrays that it is given: that costs more than reading a short text. So
none may make an array or return one. What is inner is compiled with the kernel that calls it, and kept on disk
only as a piece of that: no way in from Python, no file of its own, which is most of the compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import extending, njit

Kernel = Callable[..., Any]

_BARE: dict[str, Any] = {"_nrt": False}
_INNER: dict[str, Any] = {**_BARE, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

kernel: Callable[[Kernel], Kernel] = njit(cache=True, nogil=True, **_BARE)
inner: Callable[[Kernel], Kernel] = njit(**_INNER)
inlined: Callable[[Kernel], Kernel] = njit(forceinline=True, **_INNER)  # for what every byte or value needs
intrinsic: Callable[[Kernel], Kernel] = (
    extending.intrinsic
)  # what the compiler can do, and numba has no word for
