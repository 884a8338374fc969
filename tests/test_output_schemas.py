"""Everything Shoal publishes fits its JSON Schema, and damaged records do not."""

import copy
import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from decisions import Stage, events
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import shoal.stream
from shoal.stream.events import (
    CATALOG,
    CHANGES,
    CHANNELS,
    LINEAGE,
    MANIFEST,
    MEMBERS,
    REJECTED,
    Counts,
    Manifest,
    Range,
    Reason,
    Reject,
)
from shoal.stream.manifest import encode_manifest

TOPICS = (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST)


def schema(topic):
    return json.loads((Path(shoal.stream.__path__[0]) / "schemas" / f"{topic}.json").read_text("utf-8"))


VALIDATORS = {topic: Draft202012Validator(schema(topic)) for topic in TOPICS}


def body(record):
    """What a schema speaks of: the value, or for rejects the headers; None for a tombstone."""
    if record.topic == REJECTED:
        return {name: value.decode("utf-8") for name, value in record.headers}
    return None if record.value is None else orjson.loads(record.value)


def check(record):
    if record.value is None and record.topic in (MEMBERS, CATALOG):
        return
    VALIDATORS[record.topic].validate(body(record))


def manifest(**changes):
    base = {
        "step": 3,
        "epoch": 1,
        "opening": False,
        "source": "topic=abc partitions=2",
        "ranges": (Range(0, 5, 9), Range(2, 0, 1)),
        "as_of_ms": None,
        "closing": False,
        "config_hash": "0" * 32,
        "versions": {"features": "abc", "encoder": 2, "segmenter": 1},
        "watermark_ms": 0,
        "counts": Counts(records=5, accepted=4, rejected={"json": 1}, by_type={"view": 4}),
        "next_segment_id": 9,
        "next_lineage_id": 9,
        "previous_hash": "",
        "output_hash": "1" * 32,
        "state_hash": "2" * 32,
    }
    return json.loads(encode_manifest(Manifest(**(base | changes))))


def scene():
    """Records of every topic, transition and kind of user."""
    stage = Stage([[0.0, 0.0], [10.0, 0.0]], names=("purchase_count_7d", "interest_00"), catalog_every_rows=3)
    stage.user_names[:3] = ["plain", "\x00visitor", "anon:tricky"]
    told = events(["plain", "\x00visitor", "anon:tricky"], labels=["toys", "toys", "books"])
    rejects = [Reject(i, reason, "got this, wanted that") for i, reason in enumerate(Reason)]
    records = list(
        stage.step(
            [0, 1, 2], [[1, 0], [9, 0], [1, 3]], told, rejects=rejects, values=(b"x",) * 9, keys=(b"k",) * 9
        )
    )
    stage.segmenter.centres = np.array([[0.0, 0.0], [2.0, 3.0]])
    records += stage.step(
        [0, 2], [[9, 0], [1, 3]], touched=1, told=events(["plain"]), traceparents={0: b"00-1"}
    )
    records += stage.step([0], [[1, 0]], gone=[1])
    return records


@pytest.mark.parametrize("topic", TOPICS)
def test_schemas_are_valid_and_closed(topic):
    """2020-12, with a title, a description, and no unknown fields at the top."""
    text = schema(topic)
    Draft202012Validator.check_schema(text)
    assert text["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert text["title"]
    assert text["description"]
    assert text["additionalProperties"] is False


def test_what_the_narrator_writes_fits():
    """Every topic and transition occurs, and every record validates."""
    records = scene()
    assert {r.topic for r in records} == set(TOPICS) - {MANIFEST}
    changes = [body(r) for r in records if r.topic == CHANGES]
    assert {c["transition"] for c in changes} == {"assigned", "moved", "left"}
    assert {c["reason"]["kind"] for c in changes} == {"user_behavior", "segment_moved", "expiry"}
    assert {c["user"]["kind"] for c in changes} == {"user", "anonymous"}
    for record in records:
        check(record)


def test_manifests_fit():
    VALIDATORS[MANIFEST].validate(manifest())
    VALIDATORS[MANIFEST].validate(manifest(as_of_ms=1_700_000_000_000, previous_hash="a" * 32, ranges=()))


def _objects(value, path=()):
    """Every object inside a value, as paths."""
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            yield from _objects(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _objects(inner, (*path, i))


def _at(value, path):
    for key in path:
        value = value[key]
    return value


def _examples():
    found = {MANIFEST: manifest()}
    for record in scene():
        value = body(record)
        if value is not None and len(json.dumps(value)) > len(json.dumps(found.get(record.topic, 0))):
            found[record.topic] = value
    return found


OPEN = {(MANIFEST, ("counts", "by_type")), (MANIFEST, ("counts", "rejected"))}


@pytest.mark.parametrize("topic", TOPICS)
def test_damaged_records_do_not_fit(topic):
    """An unknown field, a missing field or a wrong type anywhere is refused."""
    good = _examples()[topic]
    validator = VALIDATORS[topic]
    validator.validate(good)
    for path in _objects(good):
        if (topic, path) in OPEN:
            continue
        more = copy.deepcopy(good)
        _at(more, path)["surprise"] = 1
        assert not validator.is_valid(more), f"unknown field at {path}"
        for key in _at(good, path):
            less = copy.deepcopy(good)
            del _at(less, path)[key]
            assert key == "traceparent" or not validator.is_valid(less), f"{key} missing at {path}"
            wrong = copy.deepcopy(good)
            _at(wrong, path)[key] = [[]]
            assert not validator.is_valid(wrong), f"{key} mistyped at {path}"


@pytest.mark.parametrize(
    ("transition", "damage"),
    [
        ("assigned", {"to": None}),
        ("assigned", {"transition": "moved"}),
        ("moved", {"from": None}),
        ("moved", {"transition": "erased"}),
        ("moved", {"confidence": None}),
        ("left", {"transition": "moved"}),
        ("left", {"explanation": {"features": []}}),
        ("left", {"reason": {"kind": "user_behavior", "user_shift": 0.0, "model_shift": 0.0}}),
    ],
)
def test_a_change_must_agree_with_itself(transition, damage):
    """Which of from, to and confidence are null follows from the transition."""
    changes = [body(r) for r in scene() if r.topic == CHANGES]
    good = next(c for c in changes if c["transition"] == transition)
    assert VALIDATORS[CHANGES].is_valid(good)
    assert not VALIDATORS[CHANGES].is_valid(good | damage)


def test_reasons_and_types_in_the_schemas_are_those_of_the_code():
    reasons = [reason.value for reason in Reason]
    assert schema(REJECTED)["properties"]["reason"]["enum"] == reasons
    counts = schema(MANIFEST)["properties"]["counts"]["properties"]
    assert counts["rejected"]["propertyNames"]["enum"] == reasons
    VALIDATORS[MANIFEST].validate(manifest(counts=Counts(by_type=dict.fromkeys(CHANNELS, 1))))


where = st.tuples(st.floats(-50, 50, width=32), st.floats(-1e6, 1e6, width=32))
users = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@given(
    st.lists(st.dictionaries(st.integers(0, 3), where, max_size=4), min_size=1, max_size=5),
    st.lists(users, min_size=4, max_size=4, unique=True),
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=80), min_size=4, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_whatever_users_do_the_records_fit(steps, names, labels):
    """Any rows, user ids and labels: what comes out validates."""
    stage = Stage([[0.0, 0.0], [10.0, 0.0], [-30.0, 1e5]], users_max=4, catalog_every_rows=2)
    stage.user_names[:] = names
    for points in steps:
        told = events([names[i] for i in points], labels=[labels[i] for i in points])
        gone = [i for i in range(4) if i not in points][:1]
        for record in stage.step(sorted(points), [points[i] for i in sorted(points)], told, gone=gone):
            check(record)
