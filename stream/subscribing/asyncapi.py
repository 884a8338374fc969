"""The AsyncAPI 3.0 document of Shoal's topics, made from what the code says about them.

    python -m shoal.stream.subscribing.asyncapi > stream/schemas/asyncapi.json

Payloads are references to the JSON Schemas beside it; keys and headers are described here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from .. import events
from ..events import CATALOG, CHANGES, COMPACTED, LINEAGE, MANIFEST, MEMBERS, REJECTED

Json = dict[str, Any]

BEHAVIOR = "behavior.events"
CONTROL = "segment.control"
TOP_ITEMS = "segment.top_items"
VERSION = "1.0.0"
_DIALECT = "application/schema+json;version=draft-2020-12"
_KAFKA = "0.5.0"
_TRACEPARENT = {"type": "string", "description": "W3C trace context of the causing event, where it had one."}
_USER_KEY = {
    "type": "string",
    "minLength": 1,
    "description": "The user key: the user id; `anon:` + anonymous id; `user:` + the user id where that begins so.",
}


def _number(what: str) -> Json:
    return {"type": "string", "pattern": "^[1-9][0-9]*$", "description": f"The {what} as text."}


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of record of a topic."""

    name: str
    title: str
    schema: str = ""  # file of its payload; "" for an empty value
    headers: str = ""  # file, or name of a schema in this document
    content_type: str = "application/json"
    payload: Mapping[str, Any] = field(default_factory=dict)  # where no file describes it


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic."""

    topic: str
    action: str  # what Shoal does: send, receive
    says: str
    key: Mapping[str, Any] | None
    messages: tuple[Message, ...]


def channels() -> tuple[Channel, ...]:
    """All topics of the contract, in the order the data flows; those that this version does not have are left out."""
    known = set(topics())
    return tuple(channel for channel in _ALL if channel.topic in known)


def topics() -> list[str]:
    """Every topic that `events.py` names, and the input."""
    named = (getattr(events, name) for name in dir(events) if name.isupper())
    found = {value for value in named if isinstance(value, str) and "." in value}
    return sorted({BEHAVIOR, *found})


def _tombstone(name: str, title: str, headers: str) -> Message:
    return Message(name, title, headers=headers, payload={"type": "null"})


_ALL = (
    Channel(
        BEHAVIOR,
        "receive",
        "What users do. The name is `kafka.events_topic`. Bad records go to behavior.rejected; none stops the engine.",
        {"type": "string", "description": "The user id, so that a user's events keep their order; not read."},
        (Message("behaviorEvent", "A behaviour event", "behavior.event.json", "headers.input"),),
    ),
    Channel(
        CONTROL,
        "receive",
        "What operators and privacy desks ask for, ordered with the data.",
        {"type": "string", "description": "The user key or the segment id, so that its commands keep their order."},
        (Message("controlCommand", "A command", "segment.control.json", "headers.input"),),
    ),
    Channel(
        CHANGES,
        "send",
        "One record per decided change of a user. Sequences have no gap within a stay; a later stay starts higher.",
        _USER_KEY,
        (Message("segmentChange", "A segment change", "segment.changes.json", "headers.change"),),
    ),
    Channel(
        MEMBERS,
        "send",
        "The present membership: what folding the changes gives. In the same transaction as the change.",
        _USER_KEY,
        (
            Message("membership", "A membership", "segment.members.json", "headers.member"),
            _tombstone("noMembership", "The user is in no segment", "headers.member"),
        ),
    ),
    Channel(
        CATALOG,
        "send",
        "What each segment is. Before the first change that names it so.",
        _number("segment id"),
        (
            Message("segmentProfile", "A segment's profile", "segment.catalog.json", "headers.catalog"),
            _tombstone("noSegment", "The segment was given up", "headers.catalog"),
        ),
    ),
    Channel(
        LINEAGE,
        "send",
        "What happened to segment ids, before the first change that depends on it.",
        _number("lineage id"),
        (Message("lineageFact", "A lineage record", "segment.lineage.json", "headers.lineage"),),
    ),
    Channel(
        TOP_ITEMS,
        "send",
        "What each segment takes to, ranked.",
        _number("segment id"),
        (Message("topItems", "A segment's top items", "segment.top_items.json", "headers.top_items"),),
    ),
    Channel(
        REJECTED,
        "send",
        "Records that could not be used: the original key and bytes, with the reason in the headers.",
        {"description": "The original key, or none."},
        (
            Message(
                "rejectedRecord", "A rejected record", headers="behavior.rejected.json",
                content_type="application/octet-stream",
                payload={"type": ["string", "null"], "description": "The original bytes."},
            ),
        ),
    ),
    Channel(
        MANIFEST,
        "send",
        "Internal: one record per step, in one partition; with the input log, all that is needed to compute it again.",
        None,
        (Message("manifest", "A step's manifest", "shoal.manifest.json"),),
    ),
)  # fmt: skip


# --- headers ----------------------------------------------------------------------------------------------------


def cloud_headers(kind: str, path: str, ce_id: str) -> Json:
    """CloudEvents 1.0, Kafka binding, binary mode."""
    properties: Json = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "minLength": 3, "description": ce_id},
        "ce_source": {
            "type": "string",
            "pattern": f"^shoal/[0-9a-f]{{12}}{path}$",
            "description": "`shoal/` + the beginning of the configuration's hash.",
        },
        "ce_type": {"const": f"shoal.segment.{kind}.v1"},
        "ce_time": {
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
            "description": "Stream time, RFC 3339, UTC.",
        },
        "content-type": {"const": "application/json"},
    }
    required = list(properties)
    if kind in ("change", "member"):
        properties["traceparent"] = _TRACEPARENT
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_PER_STEP = "`segment id:step`."
_PER_USER = "`user key:sequence`: the same record again has the same id."
_LINEAGE_ID = "The lineage id."


def _header_schemas() -> Json:
    lineage = cloud_headers("lineage", "/lineage", _LINEAGE_ID)
    lineage["properties"]["ce_id"] = {**_number("lineage id"), "description": _LINEAGE_ID}
    return {
        "headers.input": {
            "type": "object",
            "properties": {"traceparent": {**_TRACEPARENT, "description": "W3C trace context; passed through."}},
            "description": "Whatever else there is, is not read.",
        },
        "headers.change": cloud_headers("change", "", _PER_USER),
        "headers.member": cloud_headers("member", "/members", _PER_USER),
        "headers.catalog": cloud_headers("catalog", "/catalog", _PER_STEP),
        "headers.lineage": lineage,
        "headers.top_items": cloud_headers("top_items", "/top_items", _PER_STEP),
    }  # fmt: skip


# --- the document -----------------------------------------------------------------------------------------------


def document() -> Json:
    """The whole document; everything in it is used."""
    found = channels()
    messages = [message for channel in found for message in channel.messages]
    headers = {
        name: schema for name, schema in _header_schemas().items() if any(m.headers == name for m in messages)
    }
    return {
        "asyncapi": "3.0.0",
        "id": "urn:shoal:asyncapi:v1",
        "info": {
            "title": "Shoal's topics",
            "version": VERSION,
            "description": "Behaviour events in, segment changes out. Read with isolation_level=read_committed: "
            "everything that a step publishes is one transaction. `kafka.topic_prefix` stands before every name.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.topic: _channel(channel) for channel in found},
        "operations": {_operation_name(channel): _operation(channel) for channel in found},
        "components": {
            "schemas": headers,
            "messages": {
                message.name: _message(channel, message) for channel in found for message in channel.messages
            },
        },
    }


def _channel(channel: Channel) -> Json:
    policy = "compact" if channel.topic in COMPACTED or channel.topic == TOP_ITEMS else "delete"
    configuration: Json = {"cleanup.policy": [policy]}
    kafka: Json = {"topicConfiguration": configuration, "bindingVersion": _KAFKA}
    if channel.topic == MANIFEST:
        kafka["partitions"] = 1
        configuration["retention.ms"] = -1
    return {
        "address": channel.topic,
        "description": channel.says,
        "messages": {m.name: {"$ref": f"#/components/messages/{m.name}"} for m in channel.messages},
        "bindings": {"kafka": kafka},
    }


def _operation_name(channel: Channel) -> str:
    return channel.action + "".join(word.capitalize() for word in channel.topic.replace("_", ".").split("."))


def _operation(channel: Channel) -> Json:
    return {"action": channel.action, "channel": {"$ref": f"#/channels/{channel.topic}"}}


def _message(channel: Channel, message: Message) -> Json:
    made: Json = {"name": message.name, "title": message.title, "contentType": message.content_type}
    if message.headers:
        made["headers"] = _reference(message.headers)
    made["payload"] = _reference(message.schema) if message.schema else dict(message.payload)
    if channel.key is not None:
        made["bindings"] = {"kafka": {"key": dict(channel.key), "bindingVersion": _KAFKA}}
    return made


def _reference(schema: str) -> Json:
    if schema.endswith(".json"):
        return {"schemaFormat": _DIALECT, "schema": {"$ref": f"./{schema}"}}
    return {"$ref": f"#/components/schemas/{schema}"}


def text(made: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return orjson.dumps(made, option=orjson.OPT_INDENT_2) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(text(document()))
