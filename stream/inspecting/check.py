"""A user's changes, computed again and compared byte by byte with what was published.

    the steps     of the present epoch are computed again, from the oldest snapshot or from the epoch's beginning,
                  every hash compared with its manifest (as `shoal verify` does)
    the changes   of this user that those steps publish must be in segment.changes, in order, and no others:
                  key, value and headers

What was published before the first of these steps is not judged. A user's sequence never repeats and never passes
the number of the step, so it tells which records those are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..auditing.kept import OldestFirst
from ..config import Config
from ..events import CHANGES, Manifest, Output, OutRecord
from ..pipeline import Pipeline
from ..ports import Published, ReplayMismatch, Sink, Source, State, Store
from ..replica import Replica
from ..values import user_name
from .history import published_changes, value_of

_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Checked:
    """Made only where nothing differs."""

    agree: int  # changes: the same bytes
    earlier: int  # published before the first step that was computed: not judged
    gone: int  # computed, and deleted from the topic since
    steps: int  # computed again
    from_step: int  # after this one; 0: from the beginning
    last_step: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        start = f"after step {self.from_step:,}" if self.from_step else "from the beginning"
        lines = [
            f"{self.steps:,} steps computed again, {start} to step {self.last_step:,}: {self.agree:,} changes of this "
            f"user, the same bytes"
        ]
        if self.earlier:
            lines.append(f"{self.earlier:,} changes before that: not judged")
        if self.gone:
            lines.append(f"{self.gone:,} were deleted from the topic since, by retention")
        return "\n".join(lines)


class Recomputed(Replica):
    """A replica that keeps what its steps publish about one user."""

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        ports: tuple[Source, Sink, Store],
        key: str,
        told: Callable[[int], object],
    ) -> None:
        super().__init__(config, pipeline, *ports)
        self.computed: list[tuple[int, OutRecord]] = []  # with the step
        self.replayed = 0
        self.from_step = 0
        self.known = 0  # the user's sequence before the first step that is computed
        self._key, self._told = key, told

    def advance(self, output: Output) -> None:
        super().advance(output)
        self.replayed += 1
        wanted = self._key.encode()
        self.computed += [(output.step, r) for r in output.records if r.topic == CHANGES and r.key == wanted]
        self._told(output.step)

    def note(self, manifest: Manifest) -> None:
        super().note(manifest)
        if manifest.opening:  # what it says follows from what was published, not from a state
            self._begins(manifest.step)

    def _restore(self, state: State) -> None:
        super()._restore(state)
        self._begins(self.pipeline.chain.step)

    def _begins(self, step: int) -> None:
        slot = self.pipeline.users.slot(user_name(self._key))
        placed = 0 if slot is None else int(self.pipeline.membership.sequence[slot])
        self.from_step, self.known, self.computed = step, placed or step, []

    def maybe_save(self) -> None:
        """The engine's snapshots are not ours to make."""


def check_user(
    config: Config,
    ports: tuple[Source, Sink, Store],
    fresh: Callable[[], Pipeline],
    key: str,
    from_scratch: bool = False,
    patience_s: float = 0.0,
    told: Callable[[int], object] = lambda step: None,
) -> Checked:
    """Raises ReplayMismatch at the first difference; StateMismatch, SourceGone where it cannot compute.

    An engine may run meanwhile. `patience_s`: how long the parts of a transaction may take to show.
    """
    source, sink, store = ports
    steps = () if from_scratch else [step for step, _, _ in store.newest(not_past=1 << 62)]
    again = Recomputed(config, fresh(), (source, sink, OldestFirst(store, steps)), key, told)
    _follow(again, sink)
    deadline_s = time.monotonic() + patience_s
    while True:
        covered, bounds = again.steps, sink.bounds(CHANGES)
        published = published_changes(sink, key)
        here = {each.partition for each in published} or set(bounds)
        _follow(again, sink)  # what is published was committed by now
        try:
            return compare(again, published, any(bounds.get(p, (0, 0))[0] for p in here), covered)
        except ReplayMismatch:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(_AGAIN_S)


def _follow(again: Recomputed, sink: Sink) -> None:
    last = sink.last()
    if last is not None and last.step > again.steps:
        again.catch_up(last)


def compare(again: Recomputed, published: Sequence[Published], shortened: bool, covered: int) -> Checked:
    """What the steps up to `covered` publish must be there, what later ones do may be.

    `shortened`: retention took the beginning of the topic, and maybe records of this user with it.
    """
    judged = [each for each in published if _sequence(each) > again.known]
    due = sum(step <= covered for step, _ in again.computed)
    gone = max(0, due - len(judged)) if shortened else 0
    wanted = again.computed[gone : max(due, len(judged) + gone)]
    for at, (step, record) in enumerate(wanted):
        if at == len(judged):
            raise ReplayMismatch(f"{CHANGES}: the change of this user that step {step} publishes is missing")
        if judged[at].record != record:
            raise ReplayMismatch(_difference(step, record, judged[at]))
    if len(judged) > len(wanted):
        extra = judged[len(wanted)]
        raise ReplayMismatch(f"{_where(extra)}: a change of this user that no step publishes")
    earlier = sum(_sequence(each) <= again.known for each in published)
    return Checked(len(wanted), earlier, gone, again.replayed, again.from_step, again.steps)


def _sequence(published: Published) -> int:
    """As the record says; one that says nothing is judged, as if it were the last."""
    position = (value_of(published) or {}).get("position")
    sequence = position.get("sequence") if isinstance(position, dict) else None
    return sequence if isinstance(sequence, int) else 1 << 62


def _difference(step: int, wanted: OutRecord, found: Published) -> str:
    what = "headers" if wanted.value == found.record.value else "value"
    names = ""
    if what == "value":
        here, there = value_of(Published(wanted, 0, 0)) or {}, value_of(found)
        differ = [name for name in here if there is not None and here[name] != there.get(name)]
        names = f" ({', '.join(differ)})" if differ else ""
    return (
        f"{_where(found)}: not the {what}{names} of the change of this user that step {step} publishes when it is "
        f"computed again"
    )


def _where(found: Published) -> str:
    return f"{CHANGES} partition {found.partition} offset {found.offset}"
