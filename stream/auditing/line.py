"""The line of manifests: what must hold between them, before anything is computed again.

    one line        step n + 1 follows step n, and names the hash of its manifest
    epochs          an opening step begins the next one; configuration, features and input stay within one
    tiling          within an epoch the ranges of each partition touch: no offset twice, none left out
    counts          every record of a step is in exactly one outcome

All of it is checked for every manifest there is, at a few microseconds each, whatever is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..digest import content_hash
from ..events import Manifest, Range
from ..manifest import encode_manifest
from ..ports import ReplayMismatch


@dataclass(slots=True)
class Epoch:
    """A part of the line in which configuration and input are the same."""

    number: int
    first_step: int
    opened: bool  # by an opening step
    config_hash: str
    features: str
    source: str
    last: Manifest

    @property
    def whole(self) -> bool:
        """Its first step is there: nothing before it is needed to compute it."""
        return self.first_step == 1 or self.opened

    @property
    def steps(self) -> int:
        return self.last.step - self.first_step + 1


class Line:
    """Manifests in order. Memory: one entry per epoch, and one per input partition."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.first_step = 0  # 0: nothing followed yet
        self.last: Manifest | None = None
        self.hash = ""  # of `last`
        self._ends: dict[int, int] = {}
        self._reading = False  # a step of this epoch has named where partitions begin

    @property
    def step(self) -> int:
        """The latest one; 0 before the first."""
        return 0 if self.last is None else self.last.step

    def follow(self, manifest: Manifest) -> str:
        """The hash of this manifest, the next one. Raises ReplayMismatch where it cannot be the next one."""
        if self.last is None:
            self.first_step = manifest.step
            if manifest.step == 1 and manifest.previous_hash:
                raise _broken(manifest, "is the first, yet it names a manifest before it")
        else:
            self._check_place(self.last, manifest)
        if self.last is None or manifest.epoch != self.last.epoch:
            self._begin(manifest)
        self._check_epoch(manifest)
        self._check_counts(manifest)
        for r in manifest.ranges:
            self._check_range(manifest, r)
        self._reading = self._reading or bool(manifest.ranges)
        self.epochs[-1].last = manifest
        self.last, self.hash = manifest, content_hash(encode_manifest(manifest))
        return self.hash

    def _check_place(self, last: Manifest, manifest: Manifest) -> None:
        if manifest.step != last.step + 1:
            missing = f"; the manifests of steps {last.step + 1} to {manifest.step - 1} are missing"
            raise ReplayMismatch(
                f"manifests: after step {last.step} wanted step {last.step + 1}, found step {manifest.step}"
                + (missing if manifest.step > last.step else "")
            )
        if manifest.previous_hash != self.hash:
            raise _broken(
                manifest,
                f"follows a manifest with hash {manifest.previous_hash or 'none'}, but that of step {last.step} "
                f"has {self.hash}: one of the two was changed",
            )
        goes_on = manifest.epoch == last.epoch and (last.opening or not manifest.opening)
        begins = manifest.epoch == last.epoch + 1 and manifest.opening
        if not (goes_on or begins):
            raise _broken(
                manifest,
                f"is of epoch {manifest.epoch} ({'opening' if manifest.opening else 'not opening'}), the step "
                f"before it of epoch {last.epoch}",
            )

    def _begin(self, manifest: Manifest) -> None:
        self._ends, self._reading = {}, False
        features = str(manifest.versions["features"])
        self.epochs.append(
            Epoch(
                manifest.epoch, manifest.step, manifest.opening, manifest.config_hash, features,
                manifest.source, manifest,
            )
        )  # fmt: skip

    def _check_epoch(self, manifest: Manifest) -> None:
        epoch = self.epochs[-1]
        for name, wanted, found in (
            ("configuration", epoch.config_hash, manifest.config_hash),
            ("features", epoch.features, str(manifest.versions["features"])),
            ("input", epoch.source, manifest.source),
        ):
            if wanted != found:
                raise _broken(
                    manifest,
                    f"has {name} {found or 'none'}, but epoch {epoch.number} began in step {epoch.first_step} "
                    f"with {wanted or 'none'}",
                )

    def _check_counts(self, manifest: Manifest) -> None:
        counts = manifest.counts
        if not counts.balanced():
            raise _broken(
                manifest,
                f"counts {counts.records} records, but {counts.accepted} accepted + {counts.duplicates} "
                f"duplicates + {counts.late} late + {sum(counts.rejected.values())} rejected "
                f"+ {counts.commands} commands",
            )
        if manifest.opening and (counts.records or any(r.start != r.end for r in manifest.ranges)):
            raise _broken(manifest, "opens an epoch, yet it reads input")

    def _check_range(self, manifest: Manifest, r: Range) -> None:
        """A partition that is named for the first time begins where the epoch says, or at 0; anywhere, where
        the manifests that may have named it before are gone."""
        told = self._reading and self.epochs[-1].whole
        end = self._ends.get(r.partition, 0 if told else r.start)
        if r.start != end:
            kind = "are in two steps" if r.start < end else "are in no step"
            between = f"[{min(r.start, end)}, {max(r.start, end)})"
            raise _broken(
                manifest,
                f"starts partition {r.partition} at offset {r.start}, the steps before it ended at {end}: "
                f"offsets {between} {kind}",
            )
        if r.end < r.start:
            raise _broken(manifest, f"ends partition {r.partition} at {r.end}, before its start {r.start}")
        self._ends[r.partition] = r.end


def _broken(manifest: Manifest, what: str) -> ReplayMismatch:
    return ReplayMismatch(f"manifests: step {manifest.step} {what}")
