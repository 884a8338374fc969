"""The state of the past: which recorded step is meant, and the replica that is brought there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ..config import Config
from ..events import MANIFEST, Manifest, Output
from ..pipeline import Pipeline
from ..ports import DiskFailed, InputError, Sink, Source, SourceGone, StateMismatch, Store
from ..replica import Replica, check_user_key
from ..snapshots import DirectoryStore
from .auditor import Progress

_STEP_MAX = 10**11
"""A larger number is a time: 10^11 ms is in 1973, and so many steps nobody has."""


def parse_until(text: str) -> tuple[int | None, int | None]:
    """(step, None), or (None, stream time in ms). Raises InputError."""
    if text.isdecimal():
        number = int(text)
        return (number, None) if number < _STEP_MAX else (None, number)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"--until {text}: wanted a step (a number), or a time as 2026-01-31T12:00:00Z or in milliseconds "
            f"since 1970"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None, round(moment.timestamp() * 1000)


def find(sink: Sink, step: int | None, time_ms: int | None) -> Manifest:
    """The manifest of this step, or of the last one whose watermark is not past this time.

    Raises InputError when there is none, SourceGone when it is no longer there.
    """
    last = sink.last()
    if last is None:
        raise InputError(f"{MANIFEST} holds no recorded step: is it what the run wrote?")
    if step is None:
        assert time_ms is not None, "a step or a time"
        return _last_until(sink, time_ms)
    if not 1 <= step <= last.step:
        raise InputError(f"--until {step}: steps 1 to {last.step} are recorded")
    found = next(sink.manifests(after=step - 1), last)
    if found.step != step:
        raise SourceGone(
            f"the manifest of step {step} is gone, the next one is of step {found.step}: keep the manifest "
            f"topic for ever (retention.ms=-1)"
        )
    return found


def _last_until(sink: Sink, time_ms: int) -> Manifest:
    found: Manifest | None = None
    first_ms = 0  # the earliest time that any step knows; 0: none
    for manifest in sink.manifests():
        if manifest.watermark_ms > 0:
            first_ms = min(first_ms or manifest.watermark_ms, manifest.watermark_ms)
            found = manifest if manifest.watermark_ms <= time_ms else found
    if found is not None:
        return found
    known = f"stream time begins at {moment(first_ms)}" if first_ms else "no step knows a time yet"
    raise InputError(f"--until: {moment(time_ms)} is before the beginning; {known}")


def moment(time_ms: int) -> str:
    """RFC 3339, to the millisecond."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


class Past(Replica):
    """A replica that says how far it is, and can be kept for others."""

    def __init__(
        self, config: Config, pipeline: Pipeline, ports: tuple[Source, Sink, Store], told: Progress
    ) -> None:
        super().__init__(config, pipeline, *ports)
        self.replayed = 0  # steps computed again
        self._told = told

    def go_to(self, manifest: Manifest) -> None:
        """Raises ReplayMismatch, SourceGone; StateMismatch where another configuration made that step."""
        check_user_key(manifest, self.pipeline)
        if manifest.config_hash != self.pipeline.config_hash:
            raise StateMismatch(
                f"step {manifest.step} was made with configuration {manifest.config_hash}, this process has "
                f"{self.pipeline.config_hash}: give the same --config, --set and SHOAL_* variables as the run"
            )
        self.catch_up(manifest)
        assert self.steps == manifest.step, f"wanted step {manifest.step}, replay ended at {self.steps}"

    def advance(self, output: Output) -> None:
        super().advance(output)
        self.replayed += 1
        self._told(output.step)

    def maybe_save(self) -> None:
        """The engine's snapshots are not ours to make."""

    def keep(self, folder: Path) -> None:
        """As a snapshot, alone in a folder. Raises InputError where snapshots are already, DiskFailed."""
        if folder.is_dir() and any(folder.glob("snapshot-*.safetensors")):
            raise InputError(
                f"--state {folder}: holds snapshots already, maybe an engine's; name a new folder"
            )
        store = DirectoryStore(folder, kept=1)
        store.save(self.steps, self.pipeline.chain.manifest_hash, self._state)
        if not store.finished():
            raise DiskFailed(f"--state {folder}: the snapshot could not be written; is the disk full?")
