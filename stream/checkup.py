"""What `shoal doctor` looks at on this machine: Python, packages, the configuration. The broker: `kafka_checkup`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from .config import Config, Key


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"  # works, and will surprise somebody
    FAIL = "fail"  # `shoal run` would refuse, or lose something


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    status: Status
    found: str
    advice: str = ""  # what to do; empty when all is well


def ok(check: str, found: str) -> Finding:
    return Finding(check, Status.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Status.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Status.FAIL, found, advice)


# --- versions ---------------------------------------------------------------------------------------------

PYTHON_MIN = (3, 11)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")


def python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < PYTHON_MIN:
        return fail("python", found, "install Python 3.11 or newer")
    return ok("python", found)


def packages() -> Iterator[Finding]:
    """Every package Shoal needs, against the range its metadata names."""
    for requirement in requires("shoal") or []:
        if "extra ==" in requirement:
            continue
        match = _NAME.match(requirement)
        assert match is not None, requirement
        name = match.group()
        try:
            found = version(name)
        except PackageNotFoundError:
            yield fail(f"package {name}", "not installed", f"pip install '{requirement}'")
            continue
        if within(found, requirement):
            yield ok(f"package {name}", found)
        else:
            yield fail(f"package {name}", f"{found}, wanted {requirement}", f"pip install '{requirement}'")


def within(found: str, requirement: str) -> bool:
    """Whether a version is inside the `>=` and `<` bounds of a requirement; only release numbers count.

    >>> within("3.0.12", "kafka-python>=3.0.12,<3.1"), within("3.1", "kafka-python>=3.0.12,<3.1")
    (True, False)
    """
    at = _release(found)
    for bound, text in _BOUND.findall(requirement):
        limit = _release(text)
        if (bound == ">=" and at < limit) or (bound == "<" and at >= limit):
            return False
    return True


def _release(text: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", text)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else [0]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


# --- configuration ----------------------------------------------------------------------------------------


def settings(config: Config) -> Iterator[Finding]:
    """What is valid, and still not wise."""
    kafka = config.kafka
    if kafka.delivery_timeout_ms >= kafka.transaction_timeout_ms:
        yield warn(
            "timeouts",
            f"kafka.delivery_timeout_ms {kafka.delivery_timeout_ms} >= transaction_timeout_ms "
            f"{kafka.transaction_timeout_ms}",
            "make the delivery timeout the smaller one: the broker aborts a step while it is still being sent",
        )
    yield from _state_dir(config.engine.state_dir)


def _state_dir(state_dir: str) -> Iterator[Finding]:
    if not state_dir:
        yield warn(
            "state_dir", "none", "set engine.state_dir: without snapshots every start replays everything"
        )
        return
    folder = Path(state_dir)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield fail(
            "state_dir", f"{nearest} is not writable", "give engine.state_dir a folder you may write to"
        )
    else:
        yield ok("state_dir", state_dir)


_UNITS = {
    "ms": "milliseconds", "s": "seconds", "bytes": "bytes", "rows": "rows", "records": "records", "dim": "dimensions",
    "steps": "steps", "tiles": "tiles",
}  # fmt: skip


def unit(key: Key) -> str:
    """The unit that a key's name ends in (before `_max`); empty where it counts or names something."""
    words = [word for word in key.name.split("_") if word not in {"max", "min"}]
    return _UNITS.get(words[-1], "")
