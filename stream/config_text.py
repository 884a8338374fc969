"""Configuration values written as text, and the words for what is wrong: what it got, what was wanted, what is near."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .ports import ConfigError

WANTED: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: """a TOML table such as {event_time = "ts"}""",
    tuple: """a TOML list such as [{name = "1h", window_ms = 3600000, tiles = 6}]""",
}
"""What may be written in a variable or after `--set`, by the type of the key's default."""

_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
}
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT$|_PORT_\d+_(TCP|UDP)(_\w+)?$")


def parsed(text: str, kind: type, where: str) -> Any:
    """The value of a variable or of `--set`. Raises ConfigError."""
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in (int, float):
            return kind(text.replace("_", ""))
        if kind in (dict, tuple):
            return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, tomllib.TOMLDecodeError):
        raise ConfigError(f"{where}: got {text!r}, wanted {WANTED[kind]}") from None
    return text


def nearly(word: str, known: Sequence[str], cutoff: float = 0.5) -> str | None:
    """The known word that was probably meant."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return near[0] if near else None


def nearest(word: str, known: Sequence[str]) -> str:
    near = nearly(word, known)
    return f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"


def is_service_link(variable: str) -> bool:
    """Whether Kubernetes sets a variable of this name in every pod, for a service that is called shoal-something.

    >>> is_service_link("SHOAL_KAFKA_SERVICE_HOST"), is_service_link("SHOAL_KAFKA_GROUP_ID")
    (True, False)
    """
    return bool(_SERVICE_LINK.search(variable))


def mistyped(error: str, name: str, got: Any, allowed: Sequence[Any]) -> str:
    """msgspec's words for a value that does not fit, in ours.

    `got` is None where the value lies deeper in the key; `allowed` are the values of a choice.

    >>> mistyped("Expected `int` >= 1 - at `$.segmenter.segments`", "segmenter.segments", 0, ())
    'segmenter.segments: got 0, wanted a whole number >= 1; `shoal doctor --keys` lists every key'
    """
    problem = error.partition(" - at `")[0]
    if problem.startswith("Invalid enum value"):
        problem = f"wanted one of {', '.join(map(str, allowed))}"
    elif match := re.match(r"Expected `(\w+)`(.*?)(, got `\w+`)?$", problem):
        kind, bound, _ = match.groups()
        problem = f"wanted {_NAMES.get(kind, kind)}{bound}"
    shown = "" if got is None else f"got {got!r}, "
    return f"{name}: {shown}{problem}; `shoal doctor --keys` lists every key"


def describe(config: msgspec.Struct) -> str:
    """The configuration as TOML-like lines, without secrets, for the log at start."""
    lines = []
    for section, body in msgspec.to_builtins(config).items():
        lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in body.items()), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{k if k.isidentifier() else repr(k)} = {_toml(v)}" for k, v in value.items())
        return "{" + inner + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return msgspec.json.encode(value).decode()
