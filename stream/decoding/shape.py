"""What the fast half of decoding knows of an event: for every key on the way to a field, what may stand there.

A shape is the contract's types (`contract`, read by msgspec's own inspection, so the two cannot part), with
the field map's renames applied, flattened into arrays for the compiled walk:

    entry      something that a value can be: the kinds of JSON it may have, and what to do with it (`target`)
    node       the keys of an object; each leads to an entry
    entry 0    anything at all, of no interest; node 0 has no keys

`shape_of` gives None for what it cannot say exactly: conventions, a key that two fields read, fields joined
of several paths (but a category or an event id), constants for fields that count. Such inputs are decoded as
if there were no fast half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import inspect
from numpy.typing import NDArray

from ..config import Input
from ..events import CHANNELS, I64
from .adapters import type_codes
from .contract import Event, Item
from .field_map import ITEM_FIELDS, LISTS, NUMBERS, TEXTS

NULL, TEXT, WHOLE, NUMBER, BOOL, OBJECT, LIST = (1 << i for i in range(7))  # whole: see `lexis.number`
_ANYTHING = (1 << 7) - 1

# Targets: what to do with a value. First the texts that are kept: of the record, then of the item.
NONE, USER_ID, ANONYMOUS_ID, TYPE, EVENT_ID = range(5)  # an event id has up to four parts
ITEM_ID, BRAND, CATEGORY_PART = 8, 9, 10  # a category from several paths has up to six
TEXTS_END = 16
CATEGORY, TAG, VALUE, QUANTITY, DWELL, PRICE, ITEM_QUANTITY, TIME, TIME_OR_DIGITS, ITEM = range(16, 26)
EVENT_ID_PARTS, CATEGORY_PARTS = ITEM_ID - EVENT_ID, TEXTS_END - CATEGORY_PART

_ROOT_TARGETS = {
    "event_id": EVENT_ID, "type": TYPE, "event_time": TIME, "user_id": USER_ID, "anonymous_id": ANONYMOUS_ID,
    "value": VALUE, "quantity": QUANTITY, "dwell_ms": DWELL,
}  # fmt: skip
_ITEM_TARGETS = {
    "id": ITEM_ID, "category": CATEGORY, "brand": BRAND, "tags": TAG, "price": PRICE, "quantity": ITEM_QUANTITY,
}  # fmt: skip
_TARGETS = _ROOT_TARGETS | {f"item_{name}": target for name, target in _ITEM_TARGETS.items()}

ANYTHING, ROOT = 0, 1  # entries: of no interest, and the record itself
KEY_FACTOR = 31  # of the hash that finds a key
UNKNOWN_TYPE = (CHANNELS.index("custom"), 1)
_KEYS_MAX = 62  # of a node: each has a bit


# Columns of `Shape.entries`
ALLOWED, TARGET, NODE, ELEMENTS, BIT, KEY_START, KEY_END, CHANNEL, SIGN = range(9)


class Shape(NamedTuple):
    """e entries, c nodes, one of them the type names; s bytes in all keys."""

    entries: (
        I64  # (e, 9) kinds; target; node of its keys; entry of its elements; bit and bytes of its own key;
    )
    #                      and, for a type name (and entry 0, the unknown type), channel and sign
    slots: I64  # (c, a power of two) entry by a key's hash, or -1
    required: I64  # (c,) bits of the keys that must be there
    keys: NDArray[np.uint8]  # (s,)
    types: int  # the node of the type names
    default_type: int  # entry of the type where a record has none; -1: it must have one
    event_id_parts: int  # 0: the hash of the record's bytes
    category_parts: int
    flat: bool  # the record itself is its one item


@dataclass(slots=True)
class _Node:
    entries: dict[str, _Entry] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Entry:
    allowed: int
    target: int = NONE
    node: _Node | None = None
    elements: _Entry | None = None


class _Unsaid(Exception):
    """The map is more than a shape can say."""


def shape_of(config: Input) -> Shape | None:
    """The shape of the events that `config` describes (a valid one); None where it has none."""
    try:
        return _flattened(config, *_mapped(config))
    except _Unsaid:
        return None


# --- the contract -----------------------------------------------------------------------------------------


def _contract_node(struct: type[msgspec.Struct], targets: Mapping[str, int]) -> _Node:
    node = _Node()
    for one in inspect.type_info(struct).fields:  # type: ignore[attr-defined]  # a struct's has them
        node.entries[one.name] = _entry(one.type, targets.get(one.name, NONE))
        if one.required:
            node.required.add(one.name)
    return node


def _entry(kind: inspect.Type, target: int = NONE) -> _Entry:
    """What one type of the contract allows; a target belongs to its scalars, or to its list's elements."""
    match kind:
        case inspect.UnionType(types=types):
            parts = [_entry(one, target) for one in types]
            entry = _Entry(0, target)
            for part in parts:
                entry.allowed |= part.allowed
                entry.node, entry.elements = entry.node or part.node, entry.elements or part.elements
            return entry
        case inspect.StrType() | inspect.DateTimeType():
            return _Entry(TEXT, target)
        case inspect.FloatType():
            return _Entry(WHOLE | NUMBER, target)
        case inspect.ListType(item_type=inner):
            return _Entry(LIST, elements=_entry(inner, target))
        case inspect.StructType(cls=struct):
            is_item = struct is Item
            return _Entry(OBJECT, ITEM * is_item, _contract_node(struct, _ITEM_TARGETS if is_item else {}))
        case inspect.DictType():
            return _Entry(OBJECT, node=_Node())
    return _Entry({inspect.NoneType: NULL, inspect.BoolType: BOOL, inspect.IntType: WHOLE}[type(kind)])


# --- the field map ----------------------------------------------------------------------------------------


def _mapped(config: Input) -> tuple[_Node, Mapping[str, int]]:
    """The record's node with all renames applied, and how many parts an event id and a category have."""
    if config.convention != "shoal":
        raise _Unsaid
    root, fields = _contract_node(Event, _ROOT_TARGETS), config.field_map
    _leave_consent(root)
    lines = "items" in fields
    flat = not lines and any(name in ITEM_FIELDS for name in fields)
    items = root.entries["items"]
    assert items.elements is not None
    assert items.elements.node is not None
    place = items.elements.node if lines else root
    own = {name: _taken(root, place, name, lines) for name in fields}
    if flat:
        del root.entries["items"]
    parts = {"flat": int(flat), "event_id": 1, "item_category": 0}
    for name, path in fields.items():
        paths = [] if path == "*" else path.split("+")
        for i, one in enumerate(paths):
            _put(
                place if name in ITEM_FIELDS else root, one.split("."), _loose(name, own[name], i, len(paths))
            )
        if name == "event_id" or len(paths) > 1:
            parts[name] = len(paths)
    _check_constants(config, root)
    return root, parts


def _leave_consent(root: _Node) -> None:
    """The walk writes no consent: an event that says something about segmentation is left to the careful half."""
    consent = root.entries["consent"].node
    assert consent is not None
    consent.entries["segmentation"].allowed &= ~BOOL


_NEEDED = ("event_id", "type", "event_time")


def _taken(root: _Node, place: _Node, name: str, lines: bool) -> _Entry | None:
    """A mapped field is never taken by its own name: its entry is gone from there."""
    if name in ITEM_FIELDS:
        return place.entries.pop(name.removeprefix("item_"), None) if lines else None
    root.required.discard(name)
    return root.entries.pop(name)


def _loose(name: str, own: _Entry | None, part: int, parts: int) -> _Entry:
    """The entry of a mapped field: looser than the contract's own, as `field_map` says."""
    target = _TARGETS.get(name, NONE)
    if parts > 1:
        limit = {"event_id": EVENT_ID_PARTS, "item_category": CATEGORY_PARTS}.get(name, 0)
        if parts > limit:
            raise _Unsaid
        first, absent = (EVENT_ID, 0) if name == "event_id" else (CATEGORY_PART, NULL)
        return _Entry(TEXT | WHOLE | absent, first + part)
    if name == "event_time":
        return _Entry(TEXT | WHOLE | NUMBER, TIME_OR_DIGITS)
    if name in LISTS:
        return _Entry(NULL | TEXT | WHOLE | LIST, target, elements=_Entry(TEXT | WHOLE, target))
    if name in TEXTS:
        return _Entry(TEXT | WHOLE | (0 if name in _NEEDED else NULL), target)
    if name in NUMBERS:
        return _Entry(NULL | WHOLE | NUMBER | (TEXT if target else 0), target)
    assert own is not None
    return own


def _put(node: _Node, keys: list[str], entry: _Entry) -> None:
    """Let `entry` stand at a path below `node`. Raises _Unsaid where another field reads that place."""
    for key in keys[:-1]:
        between = node.entries.setdefault(key, _Entry(NULL | OBJECT, node=_Node()))
        if between.target or between.node is None or between.elements is not None:
            raise _Unsaid
        node = between.node
    there = node.entries.get(keys[-1])
    if there is not None:
        if there.target or there.node is not None or there.elements is not None:
            raise _Unsaid
        entry = replace(entry, allowed=entry.allowed & there.allowed)
    node.entries[keys[-1]] = entry


def _check_constants(config: Input, root: _Node) -> None:
    """A constant may be the type, where it is not mapped, or a field that does not count; else _Unsaid."""
    if any(name in ITEM_FIELDS or (name in _TARGETS and name != "type") for name in config.constants):
        raise _Unsaid
    if "type" in config.constants:
        if "type" in config.field_map:
            raise _Unsaid
        root.entries["type"].allowed |= NULL
        root.required.discard("type")


# --- as arrays --------------------------------------------------------------------------------------------


class _Table:
    """Entries and nodes as they get their numbers."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.keys: list[bytes] = []  # of each entry
        self.bits: list[int] = []  # of each entry
        self.node_of: list[int] = []  # of each entry
        self.elements_of: list[int] = []  # of each entry
        self.nodes: list[dict[bytes, int]] = []  # entries by key
        self.required: list[int] = []  # of each node

    def add(self, entry: _Entry, key: bytes = b"", bit: int = 0) -> int:
        """The number of an entry; everything inside it gets one too."""
        number = len(self.entries)
        self.entries.append(entry)
        self.keys.append(key)
        self.bits.append(bit)
        self.node_of.append(0)
        self.elements_of.append(0)
        if entry.node is not None:
            self.node_of[number] = self.add_node(entry.node)
        if entry.elements is not None:
            self.elements_of[number] = self.add(entry.elements)
        return number

    def add_node(self, node: _Node) -> int:
        number = len(self.nodes)
        if len(node.entries) > _KEYS_MAX:
            raise _Unsaid
        keys: dict[bytes, int] = {}
        self.nodes.append(keys)
        self.required.append(sum(1 << i for i, key in enumerate(node.entries) if key in node.required))
        for i, (key, entry) in enumerate(node.entries.items()):
            name = key.encode(errors="surrogatepass")  # what is no text stands in no record
            keys[name] = self.add(entry, name, i)
        return number

    def add_words(self, words: Sequence[str]) -> int:
        """A node whose entries are words to look up, not keys of an object."""
        self.nodes.append({})
        self.required.append(0)
        for word in words:
            name = word.encode(errors="surrogatepass")
            self.nodes[-1][name] = self.add(_Entry(0), name)
        return len(self.nodes) - 1

    def slots(self) -> I64:
        """(c, a power of two) each key's entry by its hash, or in the next free place; -1 elsewhere."""
        size = 4 << max(len(keys) for keys in self.nodes).bit_length()
        slots = np.full((len(self.nodes), size), -1, np.int64)
        for row, keys in zip(slots, self.nodes, strict=True):
            for name, entry in keys.items():
                at = key_hash(name) % size
                while row[at] >= 0:
                    at = (at + 1) % size
                row[at] = entry
        return slots


def key_hash(name: bytes) -> int:
    """The walk computes the same while it looks for the key's end."""
    h = 0
    for c in name:
        h = h * KEY_FACTOR + c
    return h


def _flattened(config: Input, root: _Node, parts: Mapping[str, int]) -> Shape:
    table = _Table()
    table.add_node(_Node())
    assert table.add(_Entry(_ANYTHING)) == ANYTHING
    assert table.add(_Entry(OBJECT, node=root)) == ROOT
    codes = type_codes(config)
    first, types = len(table.entries), table.add_words(list(codes))
    entries = np.zeros((len(table.entries), 9), np.int64)
    entries[:, ALLOWED] = [entry.allowed for entry in table.entries]
    entries[:, TARGET] = [entry.target for entry in table.entries]
    entries[:, NODE], entries[:, ELEMENTS], entries[:, BIT] = table.node_of, table.elements_of, table.bits
    entries[:, KEY_END] = np.cumsum([len(key) for key in table.keys])
    entries[1:, KEY_START] = entries[:-1, KEY_END]
    entries[ANYTHING, CHANNEL:] = UNKNOWN_TYPE
    entries[first:, CHANNEL:] = list(codes.values())
    constant = config.constants.get("type")
    return Shape(
        entries=entries,
        slots=table.slots(),
        required=np.array(table.required),
        keys=np.frombuffer(bytearray().join(table.keys), np.uint8),
        types=types,
        default_type=-1 if constant is None else first + list(codes).index(constant),
        event_id_parts=parts["event_id"],
        category_parts=parts["item_category"],
        flat=bool(parts["flat"]),
    )
