"""Other people's events -> the contract's shape: a convention, a field map, constants, type names, time units.

All of it is configuration (`[input]`), compiled once. An adapter is a function of one decoded JSON object
(and its bytes) to one in the contract's shape; it checks nothing, the contract's types do that afterwards.
In this order:

    convention   `conventions` reads Segment or GA4 events; without one the object is taken as it is
    field_map    then corrects any field, from the original object (`field_map` says how it is written)
    constants    then fill in what is still absent
    type_map     at the very end says what a type counts as
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import Input
from ..events import TYPE_CODES
from ..ports import ConfigError
from .conventions import CONVENTIONS
from .field_map import (
    ITEM_FIELDS,
    LISTS,
    NUMBER_TEXT,
    NUMBERS,
    TEXTS,
    Json,
    Part,
    check_name,
    mapping,
    nearest,
)

Adapter = Callable[[Json, bytes], Json]


def adapter(config: Input) -> Adapter | None:
    """The function that `config` describes; None where events already have the contract's shape.

    >>> adapt = adapter(Input(field_map={"event_time": "ts", "item_id": "sku"}))
    >>> adapt({"event_id": "1", "ts": 5, "sku": 85123}, b"")
    {'event_id': '1', 'ts': 5, 'sku': 85123, 'event_time': 5, 'items': [{'id': '85123'}]}

    Raises ConfigError for a map that cannot be meant.
    """
    parts = [part for part in (mapping(config.field_map), _constants(config.constants)) if part]
    convention = CONVENTIONS[config.convention].read if config.convention in CONVENTIONS else None
    if not parts and convention is None:
        return None

    def adapt(source: Json, raw: bytes) -> Json:
        contract = dict(source) if convention is None else convention(source, raw)
        for part in parts:
            part(source, raw, contract)
        return contract

    return adapt


def type_codes(config: Input) -> Mapping[str, tuple[int, int]]:
    """Type name, as it arrives -> (channel, sign): the contract's, the convention's, then the type map's."""
    codes = dict(TYPE_CODES)
    if config.convention in CONVENTIONS:
        codes |= {name: TYPE_CODES[to] for name, to in CONVENTIONS[config.convention].types.items()}
    for name, to in config.type_map.items():
        if to not in TYPE_CODES:
            raise ConfigError(f"input.type_map: {name!r} = {to!r}: unknown type; {nearest(to, TYPE_CODES)}")
        codes[name] = TYPE_CODES[to]
    constant = config.constants.get("type")
    if constant is not None and constant not in codes:
        raise ConfigError(f"input.constants: type = {constant!r}: unknown type; {nearest(constant, codes)}")
    return codes


def time_unit(config: Input) -> str:
    """The unit of numeric event times: GA4's own is the microsecond, unless the map reads another field."""
    return "us" if config.convention == "ga4" and "event_time" not in config.field_map else config.time_unit


def sources(config: Input) -> Mapping[str, str]:
    """Contract field -> where the user's events keep it, for messages: {"items[].id": "sku"}."""
    item = "items[]." if "items" not in config.field_map else ""
    return {
        (item + name.removeprefix("item_") if name in ITEM_FIELDS else name): path
        for name, path in config.field_map.items()
    }


# --- constants ------------------------------------------------------------------------------------------


def _constants(constants: Mapping[str, str]) -> Part | None:
    if not constants:
        return None
    plain = [(name, _constant(name, text)) for name, text in constants.items() if name not in ITEM_FIELDS]
    items = [(n.removeprefix("item_"), _constant(n, t)) for n, t in constants.items() if n in ITEM_FIELDS]

    def part(source: Json, raw: bytes, contract: Json) -> None:
        for name, value in plain:
            if contract.get(name) is None:
                contract[name] = value
        lines = contract.get("items")
        if items and isinstance(lines, list):
            contract["items"] = [_filled(line, items) for line in lines]

    return part


def _filled(line: Any, items: Sequence[tuple[str, Any]]) -> Any:
    if not isinstance(line, dict):
        return line
    return {**line, **{name: value for name, value in items if line.get(name) is None}}


def _constant(name: str, text: str) -> Any:
    check_name(name, "input.constants")
    if name in ("event_id", "event_time") or name not in (*TEXTS, *NUMBERS, *LISTS):
        raise ConfigError(f"input.constants: {name} cannot be the same for all events; map it instead")
    if name not in NUMBERS:
        return [text] if name in LISTS else text
    if not NUMBER_TEXT.fullmatch(text):
        raise ConfigError(f"input.constants: {name} = {text!r}: wanted a number")
    return float(text)
