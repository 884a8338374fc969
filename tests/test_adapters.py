"""Other conventions become the contract: field maps, type maps, constants, Segment, GA4, and the open data sets."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from shoal.stream.config import Input
from shoal.stream.decoding.adapters import adapter
from shoal.stream.decoding.conventions import GA4_TYPES, SEGMENT_TYPES
from shoal.stream.decoding.field_map import content_id
from shoal.stream.events import CHANNELS, TYPE_CODES, Events, Reason, Records, Reject
from shoal.stream.ports import ConfigError
from shoal.stream.wire import Decoder

ONLINE_RETAIL = Input(
    field_map={"type": "event_type", "event_time": "ts", "item_id": "item_id"},
    type_map={"cancel": "refund", "stock_adjust": "custom"},
)
COMPLETE_JOURNEY = Input(
    field_map={
        "type": "event_type",
        "event_time": "ts",
        "item_id": "item_id",
        "item_category": "department+category",
    },
    type_map={"coupon_redeem": "custom", "campaign_start": "impression"},
)
OTTO = Input(
    field_map={"type": "event_type", "event_time": "ts", "item_id": "item_id"},
    type_map={"cart": "cart_add", "order": "purchase"},
)


def decode(config: Input, *sources: Any) -> tuple[Events, list[Reject]]:
    return decode_lines(config, [s if isinstance(s, bytes) else json.dumps(s).encode() for s in sources])


def decode_lines(config: Input, values: list[bytes]) -> tuple[Events, list[Reject]]:
    n = len(values)
    records = Records(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), (None,) * n, values)
    return Decoder(config).decode(records)


def one(config: Input, source: Any) -> Events:
    events, rejects = decode(config, source)
    assert not rejects, rejects
    return events


def refused(config: Input, source: Any) -> Reject:
    _, (reject,) = decode(config, source)
    return reject


def types(events: Events) -> list[tuple[str, int]]:
    return [(CHANNELS[c], s) for c, s in zip(events.channel.tolist(), events.sign.tolist(), strict=True)]


def key(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


def mapped(source: dict[str, Any], **field_map: str) -> dict[str, Any]:
    adapt = adapter(Input(field_map=field_map))
    assert adapt is not None
    return adapt(source, b"")


# --- the field map ------------------------------------------------------------------------------------------


def test_without_a_map_there_is_no_adapter_and_a_type_map_alone_needs_none() -> None:
    assert adapter(Input()) is None
    assert adapter(Input(type_map={"order": "purchase"})) is None


def test_a_map_reads_keys_dotted_paths_and_list_places() -> None:
    source = {"a": {"b": [{"c": "x"}]}, "user_id": "own"}
    assert mapped(source, event_id="a.b.0.c")["event_id"] == "x"
    assert mapped(source, event_id="a.b.7.c")["event_id"] is None
    assert mapped(source, event_id="a.c.c")["event_id"] is None
    assert mapped(source, event_id="a.b.0.c")["user_id"] == "own"


def test_a_mapped_field_is_never_taken_by_its_own_name() -> None:
    assert mapped({"value": 5}, value="price")["value"] is None
    assert mapped({"value": 5, "quantity": 2}, value="quantity", quantity="value") == {
        "value": 2.0,
        "quantity": 5,
    }


def test_several_paths_make_one_text_or_one_list() -> None:
    source = {"order": 536365, "line": "3", "dept": "garden", "cat": ["tools", "spades"]}
    assert mapped(source, event_id="order+line")["event_id"] == "536365/3"
    assert mapped(source, event_id="order+nowhere")["event_id"] is None
    assert mapped(source, item_category="dept+cat")["items"] == [{"category": ["garden", "tools", "spades"]}]


def test_a_category_path_ends_at_the_first_part_that_is_absent() -> None:
    for middle in (None, ""):
        source = {"a": "garden", "b": middle, "c": "spades"}
        assert mapped(source, item_category="a+b+c")["items"] == [{"category": ["garden"]}]
    assert mapped({"b": "x"}, item_category="a+b")["items"] is None


def test_item_fields_make_one_item_and_no_item_when_nothing_is_there() -> None:
    source = {"sku": 5, "unit": "2.50", "n": 4, "labels": "new"}
    fields = {"item_id": "sku", "item_price": "unit", "item_quantity": "n", "item_tags": "labels"}
    assert mapped(source, **fields)["items"] == [{"id": "5", "price": 2.5, "quantity": 4, "tags": ["new"]}]
    assert mapped({}, **fields)["items"] is None


def test_with_a_list_of_lines_item_fields_are_read_in_each_of_them() -> None:
    source = {
        "order": {"lines": [{"sku": "a", "price": 2, "quantity": 3}, {"sku": "b", "id": "wrong", "price": 1}]}
    }
    items = mapped(source, items="order.lines", item_id="sku")["items"]
    assert [(item["id"], item["price"]) for item in items] == [("a", 2), ("b", 1)]
    full = one(
        Input(field_map={"items": "order.lines", "item_id": "sku"}),
        source | {"event_id": "1", "type": "purchase", "user_id": "u", "event_time": 1_700_000_000_000},
    )
    assert (full.value.tolist(), full.quantity.tolist()) == ([7.0], [3.0])
    assert full.token.tolist() == [key("i:a"), key("i:b")]


def test_the_content_is_the_event_id_where_events_have_none() -> None:
    config = Input(field_map={"event_id": "*"})
    source = {"type": "view", "user_id": "u", "event_time": 1_700_000_000_000}
    events, _ = decode(config, source, source, source | {"user_id": "v"})
    keys = events.event_key.tolist()
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] == key(content_id(json.dumps(source).encode()))


def test_mapped_fields_may_be_looser_than_the_contract_and_no_looser_than_that() -> None:
    config = Input(field_map={"user_id": "u", "value": "v", "event_time": "t"}, constants={"type": "view"})
    good = {"event_id": "1", "u": 17850, "v": "-2.5e1", "t": "1700000000000"}
    events = one(config, good)
    assert (events.users, events.value.tolist()) == (["17850"], [25.0])
    assert events.time_ms.tolist() == [1_700_000_000_000]
    for field, bad in (
        ("u", 1.5),
        ("u", True),
        ("u", []),
        ("u", 10**40),
        ("v", "NaN"),
        ("v", "1e999"),
        ("v", "1_0"),
        ("v", ""),
    ):
        assert refused(config, good | {field: bad}).reason is Reason.SCHEMA
    for bad in ("", "17e11", "1_700_000_000_000", "9" * 5000):
        assert refused(config, good | {"t": bad}).reason is Reason.TIME


def test_a_refusal_names_the_field_of_the_source() -> None:
    config = Input(field_map={"value": "amount.gross", "item_brand": "maker"})
    good = {"event_id": "1", "type": "view", "user_id": "u", "event_time": 1_700_000_000_000}
    assert refused(config, good | {"amount": {"gross": "much"}}).detail.startswith(
        "value (your `amount.gross`): got str"
    )
    assert refused(config, good | {"maker": []}).detail.startswith("items[0].brand (your `maker`): got array")
    assert refused(config, []).detail == "event: got array, wanted object"


def test_constants_fill_what_is_absent_and_nothing_else() -> None:
    config = Input(
        field_map={"item_id": "sku"},
        constants={"type": "purchase", "value": "2.5", "item_brand": "house", "item_category": "all"},
    )
    base = {"event_id": "1", "user_id": "u", "event_time": 1_700_000_000_000, "sku": "a"}
    events, _ = decode(config, base, base | {"type": "view", "value": 7}, base | {"type": None, "sku": None})
    assert types(events) == [("purchase", 1), ("view", 1), ("purchase", 1)]
    assert events.value.tolist() == [2.5, 7.0, 2.5]
    assert events.token.tolist() == [key("i:a"), key("c:all"), key("b:house")] * 2
    assert events.labels == ["all", "all", ""]


def test_constants_leave_what_an_item_says_itself() -> None:
    config = Input(field_map={"items": "lines"}, constants={"item_brand": "house"})
    base = {"event_id": "1", "type": "view", "user_id": "u", "event_time": 1_700_000_000_000}
    events = one(config, base | {"lines": [{"id": "a", "brand": "own"}, {"id": "b"}]})
    assert events.token.tolist() == [key(t) for t in ("i:a", "b:own", "i:b", "b:house")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Input(field_map={"event_tme": "ts"}), "did you mean 'event_time'"),
        (Input(field_map={"event_time": ""}), "wanted paths such as"),
        (Input(field_map={"event_time": "a..b"}), "wanted paths such as"),
        (Input(field_map={"event_time": "a+"}), "wanted paths such as"),
        (Input(field_map={"user_id": "*"}), "only event_id"),
        (Input(field_map={"event_id": "a+*"}), "only event_id"),
        (Input(field_map={"value": "a+b"}), "only texts and lists"),
        (Input(field_map={"items": "a+b"}), "only texts and lists"),
        (Input(type_map={"order": "purchse"}), "did you mean 'purchase'"),
        (Input(constants={"event_id": "1"}), "cannot be the same for all events"),
        (Input(constants={"event_time": "1"}), "cannot be the same for all events"),
        (Input(constants={"items": "1"}), "cannot be the same for all events"),
        (Input(constants={"value": "much"}), "wanted a number"),
        (Input(constants={"valu": "1"}), "did you mean 'value'"),
        (Input(constants={"type": "purchse"}), "did you mean 'purchase'"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused_with_what_could_be(config: Input, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^input\.") as error:
        Decoder(config)
    assert message in str(error.value)


# --- the open data sets -------------------------------------------------------------------------------------


def test_online_retail_events_keep_their_size_and_subtract_by_type() -> None:
    base = {
        "seq": 0,
        "user_id": "17850",
        "item_id": "85123A",
        "ts": "2010-12-01T08:26:00Z",
        "unit_price": 2.55,
    }
    sale = base | {"event_id": "a", "event_type": "purchase", "value": 15.3, "quantity": 6}
    back = base | {"event_id": "b", "event_type": "cancel", "value": -15.3, "quantity": -6}
    stock = base | {"event_id": "c", "event_type": "stock_adjust", "value": 0, "quantity": -9}
    events, rejects = decode(ONLINE_RETAIL, sale, back, stock)
    assert not rejects
    assert types(events) == [("purchase", 1), ("purchase", -1), ("custom", 1)]
    assert events.value.tolist() == [15.3, 15.3, 0.0]
    assert events.quantity.tolist() == [6, 6, 9]
    assert events.labels == ["85123A"] * 3


def test_complete_journey_events_have_a_path_of_two_categories() -> None:
    base = {"event_id": "a", "user_id": "1238", "ts": "2016-11-14T00:00:00Z", "value": None}
    events, rejects = decode(
        COMPLETE_JOURNEY,
        base
        | {"event_type": "purchase", "item_id": "1", "department": "GROCERY", "category": "SOUP", "value": 2},
        base | {"event_type": "coupon_redeem", "item_id": "coupon-5"},
    )
    assert not rejects
    assert types(events) == [("purchase", 1), ("custom", 1)]
    assert events.labels == ["GROCERY", "coupon-5"]
    assert events.token.tolist() == [key(t) for t in ("i:1", "c:GROCERY", "c:GROCERY/SOUP", "i:coupon-5")]


def test_otto_events_are_clicks_cart_adds_and_purchases() -> None:
    base = {
        "event_id": "o-0",
        "seq": 0,
        "user_id": "0",
        "item_id": "1517085",
        "ts": "2022-07-31T22:00:00.025Z",
    }
    events, rejects = decode(
        OTTO, *(base | {"event_type": t, "value": None} for t in ("click", "cart", "order"))
    )
    assert not rejects
    assert types(events) == [("click", 1), ("cart_add", 1), ("purchase", 1)]
    assert events.time_ms.tolist() == [1_659_304_800_025] * 3


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("online_retail_to_2011-06", ONLINE_RETAIL),
        ("completejourney", COMPLETE_JOURNEY),
        ("otto_sample", OTTO),
    ],
)
def test_the_open_data_decodes_to_what_a_loop_over_it_counts(
    data_dir: Path, name: str, config: Input
) -> None:
    """Only events of nobody are refused; the rest sums to what json.loads sums to."""
    with gzip.open(data_dir / f"{name}.jsonl.gz", "rb") as file:
        lines = [line.rstrip() for line, _ in zip(file, range(30_000), strict=False)]
    events, rejects = decode_lines(config, lines)
    sources = [json.loads(line) for line in lines]
    named = [s for s in sources if s["user_id"] is not None]
    assert [r.row for r in rejects] == [i for i, s in enumerate(sources) if s["user_id"] is None]
    assert {r.reason for r in rejects} <= {Reason.SCHEMA}
    assert events.users == [s["user_id"] for s in named]
    names = [config.type_map.get(s["event_type"], s["event_type"]) for s in named]
    codes = Counter((CHANNELS[c], sign) for c, sign in (TYPE_CODES[n] for n in names))
    assert Counter(types(events)) == codes
    assert events.value.tolist() == [abs(s["value"] or 0) for s in named]
    assert events.item.tolist() == [key("i:" + s["item_id"]) if s["item_id"] else 0 for s in named]
    assert (
        events.time_ms.tolist()
        == np.array([s["ts"][:-1] for s in named], "datetime64[ms]").astype(int).tolist()
    )


# --- Segment ------------------------------------------------------------------------------------------------

SEGMENT = Input(convention="segment")
TRACK = {
    "type": "track",
    "messageId": "m1",
    "userId": "u1",
    "anonymousId": "a1",
    "timestamp": "2024-02-29T12:00:00.5Z",
}


def test_a_segment_order_is_a_purchase_of_its_products() -> None:
    products = [
        {
            "product_id": "507f",
            "sku": "G-32",
            "category": "Games",
            "brand": "Hasbro",
            "price": 19,
            "quantity": 1,
        },
        {"sku": "F-32", "name": "UNO", "price": 3, "quantity": 2},
    ]
    properties = {
        "order_id": "50314b8e",
        "total": 27.5,
        "revenue": 25,
        "currency": "USD",
        "products": products,
    }
    events = one(SEGMENT, TRACK | {"event": "Order Completed", "properties": properties})
    assert types(events) == [("purchase", 1)]
    assert events.event_key.tolist() == [key("m1")]
    assert events.users == ["u1"]
    assert events.time_ms.tolist() == [1_709_208_000_500]
    assert (events.value.tolist(), events.quantity.tolist()) == ([25.0], [3.0])
    assert events.token.tolist() == [key(t) for t in ("i:507f", "c:Games", "b:Hasbro", "i:F-32")]
    assert events.labels == ["Games"]


def test_a_segment_product_event_is_about_the_product_in_its_properties() -> None:
    properties = {"product_id": 507, "category": "Games", "price": 18.99, "quantity": 2}
    source = TRACK | {"event": "Product Added", "userId": None, "properties": properties}
    events = one(SEGMENT, source)
    assert (types(events), events.users) == ([("cart_add", 1)], ["\x00a1"])
    assert events.value.tolist() == [37.98]
    assert events.token.tolist() == [key("i:507"), key("c:Games")]


def test_a_segment_event_happened_at_its_corrected_time() -> None:
    """`timestamp` has the clock error of the device taken out, `originalTimestamp` has not."""
    times = {"timestamp": "2024-01-01T00:00:01Z", "originalTimestamp": "2024-01-01T09:00:00Z"}
    view = TRACK | {"event": "Product Viewed"} | times
    corrected, raw = one(SEGMENT, view), one(SEGMENT, view | {"timestamp": None})
    assert raw.time_ms[0] - corrected.time_ms[0] == 9 * 3_600_000 - 1000


def test_a_segment_search_and_a_call_without_properties_touch_nothing() -> None:
    search = TRACK | {"event": "Products Searched", "properties": {"query": "blue hotpants"}}
    events, rejects = decode(
        SEGMENT, search, TRACK | {"type": "page"}, TRACK | {"type": "identify"}, TRACK | {"event": "Sang"}
    )
    assert not rejects
    assert types(events) == [("search", 1), ("view", 1), ("custom", 1), ("custom", 1)]
    assert len(events.token) == 0


@pytest.mark.parametrize(
    ("table", "config"), [(SEGMENT_TYPES, SEGMENT), (GA4_TYPES, Input(convention="ga4"))]
)
def test_every_event_name_of_a_convention_has_its_contract_type(table: dict[str, str], config: Input) -> None:
    names = list(table)
    segment = [
        TRACK | ({"event": name} if name not in ("page", "screen") else {"type": name}) for name in names
    ]
    ga4 = [VIEW_ITEM | {"event_name": name} for name in names]
    events, rejects = decode(config, *(segment if config.convention == "segment" else ga4))
    assert not rejects
    codes = [TYPE_CODES[table[name]] for name in names]
    assert types(events) == [(CHANNELS[channel], sign) for channel, sign in codes]


def test_users_rename_a_convention_s_events_and_correct_its_fields() -> None:
    config = Input(
        convention="segment",
        type_map={"Song Played": "play", "Product Viewed": "click"},
        field_map={"user_id": "context.traits.crm_id", "item_id": "properties.song"},
        constants={"item_category": "music"},
    )
    source = TRACK | {
        "event": "Song Played",
        "properties": {"song": "s1"},
        "context": {"traits": {"crm_id": 5}},
    }
    events, _ = decode(config, source, source | {"event": "Product Viewed"})
    assert types(events) == [("play", 1), ("click", 1)]
    assert events.users == ["5", "5"]
    assert events.labels == ["music", "music"]


# --- GA4 ----------------------------------------------------------------------------------------------------

GA4 = Input(convention="ga4")
VIEW_ITEM: dict[str, Any] = {
    "event_date": "20240229",
    "event_timestamp": 1_709_208_000_123_456,
    "event_name": "view_item",
    "user_id": None,
    "user_pseudo_id": "1967384576.1612137600",
    "event_params": [
        {"key": "ga_session_id", "value": {"string_value": None, "int_value": 1612137600}},
        {"key": "engagement_time_msec", "value": {"int_value": "1234"}},
    ],
    "items": [
        {
            "item_id": "SKU_1",
            "item_brand": "Google",
            "item_category": "Apparel",
            "item_category2": "Hats",
            "price": 9.5,
        }
    ],
}


def test_a_ga4_view_is_in_microseconds_of_an_anonymous_user() -> None:
    events = one(GA4, VIEW_ITEM)
    assert types(events) == [("view", 1)]
    assert events.users == ["\x001967384576.1612137600"]
    assert events.time_ms.tolist() == [1_709_208_000_123]
    assert events.token.tolist() == [key(t) for t in ("i:SKU_1", "c:Apparel", "c:Apparel/Hats", "b:Google")]
    assert events.dwell_ms.tolist() == [1234]


def test_ga4_says_not_set_where_a_category_is_absent() -> None:
    item = {"item_id": "1", "item_category": "Apparel", "item_category2": "(not set)", "item_category3": ""}
    events = one(GA4, VIEW_ITEM | {"items": [item]})
    assert events.token.tolist() == [key("i:1"), key("c:Apparel")]


def test_ga4_integers_of_64_bits_may_be_text() -> None:
    items = [{"item_id": "1", "quantity": "-9223372036854775808"}]
    assert one(GA4, VIEW_ITEM | {"items": items}).clamped == 1


def test_a_time_that_the_map_reads_elsewhere_is_in_the_configured_unit() -> None:
    """GA4's microseconds are those of its own field."""
    config = Input(convention="ga4", field_map={"event_time": "sent_at"}, time_unit="s")
    assert one(config, VIEW_ITEM | {"sent_at": 1_700_000_000}).time_ms.tolist() == [1_700_000_000_000]


def test_ga4_engagement_is_dwell_and_integers_may_be_text() -> None:
    source = VIEW_ITEM | {"event_name": "user_engagement", "event_timestamp": "1709208000123456", "items": []}
    events = one(GA4, source)
    assert (types(events), events.dwell_ms.tolist()) == ([("dwell", 1)], [1234])
    assert events.time_ms.tolist() == [1_709_208_000_123]


def test_a_ga4_purchase_and_refund_have_the_money_of_the_order() -> None:
    order = VIEW_ITEM | {"ecommerce": {"purchase_revenue": 25.5}, "user_id": "u1"}
    value = [{"key": "value", "value": {"double_value": 12.5}}]
    events, _ = decode(
        GA4, order | {"event_name": "purchase"}, VIEW_ITEM | {"event_name": "refund", "event_params": value}
    )
    assert types(events) == [("purchase", 1), ("purchase", -1)]
    assert events.value.tolist() == [25.5, 12.5]
    assert events.users[0] == "u1"


def test_a_ga4_event_has_no_id_so_the_same_bytes_are_the_same_event() -> None:
    events, _ = decode(GA4, VIEW_ITEM, VIEW_ITEM, VIEW_ITEM | {"event_timestamp": 1_709_208_000_123_457})
    first, again, later = events.event_key.tolist()
    assert first == again != later


@pytest.mark.parametrize(
    ("config", "source", "detail"),
    [
        (SEGMENT, TRACK | {"event": "x", "properties": []}, "properties: got array, wanted object"),
        (SEGMENT, TRACK | {"event": "x", "properties": {"products": "a"}}, "products: got str, wanted array"),
        (
            SEGMENT,
            TRACK | {"event": "x", "properties": {"products": ["a"]}},
            "items[0]: got str, wanted object",
        ),
        (SEGMENT, TRACK, "type: got null, wanted str"),
        (SEGMENT, TRACK | {"event": "x", "messageId": None}, "event_id: got null, wanted str"),
        (GA4, VIEW_ITEM | {"event_params": {}}, "event_params: got object, wanted array"),
        (GA4, VIEW_ITEM | {"event_params": [5]}, "event_params[]: got int, wanted object with a key"),
        (GA4, VIEW_ITEM | {"items": {}}, "items: got object, wanted array"),
        (GA4, VIEW_ITEM | {"event_name": None}, "type: got null, wanted str"),
    ],
)
def test_what_breaks_a_convention_is_refused_as_schema(config: Input, source: Any, detail: str) -> None:
    reject = refused(config, source)
    assert (reject.reason, reject.detail) == (Reason.SCHEMA, detail)
