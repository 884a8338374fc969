"""River's rule with a step per centre that finds its own size.

The winner w of a row x moves by c_w += h_w (x - c_w), as ever; only h_w is not constant. A step is too large
when the centre runs after noise and too small when it lags behind, and both show in the same place: with the
right step the errors e = x - c_w, each taken before its row was learned, do not depend on those before
(Mehra 1970). Let g = sum of past errors, the one from i rows ago weighted by (1-h)^i: the derivative of the
centre by its step. Then e . g is the derivative of the squared error, turned round (Benveniste, Metivier &
Priouret 1990), and for noise of variance S = E|e|^2 round a point that moves by v per row

    E[e . g] = v^2 / h^3 - S / 4                     zero at h = (4 v^2 / S)^(1/3), the best step there is

So log h += gain h (e . g) / S. Nothing else is needed:

    no drift      the mean of log h falls by gain h / 4 per row, so h = (4 / gain) / n after n rows: with gain 4
                  the plain mean of all rows so far, with 2 about that
    drift         h stays at its best value, its log spread by sqrt(gain / 6d): little error in many dimensions;
                  gain 2 is half the spread of 4's square (measured: 0.1 % less inertia in slow drift), and in
                  less than four dimensions it is d / 2, so that the spread is 0.29 at most
    a jump        g points where the errors point, and h grows as fast as the clip allows until it is over
    any unit      e . g and S scale alike; a thin centre has its own rows, hence its own time

An error beyond `REACH` times its usual size counts as that size (in the step's arithmetic, not in the rule):
a heavy tail is no evidence of anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiling import kernel
from ..events import F64, I32
from .river_rule import COMPENSATED, _distances, _finite, _winner

STEP_MIN = 1e-3
"""Costs 0.05 % of the inertia (h / 2), and a centre that was still for a year can still be woken."""
STEP_MAX = 0.1
"""A centre that remembers less than ten rows would only be where its latest row was: with groups that take turns
(night and day), that did fit best row by row, and no segment was left in it."""
GAIN_MAX = 2.0
CLIP = 0.25  # log h changes by at most this much per row
REACH = 2.0
ENERGY_STEP_MIN = 0.01  # S is the mean over the last hundred rows at least


@dataclass(frozen=True, slots=True)
class Learned:
    """What was true of each of n rows before it moved anything."""

    winner: I32  # (n,) -1: not finite, not learned
    second: I32  # (n,) the nearest centre but one; -1: there is only one
    near: F64  # (n,) squared distance to the winner
    next: F64  # (n,) and to the second; infinite where there is none
    step: F64  # (n,) the step used: River's `halflife` for this row


def follow(centres: F64, z: F64, steps: F64, traces: F64, energy: F64) -> Learned:
    """Move the centres (k, d) by the rows (n, d), in order; steps (k,), traces (k, d), energy (k,): all in place."""
    n = len(z)
    seen = Learned(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n), np.empty(n), np.empty(n))
    _follow(
        centres, z, steps, traces, energy, COMPENSATED,
        seen.winner, seen.second, seen.near, seen.next, seen.step,
    )  # fmt: skip
    return seen


@kernel
def _follow(
    centres: Any, z: Any, steps: Any, traces: Any, energy: Any, compensated: bool,
    winner: Any, second: Any, near: Any, following: Any, used: Any,
) -> None:  # fmt: skip
    columns = centres.T.copy()  # (d, k)
    distances = np.empty(columns.shape[1], np.float64)
    for i in range(len(z)):
        x = z[i]
        winner[i], second[i], near[i], following[i], used[i] = -1, -1, np.inf, np.inf, 0.0
        if not _finite(x):
            continue
        _distances(columns, x, 2.0, distances)
        w = _winner(columns, x, 2.0, compensated, distances)
        for c in range(len(distances)):
            if c != w and distances[c] < following[i]:
                second[i], following[i] = c, distances[c]
        winner[i], near[i], used[i] = w, distances[w], steps[w]
        steps[w] = _next_step(columns, w, x, distances[w], steps[w], traces[w], energy)
        for j in range(len(x)):
            columns[j, w] += used[i] * (x[j] - columns[j, w])
    centres[:] = columns.T


@kernel
def _next_step(columns: Any, w: int, x: Any, gap: float, h: float, trace: Any, energy: Any) -> float:
    """The step for the winner's next row; its trace and energy learn from this one."""
    usual = energy[w]
    short = 1.0
    if usual > 0.0 and gap > REACH * REACH * usual:
        short = REACH * np.sqrt(usual / gap)
    energy[w] = usual + max(h, ENERGY_STEP_MIN) * (short * short * gap - usual)
    along = 0.0
    for j in range(len(x)):
        error = short * (x[j] - columns[j, w])
        along += error * trace[j]
        trace[j] = (1.0 - h) * trace[j] + error
    if not usual > 0.0:
        return h
    gain = min(GAIN_MAX, 0.5 * len(x))
    u = min(max(gain * h * along / usual, -CLIP), CLIP)
    return min(max(h * (1.0 + u + 0.5 * u * u), STEP_MIN), STEP_MAX)  # e^u, the same on every machine
