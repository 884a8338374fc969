"""Decoding: every reason for a reject, what is not an error, and columns against dumb sums."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import xxhash
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shoal.stream.commands.validate import command
from shoal.stream.config import Input
from shoal.stream.decoding.columns import DWELL_MS_MAX, TOKENS_MAX
from shoal.stream.decoding.contract import ITEMS_MAX, Event
from shoal.stream.events import CHANNELS, NEGATIVE, TYPE_CODES, Events, Reason, Records, Reject
from shoal.stream.wire import Decoder

GOOD: dict[str, Any] = {"event_id": "e1", "type": "view", "user_id": "u1", "event_time": 1_700_000_000_000}
DECODER = Decoder(Input())


def records(values: list[bytes | None]) -> Records:
    n = len(values)
    return Records(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), (None,) * n, values)


def event(**fields: Any) -> bytes:
    """A good event with some fields replaced; ... leaves one out."""
    return json.dumps({k: v for k, v in (GOOD | fields).items() if v is not ...}, ensure_ascii=False).encode()


def raw(field: str) -> bytes:
    """A good event with raw JSON text appended as one more field."""
    return event()[:-1] + b"," + field.encode() + b"}"


def decode(*values: bytes | None, decoder: Decoder = DECODER) -> tuple[Events, list[Reject]]:
    return decoder.decode(records(list(values)))


def one(value: bytes | None) -> Events:
    events, rejects = decode(value)
    assert not rejects, rejects
    return events


def key(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


BAD: list[tuple[str, bytes | None, Reason, str]] = [
    ("larger than the limit", event(text="x" * 65_536), Reason.SIZE, "wanted at most 65536"),
    ("large and no UTF-8: size comes first", b"\xff" * 70_000, Reason.SIZE, "got 70000 bytes"),
    ("no value", None, Reason.TOMBSTONE, "no value"),
    ("empty value", b"", Reason.TOMBSTONE, "no value"),
    ("not UTF-8 in a field that is used", b'{"event_id":"\xff"}', Reason.ENCODING, "UTF-8"),
    ("not UTF-8 in an ignored field", event()[:-1] + b',"zzz":"\xc3"}', Reason.ENCODING, "UTF-8"),
    ("not UTF-8 in an ignored key", event()[:-1] + b',"\xff":1}', Reason.ENCODING, "UTF-8"),
    ("not UTF-8, and deep: encoding comes first", b"[" * 99 + b"\xff", Reason.ENCODING, "UTF-8"),
    ("an encoded surrogate", event()[:-1] + b',"zzz":"\xed\xa0\x80"}', Reason.ENCODING, "UTF-8"),
    ("UTF-16", event().decode().encode("utf-16"), Reason.ENCODING, "UTF-8"),
    ("nine deep in an ignored field", raw('"zzz":' + "[" * 8 + "]" * 8), Reason.DEPTH, "at most 8"),
    ("thousands deep", raw('"zzz":' + "[" * 30_000 + "]" * 30_000), Reason.DEPTH, "at most 8"),
    ("deep and cut off: depth comes first", b'{"a":' * 5000, Reason.DEPTH, "at most 8"),
    ("deep in traits", raw('"traits":' + '{"a":' * 8 + "1" + "}" * 8), Reason.DEPTH, "at most 8"),
    ("NaN where a number stands", raw('"value":NaN'), Reason.NUMBER, "NaN"),
    ("Infinity in an ignored field", raw('"zzz":[Infinity]'), Reason.NUMBER, "Infinity"),
    ("-Infinity", raw('"zzz":-Infinity'), Reason.NUMBER, "-Infinity"),
    ("1e999 where a number stands", raw('"value":1e999'), Reason.NUMBER, "no double holds"),
    ("1e999 in an ignored field", raw('"zzz":{"a":[-1E+999]}'), Reason.NUMBER, "no double holds"),
    ("400 digits in an ignored field", raw('"zzz":' + "9" * 400), Reason.NUMBER, "no double holds"),
    ("5,000 digits as event_time", event(event_time=...)[:-1] + b',"event_time":' + b"1" * 5000 + b"}",
     Reason.NUMBER, "no double holds"),
    ("250 digits and a two-digit exponent", raw('"zzz":' + "9" * 250 + "e99"), Reason.NUMBER, "no double"),
    ("mistyped, but NaN further on", event(event_id=5)[:-1] + b',"zzz":NaN}', Reason.NUMBER, "NaN"),
    ("not JSON", b"hello", Reason.JSON, "syntax error"),
    ("cut off", event()[:-1], Reason.JSON, "syntax error"),
    ("trailing bytes", event() + b"x", Reason.JSON, "syntax error"),
    ("two objects", event() + event(), Reason.JSON, "syntax error"),
    ("a trailing NUL", event() + b"\x00", Reason.JSON, "syntax error"),
    ("a byte order mark", b"\xef\xbb\xbf" + event(), Reason.JSON, ""),
    ("only white space", b"  \n", Reason.JSON, "syntax error"),
    ("a control character inside a text", raw('"zzz":"\x01"'), Reason.JSON, "syntax error"),
    ("half a surrogate pair", raw('"zzz":"\\ud800"'), Reason.JSON, ""),
    ("a leading zero", raw('"zzz":01'), Reason.JSON, "syntax error"),
    ("mistyped, but no JSON further on", event(event_id=5)[:-1] + b",}", Reason.JSON, "syntax error"),
    ("an array", b"[1]", Reason.SCHEMA, "event: got array, wanted object"),
    ("null", b"null", Reason.SCHEMA, "event: got null, wanted object"),
    ("a text", b'"x"', Reason.SCHEMA, "event: got str, wanted object"),
    ("event_id missing", event(event_id=...), Reason.SCHEMA, "event_id: missing"),
    ("event_id null", event(event_id=None), Reason.SCHEMA, "event_id: got null, wanted str"),
    ("event_id empty", event(event_id=""), Reason.SCHEMA, "event_id: wanted str of length >= 1"),
    ("event_id a number", event(event_id=5), Reason.SCHEMA, "event_id: got int, wanted str"),
    ("type missing", event(type=...), Reason.SCHEMA, "type: missing"),
    ("type a list", event(type=["view"]), Reason.SCHEMA, "type: got array, wanted str"),
    ("event_time missing", event(event_time=...), Reason.SCHEMA, "event_time: missing"),
    ("event_time true", event(event_time=True), Reason.SCHEMA, "event_time: got bool"),
    ("event_time null", event(event_time=None), Reason.SCHEMA, "event_time: got null"),
    ("nobody named", event(user_id=...), Reason.SCHEMA, "user_id: missing, and so is anonymous_id"),
    ("two nulls named", event(user_id=None, anonymous_id=None), Reason.SCHEMA, "user_id: missing"),
    ("user_id a number", event(user_id=17850), Reason.SCHEMA, "user_id: got int, wanted str | null"),
    ("value a text", event(value="15.3"), Reason.SCHEMA, "value: got str, wanted float | null"),
    ("value true", event(value=True), Reason.SCHEMA, "value: got bool"),
    ("dwell below nothing", event(dwell_ms=-1), Reason.SCHEMA, "dwell_ms: wanted float >= 0"),
    ("items an object", event(items={"id": "a"}), Reason.SCHEMA, "items: got object, wanted array | null"),
    ("an item null", event(items=[None]), Reason.SCHEMA, "items[0]: got null, wanted object"),
    ("item id a number", event(items=[{}, {"id": 5}]), Reason.SCHEMA, "items[1].id: got int"),
    ("category a text", event(items=[{"category": "a"}]), Reason.SCHEMA, "items[0].category: got str"),
    ("too many items", event(items=[{}] * (ITEMS_MAX + 1)), Reason.SCHEMA, "items: wanted array of length <= 256"),
    ("embedding without space", event(embedding={"vector": []}), Reason.SCHEMA, "embedding.space: missing"),
    ("consent a text", event(consent={"segmentation": "no"}), Reason.SCHEMA, "consent.segmentation: got str"),
    ("schema before user_id and time", event(user_id="", event_time="x", value="x"), Reason.SCHEMA, "value"),
    ("user_id empty", event(user_id=""), Reason.USER_ID, "got 0 bytes, wanted 1 to 128"),
    ("user_id too long", event(user_id="x" * 129), Reason.USER_ID, "got 129 bytes"),
    ("user_id of 65 two-byte letters", event(user_id="é" * 65), Reason.USER_ID, "got 130 bytes"),
    ("user_id with a line end", event(user_id="a\nb"), Reason.USER_ID, "control characters"),
    ("user_id with NUL", event(user_id="\x00a"), Reason.USER_ID, "control characters"),
    ("user_id with a C1 control", event(user_id="a\x85"), Reason.USER_ID, "control characters"),
    ("anonymous_id empty", event(user_id=..., anonymous_id=""), Reason.USER_ID, "anonymous_id: got 0 bytes"),
    ("anonymous_id bad beside a good user_id", event(anonymous_id="\t"), Reason.USER_ID, "anonymous_id"),
    ("user_id before time", event(user_id="", event_time=5), Reason.USER_ID, "got 0 bytes"),
    ("user_id before a text that is no time", event(user_id="", event_time="x"), Reason.USER_ID, "got 0 bytes"),
    ("time below nothing", event(event_time=-1), Reason.TIME, "wanted ms"),
    ("time 0", event(event_time=0), Reason.TIME, "wanted ms"),
    ("the last millisecond of 1999", event(event_time=946_684_799_999), Reason.TIME, "wanted ms"),
    ("the year 2200", event(event_time=7_258_118_400_000), Reason.TIME, "2000 to 2199"),
    ("seconds", event(event_time=1_700_000_000), Reason.TIME, "looks like s, wanted ms"),
    ("microseconds", event(event_time=1_700_000_000_000_000), Reason.TIME, "looks like us, wanted ms"),
    ("time of absurd size", event(event_time=1e308), Reason.TIME, "1e+308"),
    ("time of a hundred digits", event(event_time=10**99), Reason.TIME, "1e+99"),
    ("text of 1999", event(event_time="1999-12-31T23:59:59Z"), Reason.TIME, "the year 1999"),
    ("text of 2200", event(event_time="2200-01-01T00:00:00Z"), Reason.TIME, "the year 2200"),
    ("text without offset", event(event_time="2024-02-29T12:00:00"), Reason.TIME, "RFC 3339"),
    ("text with no such day", event(event_time="2023-02-29T12:00:00Z"), Reason.TIME, "RFC 3339"),
    ("a leap second", event(event_time="2016-12-31T23:59:60Z"), Reason.TIME, "RFC 3339"),
    ("a date alone", event(event_time="2024-02-29"), Reason.TIME, "RFC 3339"),
    ("a week date", event(event_time="2024-W09-4T12:00:00Z"), Reason.TIME, "RFC 3339"),
    ("digits in a text", event(event_time="1700000000000"), Reason.TIME, "RFC 3339"),
    ("empty text", event(event_time=""), Reason.TIME, "RFC 3339"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "reason", "detail"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_a_value_with_the_first_reason_that_applies(
    value: bytes | None, reason: Reason, detail: str
) -> None:
    events, rejects = decode(event(), value, event())
    assert events.row.tolist() == [0, 2]
    assert [(r.row, r.reason) for r in rejects] == [(1, reason)]
    assert detail in rejects[0].detail


def test_the_table_has_every_reason() -> None:
    assert {b[2] for b in BAD} == set(Reason)


def test_details_never_hold_the_value_of_a_user_id() -> None:
    for user in ("secret\n", "secret" * 99, "secret\x00"):
        for other in ({}, {"value": "secret"}, {"event_time": 5}, {"event_time": "x"}, {"items": "secret"}):
            for field in ("user_id", "anonymous_id"):
                _, (reject,) = decode(event(**{field: user} | other))
                assert "secret" not in reject.detail


def test_rejects_and_events_are_in_row_order_whatever_the_reason() -> None:
    values = [event(), event(event_time=5), None, event(), b"{", event(user_id=""), event(), b"\xff"]
    events, rejects = decode(*values)
    assert events.row.tolist() == [0, 3, 6]
    assert [r.row for r in rejects] == [1, 2, 4, 5, 7]


def test_no_records_give_no_events() -> None:
    events, rejects = decode()
    assert (len(events), rejects, events.token_ptr.tolist()) == (0, [], [0])


# --- what is not an error ---------------------------------------------------------------------------------


def test_columns_have_the_types_and_values_that_events_promises() -> None:
    item = {"id": "85123A", "category": ["garden", "tools"], "brand": "Spade & Co", "tags": ["new"]}
    events = one(event(type="purchase", value=12.5, quantity=3, dwell_ms=1500, items=[item]))
    tokens = ["i:85123A", "c:garden", "c:garden/tools", "b:Spade & Co", "t:new"]
    assert events.users == ["u1"]
    assert events.event_key.tolist() == [key("e1")]
    assert (events.channel.tolist(), events.sign.tolist()) == ([CHANNELS.index("purchase")], [1])
    assert events.time_ms.tolist() == [1_700_000_000_000]
    assert (events.value.tolist(), events.quantity.tolist()) == ([12.5], [3.0])
    assert events.dwell_ms.tolist() == [1500]
    assert events.item.tolist() == [key("i:85123A")]
    assert events.token.tolist() == [key(token) for token in tokens]
    assert events.token_ptr.tolist() == [0, 5]
    assert events.labels == ["garden"]
    wanted = {
        "int8": ["channel", "sign"],
        "int32": ["row", "token_ptr"],
        "int64": ["time_ms", "dwell_ms"],
        "uint64": ["event_key", "item", "token"],
        "float64": ["value", "quantity"],
    }
    for dtype, names in wanted.items():
        assert {str(getattr(events, name).dtype) for name in names} == {dtype}


@pytest.mark.parametrize("name", TYPE_CODES)
def test_every_type_has_its_channel_and_sign(name: str) -> None:
    events = one(event(type=name))
    assert CHANNELS[events.channel[0]] == NEGATIVE.get(name, name)
    assert events.sign[0] == (-1 if name in NEGATIVE else 1)


@pytest.mark.parametrize("name", ["", "View", "teleport", "é"])
def test_an_unknown_type_counts_as_custom(name: str) -> None:
    events = one(event(type=name))
    assert (CHANNELS[events.channel[0]], events.sign[0]) == ("custom", 1)


def test_of_a_key_that_stands_twice_the_last_one_wins() -> None:
    assert one(raw('"user_id":"second","value":5,"value":null')).users == ["second"]
    assert one(raw('"value":5,"value":7')).value.tolist() == [7.0]


def test_null_for_an_optional_field_is_as_if_it_were_absent() -> None:
    required = ("event_id", "type", "event_time", "user_id")
    optional = [name for name in Event.__struct_fields__ if name not in required]
    full, plain = one(event(**dict.fromkeys(optional))), one(event())
    assert full.value.tolist() == plain.value.tolist() == [0.0]
    assert full.item.tolist() == plain.item.tolist() == [0]
    assert full.labels == plain.labels == [""]


@pytest.mark.parametrize(
    "value",
    [
        raw('"zzz":' + "[" * 7 + "]" * 7),
        raw('"zzz":"' + "[" * 500 + '"'),
        raw('"zzz":"\\"' + "{" * 500 + '"'),
        raw('"zzz":1e308'),
        raw('"zzz":1e-999'),
        raw('"zzz":"1e999"'),
        raw('"zzz":' + "1" * 300),
        raw('"zzz":"NaN \\u0000 \\ud83d\\ude00 é"'),
        raw('"zzz":' + "[[]," * 6 + "[]" + "]" * 6),
        b" \r\n\t" + event() + b"\n ",
        event(user_id="x" * 128),
        event(user_id="é" * 64),
        event(user_id="\U0001f41f" * 32),
        event(user_id="two words"),
        event(items=[{}] * ITEMS_MAX),
        event(items=[]),
        event(text="x" * (65_536 - len(event(text="")))),
        event(served={"segment_id": 7, "rank": 1}, consent={"segmentation": True}, traits={"a": [1]}),
        event(embedding={"space": "clip", "vector": [1, 0.5]}, context={"country": "GB", "extra": 1}),
    ],
)
def test_what_looks_odd_but_keeps_the_contract_is_accepted(value: bytes) -> None:
    assert len(one(value)) == 1


@pytest.mark.parametrize("scale", [1, -1])
def test_money_and_quantity_lose_their_sign_and_the_type_alone_subtracts(scale: int) -> None:
    events = one(event(type="refund", value=15.3 * scale, quantity=6 * scale))
    assert (events.value.tolist(), events.quantity.tolist(), events.sign.tolist()) == ([15.3], [6.0], [-1])


def test_money_is_what_the_priced_items_sum_to_when_value_is_absent() -> None:
    items = [{"price": 2.5, "quantity": 4}, {"price": 1}, {"quantity": 7}, {"price": 3, "quantity": -2}]
    events = one(event(items=items))
    assert (events.value.tolist(), events.quantity.tolist()) == ([10 + 1 + 6], [4 + 7 + 2])
    assert one(event(items=items, value=0, quantity=1)).value.tolist() == [0.0]


@pytest.mark.parametrize(
    "fields",
    [
        {"value": 1e308},
        {"value": -1e308},
        {"quantity": 1e308},
        {"dwell_ms": 1e308},
        {"value": 1e308, "quantity": 1e308, "dwell_ms": 1e308},
        {"items": [{"price": 1e308, "quantity": 1e308}]},
        {"items": [{"price": 1e308}, {"price": 1e308}]},
    ],
)
def test_values_of_absurd_size_are_clamped_and_the_event_is_counted_once(fields: dict[str, Any]) -> None:
    events, rejects = decode(event(), event(**fields))
    assert not rejects
    assert events.clamped == 1
    assert events.value.max() <= 1e7
    assert events.quantity.max() <= 1e7
    assert events.dwell_ms.max() <= DWELL_MS_MAX


def test_a_value_at_the_limit_is_not_clamped() -> None:
    assert one(event(value=1e7, dwell_ms=DWELL_MS_MAX)).clamped == 0


def test_anonymous_users_cannot_be_mistaken_for_named_ones() -> None:
    events, _ = decode(event(user_id=None, anonymous_id="u1"), event(), event(anonymous_id="other"))
    assert events.users == ["\x00u1", "u1", "u1"]


def test_tokens_are_distinct_and_in_the_order_of_the_items() -> None:
    items = [
        {"category": ["a", "", "b"], "tags": ["", "x", "x"]},
        {"id": "1", "category": ["a"], "brand": ""},
        {"id": "1", "category": []},
    ]
    events = one(event(items=items))
    assert events.token.tolist() == [key(t) for t in ("c:a", "c:a/b", "t:x", "i:1")]
    assert (events.item.tolist(), events.labels) == ([0], ["a"])


@pytest.mark.parametrize(
    "items",
    [
        [{"id": str(i)} for i in range(200)],
        [{"id": "1", "category": [f"level {i}" for i in range(200)], "brand": "b"}],
        [{"category": ["a"] * 5000}],
        [{"tags": [str(i) for i in range(5000)]}],
        [{"id": "x", "category": [str(i) for i in range(63)], "brand": "b", "tags": ["t"]}],
    ],
)
def test_tokens_are_bounded(items: list[dict[str, Any]]) -> None:
    events = one(event(items=items))
    assert len(events.token) == events.token_ptr[-1] == TOKENS_MAX
    assert len(set(events.token.tolist())) == TOKENS_MAX


def test_the_label_is_the_top_category_else_the_item_id_else_nothing() -> None:
    items = [[{"id": "1", "category": ["a", "b"]}], [{"id": "1", "category": [""]}], [{"brand": "b"}], None]
    events, _ = decode(*(event(items=i) for i in items))
    assert events.labels == ["a", "1", "", ""]
    assert events.token_ptr.tolist() == [0, 3, 4, 5, 5]


# --- time -------------------------------------------------------------------------------------------------


@given(
    st.datetimes(datetime(2000, 1, 2), datetime(2199, 12, 30)),
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from(["T", "t", " "]),
)
def test_rfc_3339_text_and_epoch_numbers_in_every_unit_agree(
    naive: datetime, offset_min: int, separator: str
) -> None:
    ms = (naive - datetime(1970, 1, 1)) // timedelta(milliseconds=1)
    sign, (hours, minutes) = "-" if offset_min < 0 else "+", divmod(abs(offset_min), 60)
    local = (naive + timedelta(minutes=offset_min)).isoformat(separator)
    assert one(event(event_time=f"{local}{sign}{hours:02}:{minutes:02}")).time_ms.tolist() == [ms]
    assert one(event(event_time=naive.isoformat() + "Z")).time_ms.tolist() == [ms]
    numbers = {"ms": [ms, ms + 0.5], "s": [ms / 1000], "us": [ms * 1000, ms * 1000 + 999]}
    for unit, times in numbers.items():
        decoder = Decoder(Input(time_unit=unit))
        events, rejects = decode(*(event(event_time=time) for time in times), decoder=decoder)
        assert not rejects
        assert set(events.time_ms.tolist()) == {ms}


def test_the_unit_says_how_a_number_is_read_and_a_wrong_one_is_told() -> None:
    for unit, good, bad in (
        ("s", 1_700_000_000, 1_700_000_000_000),
        ("us", 1_700_000_000_000_000, 1_700_000_000),
    ):
        events, (reject,) = decode(
            event(event_time=good), event(event_time=bad), decoder=Decoder(Input(time_unit=unit))
        )
        assert events.time_ms.tolist() == [1_700_000_000_000]
        assert (reject.row, reject.reason) == (1, Reason.TIME)
        assert f"wanted {unit} (input.time_unit)" in reject.detail


def test_the_first_and_last_milliseconds_of_the_range_are_in_it() -> None:
    last = datetime(2199, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    times = ["2000-01-01T00:00:00Z", 946_684_800_000, last.isoformat(), 7_258_118_399_999]
    events, rejects = decode(*(event(event_time=t) for t in times))
    assert not rejects
    assert events.time_ms.tolist() == [946_684_800_000] * 2 + [7_258_118_399_999] * 2


# --- laws -------------------------------------------------------------------------------------------------


def test_a_batch_decodes_as_its_records_do_one_by_one() -> None:
    """No record sees its neighbours: a text left open in one hides nothing in the next."""
    values = [b[1] for b in BAD] + [event(event_id=str(i), items=[{"id": str(i)}]) for i in range(50)]
    values = values[::2] + values[1::2]
    events, rejects = decode(*values)
    alone = [decode(value) for value in values]
    assert [r.row for r in rejects] == [i for i, (_, r) in enumerate(alone) if r]
    assert [(r.reason, r.detail) for r in rejects] == [(r[0].reason, r[0].detail) for _, r in alone if r]
    assert events.event_key.tolist() == [e.event_key[0] for e, _ in alone if len(e)]
    assert events.token.tolist() == [token for e, _ in alone for token in e.token.tolist()]


@given(
    st.integers(0, 330),
    st.integers(0, 330),
    st.none() | st.integers(-400, 400),
    st.sampled_from(["e", "E", "e+"]),
)
def test_a_number_in_an_ignored_field_is_refused_exactly_when_no_double_holds_it(
    whole: int, fraction: int, exponent: int | None, mark: str
) -> None:
    """Digits before and after the point, and an exponent; `float` is the oracle."""
    digits = "7" * (whole + 1) + ("." + "7" * fraction if fraction else "")
    if exponent is not None:
        digits += (mark[0] if exponent < 0 else mark) + str(exponent)
    _, rejects = decode(raw(f'"zzz":[-{digits}, 1]'))
    assert [r.reason for r in rejects] == [Reason.NUMBER] * (float(digits) == float("inf"))


def test_the_size_limit_is_the_configured_one() -> None:
    events, (reject,) = decode(
        event(), event(text="x" * 300), decoder=Decoder(Input(value_max_bytes=256, money_max=5))
    )
    assert (len(events), reject.reason) == (1, Reason.SIZE)


# --- shoal validate ---------------------------------------------------------------------------------------


def test_validate_prints_one_line_per_problem_and_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(gzip.compress(event() + b"\n" + event(user_id="") + b"\n" + event() + b"\n{\n"))
    result = CliRunner().invoke(command, [str(file)])
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0] == f"{file}:2: user_id: user_id: got 0 bytes, wanted 1 to 128"
    assert lines[1].startswith(f"{file}:4: json: ")
    assert lines[2:] == [f"{file}: 4 records, 2 with problems (json 1, user_id 1)"]


def test_validate_json_is_one_object_per_problem_and_a_summary(tmp_path: Path) -> None:
    file, config = tmp_path / "events.jsonl", tmp_path / "shoal.toml"
    file.write_bytes(event(event_time=..., ts=5) + b"\n" + event(event_time=..., ts="2024-01-01T00:00:00Z"))
    config.write_text('[input.field_map]\nevent_time = "ts"\n')
    result = CliRunner().invoke(command, [str(file), "--config", str(config), "--json"])
    problem, summary = map(orjson.loads, result.stdout.splitlines())
    assert result.exit_code == 1
    assert (problem["line"], problem["reason"]) == (1, "time")
    assert summary == {"file": str(file), "records": 2, "problems": 1, "reasons": {"time": 1}}


def test_validate_reads_stdin_and_exits_with_0_when_all_is_well() -> None:
    program = "from shoal.stream.cli import main; main(['validate', '-'])"
    done = subprocess.run(
        [sys.executable, "-c", program], input=event() + b"\n", capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"-: 1 records, 0 with problems\n", b"")


@pytest.mark.parametrize("field", ['"query":"\\ud800"', '"text":"\\udfff x"', '"unknown":["\\ud83d"]'])
@pytest.mark.parametrize(
    "wrong", ['"event_time":"x"', '"event_time":5,"event_id":5', '"event_time":1700000000000']
)
def test_half_a_surrogate_pair_is_no_json_whatever_else_is_wrong(field, wrong):
    """Python's own JSON would take it: a record with a bad time as well once ended the engine, again and again."""
    value = f'{{"event_id":"2","type":"view","user_id":"u",{wrong},{field}}}'.encode()
    _, rejects = decode(value)
    assert [reject.reason for reject in rejects] == [Reason.JSON]
