"""shoal verify: anybody can check a run afterwards, from its input log and its manifests."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from ..config import Config
from ..events import MANIFEST, Manifest, OutRecord
from ..ports import ConfigError, ReplayMismatch, Sink, Source
from .options import as_json, configuration, configured

if TYPE_CHECKING:
    from collections.abc import Iterable


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

    Exit code 0: the same bytes. 6: something differs, and the first difference is named.
    """
    from ..wiring import file_ports, kafka_reader_ports

    if (input_path is None) != (output is None):
        raise ConfigError("--input and --output go together: give both, or neither for a run on Kafka")
    config = configuration(config_path, overrides)
    logging.getLogger("kafka").setLevel(logging.ERROR)
    if input_path is not None and output is not None:
        if not Path(output).is_dir():
            raise ConfigError(f"--output {output}: no such folder; name the one that `shoal run` wrote")
        source, sink = file_ports(input_path, output)
    else:
        source, sink = kafka_reader_ports(config)
    result = verify(config, source, sink)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(
            f"{result['steps']} steps and {result['records']} input records computed again; "
            f"{result['published']} published records in {len(result['topics'])} topics: the same bytes"
        )


def verify(config: Config, source: Source, sink: Sink) -> dict[str, Any]:
    """Raises ReplayMismatch at the first difference; otherwise says how much was compared."""
    from ..engine import replay
    from ..wiring import build_pipeline

    pipeline = build_pipeline(config)
    digests: dict[str, KeyedDigests] = {}
    ends: dict[int, int] = {}
    previous: Manifest | None = None
    steps = records = 0
    for manifest in sink.manifests():
        _check_tiling(previous, manifest, ends)
        computed = replay(pipeline, source, manifest)
        for record in computed.records:
            digests.setdefault(record.topic, KeyedDigests()).add(record)
        previous = manifest
        steps += 1
        records += manifest.counts.records
    for topic, expected in digests.items():
        expected.compare(topic, sink.published(topic))
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


class KeyedDigests:
    """A running digest per record key: equal for two logs that agree on every key's own order."""

    def __init__(self) -> None:
        self.records = 0
        self._digests: dict[bytes | None, bytes] = {}

    def add(self, record: OutRecord) -> None:
        h = hashlib.blake2b(self._digests.get(record.key, b""), digest_size=16)
        h.update(b"\x00" if record.value is None else b"\x01" + record.value)
        for name, value in record.headers:
            h.update(f"\x02{name}=".encode() + value)
        self._digests[record.key] = h.digest()
        self.records += 1

    def compare(self, topic: str, published: Iterable[OutRecord]) -> None:
        found = KeyedDigests()
        for record in published:
            found.add(record)
        if found.records != self.records:
            raise ReplayMismatch(
                f"{topic}: {found.records} records were published, computing them again gives {self.records}"
            )
        for key, digest in self._digests.items():
            if found._digests.get(key) != digest:
                raise ReplayMismatch(f"{topic}: the {self.records} records differ under one key")
