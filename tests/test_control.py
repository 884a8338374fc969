"""Commands: what they leave behind, and what they do not, whatever was said before."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import shop
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from test_pipeline import KINDS, PLAIN, T0_MS, Driver, crowd

import shoal.stream
from shoal.encoders.replay import MEMORY
from shoal.sinks.memory import MemorySink
from shoal.stream.cli import shoal as shoal_cli
from shoal.stream.control.commands import decode
from shoal.stream.control.residual import RESERVOIR_MEMORY
from shoal.stream.decoding.refusals import Problem
from shoal.stream.events import CHANGES, MEMBERS, REJECTED, Output, OutRecord, Records, Step
from shoal.stream.packing import pack
from shoal.stream.ports import SourceGone
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import MemorySource

SCHEMAS = Path(shoal.stream.__path__[0]) / "schemas"


def validator(topic: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{topic}.json").read_text("utf-8")))


class Commanded(Driver):
    """A pipeline that is given commands, too."""

    ids = 0

    def command(self, kind: str, **more: Any) -> bytes:
        self.ids += 1
        return orjson.dumps({"command": kind, "command_id": f"c{self.ids}"} | more)

    def obey(self, *commands: bytes, events: Sequence[bytes] = (), as_of_ms: int = T0_MS) -> Output:
        c, n = len(commands), len(events)
        partitions = np.repeat(np.array([-1, 0], np.int32), [c, n])
        values = (*commands, *events)
        offsets = np.concatenate([np.arange(c), np.arange(n)])
        records = Records(partitions, offsets, (None,) * (c + n), values)
        self.outputs.append(self.pipeline.step(Step(len(self.outputs) + 1, (), records, as_of_ms)))
        return self.outputs[-1]

    def erase(self, user: str, **more: Any) -> bytes:
        return self.command("erase", user={"user_id": user}, **more)

    def consent(self, user: str, given: bool) -> bytes:
        return self.command("consent", user={"user_id": user}, segmentation=given)


def warm(*overrides: str, users: int = 60) -> Commanded:
    driver = Commanded(shop.small(*PLAIN, *overrides))
    driver.step(*crowd(driver, users))
    assert driver.pipeline.warmup.done
    return driver


def changes(output: Output, topic: str = CHANGES) -> list[Any]:
    return [orjson.loads(r.value) for r in output.records if r.topic == topic and r.value is not None]


def mirror(records: Sequence[OutRecord]) -> dict[str, Any]:
    """What a reader of the compacted topic has."""
    members: dict[str, Any] = {}
    for record in (r for r in records if r.topic == MEMBERS):
        members.pop(record.key.decode(), None)
        if record.value is not None:
            members[record.key.decode()] = orjson.loads(record.value)
    return members


def snapshot_bytes(driver: Driver) -> bytes:
    return b"".join(bytes(part) for part in pack(driver.pipeline.snapshot()))


def slabs(driver: Driver, slot: int) -> list[bytes]:
    """Everything that is kept by slot, of one slot."""
    p = driver.pipeline
    found = [
        getattr(part, name)[slot : slot + 1].tobytes()
        for part, names in (
            (p.users, ("last_ms", "first_ms", "events_seen")),
            (p.membership, ("centre", "segment", "since_ms", "sequence")),
            (p.membership.policy, ("_rival", "_evidence", "_restless", "_at_ms")),
            (p.attribution, ("_z", "_version", "_label", "_lead")),
            (p.features._interest, ("_sums", "_history", "_scale", "_reference_ms")),
            (p.features._windows, ("_due_ms",)),
        )
        for name in names
    ]
    seen = p.catalog.sightings._last_ms
    return [
        *found,
        bytes([int(p.features._windows._pool.slabs.place[slot] != 0)]),
        p.users.names(np.array([slot], np.int32))[0].encode(),
        bytes([int(slot < len(seen) and seen[slot] != 0)]),
        bytes([int(slot in p.warmup._row_of)]),
    ]


NEVER_USED = 500  # a slot that no test comes to

# --- erase --------------------------------------------------------------------------------------------------


def test_an_erased_user_leaves_a_slot_as_if_never_used_a_tombstone_and_a_receipt():
    """Whatever is kept by user is gone; subscribers hear it once, as the schema says."""
    driver = warm()
    slot = driver.pipeline.users.slot("u007")
    held = slabs(driver, slot)
    output = driver.obey(driver.erase("u007", issued_by="somebody", reason="asked to be forgotten"))
    assert slabs(driver, slot) == slabs(driver, NEVER_USED) != held
    (change,) = changes(output)
    validator(CHANGES).validate(change)
    assert (change["transition"], change["reason"]["kind"], change["to"]) == ("erased", "erasure", None)
    assert change["from"] is not None
    assert change["position"] == {"topic": "segment.control", "partition": 0, "offset": 0, "sequence": 2}
    assert change["receipt"]["command_ids"] == ["c1"]
    assert change["receipt"]["held"]
    assert [(r.key, r.value) for r in output.records if r.topic == MEMBERS] == [(b"u007", None)]
    assert b"somebody" not in b"".join(r.value or b"" for r in output.records)
    assert sum(driver.pipeline.membership.sizes().values()) == 59


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_after_an_erasure_no_byte_of_the_state_has_the_users_name(data):
    """Neither in a snapshot nor in memory that is not in use, whoever left or came before."""
    driver = warm("features.users_max=64", "engine.step_records_max=64")
    erased = data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=8, unique=True))
    for i in data.draw(st.lists(st.integers(0, 200), max_size=12)):  # some make room for others
        driver.step(driver.event(f"u{i:03d}", KINDS[i % 4], T0_MS + 5, items=[{"id": f"i{i}"}]))
    names = [f"u{i:03d}" for i in erased]
    driver.obey(*map(driver.erase, names))
    state, pool = snapshot_bytes(driver), driver.pipeline.users._roster._pool.slabs.memory.tobytes()
    for name in names:
        assert name.encode() not in state
        assert name.encode() not in pool
    driver.pipeline.users._roster._pool.check()
    driver.pipeline.features._windows._pool.check()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=12))
def test_what_others_did_is_what_it_would_be_if_the_erased_user_had_never_been(history):
    """Their windows, to the bit; what was learned from everybody is another matter, see the receipt."""
    full, without = (Commanded(shop.small(*PLAIN, "segmenter.warmup_rows=500")) for _ in range(2))
    for i, (user, erase) in enumerate(history):
        values = [full.event(f"u{u:03d}", KINDS[u % 4], T0_MS + i, items=[{"id": "x"}]) for u in (user, 3, 5)]
        full.obey(*([full.erase("u003")] if erase else []), events=values)
        without.obey(events=[v for v in values if b"u003" not in v])
    full.obey(full.erase("u003"))
    now_ms = full.pipeline.clock.now_ms
    for user in {f"u{u:03d}" for u, _ in history} - {"u003"}:
        rows = []
        for driver in (full, without):
            p = driver.pipeline
            slot = np.array([p.users.slot(user)], np.int32)
            rows.append(p.features.rows(slot, p.users, now_ms)[:, : p.features.interest.start])
        assert rows[0].tobytes() == rows[1].tobytes()


def test_events_of_a_user_erased_in_the_same_step_are_dropped_and_counted():
    """Two topics have no common order: nothing of this step stays, and the next step begins anew."""
    driver = warm()
    output = driver.obey(driver.erase("u001"), events=[driver.event("u001"), driver.event("u002")])
    assert (output.counts.accepted, output.counts.withheld, output.counts.commands) == (2, 1, 1)
    assert driver.pipeline.users.slot("u001") is None
    (again,) = changes(driver.step(driver.event("u001")))
    assert (again["transition"], again["from"], again["position"]["sequence"]) == ("assigned", None, 3)
    assert again["confidence"]["events_seen"] == 1


def test_who_was_not_known_gets_a_receipt_that_says_so():
    """Nobody can tell an unknown user from one who was forgotten long ago."""
    driver = warm()
    (change,) = changes(driver.obey(driver.erase("stranger")))
    validator(CHANGES).validate(change)
    assert (change["receipt"]["held"], change["receipt"]["erased"], change["receipt"]["residual"]) == (
        False,
        [],
        None,
    )


def test_several_commands_about_a_user_in_one_step_get_one_receipt():
    """A user changes at most once in a step; every command is named."""
    driver = warm()
    output = driver.obey(driver.erase("u001"), driver.consent("u001", given=False), driver.erase("u001"))
    (change,) = changes(output)
    assert change["receipt"]["command_ids"] == ["c1", "c2", "c3"]
    assert output.counts.commands == 3


def test_a_user_erased_before_the_warm_start_is_not_in_the_buffer():
    """Its row never becomes a centre; a buffer that is left empty waits."""
    driver = Commanded(shop.small(*PLAIN))
    driver.step(*crowd(driver, 1))
    (change,) = changes(driver.obey(driver.erase("u000")))
    assert "warm_up" in change["receipt"]["erased"]
    assert change["receipt"]["residual"]["rows_max"] == 0
    driver.pipeline.step(Step(3, (), Records.empty(), None, closing=True))
    assert not driver.pipeline.warmup.done


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.integers(1, 30))
def test_the_rows_of_a_user_never_weigh_more_in_a_centre_than_the_receipt_says(before, after):
    """River's rule done twice, with the user's rows and with the same rows moved by one: a centre is linear in
    its rows, so the difference is their weight."""
    driver = warm("segmenter.mode=constant", "segmenter.step=0.05")
    driver.step(*(driver.event(f"n{i}", KINDS[i % 4], T0_MS + 9_000) for i in range(3)))
    rng = np.random.default_rng(before * 31 + after)
    d = driver.pipeline.segmenter.d
    centre, weight, mine = rng.normal(size=d), 0.0, before
    for i in range(before + after):
        own = i < before
        centre += 0.05 * (rng.normal(size=d) - centre)
        weight = weight * 0.95 + (0.05 if own else 0.0)
    bound = driver.pipeline.control.farewells._residual.of(mine, False, driver.pipeline.features)["centres"]
    assert weight <= bound["weight_max"] + 1e-12
    halved = weight * (1 - 0.05) ** bound["halving_rows_max"]
    assert halved <= weight / 2 + 1e-12


def test_the_share_of_a_users_rows_in_the_scaling_is_bounded_by_the_receipt():
    """A mean over n rows: taking the user's rows out moves it by no more than their share."""
    driver = warm(users=80)
    rows = driver.pipeline.features.learned_rows
    (change,) = changes(driver.obey(driver.erase("u003")))
    assert change["receipt"]["residual"]["scaling"]["weight_max"] == pytest.approx(
        3 / rows[rows > 0].min(), rel=1e-5
    )
    assert RESERVOIR_MEMORY == MEMORY


# --- consent ------------------------------------------------------------------------------------------------


def test_who_withdraws_consent_is_not_kept_again_until_it_is_given():
    """Events are read, counted and withheld; no slot is given; then all begins anew."""
    driver = warm()
    driver.obey(driver.consent("u001", given=False))
    for _ in range(3):
        output = driver.step(driver.event("u001", time_ms=T0_MS + 7), driver.event("u002"))
        assert (output.counts.accepted, output.counts.withheld) == (2, 1)
        assert driver.pipeline.users.slot("u001") is None
    driver.obey(driver.consent("u001", given=True))
    output = driver.step(driver.event("u001"))
    assert output.counts.withheld == 0
    assert [c["transition"] for c in changes(output)] == ["assigned"]


def test_a_withdrawal_that_could_not_be_kept_is_refused_and_changes_nothing():
    """At the limit nobody is silently forgotten: the command is rejected, the user stays."""
    driver = warm("control.refusals_max=1")
    assert driver.obey(driver.consent("u001", given=False)).counts.commands == 1
    output = driver.obey(driver.consent("u002", given=False), driver.consent("u001", given=False))
    assert (output.counts.commands, output.counts.rejected) == (1, {"schema": 1})
    (reject,) = [r for r in output.records if r.topic == REJECTED]
    headers = {name: value.decode() for name, value in reject.headers}
    validator(REJECTED).validate(headers)
    assert headers["topic"] == "segment.control"
    assert "refusals_max" in headers["detail"]
    assert driver.pipeline.users.slot("u002") is not None


def test_the_state_does_not_name_who_withdrew():
    """A hash is enough to know somebody again."""
    driver = warm()
    driver.obey(driver.consent("u001", given=False))
    driver.step(driver.event("u001"), driver.event("u002"))
    driver.obey(driver.erase("nobody"))
    assert b"u001" not in snapshot_bytes(driver)


# --- bad commands -------------------------------------------------------------------------------------------

BAD = {
    b"": "tombstone",
    b"\xff": "encoding",
    b"{": "json",
    b'{"command":"erase","command_id":"1","user":{"user_id":"a"}} x': "json",
    b'{"a":NaN}': "number",
    b"[" * 50: "depth",
    b"[]": "schema",
    b'{"command":"forget","command_id":"1","user":{"user_id":"a"}}': "schema",
    b'{"command":"erase","command_id":"1","user":{"user_id":"a"},"force":true}': "schema",
    b'{"command":"erase","command_id":"","user":{"user_id":"a"}}': "schema",
    b'{"command":"erase","command_id":"1","user":{}}': "schema",
    b'{"command":"erase","command_id":"1","user":{"user_id":"a","anonymous_id":"b"}}': "schema",
    b'{"command":"erase","command_id":"1","user":{"user_id":""}}': "user_id",
    b'{"command":"pin","command_id":"1","user":{"user_id":"a"},"segment_id":0}': "schema",
    b'{"command":"freeze","command_id":"1","learning":"yes"}': "schema",
    b" " * 70_000: "size",
}


@pytest.mark.parametrize(("value", "reason"), BAD.items(), ids=lambda x: str(x)[:40])
def test_a_bad_command_is_a_reject_with_its_reason(value, reason):
    """Never an exception; the whole record comes back, with where it stood."""
    driver = Commanded(shop.small(*PLAIN))
    output = driver.obey(value)
    assert output.counts.rejected == {reason: 1}
    (reject,) = [r for r in output.records if r.topic == REJECTED]
    assert reject.value == value
    validator(REJECTED).validate({name: v.decode() for name, v in reject.headers})


GOOD = [
    {"command": "erase", "user": {"user_id": "a"}, "issued_by": "dpo", "reason": "asked", "issued_time": 5},
    {"command": "erase", "user": {"anonymous_id": "a"}, "issued_time": "2026-01-01T00:00:00Z"},
    {"command": "consent", "user": {"user_id": "a"}, "segmentation": True},
    {"command": "merge", "from": {"anonymous_id": "a"}, "into": {"user_id": "b"}},
    {"command": "pin", "user": {"user_id": "a"}, "segment_id": 3},
    {"command": "pin", "user": {"user_id": "a"}, "segment_id": None},
    {"command": "rename", "segment_id": 3, "names": {"en": "Owls", "zh": "夜猫"}},
    {"command": "rename", "segment_id": 3, "name": None},
    {"command": "freeze", "learning": False},
]


@pytest.mark.parametrize("body", GOOD, ids=lambda b: b["command"])
def test_the_schema_and_the_decoder_agree(body):
    """What the schema allows is decoded; with a field more, or one less, neither takes it."""
    check = validator("segment.control")
    whole = {"command_id": "c"} | body
    check.validate(whole)
    assert not isinstance(decode(orjson.dumps(whole), 65_536), Problem)
    for damaged in ({**whole, "extra": 1}, {k: v for k, v in whole.items() if k != "command_id"}):
        assert not check.is_valid(damaged)
        assert isinstance(decode(orjson.dumps(damaged), 65_536), Problem)
    for name in body:
        if name not in ("issued_by", "reason", "issued_time", "names", "name"):
            damaged = {k: v for k, v in whole.items() if k != name}
            assert not check.is_valid(damaged)
            assert isinstance(decode(orjson.dumps(damaged), 65_536), Problem)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_stop_the_decoder(value):
    """Whatever was written to the topic."""
    decode(value, 65_536)


# --- whole runs ---------------------------------------------------------------------------------------------

USERS = sorted(set(re.findall(rb'"user_id":"([^"]+)"', b"".join(v or b"" for v in shop.events()[:400]))))[:6]


def commands(count: int = 12) -> list[tuple[int, bytes]]:
    """Erasures and consents among the events of the small shop, some of nobody, some bad."""
    made = []
    for i in range(count):
        user = {"user_id": [*(u.decode() for u in USERS), "nobody"][i % 7]}
        body = {"command": "erase", "command_id": f"c{i}", "user": user}
        if i % 3 == 1:
            body |= {"command": "consent", "segmentation": i % 2 == 0}
        made.append((150 * i + 37, b"{" if i == 5 else orjson.dumps(body)))
    return made


def run(store=None, sink=None, limit=None, events=2000) -> tuple[Any, MemorySink]:
    config = shop.small("engine.snapshot_every_steps=3")
    sink = sink or MemorySink()
    source = MemorySource([shop.events()[:events]], commands())
    engine = shop.engine(config, source, sink, store)
    if limit is not None:
        advance = engine.advance

        def stopping(output):
            advance(output)
            if engine.steps >= limit:
                engine.stop()

        engine.advance = stopping
    engine.run()
    return engine, sink


def test_a_run_with_commands_that_is_stopped_anywhere_goes_on_with_the_same_bytes(tmp_path):
    """From a snapshot, and from the manifests alone."""
    whole = run()[1]
    counts = [manifest.counts for manifest in whole.manifests()]
    assert sum(count.commands for count in counts) == 11
    assert sum(count.withheld for count in counts) > 0
    assert all(count.balanced() for count in counts)
    for limit in (1, 4, 9):
        for store in (None, lambda at=limit: DirectoryStore(tmp_path / str(at), 3)):
            sink = run(store and store(), limit=limit)[1]
            run(store and store(), sink)
            assert sink.records == whole.records
            assert list(sink.manifests()) == list(whole.manifests())


def test_the_mirror_of_a_run_with_commands_has_no_erased_user_and_all_others():
    """Folding the members gives the engine's own table."""
    engine, sink = run()
    members = mirror(sink.records)
    p = engine.pipeline
    slots = np.flatnonzero(p.membership.segment).astype(np.int32)
    own = dict(zip(p.users.names(slots), p.membership.segment[slots].tolist(), strict=True))
    assert {k: v["segment_id"] for k, v in members.items() if not k.startswith("anon:")} == {
        k: v for k, v in own.items() if not k.startswith("\x00")
    }
    check = validator(CHANGES)
    for record in sink.records:
        if record.topic == CHANGES:
            check.validate(orjson.loads(record.value))


# --- consent that events carry ------------------------------------------------------------------------------


def test_an_event_that_withdraws_consent_ends_everything_and_one_that_gives_it_begins_anew():
    """The receipt names no command but stands at the event; later events are withheld, whatever they say of it."""
    driver = warm()
    event = driver.event("u001", consent={"segmentation": False})
    output = driver.step(driver.event("u001"), event, driver.event("u002"))
    (change,) = changes(output)
    validator(CHANGES).validate(change)
    assert (change["transition"], change["receipt"]["command_ids"]) == ("erased", [])
    assert (change["position"]["topic"], change["times"]["event_time"]) == ("behavior.events", T0_MS)
    assert output.counts.withheld == 2
    for more in ({}, {"consent": {"segmentation": False}}, {"consent": {"personalization": True}}):
        output = driver.step(driver.event("u001", **more))
        assert (output.counts.withheld, changes(output)) == (1, [])
    driver.step(driver.event("u001", consent={"segmentation": True}))
    assert driver.pipeline.users.slot("u001") is not None


def test_an_event_does_not_lift_what_a_command_withdrew():
    """Old devices send old consents; only a command undoes a command."""
    driver = warm()
    driver.obey(driver.consent("u001", given=False))
    output = driver.step(driver.event("u001", consent={"segmentation": True}))
    assert output.counts.withheld == 1


def test_both_halves_of_decoding_know_what_an_event_says_of_consent():
    """The fast half leaves such an event to the other one; unsaid and null are the same."""
    decoder = warm().pipeline.decoder
    bodies = [{}, {"consent": {"segmentation": False}}, {"consent": {"segmentation": None}}, {"consent": None},
              {"consent": {"segmentation": True, "personalization": False}}]  # fmt: skip
    base = {"event_id": "e", "type": "view", "user_id": "a", "event_time": T0_MS}
    values = tuple(orjson.dumps(base | body) for body in bodies)
    records = Records(np.zeros(5, np.int32), np.arange(5), (None,) * 5, values)
    events, rejects = decoder.decode(records)
    assert not rejects
    assert events.consent.tolist() == [0, -1, 0, 0, 1]
    none = Records(np.zeros(1, np.int32), np.arange(1), (None,), values[:1])
    assert decoder.decode(none)[0].consent is None


def test_a_file_of_commands_is_obeyed_after_the_input_and_verified_with_it(tmp_path):
    """Through the command line: written, obeyed, gone on with, verified; and missed where it is left out."""
    events, said, out = tmp_path / "events.jsonl", tmp_path / "control.jsonl", tmp_path / "out"
    user = USERS[0].decode()
    events.write_bytes(b"\n".join(v or b"" for v in shop.events()[:600]) + b"\n")
    base = [arg for pair in shop.SMALL for arg in ("--set", pair)]
    base += ["--set", "encoder.kind=identity"]
    files = ["--input", str(events), "--output", str(out)]
    call = CliRunner().invoke
    assert call(shoal_cli, ["control", "erase", "--user", user, "--to", str(said)]).exit_code == 0
    assert call(shoal_cli, ["run", *files, *base, "--control", str(said), "--json"]).exit_code == 0
    assert call(shoal_cli, ["control", "erase", "--user", "nobody", "--to", str(said)]).exit_code == 0
    done = call(shoal_cli, ["run", *files, *base, "--control", str(said), "--json"])
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in (out / "segment.changes.jsonl").read_text().splitlines()]
    receipts = [v for line in told if (v := line.get("value", line)).get("receipt")]
    assert [r["user"]["key"] for r in receipts] == [user, "nobody"]
    assert call(shoal_cli, ["verify", *files, *base, "--control", str(said), "--json"]).exit_code == 0
    missed = call(shoal_cli, ["verify", *files, *base])
    assert isinstance(missed.exception, SourceGone)
    assert "--control" in str(missed.exception)
