"""Configuration: one TOML file, overridden by SHOAL_* variables, then by flags. Read once, frozen.

    [section]            SHOAL_SECTION_KEY=...        --set section.key=...
    key = value

Unknown keys are refused with the nearest known one. Secrets come only from environment variables or from
files named by a `*_file` key; they are never printed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from .config_checks import check_together
from .config_sections import (
    Control,
    Encoder,
    Engine,
    Features,
    Frozen,
    Horizon,
    Http,
    Input,
    Kafka,
    Membership,
    Privacy,
    Segmenter,
    Time,
)
from .config_text import is_service_link, mistyped, nearest, nearly, parsed
from .ports import ConfigError

__all__ = [
    "Config",
    "ConfigError",
    "Control",
    "Encoder",
    "Engine",
    "Features",
    "Frozen",
    "Horizon",
    "Http",
    "Input",
    "Kafka",
    "Key",
    "Membership",
    "Privacy",
    "Segmenter",
    "Time",
    "keys",
    "load",
]


class Config(Frozen, frozen=True):
    """The whole configuration; every key has its unit in its name and its reason in its description."""

    input: Input = Input()
    time: Time = Time()
    features: Features = Features()
    encoder: Encoder = Encoder()
    segmenter: Segmenter = Segmenter()
    membership: Membership = Membership()
    privacy: Privacy = Privacy()
    control: Control = Control()
    engine: Engine = Engine()
    kafka: Kafka = Kafka()
    http: Http = Http()

    def pure_hash(self) -> str:
        """Hash of what the pipeline's output depends on; where things are deployed is left out, so is the
        key of the pseudonyms (`Pseudonyms.config_hash` adds it)."""
        pure = {name: getattr(self, name) for name in PURE_SECTIONS}
        pure["privacy"] = msgspec.structs.replace(self.privacy, user_key_file="", user_key_version=1)
        return hashlib.blake2b(msgspec.json.encode(pure, order="sorted"), digest_size=16).hexdigest()


PURE_SECTIONS = ("input", "time", "features", "encoder", "segmenter", "membership", "control", "privacy")
SECTIONS: Mapping[str, type[Frozen]] = {
    name: hint for name, hint in get_type_hints(Config).items() if name in Config.__struct_fields__
}


class Key(msgspec.Struct, frozen=True):
    """One configuration key, for the documentation, `shoal doctor` and the tests."""

    section: str
    name: str
    default: Any
    text: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return f"SHOAL_{self.section}_{self.name}".upper()


def keys() -> list[Key]:
    """Every configuration key with its default and its reason, in the order of the file."""
    found = []
    for section, struct in SECTIONS.items():
        default = struct()
        for name, hint in get_type_hints(struct, include_extras=True).items():
            if name in struct.__struct_fields__:
                found.append(Key(section, name, getattr(default, name), _description(hint)))
    return found


def _description(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            if isinstance(extra, Meta) and extra.description:
                return extra.description
    return ""


def load(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration from file, environment and `section.key=value` overrides, in rising priority.

    Raises ConfigError: what, where, got, wanted, next.
    """
    tree: dict[str, dict[str, Any]] = {}
    if path is not None:
        tree = _read_toml(path)
        for section, body in tree.items():
            _check_section(section, str(path))
            if not isinstance(body, dict):
                raise ConfigError(f"{path}: [{section}] must be a table of keys, got {body!r}")
            for key in body:
                _check_key(section, key, str(path))
    origins: dict[str, str] = {}
    for variable, text in sorted((os.environ if environ is None else environ).items()):
        if (key_path := _VARIABLES.get(variable)) is not None:
            _put(tree, *key_path, text, variable)
            origins[".".join(key_path)] = variable
        elif _is_misspelt(variable):
            raise ConfigError(f"{variable} names no configuration key; {nearest(variable, list(_VARIABLES))}")
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {override!r}: wanted section.key=value, e.g. segmenter.segments=12")
        _check_section(section, "--set")
        _check_key(section, key, "--set")
        _put(tree, section, key, text.strip(), f"--set {name}")
        origins[f"{section}.{key}"] = "--set"
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_mistyped(str(error), tree, origins, str(path))) from None
    check_together(config)
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _is_misspelt(variable: str) -> bool:
    """Whether somebody meant one of our variables."""
    if not variable.startswith("SHOAL_") or variable in SECRET_VARIABLES or is_service_link(variable):
        return False
    return variable.startswith(_PREFIXES) or nearly(variable, list(_VARIABLES), cutoff=0.85) is not None


def _mistyped(error: str, tree: Mapping[str, Any], origins: Mapping[str, str], path: str) -> str:
    """msgspec's words with where the value came from."""
    name = error.partition(" - at `$.")[2].rstrip("`")
    section, _, rest = name.partition(".")
    key = re.split(r"[.\[]", rest)[0]
    hint = get_type_hints(SECTIONS[section])[key] if key else None
    got = tree[section][key] if rest and rest == key else None
    return f"{origins.get(f'{section}.{key}', path)}: {mistyped(error, name, got, get_args(hint))}"


def _check_section(section: str, where: str) -> None:
    if section not in SECTIONS:
        raise ConfigError(f"{where}: unknown section [{section}]; {nearest(section, list(SECTIONS))}")


def _check_key(section: str, key: str, where: str) -> None:
    fields = SECTIONS[section].__struct_fields__
    if key not in fields:
        raise ConfigError(f"{where}: unknown key {key!r} in [{section}]; {nearest(key, fields)}")


def _put(tree: dict[str, dict[str, Any]], section: str, key: str, text: str, where: str) -> None:
    kind = type(getattr(SECTIONS[section](), key))
    tree.setdefault(section, {})[key] = parsed(text, kind, where)


_VARIABLES = {key.variable: (key.section, key.name) for key in keys()}
_PREFIXES = tuple(f"SHOAL_{section}_".upper() for section in SECTIONS)
SECRET_VARIABLES = ("SHOAL_KAFKA_SASL_PASSWORD", "SHOAL_PRIVACY_USER_KEY")
