"""One engine under test: `shoal run` with labelled points. Started by a nursery, or in place of itself.

python -m chaos.engine '{"name": ..., "config": ..., "orders": ..., "leader": ..., "broken": ...}'
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from . import broken
from .points import Points, install


class Spec(msgspec.Struct, frozen=True):
    """What an engine is told at birth."""

    name: str
    config: str  # its TOML file
    orders: str  # where orders for labelled points come
    leader: str  # the file that says who fenced last
    broken: str = ""  # a deliberate fault of the engine itself, to see the audit find it


def run(spec: Spec) -> None:
    """The engine, to its end; raises SystemExit."""
    from shoal.stream import cli
    from shoal.stream.config import load
    from shoal.stream.wiring import kafka_library

    arguments = ["run", "--config", spec.config]
    sys.argv = ["shoal", *arguments]
    source, client = kafka_library(load(Path(spec.config)).kafka)
    broken.VARIANTS[spec.broken](client)
    works = f"{spec.name} {os.getpid()}"
    install(Points(Path(spec.orders)), source, client, lambda: _tell(Path(spec.leader), works))
    _keep_labels(spec)
    cli.main(arguments)


def _tell(path: Path, text: str) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(text)
    fresh.rename(path)


def _keep_labels(spec: Spec) -> None:
    """An engine that replaces its own process image must have its labels again afterwards."""
    replace = os.execv

    def execv(path: str, command: list[str]) -> None:
        assert command[-3:] == ["run", "--config", spec.config], command
        replace(path, [path, "-m", "chaos.engine", msgspec.json.encode(spec).decode()])

    os.execv = execv  # type: ignore[assignment]


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[1], type=Spec))
