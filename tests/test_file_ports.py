"""Files as source and sink: every line is a record, and `kill -9` leaves nothing half-said."""

import gzip
import io
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import manifest
from proof.disk import FakeDisk

from shoal.sinks.commits import commits, encode_commit
from shoal.sinks.files import FileSink
from shoal.sinks.lines import decode_line, encode_line
from shoal.stream import sources
from shoal.stream.disk import OsDisk
from shoal.stream.events import CHANGES, MANIFEST, REJECTED, Counts, Output, OutRecord, Range
from shoal.stream.ports import ConfigError, DiskFailed, InputError, SourceGone
from shoal.stream.sources import FileSource


def _output(step: int, records: int = 3) -> Output:
    body = tuple(OutRecord(CHANGES, b"u", b'{"step":%d,"i":%d}' % (step, i)) for i in range(records))
    ranges = (Range(0, step * 10, step * 10 + 10),)
    return Output(step, body, manifest(step, ranges=ranges), Counts(), {})


# --- source -------------------------------------------------------------------------------------------------


def _all(source: FileSource, size: int = 7) -> list[bytes]:
    values = []
    while (polled := source.poll(size, 0.01)) is not None:
        values += polled[0].values
    return values


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_every_line_is_a_record(tmp_path, name):
    """Empty lines, Windows line ends and a last line without an end count too."""
    path = tmp_path / name
    data = b"one\ntwo\r\n\nfour\nfive"
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    source = FileSource(str(path))
    source.open(lambda: False)
    assert _all(source, 2) == [b"one", b"two", b"", b"four", b"five"]


def test_replay_reads_the_same_lines_again(tmp_path):
    """Ranges name line numbers; reading them again gives the same bytes, also backwards."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(100)))
    source = FileSource(str(path))
    source.open(lambda: False)
    source.seek({0: 95})
    assert _all(source) == [b"95", b"96", b"97", b"98", b"99"]
    for start, end in ((0, 5), (5, 9), (50, 60), (2, 4)):
        records = source.read([Range(0, start, end)])
        assert list(records.values) == [b"%d" % i for i in range(start, end)]
        assert records.offsets.tolist() == list(range(start, end))


def test_a_file_that_was_cut_is_not_passed_over(tmp_path):
    """Lines that a manifest names must be there."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"a\nb\n")
    source = FileSource(str(path))
    source.open(lambda: False)
    with pytest.raises(SourceGone, match="cut or replaced"):
        source.seek({0: 5})
    with pytest.raises(SourceGone, match="cut or replaced"):
        source.read([Range(0, 1, 4)])


def test_a_followed_file_gives_whole_lines_as_they_come(tmp_path):
    """A line that is still being written is waited for."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntw")
    source = FileSource(str(path), follow=True)
    source.open(lambda: False)
    first = source.poll(10, 0.01)
    assert first is not None
    assert list(first[0].values) == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\nthree")
    second = source.poll(10, 1.0)
    assert second is not None
    assert list(second[0].values) == [b"two"]
    assert second[1] == (Range(0, 1, 2),)


def test_a_missing_or_broken_file_is_a_clear_error(tmp_path):
    """Not there, not gzip, or compressed and followed: said in one sentence."""
    with pytest.raises(InputError, match="cannot be read"):
        FileSource(str(tmp_path / "none.jsonl")).open(lambda: False)
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(b"not gzip at all")
    source = FileSource(str(bad))
    source.open(lambda: False)
    with pytest.raises(InputError, match="cannot be read further"):
        source.poll(1, 0.1)
    with pytest.raises(InputError, match="cannot be followed"):
        FileSource(str(bad), follow=True)


# --- sink ---------------------------------------------------------------------------------------------------


@given(st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=40), st.binary(max_size=5))
def test_a_rejected_record_round_trips_whatever_its_bytes(key, value, detail):
    """Original bytes come back exactly, valid text or not."""
    record = OutRecord(REJECTED, key, value, (("reason", detail.hex().encode()),))
    assert decode_line(REJECTED, encode_line(record)) == record


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_json_value_comes_back_byte_for_byte(key, text):
    """The value of a change stands in the line exactly as it was hashed."""
    import orjson

    value = orjson.dumps({"text": text, "value": {"value": 1.5}, "z": [1, 2.0]})
    record = OutRecord(
        CHANGES, key.encode(), value, (("ce_id", f'{key},"value":1'.encode("utf-8", "replace")),)
    )
    assert decode_line(CHANGES, encode_line(record)) == record


def test_a_second_writer_is_turned_away(tmp_path):
    """Two engines on one folder would contradict each other."""
    first = FileSink(tmp_path)
    first.open()
    with pytest.raises(ConfigError, match="another shoal process"):
        FileSink(tmp_path).open()
    first.close()
    FileSink(tmp_path).open()


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_any_torn_tail_is_cut_at_open(tmp_path, cut):
    """Bytes of an unfinished step disappear; what a manifest line names stays."""
    sink = FileSink(tmp_path)
    sink.open()
    sink.commit(_output(1))
    whole = {p.name: p.read_bytes() for p in tmp_path.glob("*.jsonl")}
    sink.commit(_output(2))
    sink.close()
    path = tmp_path / f"{MANIFEST}.jsonl"
    data = path.read_bytes()
    first = len(whole[path.name])
    if cut >= len(data) - first:
        return
    path.write_bytes(data[: first + cut])
    again = FileSink(tmp_path)
    last = again.open()
    assert last is not None
    assert last.step == 1
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.jsonl")} == whole
    again.commit(_output(2))
    assert path.read_bytes() == data


def test_a_file_that_lost_committed_bytes_stops_the_engine(tmp_path):
    """What was committed must still be there."""
    sink = FileSink(tmp_path)
    sink.open()
    sink.commit(_output(1))
    sink.close()
    path = tmp_path / f"{CHANGES}.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="cut or replaced"):
        FileSink(tmp_path).open()


def test_kill_dash_nine_leaves_whole_steps(tmp_path):
    """A writer killed at an arbitrary moment leaves a folder that opens at a whole step and goes on."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from test_file_ports import _output
        from shoal.sinks.files import FileSink
        sink = FileSink(Path(sys.argv[1]))
        last = sink.open()
        step = last.step if last else 0
        print("open", step, flush=True)
        while True:
            step += 1
            sink.commit(_output(step, 50))
        """
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    steps = 0
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environ, text=True
        )
        assert process.stdout is not None
        found = int(process.stdout.readline().split()[1])
        assert found >= steps
        threading.Event().wait(0.03 * (attempt + 1))
        process.kill()
        process.wait()
        process.stdout.close()
        copy = tmp_path.parent / f"copy-{attempt}"
        shutil.copytree(tmp_path, copy)
        sink = FileSink(copy)
        last = sink.open()
        steps = last.step if last else 0
        assert [m.step for m in sink.manifests()] == list(range(1, steps + 1))
        assert sum(1 for _ in sink.published(CHANGES)) == 50 * steps
        sink.close()
    assert steps > 0


def test_stdin_is_read_as_it_comes(tmp_path):
    """`-` is stdin: what has arrived is given after the timeout, the end is the end."""
    script = textwrap.dedent(
        """
        from shoal.stream.sources import FileSource
        source = FileSource("-")
        source.open(lambda: False)
        while (polled := source.poll(100, 0.05)) is not None:
            if len(polled[0]):
                print([v.decode() for v in polled[0].values], flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a\nb\n")
    process.stdin.flush()
    assert process.stdout.readline() == "['a', 'b']\n"
    process.stdin.write("c")
    process.stdin.close()
    assert process.stdout.readline() == "['c']\n"
    assert process.wait(timeout=10) == 0
    process.stdout.close()


# --- what must never be lost --------------------------------------------------------------------------------


def test_other_peoples_files_in_the_output_folder_are_left_alone(tmp_path):
    """`--output` may be the folder that holds the input: only the contract's topics are Shoal's to cut."""
    other = tmp_path / "events.jsonl"
    other.write_bytes(b'{"mine": 1}\n')
    sink = FileSink(tmp_path)
    sink.open()
    sink.commit(_output(1))
    sink.close()
    FileSink(tmp_path).open()
    assert other.read_bytes() == b'{"mine": 1}\n'


def _open_and_read(sink: FileSink) -> list[int]:
    sink.open()
    return [found.step for found in sink.manifests()]


@pytest.mark.parametrize("also_the_last", [False, True])
def test_a_damaged_manifest_line_with_steps_behind_it_stops_the_engine_and_cuts_nothing(
    tmp_path, also_the_last
):
    """Only the last line can be torn by a crash; damage before it must not undo committed steps."""
    sink = FileSink(tmp_path)
    sink.open()
    for step in (1, 2, 3):
        sink.commit(_output(step))
    sink.close()
    path = sink.path(MANIFEST)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"#" + lines[1] + b"#" * also_the_last + lines[2])
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.jsonl")}
    with pytest.raises(DiskFailed, match=rf"byte {len(lines[0])} is damaged"):
        _open_and_read(FileSink(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.jsonl")} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_named_error_also_when_the_sink_is_closed(tmp_path):
    """What could not be written is not tried again by close(); after a restart the step is not there."""
    sink = FileSink(tmp_path)
    sink.open()
    sink.commit(_output(1))
    sink.close()
    sink = FileSink(tmp_path)
    sink.open()
    path = sink.path(CHANGES)
    whole = path.rename(tmp_path / "aside")
    path.symlink_to("/dev/full")
    with pytest.raises(DiskFailed, match="step 2 could not be written"):
        sink.commit(_output(2))
    with pytest.raises(AssertionError, match="not used again"):
        sink.commit(_output(2))
    sink.close()
    path.unlink()
    whole.rename(path)
    last = FileSink(tmp_path).open()
    assert last is not None
    assert last.step == 1


# --- reading -------------------------------------------------------------------------------------------------


def test_a_reader_never_sees_an_unfinished_tail(tmp_path):
    """Of a run that is killed, or writing at this moment, only what a manifest line names is shown."""
    sink = FileSink(tmp_path)
    sink.open()
    sink.commit(_output(1, records=2))
    with sink.path(CHANGES).open("ab") as file:
        file.write(encode_line(OutRecord(CHANGES, b"u", b"{}")) + b'{"key":')
    with sink.path(MANIFEST).open("ab") as file:
        file.write(b'{"value":{"step":2')
    reader = FileSink(tmp_path)
    assert reader.last() == _output(1).manifest
    assert [m.step for m in reader.manifests()] == [1]
    assert reader.bounds(CHANGES) == {0: (0, 2)}
    assert [(found.partition, found.offset) for found in reader.published(CHANGES)] == [(0, 0), (0, 1)]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12), st.data())
def test_any_step_is_found_in_a_long_manifest_file(widths, data):
    """By halving: wherever the lines end, the manifests after a step are those of the steps after it."""
    disk = FakeDisk().process()
    path = Path("m.jsonl")
    made = [manifest(step, output_hash="x" * width) for step, width in enumerate(widths, 3)]
    disk.write(path, [encode_commit(each, {}) for each in made] + [b'{"torn'])
    after = data.draw(st.integers(0, len(made) + 4))
    assert [c.manifest for c in commits(disk, path, after)] == [m for m in made if m.step > after]


def test_the_newest_of_many_manifests_is_found_by_a_few_reads(tmp_path):
    """Neither opening a folder nor standing by costs more with a longer history."""
    line = encode_commit(manifest(1), {})
    path = tmp_path / f"{MANIFEST}.jsonl"
    path.write_bytes(line * 20_000 + encode_commit(manifest(2), {}))
    disk = CountingDisk()
    sink = FileSink(tmp_path, disk)
    last = sink.last()
    assert last is not None
    assert last.step == 2
    assert [m.step for m in sink.manifests(after=1)] == [2]
    assert disk.read_bytes < path.stat().st_size / 10


class CountingDisk(OsDisk):
    """Counts the bytes that are asked for."""

    read_bytes = 0

    def open(self, path: Path) -> BinaryIO:
        disk = self

        class Counting(io.FileIO):
            def readinto(self, buffer) -> int:
                found = super().readinto(buffer)
                disk.read_bytes += found
                return found

        return io.BufferedReader(Counting(path))


# --- bounds -------------------------------------------------------------------------------------------------


def test_a_step_over_very_long_lines_is_cut_by_their_bytes(tmp_path, monkeypatch):
    """Memory is bounded by bytes, not only by lines; the cut depends on the lines alone, not on where one began."""
    monkeypatch.setattr(sources, "STEP_BYTES_MAX", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b"x" * size + b"\n" for size in (400, 500, 200, 3000, 1, 1, 999, 1)))

    def cuts(start: int) -> list[int]:
        source = FileSource(str(path))
        source.open(lambda: False)
        source.seek({0: start})
        found = []
        while (polled := source.poll(100, 0.01)) is not None:
            found.append(len(polled[0]))
        source.close()
        return found

    assert cuts(0) == [2, 1, 1, 2, 2]
    assert cuts(2) == [1, 1, 2, 2]
    assert cuts(4) == [2, 2]


def test_stdin_is_never_taken_for_the_rest_of_an_earlier_stdin(tmp_path):
    """Lines of the new stdin must not be passed over because an old one was read to there."""
    source = FileSource("-")
    source.open(lambda: False)
    with pytest.raises(SourceGone, match="second time"):
        source.seek({0: 5})


def test_a_followed_file_that_shrinks_stops_the_engine(tmp_path):
    """Truncated and written anew: waiting at the old end for ever would skip what is there now."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntwo\n")
    source = FileSource(str(path), follow=True)
    source.open(lambda: False)
    assert source.poll(10, 0.01) is not None
    path.write_bytes(b"new\n")
    with pytest.raises(SourceGone, match="became shorter"):
        source.poll(10, 0.05)
