"""Other people's events -> the contract's shape: a convention, a field map, type names, constants, time units.

All of it is configuration (`[input]`), compiled once. An adapter is a function of one decoded JSON object
(and its bytes) to one in the contract's shape; it checks nothing, the contract's types do that afterwards.

The field map says, for a field of the contract, where your events keep it:

    [input.field_map]
    event_time = "ts"                          a key
    user_id = "actor.id"                       a dotted path; a number picks from a list: "tags.0"
    event_id = "order_id+line"                 several paths joined by +: one text, "536365/3"; all must be there
    item_category = "department+category"      the same for a list field: a path list, widest first
    event_id = "*"                             the hash of the record's bytes, where events have no id

- The contract's names: the fields of an event, and item_id, item_category, item_brand, item_tags, item_price,
  item_quantity, item_position. Anything else is a ConfigError that names the nearest.
- What the map leaves out is taken by the contract's own name. A mapped field is never taken by its own name.
- item_* fields make one item out of the event itself. With `items = "order.lines"` they are read in each
  element of that list, and what they leave out is taken there by the contract's name (id, price ...).
- Mapped data is often looser than the contract, so in mapped fields a whole number will do for a text
  (user 17850), a number written as text for a number ("2.55"), and one text for a list of texts.
- `constants` fill in contract fields that are absent after that; `type_map` renames types at the very end.
- With a convention, the convention reads the event first and the field map then corrects it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xxhash

from .config import Input
from .contract import Event, Item
from .conventions import CONVENTIONS
from .events import CHANNELS, TYPE_CODES
from .ports import ConfigError

Json = dict[str, Any]
Adapter = Callable[[Json, bytes], Json]
Getter = Callable[[Json, bytes], Any]

ITEM_FIELDS = tuple(f"item_{name}" for name in Item.__struct_fields__)
FIELDS = (*Event.__struct_fields__, *ITEM_FIELDS)
NUMBERS = ("value", "quantity", "dwell_ms", "rating", "item_price", "item_quantity", "item_position")
LISTS = ("item_category", "item_tags")
TEXTS = (
    "event_id", "type", "user_id", "anonymous_id", "session_id", "query", "text", "currency", "origin",
    "item_id", "item_brand",
)  # fmt: skip

_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?")
_WHOLE = re.compile(r"-?[0-9]{1,30}")


def adapter(config: Input) -> Adapter | None:
    """The function that `config` describes; None where events already have the contract's shape.

    >>> adapt = adapter(Input(field_map={"event_time": "ts", "item_id": "sku"}))
    >>> adapt({"event_id": "1", "ts": 5, "sku": 85123}, b"")
    {'event_id': '1', 'ts': 5, 'sku': 85123, 'event_time': 5, 'items': [{'id': '85123'}]}

    Raises ConfigError for a map that cannot be meant.
    """
    parts = [part for part in (_mapping(config.field_map), _constants(config.constants)) if part]
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
            raise ConfigError(f"input.type_map: {name!r} = {to!r}: unknown type; {_nearest(to, TYPE_CODES)}")
        codes[name] = TYPE_CODES[to]
    return codes


CUSTOM = (CHANNELS.index("custom"), 1)


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


# --- the field map --------------------------------------------------------------------------------------

Part = Callable[[Json, bytes, Json], None]


def _mapping(field_map: Mapping[str, str]) -> Part | None:
    for name, path in field_map.items():
        _check_name(name, "input.field_map")
        if not all(all(key for key in one.split(".")) for one in path.split("+")):
            raise ConfigError(
                f"input.field_map: {name} = {path!r}: wanted paths such as 'a', 'a.b' or 'a+b.c'"
            )
    if not field_map:
        return None
    plain = [(n, _getter(n, p)) for n, p in field_map.items() if n not in ITEM_FIELDS and n != "items"]
    items = [(n.removeprefix("item_"), _getter(n, p)) for n, p in field_map.items() if n in ITEM_FIELDS]
    lines = _path(field_map["items"]) if "items" in field_map else None

    def part(source: Json, raw: bytes, contract: Json) -> None:
        for name, get in plain:
            contract[name] = get(source, raw)
        if lines is not None:
            contract["items"] = _lines(lines(source, raw), items, raw)
        elif items:
            item = {name: found for name, get in items if (found := get(source, raw)) is not None}
            contract["items"] = [item] if item else None

    return part


def _lines(found: Any, items: Sequence[tuple[str, Getter]], raw: bytes) -> Any:
    """A list of the user's order lines as items; anything but objects is left for the contract to refuse."""
    if not isinstance(found, list):
        return found
    return [
        {**line, **{name: get(line, raw) for name, get in items}} if isinstance(line, dict) else line
        for line in found
    ]


def _getter(name: str, path: str) -> Getter:
    """What reads contract field `name` at `path` (the map's own syntax); it returns None for absent."""
    if path == "*":
        return lambda source, raw: content_id(raw)
    paths = [_path(one) for one in path.split("+")]
    if name in LISTS:
        return lambda source, raw: _listed([get(source, raw) for get in paths])
    if len(paths) > 1:
        return lambda source, raw: _joined([get(source, raw) for get in paths])
    coerce = _COERCE.get(name)
    return paths[0] if coerce is None else _coerced(paths[0], path, *coerce)


def _coerced(get: Getter, path: str, kind: type, coerce: Callable[[Any], Any]) -> Getter:
    """As `get`, with values of another type than `kind` coerced; a plain key is the hot case."""
    if "." not in path:

        def plain(source: Json, raw: bytes) -> Any:
            found = source.get(path)
            return found if type(found) is kind else coerce(found)

        return plain

    def nested(source: Json, raw: bytes) -> Any:
        found = get(source, raw)
        return found if type(found) is kind else coerce(found)

    return nested


def _path(path: str) -> Getter:
    keys = path.split(".")
    if len(keys) == 1:
        return lambda source, raw: source.get(path)

    def walk(source: Json, raw: bytes) -> Any:
        found: Any = source
        for key in keys:
            if isinstance(found, dict):
                found = found.get(key)
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                return None
        return found

    return walk


def content_id(raw: bytes) -> str:
    """An event id for events that have none: the same bytes are the same event."""
    return xxhash.xxh3_128_hexdigest(raw)


# --- looser types in mapped fields ----------------------------------------------------------------------


def _text(found: Any) -> Any:
    return str(found) if type(found) is int and abs(found) < 10**30 else found


def _number(found: Any) -> Any:
    return float(found) if type(found) is str and _NUMBER.fullmatch(found) else found


def _time(found: Any) -> Any:
    return int(found) if type(found) is str and _WHOLE.fullmatch(found) else found


def _joined(found: list[Any]) -> Any:
    """Texts joined by a slash; None where one is absent; a part of another type is left to be refused."""
    parts = [_text(part) for part in found]
    if None in parts:
        return None
    wrong = [part for part in parts if not isinstance(part, str)]
    return wrong[0] if wrong else "/".join(parts)


def _listed(found: list[Any]) -> Any:
    """Texts and lists of texts as one list; it ends at the first part that is absent, as a path would."""
    parts: list[Any] = []
    for part in found:
        if part is None or part == "":
            break
        parts += [_text(one) for one in part] if isinstance(part, list) else [_text(part)]
    return parts or None


_COERCE: Mapping[str, tuple[type, Callable[[Any], Any]]] = {
    **dict.fromkeys(TEXTS, (str, _text)),
    **dict.fromkeys(NUMBERS, (float, _number)),
    "event_time": (int, _time),
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
    _check_name(name, "input.constants")
    if name in ("event_id", "event_time") or name not in (*TEXTS, *NUMBERS, *LISTS):
        raise ConfigError(f"input.constants: {name} cannot be the same for all events; map it instead")
    if name not in NUMBERS:
        return [text] if name in LISTS else text
    if not _NUMBER.fullmatch(text):
        raise ConfigError(f"input.constants: {name} = {text!r}: wanted a number")
    return float(text)


def _check_name(name: str, where: str) -> None:
    if name not in FIELDS:
        raise ConfigError(f"{where}: {name!r} is no field of the contract; {_nearest(name, FIELDS)}")


def _nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
