"""shoal verify: anybody can check a run afterwards, from its input log and its manifests."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

from ..config import Config
from ..events import MANIFEST, Manifest, OutRecord
from ..ports import ConfigError, ReplayMismatch, Sink, Source, StateMismatch
from .options import as_json, configuration, configured, log_to_stderr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@click.command(short_help="recompute a run and compare every hash")
@configured
@click.option("--input", "input_path", help="The file the run read. Leave out for Kafka.")
@click.option("--output", help="The folder the run wrote.")
@as_json
def command(
    config_path: Path | None,
    overrides: tuple[str, ...],
    input_path: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Recompute every recorded step from the beginning and compare it with what was recorded and published.

    Give the same --config and --set as the run. Exit code 0: the same bytes. 6: something differs, and the
    first difference is named. 7: it was recorded with another configuration.
    """
    from ..wiring import file_ports, kafka_reader_ports

    log_to_stderr()
    if (input_path is None) != (output is None):
        raise ConfigError("--input and --output go together: give both, or neither for a run on Kafka")
    config = configuration(config_path, overrides)
    if input_path is not None and output is not None:
        if not Path(output).is_dir():
            raise ConfigError(f"--output {output}: no such folder; name the one that `shoal run` wrote")
        source, sink = file_ports(input_path, output)
    else:
        source, sink = kafka_reader_ports(config)
    result = verify(config, source, sink)
    if not result["steps"]:
        where = output or f"{config.kafka.topic_prefix}{MANIFEST}"
        raise ConfigError(
            f"{where}: holds no recorded step, so nothing can be compared; is it what the run wrote?"
        )
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(
            f"{result['steps']} steps and {result['records']} input records computed again; "
            f"{result['published']} published records in {len(result['topics'])} topics: the same bytes"
        )


def verify(config: Config, source: Source, sink: Sink) -> dict[str, Any]:
    """Raises ReplayMismatch at the first difference; otherwise says how much was compared."""
    from ..replica import replay
    from ..wiring import build_pipeline

    pipeline = build_pipeline(config)
    digests: dict[str, KeyedDigests] = {}
    ends: dict[int, int] = {}
    previous: Manifest | None = None
    steps = records = 0
    for manifest in _readable(sink.manifests(), MANIFEST):
        _check_configuration(manifest, pipeline.config_hash)
        _check_tiling(previous, manifest, ends)
        computed = replay(pipeline, source, manifest)
        for record in computed.records:
            digests.setdefault(record.topic, KeyedDigests()).add(record)
        previous = manifest
        steps += 1
        records += manifest.counts.records
    for topic, expected in digests.items():
        expected.compare(topic, _readable((found.record for found in sink.published(topic)), topic))
    return {
        "steps": steps,
        "records": records,
        "published": sum(d.records for d in digests.values()),
        "topics": sorted([*digests, MANIFEST]) if steps else [],
        "state_hash": previous.state_hash if previous else None,
        "same": True,
    }


def _check_tiling(previous: Manifest | None, manifest: Manifest, ends: dict[int, int]) -> None:
    """Steps follow each other, and ranges tile every partition without gap or overlap."""
    expected = previous.step + 1 if previous else 1
    if manifest.step != expected:
        raise ReplayMismatch(f"manifests: wanted step {expected}, found step {manifest.step}")
    for r in manifest.ranges:
        if r.partition in ends and r.start != ends[r.partition]:
            raise ReplayMismatch(
                f"step {manifest.step}: partition {r.partition} starts at offset {r.start}, the step before "
                f"ended at {ends[r.partition]}"
            )
        ends[r.partition] = r.end


def _check_configuration(manifest: Manifest, config_hash: str) -> None:
    if manifest.config_hash != config_hash:
        raise StateMismatch(
            f"step {manifest.step} was made with configuration {manifest.config_hash}, this process has "
            f"{config_hash}: give the same --config, --set and SHOAL_* variables as the run ([input] to "
            f"[membership] count)"
        )


T = TypeVar("T")


def _readable(items: Iterable[T], topic: str) -> Iterator[T]:
    """The same items. Raises ReplayMismatch where what is stored is not a record that Shoal writes."""
    number = 0
    try:
        for number, item in enumerate(items, 1):  # noqa: B007 - the count is for the message
            yield item
    except (ValueError, TypeError, KeyError):
        raise ReplayMismatch(
            f"{topic}: record {number + 1} is not one that Shoal writes: changed afterwards, or the unfinished "
            f"tail of a run that was killed (starting that run again cuts it off)"
        ) from None


class KeyedDigests:
    """A digest per record, per key in order: equal for two logs that agree on every key's own order."""

    def __init__(self) -> None:
        self.records = 0
        self._digests: dict[bytes | None, list[bytes]] = {}

    def add(self, record: OutRecord) -> None:
        self._digests.setdefault(record.key, []).append(_digest(record))
        self.records += 1

    def compare(self, topic: str, published: Iterable[OutRecord]) -> None:
        """Raises ReplayMismatch at the first published record that is not the one computed, or for missing ones."""
        seen: dict[bytes | None, int] = {}
        number = 0
        for number, record in enumerate(published, 1):
            at = seen.get(record.key, 0)
            seen[record.key] = at + 1
            if self._digests.get(record.key, [])[at : at + 1] != [_digest(record)]:
                raise ReplayMismatch(
                    f"{topic}: record {number} is not the one that is computed again ({self.records} in all): "
                    f"it was changed, added or moved after the run"
                )
        if number != self.records:
            raise ReplayMismatch(
                f"{topic}: {number} records were published, computing them again gives {self.records}"
            )


def _digest(record: OutRecord) -> bytes:
    h = hashlib.blake2b(b"\x00" if record.value is None else b"\x01" + record.value, digest_size=16)
    for name, value in record.headers:
        h.update(f"\x02{name}=".encode() + value)
    return h.digest()
