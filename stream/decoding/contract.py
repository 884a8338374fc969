"""The event contract as types: what `schemas/behavior.event.json` says, for the decoder.

A field that is None was absent or null. Unknown fields are allowed and ignored. Numbers are JSON numbers:
a boolean or a text with digits in it is a mistake (`schema`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

ITEMS_MAX = 256  # an event with more is rejected (schema)
USER_BYTES_MAX = 128  # in UTF-8
DEPTH_MAX = 8  # of nesting; the record's own object is 1
TIME_MS_MIN = 946_684_800_000  # 2000-01-01
TIME_MS_MAX = 7_258_118_400_000  # 2200-01-01

Text = str | None
Number = float | None


class Item(Struct, gc=False):
    """One thing the event is about. Empty texts count as absent."""

    id: Text = None
    category: list[str] | None = None  # path, widest first: ["garden", "tools"]
    brand: Text = None
    tags: list[str] | None = None
    price: Number = None
    quantity: Number = None
    position: Number = None


class Context(Struct, gc=False):
    """Where the event happened."""

    channel: Text = None
    country: Text = None
    app: Text = None
    referrer: Text = None


class Embedding(Struct, gc=False):
    """A vector that the sender made of the event, in a space it names."""

    space: str
    vector: list[float]


class Served(Struct, gc=False):
    """Which recommendation the event answers to."""

    list_id: Text = None
    segment_id: str | float | None = None
    rank: Number = None
    experiment_id: Text = None
    variant: Text = None


class Consent(Struct, gc=False):
    """What the user agreed to, as of this event."""

    segmentation: bool | None = None
    personalization: bool | None = None


class Event(Struct, gc=False):
    """One behaviour event. The fields after `items` are checked, and of them only `consent.segmentation` is used."""

    event_id: Annotated[str, Meta(min_length=1)]
    type: str
    event_time: Annotated[datetime, Meta(tz=True)] | int | float
    user_id: Text = None
    anonymous_id: Text = None
    value: Number = None
    quantity: Number = None
    dwell_ms: Annotated[float, Meta(ge=0)] | None = None
    items: Annotated[list[Item], Meta(max_length=ITEMS_MAX)] | None = None
    session_id: Text = None
    query: Text = None
    text: Text = None
    rating: Number = None
    currency: Text = None
    origin: Text = None
    context: Context | None = None
    traits: dict[str, Any] | None = None
    embedding: Embedding | None = None
    served: Served | None = None
    consent: Consent | None = None
