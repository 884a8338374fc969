"""The AsyncAPI document: sound in itself, complete, and true of what the engine writes, headers included."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource
from shop import engine, events, small
from test_epochs import OTHER
from test_lineage import PLAN, Rearranged
from test_output_schemas import scene

import shoal.stream
from shoal.sinks.memory import MemorySink
from shoal.stream import events as facts
from shoal.stream.config import Kafka
from shoal.stream.events import COMPACTED, MANIFEST, MEMBERS, REJECTED, OutRecord
from shoal.stream.kafka.admin import wanted
from shoal.stream.manifest import encode_manifest
from shoal.stream.sources import MemorySource
from shoal.stream.subscribing import asyncapi

FOLDER = Path(shoal.stream.__path__[0]) / "schemas"
FILES = {path.name: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
DOCUMENTS = {"asyncapi.json", "openapi.json"}  # the others are schemas
DOCUMENT: dict[str, Any] = FILES["asyncapi.json"]
BASE = "mem:///"
REGISTRY: Registry[Any] = Registry().with_resources(
    (BASE + name, Resource.from_contents(body)) for name, body in FILES.items() if name not in DOCUMENTS
)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(reference: str) -> Any:
    """What it points at, in the document or in a file beside it."""
    file, _, path = reference.partition("#")
    found: Any = FILES[file.removeprefix("./")] if file else DOCUMENT
    for part in path.strip("/").split("/") if path else ():
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def validator(schema: Any) -> Draft202012Validator:
    """Of a schema of the document, with what it refers to."""
    if "schemaFormat" in schema:
        assert schema["schemaFormat"] == "application/schema+json;version=draft-2020-12"
        schema = schema["schema"]
    if "$ref" in schema and schema["$ref"].startswith("#"):
        schema = resolve(schema["$ref"])
    if "$ref" in schema:
        schema = {"$ref": BASE + schema["$ref"].removeprefix("./")}
    return Draft202012Validator(schema, registry=REGISTRY)


# --- sound in itself -------------------------------------------------------------------------------------------


def test_the_file_is_what_the_code_says() -> None:
    """If not: python -m shoal.stream.subscribing.asyncapi > stream/schemas/asyncapi.json"""
    assert (FOLDER / "asyncapi.json").read_bytes() == asyncapi.text(asyncapi.document())


def test_every_reference_leads_somewhere_and_everything_is_referred_to() -> None:
    """No schema file, header schema or message lies about unused."""
    found = set(references(DOCUMENT))
    for reference in found:
        assert resolve(reference), reference
    files = {reference.removeprefix("./") for reference in found if reference.startswith("./")}
    assert files == FILES.keys() - DOCUMENTS
    for kind, parts in DOCUMENT["components"].items():
        assert {f"#/components/{kind}/{name}" for name in parts} <= found
    assert {f"#/channels/{name}" for name in DOCUMENT["channels"]} <= found


def test_every_topic_of_the_code_is_a_channel_and_every_channel_a_topic() -> None:
    named = [getattr(facts, name) for name in dir(facts) if name.isupper()]
    topics = {value for value in named if isinstance(value, str) and "." in value}
    assert DOCUMENT["channels"].keys() == topics | {Kafka().events_topic}
    assert all(channel["address"] == name for name, channel in DOCUMENT["channels"].items())
    directions = {
        op["channel"]["$ref"].split("/", 2)[2]: op["action"] for op in DOCUMENT["operations"].values()
    }
    assert directions.keys() == DOCUMENT["channels"].keys()
    inputs = {name for name, action in directions.items() if action == "receive"}
    assert inputs == {Kafka().events_topic, "segment.control"} & DOCUMENT["channels"].keys()


def test_topics_are_kept_as_the_engine_creates_them() -> None:
    """Clean-up, retention and partitions are those of `kafka.create_topics`."""
    for topic in wanted(Kafka()):
        kafka = DOCUMENT["channels"][topic.name]["bindings"]["kafka"]
        assert kafka["topicConfiguration"]["cleanup.policy"] == [topic.policy]
        retention = topic.configs.get("retention.ms")
        assert kafka["topicConfiguration"].get("retention.ms") == (
            None if retention is None else int(retention)
        )
        assert kafka.get("partitions") == (1 if topic.name == MANIFEST else None)


def test_only_compacted_topics_have_tombstones() -> None:
    for topic, channel in DOCUMENT["channels"].items():
        empty = [name for name in channel["messages"] if message(name)["payload"] == {"type": "null"}]
        assert bool(empty) == (topic in COMPACTED)


def message(name: str) -> Any:
    return DOCUMENT["components"]["messages"][name]


def test_it_has_the_form_of_asyncapi_3() -> None:
    """By the rules of the specification; in full where SHOAL_ASYNCAPI_SCHEMA names a copy of its JSON Schema."""
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT.keys() >= {"info", "channels", "operations", "components"}
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    for name in (*DOCUMENT["components"]["messages"], *DOCUMENT["components"]["schemas"]):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["channel"]["$ref"].startswith("#/channels/")
    for channel in DOCUMENT["channels"].values():
        assert all(ref["$ref"].startswith("#/components/messages/") for ref in channel["messages"].values())
    copy = os.environ.get("SHOAL_ASYNCAPI_SCHEMA")
    if copy:
        Draft7Validator(json.loads(Path(copy).read_text("utf-8"))).validate(DOCUMENT)


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_header_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


# --- true of what is written -------------------------------------------------------------------------------------


@cache
def written() -> tuple[OutRecord, ...]:
    """Two epochs with merges, splits and every mishap; scenes with traceparents and farewells; the manifests."""
    sink = MemorySink()
    for overrides, count, fresh in (((), 2000, None), ((OTHER,), 4000, 0)):
        made = engine(
            small("segmenter.segments=5", *overrides), MemorySource([events()[:count]]), sink, fresh=fresh
        )
        made.pipeline.segmenter = Rearranged(made.pipeline.publisher.d_out, PLAN)
        made.run()
    manifests = [OutRecord(MANIFEST, None, encode_manifest(manifest)) for manifest in sink.manifests()]
    return (*sink.records, *scene(), *manifests)


def complaints(record: OutRecord) -> list[str]:
    """What is wrong with it as a message of its channel; [] if it fits one of them."""
    candidates = DOCUMENT["channels"][record.topic]["messages"]
    found = {name: list(_complaints(record, message(name))) for name in candidates}
    return (
        [] if [] in found.values() else [f"{name}: {text}" for name, texts in found.items() for text in texts]
    )


def _complaints(record: OutRecord, wanted: Any) -> Iterator[str]:
    headers = {name: value.decode() for name, value in record.headers}
    if len(headers) != len(record.headers):
        yield "a header comes twice"
    key = wanted.get("bindings", {}).get("kafka", {}).get("key")
    parts = {"payload": _payload(record), "headers": headers}
    schemas = {"payload": wanted["payload"], "headers": wanted.get("headers", {"maxProperties": 0})}
    if key is None:
        yield from ["a key where none belongs"] if record.key is not None else []
    elif "type" in key:
        parts["key"], schemas["key"] = None if record.key is None else record.key.decode(), key
    for name, schema in schemas.items():
        yield from (f"{name}: {error.message[:200]}" for error in validator(schema).iter_errors(parts[name]))


def _payload(record: OutRecord) -> Any:
    if record.topic == REJECTED:
        return None if record.value is None else record.value.decode("utf-8", "replace")
    return None if record.value is None else json.loads(record.value)


def test_every_record_the_engine_writes_is_a_message_of_its_channel() -> None:
    """Key, headers and payload; every message of every output occurs."""
    fitting: set[str] = set()
    for record in written():
        assert complaints(record) == []
        names = DOCUMENT["channels"][record.topic]["messages"]
        fitting |= {name for name in names if not list(_complaints(record, message(name)))}
    sent = {
        op["channel"]["$ref"].split("/", 2)[2]
        for op in DOCUMENT["operations"].values()
        if op["action"] == "send"
    }
    assert fitting >= {name for topic in sent for name in DOCUMENT["channels"][topic]["messages"]}
    assert any(name == "traceparent" for record in written() for name, _ in record.headers)


@pytest.mark.parametrize("topic", sorted({record.topic for record in scene()} - {REJECTED}))
def test_a_record_with_damaged_headers_or_key_is_none(topic: str) -> None:
    """A header missing, another value, one too many; no key."""
    good = next(r for r in written() if r.topic == topic and r.value is not None)
    for i, (name, _) in enumerate(good.headers):
        if name == "traceparent":
            continue
        rest = good.headers[:i] + good.headers[i + 1 :]
        for headers in (rest, (*rest, (name, b"")), (*good.headers, ("surprise", b"1"))):
            assert complaints(OutRecord(topic, good.key, good.value, headers)), (name, headers)
    assert complaints(OutRecord(topic, None, good.value, good.headers))
    assert complaints(OutRecord(topic, b"", good.value, good.headers))


def test_a_tombstone_is_no_change_and_a_membership_no_change_either() -> None:
    change = next(r for r in written() if r.topic == facts.CHANGES)
    member = next(r for r in written() if r.topic == MEMBERS and r.value is not None)
    assert complaints(OutRecord(change.topic, change.key, None, change.headers))
    assert complaints(OutRecord(change.topic, member.key, member.value, member.headers))


def test_keys_and_ids_are_those_of_the_values() -> None:
    """What a schema cannot say: the key is the user's or the segment's, and ce_id begins with it."""
    for record in written():
        if record.topic in (REJECTED, MANIFEST) or record.value is None or record.key is None:
            continue
        value, ce_id = json.loads(record.value), dict(record.headers)["ce_id"]
        own = value["user"]["key"] if "user" in value else str(value.get("lineage_id") or value["segment_id"])
        assert record.key.decode() == own
        assert ce_id == record.key or ce_id.startswith(record.key + b":")


# --- shoal schemas -----------------------------------------------------------------------------------------------


def shown(*arguments: str) -> Any:
    from shoal.stream.cli import shoal as group

    return CliRunner().invoke(group, ["schemas", *arguments])


def test_shoal_schemas_lists_and_prints_what_ships() -> None:
    assert {line.split()[0] for line in shown().output.splitlines()} == {name[:-5] for name in FILES}
    listed = json.loads(shown("--json").output)
    assert all(
        json.loads(Path(one["path"]).read_text())["$schema"]
        for one in listed
        if f"{one['name']}.json" not in DOCUMENTS
    )
    for name in FILES:
        assert json.loads(shown(name[:-5]).output) == FILES[name] == json.loads(shown(name).output)
    assert "did you mean 'segment.changes'" in str(shown("segment.change").exception)
