"""Poll, compute, commit; after any stop or crash the same bytes as if nothing had happened."""

import itertools
import os
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
from shoal.stream.engine import replay
from shoal.stream.events import CHANGES, LINEAGE, MEMBERS, REJECTED, Output
from shoal.stream.manifest import decode_manifest, encode_manifest
from shoal.stream.ports import ReplayMismatch, SourceGone, StateMismatch
from shoal.stream.snapshots import DirectoryStore, NoStore, pack, unpack
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
from shoal.stream.engine import replay
from shoal.stream.manifest import decode_manifest
from shoal.stream.sources import MemorySource
from shoal.stream.wiring import build_pipeline
pipeline, source = build_pipeline(small()), MemorySource([events()])
for line in sys.stdin.buffer:
    output = replay(pipeline, source, decode_manifest(line.strip()))
    for record in output.records:
        sys.stdout.buffer.write(repr(record).encode() + b"\\n")
"""


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
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
    second.restore(unpack(pack(first.snapshot())))
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
    with pytest.raises(ValueError, match="not a manifest"):
        decode_manifest(b'{"step": 1}')


def test_the_small_configuration_is_a_real_one():
    """Every override names a key that exists."""
    assert small().features.users_max == 512
    assert len(SMALL) == len({text.split("=")[0] for text in SMALL})
