"""The fast half of decoding: it gives what the careful half gives, and ordinary events are what it is for."""

from __future__ import annotations

import gzip
import json
import random
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from conftest import ROOT
from halves import Halves
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from shoal.stream.config import Input
from shoal.stream.decoding.contract import ITEMS_MAX, Consent, Context, Embedding, Event, Item, Served
from shoal.stream.decoding.plain import Plain
from shoal.stream.decoding.xxh3 import XXH3_BYTES_MAX, xxh3_64
from shoal.stream.simulation.population import Settings
from shoal.stream.simulation.simulator import Simulator

GOOD = b'"event_id":"e","type":"view","user_id":"u","event_time":1700000000000'
CONTRACT = Halves(Input())
FLAT = Halves(
    Input(
        field_map={
            "event_id": "order+line", "type": "kind", "event_time": "ts", "user_id": "who.id", "value": "paid",
            "item_id": "sku", "item_category": "dept+group", "item_price": "unit", "item_tags": "tags",
        },
        type_map={"order": "purchase", "": "view"},
        time_unit="s",
    )
)  # fmt: skip
LINES = Halves(
    Input(
        field_map={"event_id": "*", "items": "cart.lines", "item_id": "sku", "item_category": "groups"},
        constants={"type": "purchase", "currency": "GBP"},
        time_unit="us",
    )
)
HALVES = (CONTRACT, FLAT, LINES)


# --- plain form is common -----------------------------------------------------------------------------------


def test_the_simulator_s_events_are_plain() -> None:
    """At least 99 % of them, or the speed is a fiction."""
    simulator = Simulator(Settings(users=200, events=3000, seed=7, anonymous=0.1))
    values = [value for batch in simulator.batches() for value in batch.values]
    assert CONTRACT.share(values) >= 0.99
    CONTRACT.agree(values)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "map_name"),
    [
        ("online_retail_to_2011-06", "online_retail"),
        ("completejourney", "complete_journey"),
        ("otto_sample", "otto"),
    ],
)
def test_real_events_are_plain_with_the_maps_that_ship(data_dir: Path, name: str, map_name: str) -> None:
    """At least 99 %, those included that are refused because they name nobody."""
    config = tomllib.loads((ROOT / "deploy" / "maps" / f"{map_name}.toml").read_text())["input"]
    halves = Halves(Input(**config))
    with gzip.open(data_dir / f"{name}.jsonl.gz", "rb") as file:
        values = [line for line, _ in zip(file, range(20_000), strict=False)]
    assert halves.share(values) >= 0.99
    halves.agree(values)


@pytest.mark.parametrize(
    ("halves", "value"),
    [
        (CONTRACT, b" {\n" + GOOD.replace(b",", b" ,\r\n\t") + b"} "),
        (CONTRACT, b"{" + GOOD + ',"query":"caf\\u00e9 \\"au\\" lait \U0001f41f"}'.encode()),
        (CONTRACT, b"{" + GOOD + b',"zzz":[[1e5,-0.0,{"a":null}],true,false,"\\\\"],"traits":{"type":5}}'),
        (CONTRACT, b"{" + GOOD + b',"embedding":{"space":"s","vector":[1,0.5]},"served":{"segment_id":7}}'),
        (CONTRACT, b"{" + GOOD + b',"items":[{"id":"a","tags":["x"],"price":1e2},{}],"anonymous_id":null}'),
        (CONTRACT, b"{" + GOOD.replace(b"1700000000000", b'"2024-02-29T12:00:00.123456+01:00"') + b"}"),
        (CONTRACT, b"{" + GOOD.replace(b'"u"', '"é\U0001f41f"'.encode()) + b"}"),
        (CONTRACT, b"{" + GOOD.replace(b'"u"', b"null") + b"}"),
        (FLAT, b'{"order":1,"line":"2","kind":"order","ts":1700000000.25,"who":{"id":7},"paid":"15.30","sku":85123,'
               b'"dept":"garden","group":null,"unit":2.5,"tags":"new"}'),
        (LINES, b'{"user_id":"u","event_time":1700000000000000,"cart":{"lines":[{"sku":5,"groups":["a",7]}]}}'),
    ],
)  # fmt: skip
def test_ordinary_ways_to_write_an_event_are_plain(halves: Halves, value: bytes) -> None:
    assert halves.share([value]) == 1.0
    halves.agree([value])


def test_inputs_that_no_shape_can_say_are_left_to_the_careful_half() -> None:
    for config in (
        Input(convention="segment"),
        Input(field_map={"user_id": "who", "session_id": "who"}),
        Input(field_map={"item_id": "a", "item_brand": "a.b"}),
        Input(field_map={"query": "a+b"}),
        Input(constants={"item_brand": "house"}),
        Input(constants={"type": "view"}, field_map={"type": "kind"}),
    ):
        assert len(Plain(config).decode([b"{" + GOOD + b"}"])[2]) == 1


# --- the same, bit by bit -----------------------------------------------------------------------------------

numerals = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**6), 10**6, places=4).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(
        ("-0", "-0.0", "01", "1.", ".5", "+1", "1e", "9007199254740993", "1e22", "1e-22", "1e23", "NaN")
    ),
)
offsets = st.sampled_from(("Z", "z", "+00:00", "-00:00", "+23:59", "-05:30", "+24:00", "", "+0100", " Z"))
instants = st.one_of(
    st.builds(
        lambda time, mark, fraction, offset: f"{time:%Y-%m-%d}{mark}{time:%H:%M:%S}{fraction}{offset}",
        st.datetimes(datetime(1995, 1, 1), datetime(2205, 1, 1)) | st.datetimes(),
        st.sampled_from("Tt -"),
        st.sampled_from(("", ".", ".5", ".123456", ".9999999", ".000999")),
        offsets,
    ),
    st.from_regex(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z", fullmatch=True),
).map(json.dumps)
epochs = st.one_of(
    st.integers(946_684_799_000, 7_258_118_401_000).map(str),
    st.integers(946_684_799, 7_258_118_401).map(str),
    st.integers(946_684_799_000_000, 7_258_118_401_000_000).map(str),
    st.floats(946_684_799, 7_258_118_401).map(repr),
    st.floats(946_684_799_000, 7_258_118_401_000).map(repr),
    st.integers(10**6, 10**7 - 1).map(lambda n: f"1700000000.{n}"),
    st.integers(1_699_999_999_000, 1_700_000_001_000).map(lambda n: f'"{n}"'),
)
TEXTS = (
    "u1",
    "view",
    "refund",
    "garden",
    "a/b",
    "caf\u00e9",
    "two words",
    "\U0001f41f",
    "7",
    "x" * 40,
    "order",
    "e-1",
)
ODD_TEXTS = ("", "\u00e9" * 65, "x" * 130, "y" * 127, "\x7f", "\x85", "\n", '"', "\\", "\u2028")
NUMERALS = ("0", "1", "-3", "2.5", "15.30", "1e2", "-0.0", "99999999", "0.1", "123456789012", "1E-3", "7.00")
ODD_NUMERALS = (
    "-0", "1e308", "9007199254740993", "0.30000000000000004", "1e999", "01", "1.", "-", "1e", "12345678901234567890",
)  # fmt: skip
TIMES = ('"2024-02-29T12:00:00Z"', '"2024-02-29 12:00:00.123456+01:00"', '"2199-12-31T23:59:59.999-00:00"')
ODD_TIMES = (
    '"2023-02-29T12:00:00Z"', '"2024-02-29T12:00:00.1234567Z"', '"1999-12-31T23:59:59Z"', "-1", '"1700000000000"',
)  # fmt: skip
ODD = ("null", "true", "[]", "{}", "[[]]", '{"id":1}', "[null]", "5", '"x"', "nul", '["a",1]')


def word(rng: random.Random) -> str:
    return json.dumps(
        rng.choice(TEXTS if rng.random() < 0.98 else ODD_TEXTS), ensure_ascii=rng.random() < 0.1
    )


def numeral(rng: random.Random) -> str:
    return rng.choice(NUMERALS if rng.random() < 0.95 else ODD_NUMERALS)


def either(rng: random.Random) -> str:
    return word(rng) if rng.random() < 0.7 else str(rng.randrange(10**6))


def some(one: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    return lambda rng: "[" + ",".join(one(rng) for _ in range(rng.choice((0, 1, 2, 2, 3, 70)))) + "]"


def time(rng: random.Random) -> str:
    instant = rng.choice((1_700_000_000, 1_700_000_000.5, 1_234_567_890.123, 946_684_800, 7_258_118_399))
    number = str(instant * rng.choice((1, 1000, 10**6)))
    return rng.choice((number, number, *TIMES, rng.choice(ODD_TIMES)))


ITEM: dict[str, Callable[[random.Random], str]] = {
    "id": word, "category": some(word), "brand": word, "tags": some(word), "price": numeral, "quantity": numeral,
    "sku": either, "groups": some(either), "position": numeral,
}  # fmt: skip
NEEDED: dict[str, Callable[[random.Random], str]] = {
    "event_id": word, "type": word, "event_time": time, "user_id": word, "order": either, "line": either, "kind": word,
    "ts": time, "who": lambda rng: f'{{"id":{either(rng)}}}',
}  # fmt: skip
OPTIONAL: dict[str, Callable[[random.Random], str]] = {
    **dict.fromkeys(("anonymous_id", "query", "session_id", "currency", "zzz"), word),
    **dict.fromkeys(("value", "quantity", "dwell_ms", "rating", "paid", "unit"), numeral),
    **dict.fromkeys(("sku", "dept", "group", "tags"), either),
    "items": some(lambda rng: written(rng, ITEM, {})),
    "cart": lambda rng: f'{{"lines":{some(lambda rng: written(rng, ITEM, {}))(rng)}}}',
    "context": lambda rng: f'{{"channel":{word(rng)},"x":{numeral(rng)}}}',
    "traits": lambda rng: f'{{"type":{word(rng)},"deep":{"[" * (n := rng.randrange(8))}{"]" * n}}}',
    "embedding": lambda rng: f'{{"space":{word(rng)},"vector":{some(numeral)(rng)}}}',
    "served": lambda rng: f'{{"segment_id":{either(rng)},"rank":{numeral(rng)}}}',
    "consent": lambda rng: '{"segmentation":true}',
}  # fmt: skip


def written(
    rng: random.Random,
    optional: Mapping[str, Callable[[random.Random], str]],
    needed: Mapping[str, Callable[[random.Random], str]],
) -> str:
    """An object in any order and spacing: some fields of the first, nearly all of the second; few are odd or double."""
    names = [name for name in needed if rng.random() < 0.99]
    names += rng.sample(sorted(optional), rng.randrange(min(6, len(optional))))
    names += rng.choices([*optional, *needed], k=rng.random() < 0.03)
    rng.shuffle(names)
    makers = {**optional, **needed}
    gap = rng.choice(("", "", "", " ", "\n\t"))
    values = [rng.choice(ODD) if rng.random() < 0.01 else makers[name](rng) for name in names]
    pairs = (f'"{name}"{gap}:{gap}{value}' for name, value in zip(names, values, strict=True))
    return "{" + gap + f"{gap},".join(pairs) + "}" + gap


def test_whatever_an_event_looks_like_both_halves_make_the_same_of_it() -> None:
    """4,000 of them for each shape: most are events, the fast half decides many, and never all."""
    rng = random.Random(1)
    values = [written(rng, OPTIONAL, NEEDED).encode() for _ in range(4000)]
    for halves in HALVES:
        for start in range(0, len(values), 500):
            halves.agree(values[start : start + 500])
        assert 0.3 < halves.share(values) < 0.95, halves.share(values)


@given(st.one_of(instants, epochs), st.sampled_from(HALVES))
def test_both_halves_read_the_same_time(time: str, halves: Halves) -> None:
    """RFC 3339 text, and numbers in each unit, with fractions and without, around both ends of the range."""
    flat = b'"order":"1","line":"2","kind":"view","who":{"id":"u"},"ts":%b' % time.encode()
    halves.agree([GOOD.replace(b"1700000000000", time.encode()).join((b"{", b"}")), b"{%b}" % flat])


def test_seconds_with_a_fraction_are_the_millisecond_they_say() -> None:
    """Times a thousand, some doubles fall just short of it: each of the thousand, at both ends of the range."""
    flat = '{"order":"1","line":"2","kind":"view","who":{"id":"u"},"ts":%d.%03d}'
    values = [(flat % (second, ms)).encode() for second in (946_684_800, 7_258_118_399) for ms in range(1000)]
    assert FLAT.share(values) == 1.0
    FLAT.agree(values)
    wanted = [s * 1000 + ms for s in (946_684_800, 7_258_118_399) for ms in range(1000)]
    assert FLAT.plain.decode(values)[0].time_ms.tolist() == wanted


@pytest.mark.parametrize(
    "second", [1_073_741_824, 2_150_000_000, 2_154_852_259, 4_300_000_000, 4_324_270_463]
)
def test_seconds_are_read_alike_where_doubles_fall_just_short(second: int) -> None:
    """Between powers of two that doubles of a thousand times as much have no bit to spare for."""
    flat = '{"order":"1","line":"2","kind":"view","who":{"id":"u"},"ts":%d.%03d}'
    FLAT.agree([(flat % (second + step, ms)).encode() for step in (0, 7) for ms in range(1000)])


@given(numerals, numerals, numerals)
def test_both_halves_read_the_same_numbers(value: str, price: str, quantity: str) -> None:
    """To the last bit of a double, also as the money of several items; whatever is not sure is left alone."""
    fields = f',"items":[{{"price":{price},"quantity":{quantity}}},{{"price":{value}}},{{"price":0.1}}]'
    more = f',"quantity":{quantity},"dwell_ms":{price},"rating":{value}'
    CONTRACT.agree([b"{" + GOOD + one.encode() + b"}" for one in (fields, more, f',"value":{value}{fields}')])


@pytest.mark.parametrize("halves", HALVES, ids=["contract", "flat", "lines"])
def test_every_byte_of_a_record_can_be_any_other(halves: Halves) -> None:
    """One seed, each byte replaced in turn by what means something in JSON, and cut off at every place."""
    seed = (
        b'{"event_id":"e","type":"view","user_id":"\xc3\xa9","event_time":"2024-02-29T12:00:00.5Z","order":"1",'
        b'"line":2,"kind":"order","ts":1700000000.5,"who":{"id":"u"},"x":[1.5e3,null,true,"\\u00e9"],'
        b'"items":[{"id":"a","category":["b","c"],"price":-2.5}]}'
    )
    others = [bytes([c]) for c in b'"\\{}[]:, 019-+.eEntu\x00\x1f\x7f\x80\xbf\xc2\xe0\xf4\xff']
    for at in range(len(seed)):
        halves.agree([seed[:at] + other + seed[at + 1 :] for other in others] + [seed[:at], seed + seed[at:]])


def test_both_halves_tell_utf_8_from_what_is_none() -> None:
    """Every first byte of a sequence with second, third and fourth bytes at the ends of their ranges."""
    edges = (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
    tails = [
        bytes(tail)
        for tail in (*product(edges), *product(edges, (0x80, 0xC0)), *product(edges, (0xBF,), (0x80, 0x7F)))
    ]
    values = [
        b"{" + GOOD + b',"zzz":"' + bytes([first]) + tail + b'"}'
        for first in range(0x80, 256)
        for tail in tails
    ]
    CONTRACT.agree(values)


def test_a_step_of_every_size_and_mixture_is_merged_in_row_order() -> None:
    """Plain records, records for the careful half, nobody's and bad ones, none or many of each."""
    kinds = [
        b"{" + GOOD + b',"items":[{"id":"a","category":["b"]}]}',
        b"{" + GOOD + b',"items":[{"id":"\\u0061","tags":["b","c"]}],"value":1e300}',
        b'{"event_id":"e","type":"view","event_time":1700000000000}',
        b"{",
        None,
        b"",
        b"x" * 70_000,
    ]
    rng = np.random.default_rng(1)
    for n in (0, 1, 2, 3, 40):
        for _ in range(20):
            CONTRACT.agree([kinds[i] for i in rng.integers(0, len(kinds), n)])


def test_there_is_room_for_the_most_tokens_that_bytes_can_hold() -> None:
    """Lists of one-digit numbers, two bytes a token, in every record of a step."""
    groups = b",".join([b"7"] * 60)
    value = b'{"user_id":"u","event_time":"2024-02-29T12:00:00Z","cart":{"lines":[{"groups":[%b]}]}}' % groups
    LINES.agree([value] * 200)
    assert LINES.plain.decode([value] * 200)[0].token_ptr[-1] == 200 * 60


def test_a_name_is_the_same_text_whoever_decoded_it_and_kinds_of_users_stay_apart() -> None:
    """`u` by name and `u` anonymous are two; a thousand users in one step are a thousand."""
    values = [b'{"event_id":"e","type":"view","%b":"u","event_time":1700000000000}' % kind
              for kind in (b"user_id", b"anonymous_id", b"user_id")]  # fmt: skip
    values += [GOOD.replace(b'"u"', b'"u%d"' % (i % 1000)).join((b"{", b"}")) for i in range(3000)]
    CONTRACT.agree(values)
    assert CONTRACT.share(values) == 1.0


# --- the hash -----------------------------------------------------------------------------------------------


def test_the_compiled_hash_is_the_library_s_for_every_length() -> None:
    rng = np.random.default_rng(1)
    for size in range(XXH3_BYTES_MAX + 1):
        for start in (0, 1, 7):
            data = rng.integers(0, 256, start + size + 3, dtype=np.uint8)
            wanted = xxhash.xxh3_64_intdigest(data[start : start + size].tobytes())
            assert int(xxh3_64(data, np.int64(start), np.int64(start + size))) == wanted


# --- the contract -------------------------------------------------------------------------------------------


def test_the_contract_has_no_limit_that_the_fast_half_does_not_know() -> None:
    """A new limit on a field needs a line in `gather`: this is the list of those that have one."""
    limits: dict[str, Any] = {}
    for struct in (Event, Item, Context, Embedding, Served, Consent):
        for field in inspect.type_info(struct).fields:  # type: ignore[attr-defined]
            kinds = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
            for kind in kinds:
                for limit in (
                    "min_length",
                    "max_length",
                    "pattern",
                    "gt",
                    "ge",
                    "lt",
                    "le",
                    "multiple_of",
                    "tz",
                ):
                    if getattr(kind, limit, None) is not None:
                        limits[f"{struct.__name__}.{field.name}.{limit}"] = getattr(kind, limit)
    assert limits == {
        "Event.event_id.min_length": 1,
        "Event.event_time.tz": True,
        "Event.dwell_ms.ge": 0,
        "Event.items.max_length": ITEMS_MAX,
    }
