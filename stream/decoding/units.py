"""Numeric event times: their unit, its scale, and the range that they must be in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..config import Input
from .adapters import time_unit
from .contract import TIME_MS_MAX, TIME_MS_MIN

UNITS: Mapping[str, tuple[int, int]] = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000)}


class Unit(NamedTuple):
    """time * over // under = milliseconds, for times in [time_min, time_end) of the unit."""

    name: str
    over: int
    under: int
    time_min: int
    time_end: int

    @staticmethod
    def of(config: Input) -> Unit:
        name = time_unit(config)
        over, under = UNITS[name]
        return Unit(name, over, under, TIME_MS_MIN * under // over, TIME_MS_MAX * under // over)
