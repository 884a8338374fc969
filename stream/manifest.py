"""The manifest record: canonical JSON, so that its hash means something."""

from __future__ import annotations

from typing import Any

import orjson

from .events import Counts, Manifest, Range
from .ports import StateMismatch


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes: sorted keys, no spaces; the same manifest always gives the same bytes."""
    counts = manifest.counts
    body: dict[str, Any] = {
        "step": manifest.step,
        "epoch": manifest.epoch,
        "opening": manifest.opening,
        "source": manifest.source,
        "ranges": [[r.partition, r.start, r.end] for r in manifest.ranges],
        "as_of_ms": manifest.as_of_ms,
        "closing": manifest.closing,
        "config_hash": manifest.config_hash,
        "versions": dict(manifest.versions),
        "watermark_ms": manifest.watermark_ms,
        "counts": {
            "records": counts.records,
            "accepted": counts.accepted,
            "duplicates": counts.duplicates,
            "late": counts.late,
            "rejected": dict(counts.rejected),
            "future": counts.future,
            "clamped": counts.clamped,
            "by_type": dict(counts.by_type),
            "withheld": counts.withheld,
            "commands": counts.commands,
        },
        "next_segment_id": manifest.next_segment_id,
        "next_lineage_id": manifest.next_lineage_id,
        "previous_hash": manifest.previous_hash,
        "output_hash": manifest.output_hash,
        "state_hash": manifest.state_hash,
    }
    if manifest.publication is not None:
        body["publication"] = dict(manifest.publication)
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def decode_manifest(data: bytes) -> Manifest:
    """Raises StateMismatch when the bytes are not a manifest that this version knows."""
    try:
        body: dict[str, Any] = orjson.loads(data)
        body["ranges"] = tuple(Range(*r) for r in body["ranges"])
        body["counts"] = Counts(**body["counts"])
        return Manifest(**body)
    except (KeyError, TypeError, ValueError) as error:
        raise StateMismatch(
            f"not a manifest that this version of shoal knows ({type(error).__name__}: {error}): run the version that "
            f"wrote it, or start over with another --output or kafka.topic_prefix"
        ) from None
