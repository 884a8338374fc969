"""The next step is computed while one is on its way to the sink: nothing else happens meanwhile, nothing differs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from proof.committing import AtLast
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream.committing import AtOnce, Beside, Committing
from shoal.stream.events import Output, Range, Records
from shoal.stream.ports import CommitUnknown
from shoal.stream.sources import MemorySource
from shoal.stream.watching.progress import Tee

WAYS: dict[str, Callable[[], Committing]] = {"at once": AtOnce, "at last": AtLast, "beside": Beside}
CONFIG = partial(small, "segmenter.warmup_rows=4000", "engine.snapshot_every_steps=3")


class Diary:
    """Everything an engine does, in order, with the number of the step."""

    def __init__(self, committing: Committing) -> None:
        self.told: list[str] = []
        self._committing = committing
        self._begun = 0

    def tell(self, what: str) -> None:
        self.told.append(what)

    # a way of committing, told

    def begin(self, commit: Callable[[], None]) -> None:
        self._begun += 1
        self.tell(f"begin {self._begun}")
        self._committing.begin(commit)

    def finish(self) -> None:
        self.tell("finish")
        self._committing.finish()

    def close(self) -> None:
        self._committing.close()

    # a store, told

    def save(self, step: int, manifest_hash: str, capture: Callable[[], Any]) -> None:
        self.tell(f"save {step}")

    def finished(self) -> tuple[()]:
        return ()


class Store(Diary):
    def __init__(self, diary: Diary) -> None:
        self.tell = diary.tell  # type: ignore[method-assign]

    def newest(self, not_past: int) -> Any:
        return iter(())

    def close(self) -> None:
        pass


class Topic:
    """A topic that is never closed; its polls are told, with whether they may wait."""

    finite, wall_clock, mark = False, True, ""

    def __init__(self, diary: Diary, polls: list[int]) -> None:
        self._log = MemorySource([events()])
        self._diary = diary
        self._polls = polls  # how many records each gives
        self.running: Any = None

    def open(self, *_: object) -> bool:
        return True

    def poll(self, max_records: int, timeout_s: float) -> tuple[Records, tuple[Range, ...]] | None:
        count = self._polls.pop(0)
        self._diary.tell(f"{'wait for' if timeout_s else 'poll'} {count}")
        if not self._polls:
            self.running.stop()
        return (self._log.poll(count, timeout_s) if count else None) or (Records.empty(), ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def lived(polls: list[int], committing: Committing | None = None) -> Diary:
    diary = Diary(committing or AtLast())
    source = Topic(diary, polls)
    source.running = running = engine(CONFIG(), source, store=Store(diary), committing=diary)
    step = running.pipeline.step

    def computed(made: Any) -> Output:
        diary.tell(f"compute {made.number}")
        return step(made)

    running.pipeline.step = computed  # type: ignore[method-assign]
    running.run()
    return diary


def test_between_handing_over_and_waiting_there_is_computing_and_nothing_else() -> None:
    """A step is handed over when the next is polled; whoever is told to stop commits what is computed."""
    assert lived([256] * 3).told == [
        "wait for 256", "compute 1",
        "poll 256", "begin 1", "compute 2", "finish",
        "poll 256", "begin 2", "compute 3", "finish",
        "begin 3", "finish", "save 3",
    ]  # fmt: skip


def test_without_new_input_a_step_is_committed_at_once() -> None:
    """Nobody waits for the next event to have the last one committed."""
    assert lived([256, 0, 0, 256, 0]).told == [
        "wait for 256", "compute 1", "poll 0", "begin 1", "finish",
        "wait for 0",
        "wait for 256", "compute 2", "poll 0", "begin 2", "finish",
    ]  # fmt: skip


def test_a_snapshot_is_of_a_state_that_is_committed() -> None:
    """Every third step here: before the next one is computed, and after the step itself was committed."""
    told = lived([200] * 8).told
    saves = [i for i, what in enumerate(told) if what.startswith("save")]
    assert [told[i] for i in saves] == ["save 3", "save 6"]
    for i in saves:
        step = int(told[i].split()[1])
        assert told[i - 2 : i] == [f"begin {step}", "finish"]
        assert told.index(f"compute {step + 1}") > i


@pytest.mark.parametrize("way", WAYS)
def test_the_bytes_do_not_depend_on_who_waits(way: str) -> None:
    """The whole shop, with its closing step, committed by the engine or beside it."""
    plain, sink = MemorySink(), MemorySink()
    engine(small(), sink=plain).run()
    running = engine(small(), sink=sink, committing=WAYS[way]())
    running.run()
    assert sink.records == plain.records
    assert list(sink.manifests()) == list(plain.manifests())
    assert running.counts.records == len(events())


@pytest.mark.parametrize("way", WAYS)
def test_a_commit_in_doubt_ends_the_engine_and_nothing_is_committed_after_it(way: str) -> None:
    """The step that was computed meanwhile is forgotten with the process."""

    class Doubtful(MemorySink):
        def commit(self, output: Output) -> None:
            tried.append(output.step)
            if output.step == 3:
                raise CommitUnknown("no answer")
            super().commit(output)

    tried: list[int] = []
    sink = Doubtful()
    with pytest.raises(CommitUnknown, match="no answer"):
        engine(small(), sink=sink, committing=WAYS[way]()).run()
    assert tried == [1, 2, 3]
    assert [manifest.step for manifest in sink.manifests()] == [1, 2]


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_told_in_order_with_how_long_their_commit_took(way: str) -> None:
    class Watching(Tee):
        def committed(self, output: Any, commit_s: float, lag: Any, latency_s: float | None) -> None:
            assert sink.last() is not None
            assert output.step <= sink.last().step  # type: ignore[union-attr]
            assert commit_s >= 0.0
            seen.append(output.step)

    seen: list[int] = []
    sink = MemorySink()
    running = engine(small(), sink=sink, committing=WAYS[way]())
    running.observer = Watching([])
    running.run()
    assert seen == [manifest.step for manifest in sink.manifests()]


def test_a_failure_of_the_next_step_waits_for_the_one_on_its_way() -> None:
    """Source and sink are closed only when nobody uses them any more."""
    hold, order = threading.Event(), []

    class Slow(MemorySink):
        def commit(self, output: Output) -> None:
            hold.wait(5.0)
            super().commit(output)
            order.append("committed")

        def close(self) -> None:
            order.append("closed")

    running = engine(small(), sink=Slow(), committing=Beside())
    step = running.pipeline.step

    def broken(made: Any) -> Output:
        if made.number == 2:
            threading.Timer(0.05, hold.set).start()
            raise AssertionError("a bug")
        return step(made)

    running.pipeline.step = broken  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="a bug"):
        running.run()
    assert order == ["committed", "closed"]


def test_a_second_commit_before_the_first_is_finished_is_a_bug() -> None:
    beside = Beside()
    beside.begin(lambda: None)
    with pytest.raises(AssertionError, match="one commit at a time"):
        beside.begin(lambda: None)
    beside.finish()
    beside.close()
    assert all(thread.name != "shoal-commit" or not thread.is_alive() for thread in _ended())


def _ended() -> list[threading.Thread]:
    threads = threading.enumerate()
    for thread in threads:
        if thread.name == "shoal-commit":
            thread.join(5.0)
    return threads
