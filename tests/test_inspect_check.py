"""shoal inspect user ID --check: what was published is what is computed, or the first difference is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream.auditing.kept import KeptSnapshots
from shoal.stream.events import CHANGES, OutRecord
from shoal.stream.inspecting.check import Checked, check_user
from shoal.stream.inspecting.history import changes, published_changes
from shoal.stream.ports import ReplayMismatch, Store
from shoal.stream.snapshots import DirectoryStore, NoStore
from shoal.stream.sources import MemorySource
from shoal.stream.wiring import build_pipeline

LIVELY = partial(small, "engine.snapshot_every_steps=3", "membership.margin=0", "membership.confirmations=1")
"""Users change often."""


@pytest.fixture(scope="module")
def whole() -> MemorySink:
    sink = MemorySink()
    engine(LIVELY(), sink=sink).run()
    return sink


@pytest.fixture(scope="module")
def key(whole: MemorySink) -> str:
    """The user with the most changes."""
    keys = [record.key.decode() for record in whole.records if record.topic == CHANGES]
    return max(sorted(set(keys)), key=keys.count)


def copied(sink: MemorySink) -> MemorySink:
    other = MemorySink()
    other.records, other._manifests = list(sink.records), list(sink._manifests)
    return other


def check(sink: MemorySink, key: str, store: Store | None = None, **more: bool) -> Checked:
    config = LIVELY()
    ports = (MemorySource([events()]), sink, store or NoStore())
    return check_user(config, ports, partial(build_pipeline, config), key, **more)


def test_what_an_engine_published_agrees(whole, key):
    """Every change of the user, every step."""
    found = check(whole, key)
    assert found.agree == len(published_changes(whole, key)) >= 3
    assert (found.earlier, found.gone, found.from_step, found.steps) == (0, 0, 0, 17)
    assert f"{found.agree} changes of this user, the same bytes" in found.text()


def test_of_a_user_that_never_was_there_is_nothing_to_compare(whole):
    """No change, and none computed: that agrees too."""
    assert check(whole, "nobody").agree == 0


def at(sink: MemorySink, key: str, which: int) -> int:
    """Where the user's change number `which` stands among all records."""
    own = [i for i, r in enumerate(sink.records) if r.topic == CHANGES and r.key == key.encode()]
    return own[which]


def valued(record: OutRecord, **members: object) -> OutRecord:
    return replace(record, value=orjson.dumps(orjson.loads(record.value) | members))


SPOILS: dict[str, tuple[Callable[[MemorySink, str], None], str]] = {}


def spoil(said: str) -> Callable:
    def keep(body: Callable[[MemorySink, str], None]) -> Callable:
        SPOILS[body.__name__] = (body, said)
        return body

    return keep


@spoil(r"not the value \(reason\) of the change")
def another_reason(sink: MemorySink, key: str) -> None:
    i = at(sink, key, 1)
    reason = {"kind": "segment_moved", "user_shift": 0.0, "model_shift": 9.0}
    sink.records[i] = valued(sink.records[i], reason=reason)


@spoil("not the value of the change")
def a_space(sink: MemorySink, key: str) -> None:
    i = at(sink, key, 1)
    sink.records[i] = replace(sink.records[i], value=sink.records[i].value + b" ")


@spoil("not the value of the change")
def no_json(sink: MemorySink, key: str) -> None:
    i = at(sink, key, 1)
    sink.records[i] = replace(sink.records[i], value=b"garbage")


@spoil("not the headers")
def another_header(sink: MemorySink, key: str) -> None:
    i = at(sink, key, 1)
    headers = tuple((n, b"1.1" if n == "ce_specversion" else v) for n, v in sink.records[i].headers)
    sink.records[i] = replace(sink.records[i], headers=headers)


@spoil("not the value")
def one_removed(sink: MemorySink, key: str) -> None:
    del sink.records[at(sink, key, 1)]


@spoil("is missing")
def the_last_removed(sink: MemorySink, key: str) -> None:
    del sink.records[at(sink, key, -1)]


@spoil("no step publishes")
def one_more(sink: MemorySink, key: str) -> None:
    last = sink.records[at(sink, key, -1)]
    position = orjson.loads(last.value)["position"]
    sink.records.append(valued(last, position=position | {"sequence": position["sequence"] + 1}))


@spoil("not the value")
def two_swapped(sink: MemorySink, key: str) -> None:
    i, j = at(sink, key, 1), at(sink, key, 2)
    sink.records[i], sink.records[j] = sink.records[j], sink.records[i]


@pytest.mark.parametrize("how", SPOILS)
def test_whatever_was_done_to_a_published_change_is_found(whole, key, how):
    """Changed, removed, added, swapped: where, and at which step; without a user id."""
    body, said = SPOILS[how]
    sink = copied(whole)
    body(sink, key)
    with pytest.raises(ReplayMismatch, match=said) as caught:
        check(sink, key)
    assert key not in str(caught.value)
    assert CHANGES in str(caught.value)


def test_what_was_done_to_others_is_not_this_users(whole, key):
    """A check of one user says nothing about the rest: that is what `shoal verify` is for."""
    sink = copied(whole)
    other = next(i for i, r in enumerate(sink.records) if r.topic == CHANGES and r.key != key.encode())
    sink.records[other] = replace(sink.records[other], value=b"{}")
    assert check(sink, key).agree >= 3


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshots")
    engine(LIVELY(), store=DirectoryStore(folder, kept=3)).run()
    return folder


def test_it_starts_from_the_oldest_snapshot_and_says_what_it_did_not_judge(whole, key, snapshots):
    """All add up; and from scratch everything is judged."""
    found = check(whole, key, KeptSnapshots(snapshots))
    assert (found.from_step, found.steps) == (9, 8)
    assert found.agree + found.earlier == len(published_changes(whole, key))
    assert found.agree >= 1
    assert found.earlier >= 1
    assert check(whole, key, KeptSnapshots(snapshots), from_scratch=True).earlier == 0


def test_from_a_snapshot_later_changes_are_judged_and_earlier_ones_are_not(whole, key, snapshots):
    """A fault before it shows from scratch only."""
    for which, caught in ((0, False), (-1, True)):
        sink = copied(whole)
        i = at(sink, key, which)
        sink.records[i] = replace(
            sink.records[i], value=sink.records[i].value.replace(b'"score":', b'"score": ', 1)
        )
        if caught:
            with pytest.raises(ReplayMismatch):
                check(sink, key, KeptSnapshots(snapshots))
        else:
            check(sink, key, KeptSnapshots(snapshots))
            with pytest.raises(ReplayMismatch):
                check(sink, key, KeptSnapshots(snapshots), from_scratch=True)


def test_every_user_of_the_run_agrees(whole, snapshots):
    """Those who left and came back, those who were never placed: from a snapshot in the middle."""
    config = LIVELY()
    keys = sorted({record.key.decode() for record in whole.records if record.topic == CHANGES})
    for key in keys[:: len(keys) // 6]:
        found = check(whole, key, KeptSnapshots(snapshots))
        assert found.agree + found.earlier == len(changes(whole, key))
    assert config.features.users_max > len(keys)


def test_what_retention_took_is_gone_and_not_missing(whole, key):
    """Where the topic does not begin at its beginning, a prefix may be absent; a gap may not."""

    class Shortened(MemorySink):
        def bounds(self, topic):
            return {0: (100, 100 + sum(record.topic == topic for record in self.records))}

    sink = Shortened()
    sink._manifests = list(whole._manifests)
    first = at(whole, key, 0)
    sink.records = whole.records[first + 1 :]
    found = check(sink, key)
    assert (found.gone, found.agree) == (1, len(published_changes(whole, key)) - 1)
    del sink.records[at(sink, key, 1)]
    with pytest.raises(ReplayMismatch):
        check(sink, key)


def test_an_engine_may_go_on_meanwhile(whole, key):
    """What it commits after we looked is followed, not called extra."""

    class Growing(MemorySink):
        shown = 10

        def last(self):
            return self._manifests[self.shown - 1]

        def manifests(self, after=0):
            return (m for m in self._manifests[: self.shown] if m.step > after)

        def published(self, topic):
            self.shown = len(self._manifests)
            return super().published(topic)

    sink = Growing()
    sink.records, sink._manifests = list(whole.records), list(whole._manifests)
    found = check(sink, key)
    assert (found.steps, found.agree) == (17, len(published_changes(whole, key)))
