"""The shell round the pipeline: poll -> step -> commit, and nothing else.

Everything that is not a function of (state, step) happens here and in the ports, in one order:

    stand by while another engine works: what it has committed is computed again, a little at a time
    open     source (this engine is the one that works), sink (fences others, names the last manifest)
    recover  newest valid snapshot not past it, then the recorded steps again, muted, every hash compared
    run      poll, compute, commit; snapshots now and then

Crash-only: any doubt about a commit raises and ends the process; a restart is exact.
"""

from __future__ import annotations

import logging
import time

from .config import Config
from .epochs import opening_steps
from .events import Manifest, Range, Records, Step
from .pipeline import Pipeline
from .ports import (
    CommitUnknown,
    Observer,
    Phase,
    ReplayMismatch,
    Sink,
    Source,
    Stopped,
    Store,
    Ticker,
)
from .replica import Replica

log = logging.getLogger("shoal")
QUALITY_EVERY_S = 15.0
_FOLLOW_S = 0.5
"""While standing by, computing is interrupted this often, so that the group hears of us."""


class Engine(Replica):
    """One pipeline between a source and a sink: a replica that goes on by itself.

    run() returns when a finite input ends or stop() was called; it raises a ShoalError for everything that
    a supervisor must decide about.
    """

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        source: Source,
        sink: Sink,
        store: Store,
        observer: Observer,
        clock: Ticker = time,
        fresh: int | None = None,
    ) -> None:
        """`fresh`: begin this epoch with an empty state, unless it has begun already; 0: the next one."""
        super().__init__(config, pipeline, source, sink, store, clock)
        self.observer = observer
        self.fresh = fresh
        self._idle_since_s = self._last_quality_s = clock.monotonic()

    def run(self) -> None:
        try:
            self.observer.phase(Phase.STARTING)
            if self.source.open(lambda: self._stopping, self._follow):
                self.observer.phase(Phase.STARTING)  # standing by may take for ever; what comes now may not
                self._recover(self.sink.open())
                self.observer.phase(Phase.RUNNING)
                self._loop()
        except Stopped:
            pass
        except CommitUnknown as error:
            error.broker_away = error.broker_away and not self._stopping  # told to stop: nobody starts again
            raise
        finally:
            self.observer.phase(Phase.STOPPING)
            self.source.close()
            self.sink.close()
            self.store.close()

    def _loop(self) -> None:
        config = self.config.engine
        while not self._stopping:
            with self.observer.stage("poll"):
                polled = self.source.poll(config.step_records_max, config.poll_timeout_s)
            if polled is None:
                self._close()
                return
            records, ranges = polled
            if ranges or self._idle_step_due():
                self._step(records, ranges)
            else:
                self.sink.confirm()
            self._report_snapshots()
            self.observer.alive(self.source.lag())
            self._measure()

    def _step(self, records: Records, ranges: tuple[Range, ...], closing: bool = False) -> None:
        as_of_ms = self._wall_ms() if self.source.wall_clock else None
        step = Step(self.steps + 1, ranges, records, as_of_ms, closing, self.source.mark)
        output = self.pipeline.step(step)
        started_s = self._clock.monotonic()
        with self.observer.stage("commit"):
            self.sink.commit(output)
        self.advance(output)
        self._idle_since_s = self._clock.monotonic()
        latency_s = None
        if as_of_ms is not None and output.counts.accepted:
            latency_s = max(0.0, (self._wall_ms() - self.pipeline.clock.now_ms) / 1000)
        self.observer.committed(output, self._idle_since_s - started_s, self.source.lag(), latency_s)
        self.maybe_save()

    def _idle_step_due(self) -> bool:
        """With a silent topic, empty steps let windows move; none is made, or recorded, that would do nothing."""
        if not self.source.wall_clock or not self.steps:
            return False
        now_s = self._clock.monotonic()
        if (now_s - self._idle_since_s) * 1000 < self.config.time.idle_step_ms:
            return False
        self._idle_since_s = now_s
        return self.pipeline.stirs(self._wall_ms())

    def _close(self) -> None:
        """The end of a finite input: one last step decides with what there is."""
        if self.pipeline.clock.now_ms and not self.closed:
            self._step(Records.empty(), (), closing=True)

    def _wall_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    # --- becoming the one that works ------------------------------------------------------------------------

    def _follow(self) -> None:
        """While another engine works: be ready to go on where it stops. Raises as `_recover` does."""
        last = self.sink.last()
        if last is not None and not self._starts_over(last):
            self.catch_up(last, self._clock.monotonic() + _FOLLOW_S)
            self._report_snapshots()

    def _recover(self, last: Manifest | None) -> None:
        """Bring the state to the last committed step. Raises StateMismatch, ReplayMismatch, SourceGone, Stopped."""
        if self.fresh == 0:  # a number from here on: whoever starts again with it begins no further epoch
            self.fresh = 1 if last is None else last.epoch + 1
        if last is not None:
            self.observer.phase(Phase.RECOVERING)
            if self._starts_over(last):
                self._begin_epoch(last)
            else:
                self._go_on(last)
        self.source.seek(self.positions)

    def _go_on(self, last: Manifest) -> None:
        started_s = self._clock.monotonic()
        first = self.steps
        self.catch_up(last)
        if self.steps != last.step:
            raise ReplayMismatch(f"the last manifest is of step {last.step}, replay ended at {self.steps}")
        if last.opening:
            self._open_epoch(last, ())  # this process's predecessor may have been in the middle of it
        self.observer.recovered(self.steps - first, self._clock.monotonic() - started_s)

    # --- a new epoch ----------------------------------------------------------------------------------------

    def _starts_over(self, last: Manifest) -> bool:
        return self.fresh is not None and (self.fresh == 0 or self.fresh > last.epoch)

    def _begin_epoch(self, last: Manifest) -> None:
        """Forget the state, keep the ids: from here on as if for the first time, where the log still allows."""
        for manifest in self.sink.manifests():
            if self._stopping:
                raise Stopped
            if manifest.opening and manifest.ranges:
                self.positions = {}
            self.note(manifest)
        same = last.source == self.source.mark
        starts = self.source.nearest(self.positions if same else {})
        self.reset()
        log.warning("epoch %d begins: no state, no members; reading from %s", last.epoch + 1, dict(starts))
        self._open_epoch(last, tuple(Range(p, at, at) for p, at in sorted(starts.items())))

    def _open_epoch(self, last: Manifest, starts: tuple[Range, ...]) -> None:
        for output in opening_steps(self.pipeline, last, starts, self.source.mark, self.sink.published):
            if self._stopping:  # the rest is told by whoever comes next
                raise Stopped
            with self.observer.stage("commit"):
                self.sink.commit(output)
            self.note(output.manifest)

    # --- snapshots, measures -------------------------------------------------------------------------------

    def maybe_save(self) -> None:
        """While a long recovery is computed, too: one is written at a time, and the next when it is finished."""
        self._report_snapshots()
        super().maybe_save()

    def _report_snapshots(self) -> None:
        for saved in self.store.finished():
            self.observer.snapshot_saved(saved)

    def _measure(self) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._last_quality_s >= QUALITY_EVERY_S:
            self._last_quality_s = now_s
            if (measured := self.pipeline.quality()) is not None:
                self.observer.quality(*measured)
