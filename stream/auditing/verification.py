"""The whole check of a deployment, finished or running, in this order:

    the line      every manifest there is: steps, hashes, epochs, tiling, counts
    the steps     of the present epoch, computed again from the oldest snapshot or from its beginning; from
                  scratch: of every epoch that this configuration made. Each snapshot on the way is compared
    the topics    what subscribers see, against what was computed

An engine may run meanwhile. So what the steps computed so far published must be inside the bounds of the
topics, which are asked for after that; what was published later may be inside them; and before a record is
called extra, the manifests that came meanwhile are followed. Nothing is fenced, no group is joined.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import Config
from ..events import MANIFEST, Manifest
from ..pipeline import Pipeline
from ..ports import (
    ConfigError,
    DiskFailed,
    ReplayMismatch,
    Sink,
    Source,
    StateMismatch,
    Store,
)
from ..replica import check_user_key
from .auditor import TOPICS, Auditor, Progress
from .comparison import Comparison, Difference, Tally
from .kept import Loaded, OldestFirst
from .line import Epoch, Line

log = logging.getLogger("shoal")
_AGAIN_S = 0.2


@dataclass(slots=True)
class Report:
    """What was compared; it is only made when nothing differs."""

    steps: int = 0  # computed again
    records: int = 0  # input records of these steps
    last_step: int = 0
    epoch: int = 0
    from_snapshot: int | None = None  # its step; None: from the beginning of an epoch
    chained: int = 0  # steps of which only manifests were checked
    snapshots: list[int] = field(default_factory=list)  # steps of those that were compared
    topics: dict[str, Tally] = field(default_factory=dict)
    state_hash: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | self._sums() | {"same": True}

    def _sums(self) -> dict[str, int]:
        tallies = self.topics.values()
        return {
            "published": sum(tally.compared for tally in tallies),
            "gone": sum(tally.gone for tally in tallies),
            "earlier": sum(tally.earlier for tally in tallies),
        }

    def text(self) -> str:
        """For people: what was compared, then what was not."""
        sums = self._sums()
        start = (
            "the beginning" if self.from_snapshot is None else f"the snapshot of step {self.from_snapshot}"
        )
        lines = [
            f"{self.steps:,} steps and {self.records:,} input records computed again, from {start} to step "
            f"{self.last_step:,}; {sums['published']:,} published records in {len(self.topics)} topics: the same "
            f"bytes"
        ]
        if self.snapshots:
            lines.append(f"snapshots of steps {', '.join(map(str, self.snapshots))}: the same state")
        if self.chained:
            lines.append(
                f"{self.chained:,} steps before that: manifests checked (order, hashes, ranges, counts)"
            )
        if sums["earlier"]:
            lines.append(f"{sums['earlier']:,} published records of steps before that: not judged")
        if sums["gone"]:
            lines.append(f"{sums['gone']:,} records were deleted since, by retention or compaction")
        return "\n".join(lines)


class Verification:
    """`run` raises at the first difference: ReplayMismatch; StateMismatch, SourceGone where it cannot compute."""

    def __init__(
        self,
        config: Config,
        ports: tuple[Source, Sink, Store],
        fresh: Callable[[], Pipeline],
        from_scratch: bool = False,
        patience_s: float = 0.0,
        told: Progress = lambda step: None,
    ) -> None:
        """`patience_s`: how long the parts of a transaction may take to show, where the log has such parts."""
        self._config = config
        self._source, self._sink, self._store = ports
        self._fresh = fresh
        self._from_scratch = from_scratch
        self._patience_s = patience_s
        self._told = told
        self._line = Line()
        self._saved: dict[int, str] = {}  # step -> manifest hash, of snapshots that belong to the line
        self._held: Loaded | None = None  # the oldest of all

    def run(self) -> Report:
        """Steps is 0 where nothing is recorded."""
        self._follow()
        if not self._line.epochs:
            return Report()
        snapshots = OldestFirst(self._store, () if self._from_scratch else self._saved, self._held)
        self._held = None  # its memory is the pipeline's now
        auditor = self._compute(snapshots)
        tallies = self._compare(auditor)
        return Report(
            auditor.computed, auditor.records, auditor.steps, self._line.epochs[-1].number, snapshots.given,
            self._line.step - self._line.first_step + 1 - auditor.computed, auditor.checked, tallies,
            auditor.pipeline.chain.state_hash,
        )  # fmt: skip

    # --- the line --------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        found: dict[int, str] = {}
        for saved in self._store.newest(not_past=1 << 62):
            found[saved[0]], self._held = saved[1], saved
        for manifest in _readable(self._sink.manifests()):
            if self._line.follow(manifest) == found.get(manifest.step):
                self._saved[manifest.step] = found[manifest.step]
        for step in sorted(found.keys() - self._saved.keys()):
            log.warning("the snapshot of step %d belongs to none of the manifests; it is passed over", step)

    # --- what is computed ------------------------------------------------------------------------------------

    def _compute(self, snapshots: OldestFirst) -> Auditor:
        epochs, auditor = self._epochs(), self._auditor(snapshots)
        if len(epochs) > 1:
            auditor.keep_tables()
        try:
            for epoch in epochs:
                auditor.catch_up(epoch.last)
        except ReplayMismatch as error:
            if snapshots.given is None:
                raise
            raise ReplayMismatch(
                f"{error}. It was computed from the snapshot of step {snapshots.given}: if --from-scratch finds "
                f"nothing, that snapshot is what is wrong"
            ) from None
        return auditor

    def _epochs(self) -> list[Epoch]:
        """The present one; from scratch, also those before it that were made alike and are still there."""
        *before, last = self._line.epochs
        chosen = [last]
        while self._from_scratch and before and before[-1].whole and _alike(before[-1], last):
            chosen.insert(0, before.pop())
        return chosen

    def _auditor(self, store: Store) -> Auditor:
        auditor = Auditor(
            self._config, (self._source, self._sink, store), self._line, self._store, self._saved, self._fresh,
            self._told,
        )  # fmt: skip
        self._check_made_here(self._line.epochs[-1], auditor.pipeline)
        return auditor

    def _check_made_here(self, epoch: Epoch, pipeline: Pipeline) -> None:
        check_user_key(epoch.last, pipeline)
        if epoch.config_hash != pipeline.config_hash:
            raise StateMismatch(
                f"step {epoch.last.step} was made with configuration {epoch.config_hash}, this process has "
                f"{pipeline.config_hash}: give the same --config, --set and SHOAL_* variables as the run "
                f"([input] to [membership] count)"
            )

    # --- what subscribers see --------------------------------------------------------------------------------

    def _compare(self, auditor: Auditor) -> dict[str, Tally]:
        """Again and again while something differs, as long as it may be because the engine is faster."""
        deadline_s: float | None = None
        while True:
            found, tallies = self._compare_once(auditor)
            if found is None:
                return tallies
            now_s = time.monotonic()
            deadline_s = deadline_s or now_s + self._patience_s
            if now_s >= deadline_s:
                raise ReplayMismatch(found.text())
            time.sleep(_AGAIN_S)

    def _compare_once(self, auditor: Auditor) -> tuple[Difference | None, dict[str, Tally]]:
        reached = auditor.steps
        bounds = {topic: self._sink.bounds(topic) for topic in TOPICS}
        self._go_on(auditor)
        found: list[Difference] = []
        tallies: dict[str, Tally] = {}
        for topic, expected in auditor.expected.items():
            comparison = Comparison(expected, bounds[topic], reached, whole=auditor.first_step == 1)
            difference = comparison.run(lambda topic=topic: self._sink.published(topic))  # type: ignore[misc]
            found += [] if difference is None else [difference]
            tallies[topic] = comparison.tally
        return min(found, key=lambda difference: difference.step, default=None), tallies

    def _go_on(self, auditor: Auditor) -> None:
        """What was committed meanwhile."""
        last = self._sink.last()
        if last is not None and last.step > auditor.steps:
            if last.epoch != self._line.epochs[-1].number:
                raise ConfigError(f"epoch {last.epoch} began while this ran: start again to verify that one")
            auditor.catch_up(last)


def _alike(one: Epoch, other: Epoch) -> bool:
    return (one.config_hash, one.features, one.source) == (other.config_hash, other.features, other.source)


def _readable(manifests: Iterator[Manifest]) -> Iterator[Manifest]:
    """The same. Raises ReplayMismatch where what is stored is not a manifest."""
    step: Any = "none"
    try:
        for manifest in manifests:
            step = manifest.step
            yield manifest
    except (ValueError, TypeError, KeyError, DiskFailed) as error:
        raise ReplayMismatch(f"{MANIFEST}: what follows step {step} is not a manifest: {error}") from None
