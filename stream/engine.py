"""The shell round the pipeline: poll -> step -> commit, and nothing else.

Everything that is not a function of (state, step) happens here and in the ports, in one order:

    stand by while another engine works: what it has committed is computed again, a little at a time
    open     source (this engine is the one that works), sink (fences others, names the last manifest)
    recover  newest valid snapshot not past it, then the recorded steps again, muted, every hash compared
    run      poll, compute, commit; snapshots now and then

While a step is on its way to the sink the next one is computed, and nothing else happens: no poll, no snapshot,
no other commit. So one turn of the loop is: poll; hand over the step computed before; compute the polled one;
wait until the one before is committed. Where nothing was polled it is committed at once. Never more than one
step is computed and not committed when the loop polls, and a snapshot is taken when there is none.

Crash-only: any doubt about a commit raises and ends the process, whatever was computed since; a restart is exact.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from .committing import AtOnce, Committing
from .config import Config
from .epochs import opening_steps
from .events import Manifest, Output, Range, Records, Step
from .pipeline import Pipeline
from .ports import (
    CommitUnknown,
    DiskFailed,
    InputError,
    Observer,
    Phase,
    ReplayMismatch,
    Sink,
    Source,
    SourceGone,
    Stopped,
    Store,
    Ticker,
)
from .replica import Replica
from .watching.questions import NoQuestions, Questions

log = logging.getLogger("shoal")
QUALITY_EVERY_S = 15.0
_FOLLOW_S = 0.5
"""While standing by, computing is interrupted this often, so that the group hears of us."""


@dataclass(slots=True)
class _Sent:
    """A step on its way to the sink."""

    output: Output
    now_ms: int  # of the stream: the newest event
    begun_s: float = 0.0
    committed_s: float = 0.0
    committed_ms: int = 0

    @property
    def commit_s(self) -> float:
        return self.committed_s - self.begun_s

    @property
    def latency_s(self) -> float | None:
        """From the newest accepted event to the commit, where there is a wall clock."""
        if self.output.manifest.as_of_ms is None or not self.output.counts.accepted:
            return None
        return max(0.0, (self.committed_ms - self.now_ms) / 1000)


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
        committing: Committing | None = None,
        questions: Questions | None = None,
    ) -> None:
        """`fresh`: begin this epoch with an empty state, unless it has begun already; 0: the next one."""
        super().__init__(config, pipeline, source, sink, store, clock)
        self.observer = observer
        self.fresh = fresh
        self._committing = committing or AtOnce()
        self._questions = questions or NoQuestions()
        self._computed: Output | None = None  # and not handed over
        self._sent: _Sent | None = None  # handed over, and not known to be committed
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
            self._questions.close()
            self._committing.close()
            self.source.close()
            self.sink.close()
            self.store.close()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                polled = self._poll()
            except (SourceGone, DiskFailed, InputError):  # nothing more comes: what was computed still counts
                self._hand_over()
                self._settle()
                raise
            self._hand_over()
            if polled is None:
                self._close()
                break
            self._questions.look(self.pipeline)  # the answers wait with the step that is on its way
            records, ranges = polled
            if not ranges:
                self._settle()
            if ranges or self._idle_step_due():
                self._step(records, ranges)
                self._settle()
            else:
                self.sink.confirm()
            self._questions.tell()
            self._report_snapshots()
            self.observer.alive(self.source.lag())
            self._measure()
        self._hand_over()
        self._settle()
        self._report_snapshots()

    def _poll(self) -> tuple[Records, tuple[Range, ...]] | None:
        """What is there. Waits only when no step waits for being committed."""
        timeout_s = 0.0 if self._computed is not None else self.config.engine.poll_timeout_s
        with self.observer.stage("poll"):
            return self.source.poll(self.config.engine.step_records_max, timeout_s)

    def _step(self, records: Records, ranges: tuple[Range, ...], closing: bool = False) -> None:
        if self.snapshot_due:
            self._settle()  # before the state is another one
        as_of_ms = self._wall_ms() if self.source.wall_clock else None
        step = Step(self.steps + 1, ranges, records, as_of_ms, closing, self.source.mark)
        self._computed = self.pipeline.step(step)
        self.advance(self._computed)

    def _hand_over(self) -> None:
        """The step that was computed goes to the sink."""
        if self._computed is not None:
            self._sent, self._computed = _Sent(self._computed, self.pipeline.clock.now_ms), None
            self._committing.begin(lambda sent=self._sent: self._commit(sent))  # type: ignore[misc]

    def _commit(self, sent: _Sent) -> None:
        """Maybe in a thread of its own, while the next step is computed: nothing but the sink is touched."""
        sent.begun_s = self._clock.monotonic()
        self.sink.commit(sent.output)
        sent.committed_s, sent.committed_ms = self._clock.monotonic(), self._wall_ms()

    def _settle(self) -> None:
        """Wait until the step on its way is committed. Raises CommitUnknown, and what else a sink may raise."""
        if self._sent is None:
            return
        with self.observer.stage("commit"):
            self._committing.finish()
        sent, self._sent = self._sent, None
        self._idle_since_s = sent.committed_s
        self.observer.committed(sent.output, sent.commit_s, self.source.lag(), sent.latency_s)
        if self._computed is None:
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
            self._settle()
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
