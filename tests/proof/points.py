"""Where a simulated process touches the world: every such point has a number and a label.

A fake calls `reach("commit sent")` before and after each effect. The simulation, told so, decides what
happens there: nothing, the process is killed, an answer is lost, time passes, another process runs. What is
dead stays dead: every later point of a killed process raises again, so the `finally` blocks that Python runs
on the way out (close, leave the group) change nothing, as after `kill -9`.
"""

from __future__ import annotations

from collections.abc import Callable


class Crash(BaseException):
    """The process is killed here. Not an Exception: nothing in a process may survive it."""


def nothing(number: int, label: str) -> None:
    """What happens at a point, by default."""


class Points:
    """One process's points, numbered from 1. `act(number, label)` may raise, `dead` makes every point raise."""

    def __init__(self, act: Callable[[int, str], None] = nothing) -> None:
        self.act = act
        self.count = 0
        self.dead = False

    def reach(self, label: str) -> None:
        if self.dead:
            raise Crash
        self.count += 1
        try:
            self.act(self.count, label)
        except Crash:
            self.dead = True
            raise
