"""What would have been published without any interruption: a fresh pipeline over the recorded steps.

A process of its own, with a hash seed of its own. Inputs and manifests are read by an ordinary consumer; what
a manifest says goes in (ranges, the clock reading), everything else is computed. The state in the engines'
snapshots, made by whichever engine after whatever it went through, is held against the oracle's, in full.

    python -m chaos.oracle CONFIG.toml RESULT.json STATE_DIR...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kafka.partitioner.default import murmur2
from mirrors import table

from shoal.stream.config import Config, load
from shoal.stream.events import OutRecord, Range, Records, Step
from shoal.stream.manifest import encode_manifest
from shoal.stream.pipeline import Pipeline
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.wiring import build_pipeline, one_thread

from .auditor import MANIFEST, REJECTED, Log, Seen
from .subscriber import read

_KEPT = 1000
_NEITHER = ("shoal_null", b"1")
"""A reject that had neither key nor value cannot be sent as such: it goes out with this header."""

Expected = dict[str, list[tuple[str, int]]]  # "topic partition" -> digest and step of each record, in order


def main(config_path: str, result_path: str, *state_dirs: str) -> None:
    one_thread()
    config = load(Path(config_path))
    kafka = config.kafka
    inputs = Inputs(read(kafka.bootstrap_servers, kafka.topic_prefix, [kafka.events_topic]))
    manifests = [
        json.loads(seen.value or b"")
        for seen in read(kafka.bootstrap_servers, kafka.topic_prefix, [MANIFEST])
    ]
    snapshots = [(folder, *found) for folder in state_dirs for found in _snapshots(Path(folder))]
    pipeline = build_pipeline(config)
    expected, differing = compute(config, manifests, inputs, snapshots, kafka.partitions, pipeline)
    result = {
        "expected": expected,
        "snapshots": len(snapshots),
        "differing": differing,
        "table": table(pipeline),
    }
    Path(result_path).write_text(json.dumps(result))


class Inputs:
    """The whole input, by partition; offsets start at 0 and have no gaps."""

    def __init__(self, found: Iterator[Seen]) -> None:
        self._partitions: dict[int, list[Seen]] = {}
        for seen in found:
            self._partitions.setdefault(seen.partition, []).append(seen)

    def records(self, ranges: Sequence[Range]) -> Records:
        rows = [seen for r in ranges for seen in self._partitions.get(r.partition, [])[r.start : r.end]]
        return Records(
            np.array([seen.partition for seen in rows], np.int32),
            np.array([seen.offset for seen in rows], np.int64),
            [seen.key for seen in rows],
            [seen.value for seen in rows],
        )


def compute(
    config: Config,
    manifests: Sequence[Mapping[str, Any]],
    inputs: Inputs,
    snapshots: Sequence[tuple[str, int, Any]],
    partitions: int,
    pipeline: Pipeline | None = None,
) -> tuple[Expected, list[str]]:
    """What each log should hold, and which snapshots are not this run's state. `pipeline`: fresh; left at the end."""
    pipeline = pipeline or build_pipeline(config)
    expected: Expected = {}
    differing = []
    for body in manifests:
        number = body["step"]
        ranges = tuple(Range(*r) for r in body["ranges"])
        records = inputs.records(ranges)
        output = pipeline.step(
            Step(number, ranges, records, body["as_of_ms"], body["closing"], body["source"])
        )
        for seen in published(output.records, partitions):
            expected.setdefault(f"{seen.topic} {seen.partition}", []).append((seen.digest(), number))
        made = Seen(MANIFEST, 0, 0, None, encode_manifest(output.manifest), ())
        expected.setdefault(f"{MANIFEST} 0", []).append((made.digest(), number))
        for folder, step, state in snapshots:
            if step == number and (where := difference(state["pipeline"], pipeline.snapshot())):
                differing.append(f"{Path(folder).name}, snapshot of step {step}: {where}")
    return expected, differing


def published(records: Sequence[OutRecord], partitions: int) -> Iterator[Seen]:
    """As they stand in Kafka: keyed records where murmur2 of the key says, the others in partition 0."""
    for record in records:
        partition = 0 if record.key is None else (murmur2(record.key) & 0x7FFFFFFF) % partitions
        value, headers = record.value, record.headers
        if record.topic == REJECTED and record.key is None and value is None:
            value, headers = b"", (*headers, _NEITHER)
        yield Seen(record.topic, partition, 0, record.key, value, headers)


def by_log(expected: Expected) -> dict[Log, list[tuple[str, int]]]:
    return {(name.split()[0], int(name.split()[1])): records for name, records in expected.items()}


def _snapshots(folder: Path) -> Iterator[tuple[int, Any]]:
    for step, _, state in DirectoryStore(folder, _KEPT).newest(not_past=sys.maxsize):
        yield step, state


def difference(a: Any, b: Any, path: str = "state") -> str:
    """Where two states differ first; "" where they are the same to the last bit."""
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return next(filter(None, (difference(a[key], b[key], f"{path}.{key}") for key in a)), "")
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        return "" if same else path
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (difference(x, y, f"{path}[{i}]") for i, (x, y) in pairs)), "")
    same_type = isinstance(a, Mapping | np.ndarray) == isinstance(b, Mapping | np.ndarray)
    return "" if same_type and a == b else path


if __name__ == "__main__":
    main(*sys.argv[1:])
