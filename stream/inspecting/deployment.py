"""A deployment as `shoal inspect` reads it: its state, rebuilt beside the engine, and its topics.

    input and output, or Kafka    the newest snapshot, and the steps recorded since computed again: the state as of
                                  the last committed step, or of an earlier one
    output alone                  the newest snapshot as it is, if there is one

Nothing is fenced, no group is joined, nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..auditing.access import reading
from ..auditing.kept import kept_snapshots
from ..auditing.past import Past, find, parse_until
from ..config import Config
from ..events import MANIFEST
from ..pipeline import Pipeline
from ..ports import ConfigError, InputError, Sink, Source, Store
from ..replica import Replica
from ..snapshots import NoStore

Ports = tuple[Source, Sink, Store]


def opened(config: Config, input_path: str | None, output: str | None, control: str | None = None) -> Ports:
    """Raises ConfigError for a folder that is not there, and for an input without its output."""
    if output is None or input_path is not None:
        return reading(config, input_path, output, control)
    from ..wiring import file_ports

    if not Path(output).is_dir():
        raise ConfigError(f"--output {output}: no such folder; name the one that `shoal run` wrote")
    source, sink = file_ports("-", output)  # the source is never opened
    return source, sink, kept_snapshots(config.engine.state_dir)


def pipeline_at(
    config: Config,
    fresh: Callable[[], Pipeline],
    ports: Ports,
    until: str | None,
    told: Callable[[int], object],
) -> Pipeline:
    """The state after the last recorded step, or after `until` (a step, or a time)."""
    step, time_ms = (None, None) if until is None else parse_until(until)
    last = ports[1].last() if until is None else find(ports[1], step, time_ms)
    if last is None:
        raise InputError(f"{MANIFEST} holds no recorded step: is it what the run wrote?")
    past = Past(config, fresh(), ports, told)
    past.go_to(last)
    return past.pipeline


def newest_snapshot(config: Config, fresh: Callable[[], Pipeline], ports: Ports) -> Pipeline | None:
    """The state that the newest snapshot holds that belongs to what is recorded; None where there is none."""
    if isinstance(ports[2], NoStore):  # then the configuration need not be that of the run
        return None
    glimpse = Glimpse(config, fresh(), *ports)
    return glimpse.pipeline if glimpse.found() else None


class Glimpse(Replica):
    """A replica that stays where its snapshot is."""

    def found(self) -> bool:
        last = self.sink.last()
        if last is not None:
            self.check_compatible(last)
            self._load(last)
        return self.steps > 0

    def maybe_save(self) -> None:
        """The engine's snapshots are not ours to make."""
