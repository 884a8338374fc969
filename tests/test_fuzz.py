"""Nothing raises on any bytes, and every record is accounted for exactly once: over 250,000 inputs.

The oracle for what can be read is the standard library's JSON parser and a bracket counter, one byte at a time; for
what is read, where there is a fast half, it is the careful one, bit by bit.
"""

from __future__ import annotations

import copy
import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from halves import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.config import Input
from shoal.stream.decoding.careful import Careful
from shoal.stream.decoding.columns import DWELL_MS_MAX, TOKENS_MAX
from shoal.stream.decoding.contract import Event
from shoal.stream.events import CHANNELS, Events, Reason, Records, Reject
from shoal.stream.wire import TIME_MS_MAX, TIME_MS_MIN, Decoder

FIELD_MAP = {
    "event_id": "event_id+seq",
    "type": "event_type",
    "event_time": "ts",
    "item_id": "item_id",
    "item_category": "department+category",
    "item_price": "unit_price",
    "dwell_ms": "context.dwell",
}
TYPE_MAP = {"cancel": "refund"}
RENAMES = Input(field_map=FIELD_MAP, type_map=TYPE_MAP)
CONTRACT, RENAMED = Decoder(Input()), Decoder(RENAMES)
MAPPED = Decoder(
    Input(
        field_map=FIELD_MAP,
        type_map=TYPE_MAP,
        constants={"currency": "GBP", "item_brand": "house"},
    )
)
SEGMENT, GA4 = Decoder(Input(convention="segment")), Decoder(Input(convention="ga4"))
DECODERS = (CONTRACT, MAPPED, SEGMENT, GA4, RENAMED)
SEED_OF = (0, 1, 2, 3, 1)
NAMES = ["contract", "mapped", "segment", "ga4", "renamed"]
ORACLES = {CONTRACT: Careful(Input()), RENAMED: Careful(RENAMES)}  # the decoders that have a fast half

SEEDS: list[dict[str, Any]] = [
    {
        "event_id": "e-1", "type": "purchase", "user_id": "u-17850", "event_time": "2024-02-29T12:00:00.25+01:00",
        "value": 15.3, "quantity": 6, "dwell_ms": 1200, "query": "café \"au\" lait", "traits": {"a": [1, {"b": None}]},
        "items": [{"id": "85123A", "category": ["home", "candles"], "price": 2.55, "quantity": 6, "tags": ["x"]}],
        "embedding": {"space": "clip", "vector": [0.1, -2e-3]}, "served": {"rank": 1},
        "consent": {"segmentation": True}, "ignored": [0, {"n": 100, "t": "[{"}, [20.5, 3e1]],
    },
    {
        "event_id": "r-0000001", "seq": 1, "user_id": "17850", "event_type": "cancel", "item_id": 71053,
        "ts": 1709208000000, "department": "GROCERY", "category": "SOUP", "unit_price": "3.39", "value": -20.34,
        "quantity": -6, "context": {"dwell": 3},
    },
    {
        "type": "track", "event": "Order Completed", "messageId": "m-1", "userId": "019mr8",
        "timestamp": "2024-02-29T12:00:00Z",
        "properties": {
            "revenue": 25.0,
            "products": [{"product_id": "5", "category": "Games", "price": 19, "quantity": 1}],
        },
    },
    {
        "event_name": "user_engagement", "event_timestamp": "1709208000000000", "user_pseudo_id": "1.2",
        "event_params": [{"key": "engagement_time_msec", "value": {"int_value": "1234"}}],
        "items": [{"item_id": "SKU_1", "item_category": "Apparel", "quantity": 1}],
        "ecommerce": {"purchase_revenue": 9.5},
    },
]  # fmt: skip
PIECES = (
    b"NaN", b"-Infinity", b"1e999", b"1e308", b"9" * 400, b"[", b"]", b"{", b"}", b'"', b"\\", b"\\ud800", b"\xff",
    b"\xc3", b"\x00", b"null", b"true", b"-", b",", b":", b'""', b"[[[[[[[[[", b'"user_id":""', b"\xef\xbb\xbf",
    b"0", b" ",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, -1e308, 10**30, "", "x", "\x00", "\n", "x" * 200, "é" * 65, [], {}, [None], [[]],
    {"id": 1}, [{"id": "a", "price": -1e308, "quantity": 1e308}], [{}] * 300, "2024-02-29T12:00:00Z",
    "2023-02-29T12:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", 1_709_208_000,
)  # fmt: skip


def records(values: list[bytes | None]) -> Records:
    n = len(values)
    return Records(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), (None,) * n, values)


def check(decoder: Decoder, values: list[bytes | None]) -> tuple[Events, list[Reject]]:
    """Decode, as without a fast half; every row in one place, in order; every column within its promise."""
    events, rejects = decoder.decode(records(values))
    if decoder in ORACLES:
        assert_same((events, rejects), ORACLES[decoder].decode(values), values)
    rows, refused = events.row.tolist(), [reject.row for reject in rejects]
    assert rows == sorted(rows)
    assert refused == sorted(refused)
    assert sorted(rows + refused) == list(range(len(values)))
    n = len(events)
    for column in (events.value, events.quantity):
        assert np.isfinite(column).all()
        assert ((column >= 0) & (column <= 1e7)).all()
    assert ((events.dwell_ms >= 0) & (events.dwell_ms <= DWELL_MS_MAX)).all()
    assert ((events.time_ms >= TIME_MS_MIN) & (events.time_ms < TIME_MS_MAX)).all()
    assert ((events.channel >= 0) & (events.channel < len(CHANNELS))).all()
    assert (np.abs(events.sign) == 1).all()
    lengths = np.diff(events.token_ptr)
    assert ((lengths >= 0) & (lengths <= TOKENS_MAX)).all()
    assert events.token_ptr[-1] == len(events.token)
    assert {len(c) for c in (events.users, events.labels, events.item, events.event_key, lengths)} == {n}
    assert all(0 < len(u.removeprefix("\x00").encode()) <= 128 for u in events.users)
    assert 0 <= events.clamped <= n
    return events, rejects


class _NotFinite(Exception):
    pass


def _not_finite(_: str) -> None:
    raise _NotFinite


def _number(digits: str) -> None:
    if not math.isfinite(float(digits)):
        raise _NotFinite


def unreadable(value: bytes | None) -> Reason | None:
    """What the standard library says, in the documented order; None where it can read the record."""
    if not value:
        return Reason.TOMBSTONE
    if len(value) > 65_536:
        return Reason.SIZE
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Reason.ENCODING
    if _depth(text) > 8:
        return Reason.DEPTH
    try:
        json.loads(text, parse_constant=_not_finite, parse_float=_number, parse_int=_number)
        return Reason.JSON if _half_pair(text) else None
    except _NotFinite:
        return Reason.NUMBER
    except json.JSONDecodeError:
        return Reason.JSON


def _half_pair(text: str) -> bool:
    """JSON's grammar allows half a surrogate pair; it stands for no text, and is refused."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return "\\ud" in text.lower() and _lone(text)


def _lone(text: str) -> bool:
    """Also where a later key of the same name hides it."""
    return any(
        "\ud800" <= c <= "\udfff" for k, v in json.loads(text, object_pairs_hook=list) for c in f"{k}{v!r}"
    )


def _depth(text: str) -> int:
    """Deepest nesting outside texts; brackets that close too often count below zero."""
    if text.count("[") + text.count("{") <= 8:
        return 0  # at most 8, which is all that matters
    depth = deepest = 0
    inside = escaped = False
    for c in text:
        if inside:
            inside = escaped or c != '"'
            escaped = c == "\\" and not escaped
        elif c == '"':
            inside = True
        else:
            depth += (c in "[{") - (c in "]}")
            deepest = max(deepest, depth)
    return deepest


READABLE = {Reason.SCHEMA, Reason.USER_ID, Reason.TIME, None}


def agree(values: list[bytes | None], rejects: list[Reject]) -> None:
    """Both say the same of every record: readable, or unreadable for the same reason."""
    got: dict[int, Reason] = {reject.row: reject.reason for reject in rejects}
    for row, value in enumerate(values):
        wanted, reason = unreadable(value), got.get(row)
        assert (reason in READABLE) if wanted is None else (reason is wanted), (value, reason, wanted)


def mutated(seed: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to three bytes-level accidents: flipped, cut, inserted, doubled or spliced bytes."""
    value = seed
    for _ in range(rng.randint(1, 3)):
        i, j = sorted((rng.randrange(len(value) + 1), rng.randrange(len(value) + 1)))
        match rng.randrange(6):
            case 0:
                value = value[:i] + bytes([rng.randrange(256)]) + value[i + 1 :]
            case 1:
                value = value[:i]
            case 2:
                value = value[:i] + value[j:] if j - i < 40 else value[:i] + value[i + 1 :]
            case 3:
                value = value[:i] + rng.choice(PIECES) + value[i:]
            case 4:
                value = value[:j] + value[i:]
            case _:
                value = value[:i] + rng.choice(others)[i:]
    return value


def retyped(seed: dict[str, Any], rng: random.Random) -> bytes:
    """One to three fields, on top or inside, replaced by a value of any other kind."""
    event = orjson.loads(orjson.dumps(seed))
    for _ in range(rng.randint(1, 3)):
        place: Any = event
        name: Any = rng.choice([*event, *Event.__struct_fields__])
        while (
            isinstance(place.get(name) if isinstance(place, dict) else place[name], (dict, list))
            and rng.random() < 0.7
        ):
            inner = place[name]
            if not inner:
                break
            place, name = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        place[name] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(event, ensure_ascii=rng.random() < 0.5).encode()


# --- synthesised --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS, ids=NAMES)
def test_mutated_bytes_never_raise_and_are_accounted_once(decoder: Decoder) -> None:
    """5 x 30,000 records; the oracle reads those of the contract's own shape, and a sample of the rest."""
    rng = random.Random(1)
    seeds = [json.dumps(seed, ensure_ascii=i % 2 == 0).encode() for i, seed in enumerate(SEEDS * 2)]
    for batch in range(15):
        values: list[bytes | None] = [mutated(rng.choice(seeds), seeds, rng) for _ in range(2000)]
        _, rejects = check(decoder, values)
        assert {r.reason for r in rejects} >= {Reason.JSON, Reason.ENCODING, Reason.SCHEMA, Reason.NUMBER}
        if decoder is CONTRACT or batch % 8 == 0:
            agree(values, rejects)


@pytest.mark.parametrize("decoder", DECODERS, ids=NAMES)
def test_fields_of_any_other_type_never_raise_and_are_accounted_once(decoder: Decoder) -> None:
    """5 x 20,000 records that are JSON, all of them; some are accepted, so columns are built."""
    rng = random.Random(2)
    seed = SEEDS[SEED_OF[DECODERS.index(decoder)]]
    for _ in range(10):
        values: list[bytes | None] = [retyped(seed, rng) for _ in range(2000)]
        events, rejects = check(decoder, values)
        assert len(events) > 100
        assert {r.reason for r in rejects} <= {Reason.SCHEMA, Reason.USER_ID, Reason.TIME}
        assert Reason.SCHEMA in {r.reason for r in rejects}


# --- by hypothesis ------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from((*VALUES, 10**400))
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)
names = st.sampled_from([*Event.__struct_fields__, *(name for seed in SEEDS for name in seed)])
objects = st.dictionaries(names, documents, max_size=12).map(
    lambda fields: json.dumps(SEEDS[0] | fields).encode()
)


@given(
    st.lists(
        st.none() | st.binary(max_size=80) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace")),
        max_size=60,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_accounted_once(values: list[bytes | None]) -> None:
    for decoder in DECODERS:
        _, rejects = check(decoder, values)
    agree(values, rejects)


@given(st.lists(objects, max_size=12))
@settings(max_examples=80, deadline=None)
def test_any_json_in_the_contract_s_fields_is_accounted_once(values: list[bytes | None]) -> None:
    for decoder in DECODERS:
        _, rejects = check(decoder, values)
        agree(values, rejects)


# --- real events ----------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", ["online_retail_to_2011-06", "completejourney", "otto_sample"])
def test_mutated_real_events_are_accounted_once(data_dir: Path, name: str) -> None:
    """3 x 15,000 records."""
    rng = random.Random(3)
    with gzip.open(data_dir / f"{name}.jsonl.gz", "rb") as file:
        seeds = [line.rstrip() for line, _ in zip(file, range(500), strict=False)]
    for _ in range(5):
        values: list[bytes | None] = [mutated(rng.choice(seeds), seeds, rng) for _ in range(3000)]
        events, rejects = check(RENAMED, values)
        assert len(events) > 0
        assert len(rejects) > 0
