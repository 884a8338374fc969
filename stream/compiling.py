"""How kernels are compiled: kept on disk, and run without the interpreter's lock.

While one runs, the client library and the commit of the step before go on on another core. A kernel touches nothing
but the arrays it is given, and no other thread writes to those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

Kernel = Callable[..., Any]

kernel: Callable[[Kernel], Kernel] = njit(cache=True, nogil=True)
inlined: Callable[[Kernel], Kernel] = njit(cache=True, forceinline=True)  # for what every row or value needs
