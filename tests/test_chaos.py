"""Three engines on a real broker, sixty faults and more, and an audit that is itself seen to find what is wrong."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from broker import JarBroker, Unavailable
from chaos import oracle
from chaos.auditor import CHANGES, LINEAGE, MANIFEST, MEMBERS, REJECTED, Auditor, Seen
from chaos.faults import Fault, catalogue, deck, kill_at
from chaos.feeder import PLANTED, records
from chaos.run import chaos, run
from conftest import missing
from shop import engine, small

from shoal.sinks.memory import MemorySink
from shoal.stream.manifest import encode_manifest
from shoal.stream.sources import MemorySource

FAULTS = int(os.environ.get("SHOAL_CHAOS_FAULTS", "60"))
SEED = int(os.environ.get("SHOAL_CHAOS_SEED", random.randrange(1 << 32)))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[JarBroker]:
    """A broker that nobody else uses: it is frozen and killed."""
    try:
        (tmp_path / "broker").mkdir()
        broker = JarBroker(tmp_path / "broker")
    except Unavailable as error:
        missing("a Kafka broker", str(error))
        raise
    with closing(broker):
        broker.start()
        yield broker


# --- the proof ------------------------------------------------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * FAULTS)
def test_whatever_happens_to_engines_broker_and_disks_subscribers_see_what_an_uninterrupted_run_publishes(
    own: JarBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Again with the same faults: SHOAL_CHAOS_SEED; longer: SHOAL_CHAOS_FAULTS, or `make chaos`."""
    with capsys.disabled():
        print(f"\nchaos: {FAULTS} faults, seed {SEED}", flush=True)
        report = run(own, tmp_path, SEED, FAULTS, say=lambda line: None)
        print(report.text())
    assert not report.divergences, report.text()
    assert len(report.done) == FAULTS
    assert report.facts["records of aborted transactions, seen by nobody"], "no fault hit a transaction"
    assert report.facts["snapshots compared with the oracle's state"]
    assert report.facts["changes"], "nobody changed segment: nothing was put to the test"
    assert report.facts["users whose mirrors equal the oracle's table"], "the mirrors held nobody"


@pytest.mark.kafka
@pytest.mark.slow
def test_engines_without_transactions_are_found_out(own: JarBroker, tmp_path: Path) -> None:
    """The proof can fail: the same audit, the same faults, engines that publish with a plain producer."""
    with chaos(own, tmp_path, seed=1, broken="without transactions") as current:
        for _ in range(20):
            current.strike(Fault("leader killed while sending", lambda f: kill_at("while sending", f)))
            if current.auditor.divergences:
                break
    found = {divergence.what for divergence in current.auditor.divergences}
    assert found & {"changes", "members", "catalog", "lineage", "rejects"}, current.report.text()
    assert "leader killed while sending" in current.report.text()


def test_a_seed_gives_the_same_faults_and_every_fault_is_in_the_deck() -> None:
    names = [fault.name for fault in islice(deck(random.Random(7)), 130)]
    assert names == [fault.name for fault in islice(deck(random.Random(7)), 130)]
    assert names != [fault.name for fault in islice(deck(random.Random(8)), 130)]
    assert len(catalogue()) <= 60, "an ordinary run does all of them"
    assert {fault.name for fault in catalogue()} == set(names)


# --- the audit, on a run in memory ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Books:
    """All that the audit looks at."""

    inputs: tuple[Seen, ...]
    published: tuple[Seen, ...]
    expected: oracle.Expected


@cache
def books() -> Books:
    """Of a small run that nothing happened to."""
    fed = list(islice(records(seed=3, users=80), 4000))
    inputs = tuple(
        Seen(
            "behavior.events", 0, offset, None, value or b"", ((PLANTED, reason.encode()),) if reason else ()
        )
        for offset, (_, value, reason) in enumerate(fed)
    )
    sink = MemorySink()
    engine(small(), MemorySource([[seen.value for seen in inputs]]), sink).run()
    manifests = [encode_manifest(manifest) for manifest in sink.manifests()]
    published = [*oracle.published(sink.records, partitions=1)]
    published += [Seen(MANIFEST, 0, 0, None, value, ()) for value in manifests]
    numbered = tuple(seen._replace(offset=offset) for offset, seen in enumerate(published))
    expected, _ = oracle.compute(
        small(), list(map(json.loads, manifests)), oracle.Inputs(iter(inputs)), [], 1
    )
    return Books(inputs, numbered, expected)


def audit(
    published: Sequence[Seen],
    inputs: Sequence[Seen] | None = None,
    committed: int | None = None,
    now: Sequence[Seen] | None = None,
) -> set[str]:
    """What is found wrong, in the auditor's words."""
    auditor = Auditor()
    for seen in published:
        auditor.see(seen)
    whole = books().inputs if inputs is None else inputs
    auditor.compare_log(published if now is None else now)
    auditor.settle(whole, {0: len(whole) if committed is None else committed}, PLANTED)
    auditor.compare(oracle.by_log(books().expected), {})
    return {divergence.what for divergence in auditor.divergences}


def test_the_audit_of_a_sound_run_finds_nothing() -> None:
    """And it had something to look at: every kind of record, every reason to reject."""
    assert audit(books().published) == set()
    topics = {seen.topic for seen in books().published}
    assert topics >= {CHANGES, MEMBERS, LINEAGE, REJECTED, MANIFEST}
    reasons = {dict(seen.headers)["reason"] for seen in books().published if seen.topic == REJECTED}
    assert len(reasons) == 6


Change = Callable[[list[Seen]], object]


def of(topic: str, number: int = -1) -> Callable[[list[Seen]], int]:
    """Where the last record of a topic stands, or another one."""
    return lambda log: [i for i, seen in enumerate(log) if seen.topic == topic][number]


def altered(topic: str, old: bytes, new: bytes) -> Change:
    def change(log: list[Seen]) -> None:
        at = next(i for i, seen in enumerate(log) if seen.topic == topic and old in (seen.value or b""))
        log[at] = log[at]._replace(value=(log[at].value or b"").replace(old, new, 1))

    return change


def lost(topic: str, number: int = -1) -> Change:
    return lambda log: log.pop(of(topic, number)(log))


def the_last_two_manifests_lost(log: list[Seen]) -> None:
    """The last one of a finite input closes, and reads nothing."""
    lost(MANIFEST)(log)
    lost(MANIFEST)(log)


def the_first_of_several_changes_lost(log: list[Seen]) -> None:
    changes = [seen for seen in log if seen.topic == CHANGES]
    keys = [seen.key for seen in changes]
    log.remove(next(seen for seen in changes if keys.count(seen.key) > 1))


def twice(topic: str, number: int = -1) -> Change:
    return lambda log: log.insert(of(topic, number)(log), log[of(topic, number)(log)])


PLANTS: dict[str, tuple[Change, set[str]]] = {
    "one byte of a change is another": (altered(CHANGES, b'"score":0.', b'"score":1.'), {"bytes"}),
    "a change is published twice": (twice(CHANGES), {"changes", "bytes"}),
    "a change is lost": (lost(CHANGES), {"members", "bytes"}),
    "an early change is lost": (the_first_of_several_changes_lost, {"changes", "bytes"}),
    "a member is lost": (lost(MEMBERS), {"members", "bytes"}),
    "a member is in another segment": (altered(MEMBERS, b'"segment_id":1', b'"segment_id":2'), {"bytes"}),
    "a birth is lost": (lost(LINEAGE, 0), {"lineage", "bytes"}),
    "a birth is told twice": (twice(LINEAGE, 0), {"lineage", "bytes"}),
    "a reject is lost": (lost(REJECTED), {"rejects", "bytes"}),
    "a reject is published twice": (twice(REJECTED), {"rejects", "bytes"}),
    "a reject has other bytes": (altered(REJECTED, b"torn", b"born"), {"rejects", "bytes"}),
    "a manifest is lost": (lost(MANIFEST, 5), {"manifests", "bytes"}),
    "the last manifests are lost": (the_last_two_manifests_lost, {"offsets", "coverage", "bytes"}),
    "a step is recorded twice": (twice(MANIFEST, 5), {"manifests", "bytes"}),
    "a range overlaps": (altered(MANIFEST, b"[[0,256,512]]", b"[[0,255,512]]"), {"manifests", "bytes"}),
    "a state hash is another": (altered(MANIFEST, b'"state_hash":"', b'"state_hash":"0'), {"bytes"}),
}


@pytest.mark.parametrize("what", PLANTS)
def test_the_audit_finds_what_is_planted(what: str) -> None:
    change, wanted = PLANTS[what]
    log = list(books().published)
    change(log)
    assert log != list(books().published), "nothing was planted"
    assert audit(log) >= wanted


def test_the_audit_finds_input_that_no_step_covers_offsets_that_lag_and_records_that_vanish() -> None:
    published, inputs = books().published, books().inputs
    more = (*inputs, inputs[-1]._replace(offset=len(inputs)))
    assert "coverage" in audit(published, more)
    assert audit(published, committed=len(inputs) - 1) == {"offsets"}
    assert audit(published, now=published[:-1]) == {"log"}


def test_the_oracle_tells_states_apart_to_the_last_bit() -> None:
    import numpy as np

    state = {"a": {"b": np.arange(3, dtype=np.float64)}, "c": [1, None]}
    assert oracle.difference(state, {"a": {"b": np.arange(3, dtype=np.float64)}, "c": (1, None)}) == ""
    assert (
        oracle.difference(state, {"a": {"b": np.arange(3, dtype=np.float32)}, "c": [1, None]}) == "state.a.b"
    )
    assert (
        oracle.difference(state, {"a": {"b": -np.arange(3, dtype=np.float64)}, "c": [1, None]}) == "state.a.b"
    )
    assert oracle.difference(state, {"a": state["a"], "c": [1, 0]}) == "state.c[1]"
