"""Poll, compute, commit; after any stop or crash the same bytes as if nothing had happened."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import SMALL, engine, events, small

from shoal.sinks.files import FileSink
from shoal.sinks.memory import MemorySink
from shoal.stream.engine import Engine
from shoal.stream.events import CHANGES, LINEAGE, MEMBERS, REJECTED, Output, Records, Step
from shoal.stream.manifest import decode_manifest, encode_manifest
from shoal.stream.packing import pack, unpack
from shoal.stream.ports import (
    CommitUnknown,
    DiskFailed,
    Phase,
    ReplayMismatch,
    SourceGone,
    StateMismatch,
    Stopped,
)
from shoal.stream.replica import replay
from shoal.stream.snapshots import DirectoryStore, NoStore
from shoal.stream.sources import FileSource, MemorySource
from shoal.stream.wiring import build_pipeline


@pytest.fixture(scope="module")
def whole() -> MemorySink:
    """An uninterrupted run."""
    sink = MemorySink()
    engine(small(), sink=sink).run()
    return sink


class Crash(Exception):
    pass


class CrashingSink(MemorySink):
    """Dies before or after a commit, as a process would; what was committed stays."""

    def __init__(self) -> None:
        super().__init__()
        self.crash_at = -1
        self.after = False

    def commit(self, output: Output) -> None:
        if output.step == self.crash_at and not self.after:
            raise Crash
        super().commit(output)
        if output.step == self.crash_at:
            raise Crash


def test_the_run_means_something(whole):
    """The small shop really makes segments, moves, rejects and publications."""
    topics = {record.topic for record in whole.records}
    assert {CHANGES, MEMBERS, LINEAGE, REJECTED} <= topics
    manifests = list(whole.manifests())
    assert manifests[-1].closing
    assert max(m.versions["encoder"] for m in manifests) >= 2
    changes = [orjson.loads(r.value) for r in whole.records if r.topic == CHANGES]
    assert {"assigned", "moved"} <= {change["transition"] for change in changes}


def test_every_offset_is_in_exactly_one_step_and_one_outcome(whole):
    """Coverage: ranges tile the input, and each record is accepted, duplicate, late or rejected."""
    at = 0
    for manifest in whole.manifests():
        assert manifest.counts.balanced()
        for r in manifest.ranges:
            assert r.start == at
            at = r.end
    assert at == len(events())
    rejected = sum(sum(m.counts.rejected.values()) for m in whole.manifests())
    assert rejected == sum(record.topic == REJECTED for record in whole.records) > 0


def test_a_second_run_writes_the_same_bytes(whole):
    """Time comes from the events, chance from seeds."""
    again = MemorySink()
    engine(small(), sink=again).run()
    assert again.records == whole.records
    assert list(again.manifests()) == list(whole.manifests())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("every", [3, 7, 1000])
def test_crashes_change_nothing(whole, after, every, tmp_path):
    """Killed before or after commits, with and without snapshots, again and again: the same bytes."""
    config = small(f"engine.snapshot_every_steps={every}")
    store = DirectoryStore(tmp_path, kept=2) if every < 1000 else NoStore()
    sink = CrashingSink()
    sink.after = after
    for crash_at in itertools.chain((2, 3, 8, 12), itertools.repeat(-1)):
        sink.crash_at = crash_at
        try:
            engine(config, sink=sink, store=store).run()
            break
        except Crash:
            continue
    assert sink.records == whole.records
    assert list(sink.manifests()) == list(whole.manifests())


def test_stop_and_start_again_changes_nothing(tmp_path):
    """A run over files that is stopped and started again writes the bytes of an uninterrupted one."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(value or b"" for value in events()) + b"\n")
    engine(small(), FileSource(str(path)), FileSink(tmp_path / "whole")).run()

    class StoppingSink(FileSink):
        def commit(self, output: Output) -> None:
            super().commit(output)
            if output.step in (2, 5, 9):
                running.stop()

    for _ in range(4):
        running = engine(small(), FileSource(str(path)), StoppingSink(tmp_path / "parts"))
        running.run()
    assert _folder(tmp_path / "parts") == _folder(tmp_path / "whole")
    before = _folder(tmp_path / "whole")
    engine(small(), FileSource(str(path)), FileSink(tmp_path / "whole")).run()
    assert _folder(tmp_path / "whole") == before, "running a finished run again must add nothing"


def _folder(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.glob("*.jsonl")}


REPLAY = """
import sys, orjson
sys.path.insert(0, sys.argv[1])
from shop import events, small
from shoal.stream.replica import replay
from shoal.stream.manifest import decode_manifest
from shoal.stream.sources import MemorySource
from shoal.stream.wiring import build_pipeline
pipeline, source = build_pipeline(small()), MemorySource([events()])
for line in sys.stdin.buffer:
    output = replay(pipeline, source, decode_manifest(line.strip()))
    for record in output.records:
        sys.stdout.buffer.write(repr(record).encode() + b"\\n")
"""


@pytest.mark.parametrize("hash_seed", ["0", pytest.param("4242", marks=pytest.mark.slow)])
def test_replay_in_another_process_gives_the_same_bytes(whole, hash_seed):
    """Manifests and input log alone, another PYTHONHASHSEED: every hash and every byte is the same."""
    lines = b"".join(encode_manifest(m) + b"\n" for m in whole.manifests())
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, str(Path(__file__).parent)],
        input=lines, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [repr(record) for record in whole.records]


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_restore_continues_as_if_nothing_happened(whole, data):
    """A pipeline restored from its own snapshot, through the bytes of a file, computes the rest the same."""
    manifests = list(whole.manifests())
    at = data.draw(st.integers(0, len(manifests) - 1))
    source = MemorySource([events()])
    first = build_pipeline(small())
    for manifest in manifests[:at]:
        replay(first, source, manifest)
    second = build_pipeline(small())
    second.restore(unpack(b"".join(pack(first.snapshot()))))
    for manifest in manifests[at : at + 4]:
        assert replay(first, source, manifest).records == replay(second, source, manifest).records


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=12))
def test_any_cut_into_steps_accounts_for_every_record(whole, cuts):
    """However the input is cut, every record has exactly one outcome, and the same ones are rejected."""
    sink = MemorySink()
    running = engine(small("segmenter.warmup_rows=4000"), sink=sink)
    sizes = itertools.cycle(cuts)
    poll = running.source.poll
    running.source.poll = lambda n, t: poll(next(sizes), t)  # type: ignore[method-assign]
    running.run()
    assert running.counts.balanced()
    assert running.counts.records == len(events())
    rejected: dict[str, int] = {}
    for manifest in whole.manifests():
        for reason, count in manifest.counts.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
    assert running.counts.rejected == rejected


def test_folding_the_changes_gives_the_members_and_the_engines_table(whole):
    """Fold: changes -> who is where = members (compacted) = the pipeline's own table."""
    folded: dict[bytes, int] = {}
    members: dict[bytes, int] = {}
    for record in whole.records:
        assert record.topic not in (CHANGES, MEMBERS) or record.key is not None
        if record.topic == CHANGES:
            change = orjson.loads(record.value)
            before = change["from"]["segment_id"] if change.get("from") else None
            assert folded.get(record.key) == before
            if change["transition"] == "left":
                del folded[record.key]
            else:
                folded[record.key] = change["to"]["segment_id"]
        elif record.topic == MEMBERS:
            if record.value is None:
                members.pop(record.key, None)
            else:
                members[record.key] = orjson.loads(record.value)["segment_id"]
    assert folded == members
    running = build_pipeline(small())
    for manifest in whole.manifests():
        replay(running, MemorySource([events()]), manifest)
    sizes: dict[int, int] = {}
    for segment in folded.values():
        sizes[segment] = sizes.get(segment, 0) + 1
    assert {s: n for s, n in running.membership.sizes().items() if n} == sizes


def test_a_segment_is_born_before_the_first_change_that_names_it(whole):
    """Lineage comes first."""
    born: set[int] = set()
    for record in whole.records:
        if record.topic == LINEAGE:
            born.add(orjson.loads(record.value)["segment_id"])
        elif record.topic == CHANGES:
            change = orjson.loads(record.value)
            if change.get("to"):
                assert change["to"]["segment_id"] in born


# --- recovery, stopping, silence ------------------------------------------------------------------------------


def _committed(*overrides: str) -> MemorySink:
    sink = MemorySink()
    engine(small(*overrides), sink=sink).run()
    return sink


def test_recovery_can_be_told_to_stop():
    """A long replay does not keep SIGTERM waiting: the step at hand is finished, nothing more is read or written."""
    sink = _committed()
    before = len(list(sink.manifests()))
    running = engine(small(), sink=sink)
    read = running.source.read
    steps: list[int] = []

    def read_and_stop(ranges):
        steps.append(1)
        if len(steps) == 3:
            running.stop()
        return read(ranges)

    running.source.read = read_and_stop  # type: ignore[method-assign]
    running.run()
    assert len(steps) == 3
    assert running.steps == 3
    assert len(list(sink.manifests())) == before


def test_a_port_that_is_told_to_stop_while_it_waits_ends_the_run_without_an_error():
    """The broker is away, somebody presses Ctrl-C: that is no failure."""

    class Waiting(MemorySink):
        def open(self):
            raise Stopped

    engine(small(), sink=Waiting()).run()


@pytest.mark.parametrize("told", [False, True])
def test_an_engine_that_was_told_to_stop_is_not_started_again_by_a_commit_in_doubt(told):
    """Without this, SIGTERM while the broker is away would end in a new process that knows of no SIGTERM."""

    class Away(MemorySink):
        def commit(self, output: Output) -> None:
            if told:
                running.stop()
            raise CommitUnknown("no answer", broker_away=True)

    running = engine(small(), sink=Away())
    with pytest.raises(CommitUnknown) as caught:
        running.run()
    assert caught.value.broker_away is not told


def test_a_long_recovery_keeps_snapshots_on_its_way(tmp_path):
    """A store that writes beside the engine takes the next one when it was asked how the last one went."""

    class Beside(DirectoryStore):
        writing = False

        def save(self, step, manifest_hash, capture):
            if not self.writing:
                self.writing = True
                super().save(step, manifest_hash, capture)

        def finished(self):
            self.writing = False
            return super().finished()

    store = Beside(tmp_path, kept=99)
    engine(small("engine.snapshot_every_steps=2"), sink=_committed(), store=store).run()
    assert len(list(tmp_path.iterdir())) == _committed().last().step // 2


def test_who_takes_over_is_no_longer_standing_by(monkeypatch):
    """A watchdog lets an engine stand by for ever; one that hangs while it fences others is to be ended."""
    seen = []

    class Waited(MemorySource):
        def open(self, stopping, meanwhile):
            running.observer.phase(Phase.STANDBY)
            return True

    class Fencing(MemorySink):
        def open(self):
            seen.append(phases[-1])
            return super().open()

    phases: list[Phase] = []
    running = engine(small(), Waited([events()[:300]]), Fencing())
    monkeypatch.setattr(running.observer, "phase", phases.append)
    running.run()
    assert seen == [Phase.STARTING]


def test_manifests_that_were_deleted_are_named_and_nothing_is_computed_without_them():
    """Retention on the manifest topic: not a mismatch of bytes, and not a fresh start in silence."""
    sink = _committed()
    del sink._manifests[:4]
    with pytest.raises(SourceGone, match="steps 1 to 4 are gone"):
        engine(small(), sink=sink).run()


def test_a_snapshot_with_another_layout_is_passed_over(whole, tmp_path, caplog):
    """Written by another version of Shoal: recovery takes longer, the bytes are the same."""

    class Older(DirectoryStore):
        def newest(self, not_past):
            for step, manifest_hash, state in super().newest(not_past):
                del state["pipeline"]["membership"]["sequence"]
                yield step, manifest_hash, state

    sink = CrashingSink()
    sink.crash_at = 8
    with pytest.raises(Crash):
        engine(small("engine.snapshot_every_steps=3"), sink=sink, store=Older(tmp_path, kept=2)).run()
    sink.crash_at = -1
    engine(small(), sink=sink, store=Older(tmp_path, kept=2)).run()
    assert "another layout" in caplog.text
    assert sink.records == whole.records


class Quiet:
    """A topic that falls silent: some records, then nothing, while the wall clock runs; stops itself."""

    finite, wall_clock, mark = False, True, ""

    def __init__(self, clock: "Wall", polls: int) -> None:
        self._log = MemorySource([events()])
        self._clock, self._polls = clock, polls
        self.engine: Engine | None = None

    def open(self, stopping, meanwhile):
        return True

    def poll(self, max_records, timeout_s):
        self._clock.s += 900.0
        self._polls -= 1
        if not self._polls:
            assert self.engine is not None
            self.engine.stop()
        return self._log.poll(max_records, timeout_s) or (Records.empty(), ())

    def __getattr__(self, name):
        return getattr(self._log, name)


class Wall:
    """Stands in for the `time` module: moves only when the source polls."""

    def __init__(self) -> None:
        """The small shop's last believable event is now."""
        running = engine(small("segmenter.warmup_rows=4000"))
        running.run()
        self.s = running.pipeline.clock.now_ms / 1000

    def monotonic(self) -> float:
        return self.s

    def time_ns(self) -> int:
        return int(self.s * 1e9)


def test_a_silent_topic_is_aged_until_everybody_has_left_and_then_nothing_more_is_written():
    """Silence is recorded only where it does something: a quiet night is not thousands of empty manifests."""
    clock = Wall()
    days = 40
    source = Quiet(clock, polls=days * 24 * 4)
    sink = MemorySink()
    source.engine = running = engine(small(), source, sink, clock=clock)
    running.run()
    manifests = list(sink.manifests())
    empty = [m for m in manifests if not m.ranges]
    assert 10 < len(empty) < days * 24, "more than one an hour would be a flood"
    assert len(running.pipeline.users) == 0, "whoever sends nothing for longer than the longest window leaves"
    assert not running.pipeline.stirs(clock.time_ns() // 1_000_000 + 10**10)
    again = build_pipeline(small())
    for manifest in manifests:
        replay(again, MemorySource([events()]), manifest)


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(1, 5 * 86_400_000), min_size=1, max_size=8))
def test_a_step_that_is_left_out_would_have_said_and_taught_nothing(pauses):
    """Where the pipeline says that a silent step would not stir anything, it does not, whenever it is made."""
    pipeline, as_of_ms = build_pipeline(small()), Wall().time_ns() // 1_000_000
    source = MemorySource([events()])
    scored: list[int] = []
    place = pipeline.membership.place
    pipeline.membership.place = lambda rows, *rest: scored.append(len(rows.slots)) or place(rows, *rest)  # type: ignore[method-assign]
    for number in range(1, 9):
        polled = source.poll(256, 0.0)
        assert polled is not None
        pipeline.step(Step(number, polled[1], polled[0], as_of_ms))
    for number, pause_ms in enumerate(pauses, 9):
        as_of_ms += pause_ms
        stirs = pipeline.stirs(as_of_ms)
        users, sizes = len(pipeline.users), pipeline.membership.sizes()
        output = pipeline.step(Step(number, (), Records.empty(), as_of_ms))
        if not stirs:
            assert output.records == ()
            assert (len(pipeline.users), pipeline.membership.sizes()) == (users, sizes)
            assert scored[-1] == 0


# --- refusals ---------------------------------------------------------------------------------------------------


def test_another_configuration_is_refused(whole):
    """State of one configuration is not continued by another."""
    sink = MemorySink()
    engine(small(), sink=sink).run()
    with pytest.raises(StateMismatch, match="must not change under recorded steps"):
        engine(small("segmenter.step=0.5"), sink=sink).run()


def test_a_changed_input_is_noticed(whole):
    """One byte of the log changed: replay stops at that step and says so."""
    manifests = list(whole.manifests())
    changed = list(events())
    changed[300] = b"{}"
    source = MemorySource([changed])
    pipeline = build_pipeline(small())
    replay(pipeline, source, manifests[0])
    with pytest.raises(ReplayMismatch, match=r"step 2 .*offset|step 2 .*\[256, 512\)"):
        replay(pipeline, source, manifests[1])


def test_a_changed_value_is_noticed_in_its_own_step_also_during_warm_up(whole):
    """Before there are segments the state hash already covers what the users did, so the right step is named."""
    first = next(iter(whole.manifests()))
    assert first.versions["encoder"] == 0, "this step must lie in the warm-up"
    changed = list(events())
    at = next(
        i
        for i, value in enumerate(changed[:256])
        if value and b'"purchase"' in value and b'"value":' in value
    )
    changed[at] = re.sub(rb'"value":([0-9.]+)', rb'"value":9\1', changed[at])
    assert changed[at] != events()[at]
    with pytest.raises(ReplayMismatch, match=r"step 1 .*state_hash"):
        replay(build_pipeline(small()), MemorySource([changed]), first)


def test_a_truncated_input_is_noticed(whole):
    """A log that ends before what was recorded cannot be replayed."""
    sink = MemorySink()
    engine(small(), sink=sink).run()
    with pytest.raises(SourceGone):
        engine(small(), MemorySource([events()[:1000]]), sink=sink).run()


def test_a_snapshot_of_another_history_is_not_used(tmp_path):
    """A snapshot whose manifest is not in this line of manifests is passed over, not believed."""
    store = DirectoryStore(tmp_path, kept=3)
    other = engine(small("engine.snapshot_every_steps=5"), MemorySource([events(4000, 6)]), store=store)
    other.run()
    assert list(store.newest(10**9))
    sink = CrashingSink()
    sink.crash_at = 7
    with pytest.raises(Crash):
        engine(small(), sink=sink).run()
    sink.crash_at = -1
    engine(small(), sink=sink, store=store).run()
    clean = MemorySink()
    engine(small(), sink=clean).run()
    assert sink.records == clean.records


def test_manifests_round_trip(whole):
    """What is written is what is read."""
    for manifest in whole.manifests():
        assert decode_manifest(encode_manifest(manifest)) == manifest
    for other in (b'{"step": 1}', b"[]", b"\xff", b'{"step": 1, "ranges": [[1]], "counts": {}}'):
        with pytest.raises(StateMismatch, match="not a manifest that this version"):
            decode_manifest(other)


def test_the_small_configuration_is_a_real_one():
    """Every override names a key that exists."""
    assert small().features.users_max == 512
    assert len(SMALL) == len({text.split("=")[0] for text in SMALL})


def test_what_was_computed_before_the_input_broke_is_committed():
    """A damaged file, a truncated topic: the last good step does not die with the poll that found out."""

    class Broken(MemorySource):
        polls = 0

        def poll(self, max_records, timeout_s):
            self.polls += 1
            if self.polls == 4:
                raise DiskFailed("the disk is gone")
            return super().poll(64, timeout_s)

    sink = MemorySink()
    with pytest.raises(DiskFailed, match="gone"):
        engine(small(), Broken([events()]), sink).run()
    assert sink.last().step == 3
