"""The whole of Shoal between decoding and sinks: one pure step.

    records -> events -> user slots -> windows -> rows x -> embeddings z -> segments -> changes

Everything here is a function of (state, step): no clock, no global randomness, no environment, no logging,
no I/O (`tests/test_purity.py` holds that). Each touched user is scored once per step and then learned from
once, however many events it sent; the models are read-only while a step is scored.

A step scores m = t + s users: the t touched ones first, then the s silent ones whose windows moved. Row i of
`scored.slots`, `scored.x` and `scored.z` speaks of the same user.
"""

from __future__ import annotations

import numpy as np

from .admission import Admission, Admitted
from .attribution import Attribution
from .catalog import Catalog
from .changes import Narrator
from .churn import Churn
from .clock import Clock
from .config import Config
from .digest import Chain, output_hash
from .events import F32, I32, Counts, Events, Manifest, Output, Reject, Scored, Step
from .features import Features
from .membership import Membership, Moves
from .ports import Probe, Publication, Publisher, Segmenter, State, no_probe
from .quality import davies_bouldin, silhouette
from .users import Users
from .warmup import Warmup
from .wire import Decoder

UNTOLD_MAX = 1024
"""Users told per step, beyond those it scores anyway, that their segment was given up."""


class Pipeline:
    """step(step) -> Output; owns all state. The same state and step give the same bytes, anywhere."""

    def __init__(
        self,
        config: Config,
        features: Features,
        publisher: Publisher,
        segmenter: Segmenter,
        probe: Probe = no_probe,
        salt: int = 0,
    ) -> None:
        """`salt` goes into the hashes of users' names, see `Users`."""
        self.config_hash = config.pure_hash()
        self.probe = probe
        self.decoder = Decoder(config.input)
        self.clock = Clock(config.time)
        self.admission = Admission(config.features)
        self.users = Users(config.features, salt)
        self.features = features
        self.warmup = Warmup(config.segmenter)
        self.publisher = publisher
        self.segmenter = segmenter
        self.membership = Membership(config.membership, config.features.users_max, segmenter.k)
        self.churn = Churn(segmenter.k)
        self.attribution = Attribution(config.features.users_max, publisher.d_out)
        self.catalog = Catalog(config.membership, segmenter.k, self.features.names)
        self.narrator = Narrator(self)
        self.chain = Chain(self.config_hash)
        self._sweeps = config.features.sweep_rows_max > 0

    def step(self, step: Step) -> Output:
        self.narrator.begin(step)
        with self.probe("decode"):
            decoded, rejects = self.decoder.decode(step.records)
        with self.probe("admit"):
            partitions = step.records.partitions[decoded.row]
            undated = len(step.records) > 0 and not len(decoded)
            clocked = self.clock.advance(decoded.time_ms, partitions, step.as_of_ms, undated)
            admitted = self.admission.admit(decoded, clocked)
            events = admitted.events
        with self.probe("windows"):
            self._release(self.users.leaving(events.users, self.clock.watermark_ms), step)
            slots = self.users.touch(events)  # (n,) one slot per event
            self.features.update(slots, events)
            touched = np.unique(slots)  # (t,) each user once, however many events it sent
        with self.probe("rows"):
            raw = self.features.rows(touched, self.users, self.clock.now_ms)  # (t, d)
        with self.probe("warm"):
            started = self._warm_start(touched, raw, step)
        with self.probe("score"):
            intervened = (len(step.records) > 0 or step.closing) and self._tend()
            scored = self._score(touched, raw, everybody=started or step.closing)  # (m, ...)
            moves = self._decide(scored, step)
            self.churn.count(moves)
            self.narrator.moved(moves, scored, events, slots)
        with self.probe("learn"):
            publication = self._learn(scored)
            self.catalog.learn(self.membership.centre, slots, events, scored)
        with self.probe("changes"):
            self.narrator.profiles(force=started or intervened or step.closing)
            self.narrator.rejected(rejects)
            counts = count(step, decoded, admitted, rejects)
            return self._sign(step, counts, touched, raw, scored, moves, publication)

    # --- the stages that are more than one call ----------------------------------------------------------

    def _release(self, gone: I32, step: Step) -> None:
        """Say farewell to users whose windows are empty, or who make room for others; forget their state."""
        if len(gone):
            moves = self.membership.leave(gone, step.number)
            self.churn.count(moves)
            self.narrator.left(moves)
            for part in (self.features, self.membership, self.attribution):
                part.clear(gone)
            self.users.release(gone)

    def _warm_start(self, touched: I32, raw: F32, step: Step) -> bool:
        """Start scaling, encoder and centres together from the warm-up buffer, once it is full."""
        if self.warmup.done:
            return False
        buffer = self.warmup.offer(touched, raw, self.clock.now_ms, step.closing)
        if buffer is None:
            return False
        self.features.learn(buffer)
        x = self.features.scale(buffer)  # (w, d)
        self.publisher.warm(x)
        self.segmenter.seed(self.publisher.encode(x))
        self.narrator.born(self.membership.begin(self.clock.now_ms, self.segmenter.used))
        return True

    def _tend(self) -> bool:
        """Let the segmenter rearrange its centres, and everybody who names them follow. Before anything is scored."""
        if not self.warmup.done:
            return False
        interventions = self.segmenter.tend()
        if interventions:
            self.churn.intervene(interventions, self.membership.counts())
            self.narrator.intervened(self.membership.intervene(interventions, self.clock.now_ms))
            self.attribution.intervene(interventions)
            self.catalog.intervene(interventions)
        return bool(interventions)

    def _score(self, touched: I32, raw: F32, everybody: bool) -> Scored:
        """The users this step scores: the touched ones and silent ones whose windows moved."""
        if not self.warmup.done:
            return Scored.none(self.features.d, self.publisher.d_out, self.segmenter.k)
        silent = self.users.silent(touched, self.features, self.clock.now_ms, everybody)
        untold = np.setdiff1d(self.membership.unsettled(UNTOLD_MAX), touched)
        silent = np.union1d(silent, untold)
        raw = np.concatenate([raw, self.features.rows(silent, self.users, self.clock.now_ms)])  # (m, d)
        x = self.features.scale(raw)  # (m, d)
        z = self.publisher.encode(x)  # (m, d) -> (m, e)
        nearest, distances = self.segmenter.score(z)  # (m,), (m, k)
        slots = np.concatenate([touched, silent])  # (m,)
        return Scored(slots, len(touched), raw, x, z, nearest, distances, self.segmenter.centres)

    def _decide(self, scored: Scored, step: Step) -> Moves:
        return self.membership.decide(
            scored, self.users.events_seen[scored.slots].astype(np.int64), self.clock.now_ms, step.number
        )

    def _learn(self, scored: Scored) -> Publication | None:
        """After scoring, never before: touched users only, once each, in slot order."""
        self.attribution.remember(scored, self.publisher.version)
        t = scored.touched
        if not t:
            return None
        self.segmenter.learn(scored.z[:t])
        self.features.learn(scored.raw[:t])
        return self.publisher.learn(scored.x[:t], self.segmenter)

    def _sign(
        self,
        step: Step,
        counts: Counts,
        touched: I32,
        raw: F32,
        scored: Scored,
        moves: Moves,
        publication: Publication | None,
    ) -> Output:
        """Chain the hashes and write the manifest: with the input log, enough to compute this step again."""
        chain = self.chain
        records = self.narrator.end()
        state_hash = chain.link(
            touched, raw, scored.slots, scored.x, scored.z, moves.slot, moves.after,
            self.segmenter.fingerprint(), self.features.fingerprint(), self.publisher.fingerprint(),
            str(self.clock.now_ms).encode(),
        )  # fmt: skip
        manifest = Manifest(
            step=step.number,
            epoch=chain.epoch,
            opening=False,
            source=step.source,
            ranges=step.ranges,
            as_of_ms=step.as_of_ms,
            closing=step.closing,
            config_hash=self.config_hash,
            versions=self.versions(),
            watermark_ms=self.clock.watermark_ms,
            counts=counts,
            next_segment_id=self.membership.identities.next_id,
            next_lineage_id=self.membership.identities.next_lineage_id,
            previous_hash=chain.manifest_hash,
            output_hash=output_hash(records),
            state_hash=state_hash,
        )
        chain.follow(manifest)
        return Output(step.number, records, manifest, counts, self._gauges(moves, publication))

    def begin_epoch(self, opening: Manifest) -> None:
        """Go on after a step that begins an epoch: fresh in everything but what must never repeat."""
        self.membership.identities.next_id = opening.next_segment_id
        self.membership.identities.next_lineage_id = opening.next_lineage_id
        self.chain.follow(opening)

    # --- what others may ask -----------------------------------------------------------------------------

    def stirs(self, as_of_ms: int) -> bool:
        """Whether a step without records would do anything now: start, let somebody leave, or look again.

        If not, such a step publishes nothing and teaches nothing, and need not be made. Cost: one look at
        every user.
        """
        now_ms, watermark_ms = self.clock.idle(as_of_ms)
        live = np.flatnonzero(self.users.last_ms).astype(np.int32)
        if self.users.expired(live, watermark_ms).any():
            return True
        if not self.warmup.done:
            return self.warmup.due(now_ms)
        if len(self.membership.unsettled(1)):
            return True
        return self._sweeps and bool(self.features.due(live, now_ms).any())

    def versions(self) -> dict[str, str | int]:
        return {
            "features": self.features.version,
            "encoder": self.publisher.version,
            "segmenter": self.segmenter.version,
        }

    def _gauges(self, moves: Moves, publication: Publication | None) -> dict[str, object]:
        return {
            "now_ms": self.clock.now_ms,
            "watermark_ms": self.clock.watermark_ms,
            "users": len(self.users),
            "sizes": self.membership.sizes(),
            "changes": self.narrator.changes_by_reason(),
            "lineage": self.narrator.lineage_by_kind(),
            "moved": int(((moves.before > 0) & (moves.after > 0)).sum()),
            "loss": self.publisher.loss,
            "encoder_version": self.publisher.version,
            "publication": publication,
        }

    def quality(self) -> tuple[float, float, list[float]] | None:
        """Silhouette, Davies-Bouldin index and mean inertia per centre, on the reservoir; None before warm-up."""
        if not self.warmup.done or not len(self.publisher.reservoir):
            return None
        z = self.publisher.encode(self.publisher.reservoir)
        nearest, distances = self.segmenter.score(z)
        own = distances[np.arange(len(z)), nearest]
        inertia = [
            float(own[nearest == c].mean()) if (nearest == c).any() else 0.0 for c in range(self.segmenter.k)
        ]
        return silhouette(z, nearest), davies_bouldin(z, nearest), inertia

    def snapshot(self) -> State:
        return {name: getattr(self, name).snapshot() for name in STATEFUL}

    def restore(self, state: State) -> None:
        """Continue as if nothing had happened since `snapshot`."""
        for name in STATEFUL:
            getattr(self, name).restore(state[name])


STATEFUL = (
    "clock", "admission", "users", "features", "warmup", "publisher", "segmenter",
    "membership", "churn", "attribution", "catalog", "chain",
)  # fmt: skip


def count(step: Step, decoded: Events, admitted: Admitted, rejects: list[Reject]) -> Counts:
    """Every record of the step in exactly one of accepted, duplicates, late, rejected."""
    reasons = [reject.reason.value for reject in rejects]
    counts = Counts(
        records=len(step.records),
        accepted=len(admitted.events),
        duplicates=admitted.duplicates,
        late=admitted.late,
        rejected={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        future=admitted.future,
        clamped=decoded.clamped,
        by_type=admitted.by_type(),
    )
    assert counts.balanced(), f"coverage: {counts.records} records, but {counts}"
    return counts
