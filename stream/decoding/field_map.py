"""The field map: for a field of the contract, where your events keep it.

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
- A category path, like any list of several paths, ends at the first part that is absent or empty.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xxhash

from ..ports import ConfigError
from .contract import Event, Item

Json = dict[str, Any]
Getter = Callable[[Json, bytes], Any]
Part = Callable[[Json, bytes, Json], None]  # source object, its bytes, contract object to fill in

ITEM_FIELDS = tuple(f"item_{name}" for name in Item.__struct_fields__)
FIELDS = (*Event.__struct_fields__, *ITEM_FIELDS)
NUMBERS = ("value", "quantity", "dwell_ms", "rating", "item_price", "item_quantity", "item_position")
LISTS = ("item_category", "item_tags")
TEXTS = (
    "event_id", "type", "user_id", "anonymous_id", "session_id", "query", "text", "currency", "origin",
    "item_id", "item_brand",
)  # fmt: skip

NUMBER_TEXT = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?")


def mapping(field_map: Mapping[str, str]) -> Part | None:
    """What fills in the mapped fields; None where nothing is mapped. Raises ConfigError."""
    for name, path in field_map.items():
        check_name(name, "input.field_map")
        _check_path(name, path)
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


def _check_path(name: str, path: str) -> None:
    paths = path.split("+")
    if not all(key for one in paths for key in one.split(".")):
        raise ConfigError(f"input.field_map: {name} = {path!r}: wanted paths such as 'a', 'a.b' or 'a+b.c'")
    if len(paths) > 1 and name not in (*TEXTS, *LISTS):
        raise ConfigError(f"input.field_map: {name} = {path!r}: only texts and lists can have several paths")
    if "*" in paths and (name, path) != ("event_id", "*"):
        raise ConfigError(f"input.field_map: {name} = {path!r}: only event_id can be '*', and alone")


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


def as_text(found: Any) -> Any:
    """A whole number as text, where it is an id; anything else as it is. 30 digits: no id is longer."""
    return str(found) if type(found) is int and abs(found) < 10**30 else found


def _number(found: Any) -> Any:
    return float(found) if type(found) is str and NUMBER_TEXT.fullmatch(found) else found


def _time(found: Any) -> Any:
    whole = type(found) is str and found.isdecimal() and found.isascii() and len(found) <= 30
    return int(found) if whole else found


def _joined(found: list[Any]) -> Any:
    """Texts joined by a slash; None where one is absent; a part of another type is left to be refused."""
    parts = [as_text(part) for part in found]
    if None in parts:
        return None
    wrong = [part for part in parts if not isinstance(part, str)]
    return wrong[0] if wrong else "/".join(parts)


def _listed(found: list[Any]) -> Any:
    """Texts and lists of texts as one list; it ends at the first that is absent."""
    parts: list[Any] = []
    for part in found:
        if part is None or part == "" or part == []:
            break
        if type(part) is str:
            parts.append(part)
        else:
            parts += [as_text(one) for one in part] if isinstance(part, list) else [as_text(part)]
    return parts or None


_COERCE: Mapping[str, tuple[type, Callable[[Any], Any]]] = {
    **dict.fromkeys(TEXTS, (str, as_text)),
    **dict.fromkeys(NUMBERS, (float, _number)),
    "event_time": (int, _time),
}


# --- names ----------------------------------------------------------------------------------------------


def check_name(name: str, where: str) -> None:
    """Raises ConfigError for a name that is no field of the contract."""
    if name not in FIELDS:
        raise ConfigError(f"{where}: {name!r} is no field of the contract; {nearest(name, FIELDS)}")


def nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """The end of an error message: the known word most like `word`, else all of them."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
