"""The JSON Schema of a behaviour event and the decoder say the same; what the schema cannot say is listed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.config import Input
from shoal.stream.decoding import contract
from shoal.stream.decoding.contract import ITEMS_MAX, USER_BYTES_MAX, Event
from shoal.stream.events import TYPE_CODES, Reason, Records
from shoal.stream.wire import TIME_MS_MAX, TIME_MS_MIN, Decoder

SCHEMA_FILE = Path(contract.__file__).parent.parent / "schemas" / "behavior.event.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text("utf-8"))
FORMATS = jsonschema.FormatChecker(formats=())
DECODER = Decoder(Input())
GOOD: dict[str, Any] = {"event_id": "e1", "type": "view", "user_id": "u1", "event_time": 1_700_000_000_000}


@FORMATS.checks("date-time")
def is_date_time(text: Any) -> bool:
    """RFC 3339 by its grammar, the days of a month by the calendar."""
    return not isinstance(text, str) or (_RFC3339.fullmatch(text) is not None and _day_exists(text))


_RFC3339 = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-\d\d[Tt ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
)


def _day_exists(text: str) -> bool:
    try:
        np.datetime64(text[:10])
    except ValueError:
        return False
    return True


VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=FORMATS)


def decoded(event: Any) -> Reason | None:
    value = json.dumps(event, ensure_ascii=False).encode()
    events, rejects = DECODER.decode(Records(np.zeros(1, np.int32), np.zeros(1, np.int64), (None,), [value]))
    assert len(events) + len(rejects) == 1
    return rejects[0].reason if rejects else None


def agree(event: Any) -> bool:
    """Whether both accept; fails where they differ."""
    errors = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(event)]
    reason = decoded(event)
    assert (reason is None) == (not errors), (event, reason, errors)
    return reason is None


def test_the_schema_is_a_valid_2020_12_schema_and_its_examples_are_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(SCHEMA["examples"]) >= 2
    assert all(agree(example) for example in SCHEMA["examples"])


def test_the_schema_names_the_fields_that_the_decoder_knows() -> None:
    properties = SCHEMA["properties"]
    assert sorted(properties) == sorted(Event.__struct_fields__)
    assert list(properties["items"]["items"]["properties"]) == list(contract.Item.__struct_fields__)
    for name, kind in get_type_hints(Event).items():
        for inner in get_args(kind):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                assert list(properties[name]["properties"]) == list(inner.__struct_fields__)


def test_the_schema_states_the_decoder_s_limits_and_types() -> None:
    properties = SCHEMA["properties"]
    number = properties["event_time"]["anyOf"][1]
    assert (number["minimum"], number["exclusiveMaximum"]) == (TIME_MS_MIN, TIME_MS_MAX)
    assert properties["items"]["maxItems"] == ITEMS_MAX
    assert properties["user_id"]["maxLength"] == properties["anonymous_id"]["maxLength"] == USER_BYTES_MAX
    assert sorted(properties["type"]["examples"]) == sorted(TYPE_CODES)


ANY: list[Any] = [
    None, True, False, 0, 1, -1, 2.5, "", "x", "a\nb", "x" * 129, [], ["a"], [None], [1], {}, {"id": "a"}, [{}],
    [{"id": 1}], [{"category": "a"}], [{"category": ["a"], "tags": ["b"], "price": 1, "quantity": None}], [{}] * 257,
    {"space": "s", "vector": [1]}, {"space": "s"}, {"space": "s", "vector": ["x"]}, {"segmentation": True},
    {"segmentation": 1}, {"channel": 1}, {"segment_id": 7}, {"segment_id": [7]}, {"rank": "1"}, 1_700_000_000_000,
    1_700_000_000, 946_684_799_999, 946_684_800_000, 7_258_118_400_000, 1_700_000_000_000.5, "2024-02-29T12:00:00Z",
    "2023-02-29T12:00:00Z", "2024-02-29T12:00:00", "2024-02-29 12:00:00.5+01:00", "2016-12-31T23:59:60Z",
    "2024-02-29", "12:00:00Z",
]  # fmt: skip


@pytest.mark.parametrize("field", [*Event.__struct_fields__, "unknown"])
def test_decoder_and_schema_agree_on_every_field_with_every_kind_of_value(field: str) -> None:
    verdicts = {agree(GOOD | {field: value}) for value in ANY}
    verdicts.add(agree({name: value for name, value in GOOD.items() if name != field}))
    assert verdicts == ({True} if field == "unknown" else {True, False})


@pytest.mark.parametrize("event", [None, [], "x", 1, {}, {"event_id": "e1"}, {**GOOD, "user_id": None}])
def test_decoder_and_schema_agree_on_what_is_no_event_at_all(event: Any) -> None:
    assert not agree(event)


def test_an_anonymous_event_is_valid_and_a_bad_second_name_is_not() -> None:
    anonymous = GOOD | {"user_id": None, "anonymous_id": "a1"}
    assert agree(anonymous)
    assert agree(GOOD | {"anonymous_id": "a1"})
    assert not agree(GOOD | {"anonymous_id": "\x00"})
    assert not agree(GOOD | {"anonymous_id": ""})


fields = st.dictionaries(st.sampled_from(Event.__struct_fields__), st.sampled_from(ANY), max_size=3)


@given(fields)
@settings(max_examples=400, deadline=None)
def test_decoder_and_schema_agree_on_several_fields_at_once(changed: dict[str, Any]) -> None:
    agree(GOOD | changed)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (GOOD | {"user_id": "é" * 65}, Reason.USER_ID),
        (GOOD | {"text": "x" * 70_000}, Reason.SIZE),
        (GOOD | {"traits": {"a": [[[[[[[[]]]]]]]]}}, Reason.DEPTH),
        (GOOD | {"event_time": "1999-12-31T23:59:59Z"}, Reason.TIME),
    ],
)
def test_what_a_schema_cannot_say_only_the_decoder_refuses(event: Any, reason: Reason) -> None:
    assert VALIDATOR.is_valid(event)
    assert decoded(event) is reason
