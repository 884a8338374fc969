"""Snapshots beside the engine: as of the call, one at a time; no trouble in the child reaches the engine."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from kafka_kit import eventually
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream.disk import OsDisk
from shoal.stream.forked import ForkedStore
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import MemorySource


def _store(folder, kept=3, **settings) -> ForkedStore:
    return ForkedStore(DirectoryStore(folder, kept), **settings)


def _end(store, within_s=30.0):
    """What `finished` says once the child is over."""
    until_s = time.monotonic() + within_s
    while store.writing:
        assert time.monotonic() < until_s, "the child still lives"
        found = store.finished()
        time.sleep(0.002)
    return list(found)


def _hang():
    """A capture that waits for ever: for a lock that nobody holds any more, say."""
    signal.pause()


def _steps(store) -> list[int]:
    return [step for step, _, _ in store.newest(10**9)]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_state_is_kept_as_it_was_at_the_call(tmp_path):
    """What the engine changes while the child writes is not in the snapshot."""
    store, state = _store(tmp_path), np.zeros(100_000)
    store.save(10, "hash", lambda: {"x": state})
    state += 1
    (saved,) = _end(store)
    ((step, manifest_hash, loaded),) = store.newest(100)
    assert (step, manifest_hash) == (10, "hash")
    assert not loaded["x"].any()
    assert saved.step == 10
    assert saved.size_bytes > state.nbytes
    assert 0 < saved.pause_s < saved.seconds


def test_one_is_written_at_a_time(tmp_path):
    """A call meanwhile does nothing; the next one after the end does."""
    store = _store(tmp_path)
    store.save(10, "a", _hang)
    child = store._child.pid
    store.save(20, "b", dict)
    assert store.finished() == ()
    assert store._child.pid == child
    os.kill(child, signal.SIGKILL)
    _end(store)
    store.save(30, "c", dict)
    _end(store)
    assert _steps(store) == [30]


def test_several_are_kept_and_the_folder_does_not_grow(tmp_path):
    """The child removes what is too old."""
    store = _store(tmp_path, kept=2)
    for step in (10, 20, 30):
        store.save(step, "a", dict)
        _end(store)
    assert _steps(store) == [30, 20]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_child_that_was_killed_is_a_warning(tmp_path, caplog):
    """For memory, say. The next snapshot is tried as if nothing had happened."""
    store = _store(tmp_path)
    store.save(10, "a", _hang)
    os.kill(store._child.pid, signal.SIGKILL)
    assert _end(store) == []
    assert "step 10" in caplog.text
    assert "its process was killed" in caplog.text


def test_a_child_that_takes_too_long_is_killed(tmp_path, caplog):
    """A disk that hangs, or a lock that was held in the moment of the fork, costs a snapshot and no more."""
    store = _store(tmp_path, limit_s=0.05)
    store.save(10, "a", _hang)
    assert _end(store) == []
    assert "took longer than 0.05 s" in caplog.text


class FullDisk(OsDisk):
    full = False

    def sync(self, path):
        if self.full:
            raise OSError(28, "No space left on device")
        super().sync(path)


def test_a_full_disk_is_a_warning(tmp_path, caplog):
    """The child says what the disk said, and leaves nothing half written."""
    disk = FullDisk()
    store = ForkedStore(DirectoryStore(tmp_path, 3, disk))
    disk.full = True
    store.save(10, "a", lambda: {"x": np.zeros(1000)})
    assert _end(store) == []
    assert "step 10" in caplog.text
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_ours_ends_the_child_and_nothing_else(tmp_path, caplog):
    """No handler, no `finally` and no test runner of the engine's process goes on in the child."""
    store, passed = _store(tmp_path / "state"), tmp_path / "passed"

    def broken():
        raise KeyboardInterrupt("in the child")

    try:
        store.save(10, "a", broken)
    finally:
        with passed.open("a") as file:
            file.write("once")
    assert _end(store) == []
    assert "KeyboardInterrupt('in the child')" in caplog.text
    assert passed.read_text() == "once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_tells_the_engine_to_stop_does_not_stop_the_child(tmp_path, number):
    """A terminal or a supervisor signals the whole group; the snapshot is finished all the same."""
    store = _store(tmp_path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def told_to_stop():
        os.kill(os.getpid(), number)
        return {}

    store.save(10, "a", told_to_stop)
    assert [saved.step for saved in _end(store)] == [10]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_no_descriptor_and_no_process_is_left_over(tmp_path, monkeypatch):
    """After snapshots that came about, that failed, and that could not even begin."""
    store = _store(tmp_path)
    before, children = _descriptors(), []
    for capture in (dict, _hang):
        store.save(10, "a", capture)
        children.append(store._child.pid)
        if capture is _hang:
            os.kill(store._child.pid, signal.SIGKILL)
        _end(store)

    def no_memory():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_memory)
    store.save(20, "a", dict)
    assert not store.writing
    assert _descriptors() == before
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def test_closing_waits_for_a_snapshot_that_is_nearly_done(tmp_path):
    """The work of a second is not thrown away."""
    store = _store(tmp_path)
    store.save(10, "a", dict)
    store.close()
    assert _steps(store) == [10]


def test_closing_gives_up_one_that_is_not(tmp_path):
    """An engine that was told to stop does not wait for a disk; nobody is left behind."""
    store = _store(tmp_path)
    store.save(10, "a", _hang)
    child, started_s = store._child.pid, time.monotonic()
    store.close()
    assert time.monotonic() - started_s < 5
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_forking_beside_threads_is_meant(tmp_path, monkeypatch):
    """Python's warning about it is answered in the module; nobody else's is silenced."""
    fork = os.fork

    def warns():
        """As from Python 3.12 on, where there are threads."""
        warnings.warn("this process is multi-threaded", DeprecationWarning, stacklevel=2)
        return fork()

    monkeypatch.setattr(os, "fork", warns)
    store = _store(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.save(10, "a", dict)
        assert [saved.step for saved in _end(store)] == [10]
        with pytest.raises(DeprecationWarning):
            warnings.warn("something else", DeprecationWarning, stacklevel=1)


ENGINE = """
import os, signal, sys, time
from pathlib import Path
from shoal.stream.disk import OsDisk
from shoal.stream.forked import ForkedStore
from shoal.stream.snapshots import DirectoryStore
folder, me = Path(sys.argv[1]), os.getpid()
unlock = OsDisk().lock(folder / "lock")

def capture():
    (folder / "at work").touch()
    while os.getppid() == me or (folder / "wait").exists():
        time.sleep(0.01)
    return {}

store = ForkedStore(DirectoryStore(folder / "state", 3))
store.save(10, "a", capture)
while not (folder / "at work").exists():
    time.sleep(0.001)
print(store._child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def orphan(tmp_path):
    """An engine that was killed while its child was at work; the child's process id. It waits for a file."""
    (tmp_path / "wait").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    process.kill()
    yield process, child
    process.stdout.close()
    (tmp_path / "wait").unlink(missing_ok=True)
    process.wait()


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "Z"  # an orphan that nobody has collected yet


def test_a_lock_of_the_engine_dies_with_it(tmp_path, orphan):
    """The next engine can start at once, while the child of the last one still lives; pipes are at their end."""
    process, child = orphan
    process.wait()
    assert process.stdout.read() == ""
    assert not _gone(child)
    OsDisk().lock(tmp_path / "lock")()


def test_the_child_of_a_killed_engine_leaves_nothing_behind(tmp_path, orphan):
    """Its file gets no name, and it removes nothing: another engine may be at work in this folder."""
    process, child = orphan
    process.wait()
    successor = DirectoryStore(tmp_path / "state", 3)
    successor.save(500, "b", dict)
    (tmp_path / "wait").unlink()
    eventually(lambda: _gone(child))
    assert [step for step, _, _ in successor.newest(1000)] == [500]
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_an_engine_goes_on_from_what_a_child_has_written(tmp_path):
    """With a trained encoder in the state: another process takes the snapshot up, the bytes are the same."""
    whole = MemorySink()
    engine(small(), sink=whole).run()

    class Stopping(MemorySink):
        def commit(self, output):
            super().commit(output)
            if output.step == 9:
                running.stop()

    class Reading(MemorySource):
        first = None

        def read(self, ranges):
            if self.first is None and ranges:
                self.first = ranges[0].start
            return super().read(ranges)

    sink, config = Stopping(), small("engine.snapshot_every_steps=4")
    running = engine(config, sink=sink, store=_store(tmp_path))
    running.run()
    source, store = Reading([events()]), _store(tmp_path)
    assert _steps(store)[0] in (4, 8)
    running = engine(config, source, sink, store)
    running.run()
    assert source.first >= 4 * 256
    assert sink.records == whole.records
    assert list(sink.manifests()) == list(whole.manifests())
