"""The table at the end: what was done, how often, what diverged, how long it took."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from .auditor import Divergence


@dataclass(frozen=True)
class Done:
    """A fault that was done."""

    name: str
    first_step: int  # the newest committed one before it
    seconds: float  # from its beginning to the first step committed after it


@dataclass
class Report:
    seed: int
    done: list[Done] = field(default_factory=list)
    divergences: Sequence[Divergence] = ()
    facts: dict[str, object] = field(default_factory=dict)

    def during(self, step: int) -> str:
        """What was being done when a step was committed."""
        return next((done.name for done in reversed(self.done) if done.first_step < step), "start")

    def text(self) -> str:
        found: dict[str, int] = defaultdict(int)
        for divergence in self.divergences:
            found[divergence.during] += 1
        times: dict[str, list[float]] = defaultdict(list)
        for done in self.done:
            times[done.name].append(done.seconds)
        names = [*sorted(times), *sorted(set(found) - set(times))]
        width = max(map(len, [*names, "fault"]))
        lines = [f"{'fault':{width}}  count  divergences  s until a step is committed again (median, most)"]
        for name in names:
            took = times[name]
            shown = f"{statistics.median(took):10.1f} {max(took):6.1f}" if took else ""
            lines.append(f"{name:{width}}  {len(took):5}  {found[name]:11}  {shown}")
        lines.append(f"{'all':{width}}  {len(self.done):5}  {len(self.divergences):11}")
        lines += [f"{name}: {value}" for name, value in self.facts.items()]
        lines += [f"DIVERGENCE {d.what}, during {d.during!r}: {d.detail}" for d in self.divergences[:20]]
        return "\n".join(lines)
