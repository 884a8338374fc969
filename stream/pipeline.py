"""The whole of Shoal between decoding and sinks: one pure step.

    records -> events -> user slots -> windows -> rows x -> embeddings z -> segments -> changes

Everything here is a function of (state, step): no clock, no global randomness, no environment, no logging,
no I/O (`tests/test_purity.py` holds that). Each touched user is scored once per step and then learned from
once, however many events it sent; the models are read-only while a step is scored.

A step scores m = t + s users: the t touched ones first, then the s silent ones whose windows moved. Row i of
`scored.slots`, `scored.x` and `scored.z` speaks of the same user.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from .admission import Admission, Admitted
from .attribution import Attribution
from .catalog import Catalog
from .changes import Narrator
from .churn import Churn
from .clock import Clock
from .config import Config
from .control.control import Control
from .counterfactual import Counterfactuals
from .digest import Chain, output_hash
from .events import F32, I32, I64, Counts, Events, Manifest, Output, Reject, Scored, Step
from .features import Features
from .lifecycle import Lifecycle
from .membership import Membership, Moves
from .overlap import Naming, name_groups
from .people import Past, asked, found
from .ports import Probe, Publication, Publisher, Segmenter, State, no_probe
from .privacy import nearest
from .privacy.ledger import SPENT, ledger
from .privacy.pseudonyms import Pseudonyms
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
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        """`salt` goes into the hashes of users' names, see `Users`; without `pseudonyms` names stay as they are."""
        self.pseudonyms = pseudonyms
        self.config_hash = config.pure_hash()
        if pseudonyms is not None:
            self.config_hash = pseudonyms.config_hash(self.config_hash)
        self.ledger = ledger(config.privacy, pseudonyms)
        self.probe = probe
        self.decoder = Decoder(config.input)
        self.clock = Clock(config.time)
        self.admission = Admission(config.features)
        self.users = Users(config.features, salt)
        self.features = features
        self.warmup = Warmup(config.segmenter)
        self.publisher = publisher
        self.segmenter = segmenter
        self.past = Past()
        self.membership = Membership(
            config.membership, config.features.users_max, segmenter.k, config.privacy, config.control.pins_max
        )
        self.churn = Churn(segmenter.k)
        self.attribution = Attribution(config.features.users_max, publisher.d_out)
        self.catalog = Catalog(config.membership, segmenter.k, self.features.names)
        self.counterfactuals = Counterfactuals(
            config.features, self.features.names, config.membership.counterfactuals_max
        )
        self.lifecycle = Lifecycle(
            config.membership, self.features.names, config.features.users_max, segmenter.k
        )
        self.narrator = Narrator(self)
        self.control = Control(self, config, str if self.pseudonyms is None else self.pseudonyms.name)
        self.chain = Chain(self.config_hash)
        self._sweeps = config.features.sweep_rows_max > 0

    def step(self, step: Step) -> Output:
        self.narrator.begin(step)
        with self.probe("decode"):
            decoded, rejects = self.decoder.decode(step.records)
            if self.pseudonyms is not None:  # nothing from here on sees a user id
                decoded = self.pseudonyms.events(decoded)
        with self.probe("admit"):
            partitions = step.records.partitions[decoded.row]
            undated = len(step.records) > 0 and not len(decoded)
            clocked = self.clock.advance(decoded.time_ms, partitions, step.as_of_ms, undated)
            rejects += self.control.obey(step)
            admitted = self.admission.admit(decoded, clocked)
            events = self.control.screen(admitted.events, step)
        with self.probe("windows"):
            self._release(self.users.leaving(events.users, self.clock.watermark_ms), step)
            slots = self.users.touch(events)  # (n,) one slot per event
            self.features.update(slots, events, self.control.learning)
            self.lifecycle.meet(slots, events)
            touched, sent = np.unique(slots, return_counts=True)  # (t,) each user once, and its events
        with self.probe("rows"):
            raw = self.features.rows(touched, self.users, self.clock.now_ms)  # (t, d)
        with self.probe("warm"):
            started = self._warm_start(touched, raw, step)
        with self.probe("score"):
            intervened = (len(step.records) > 0 or step.closing) and self._tend()
            scored = self._score(touched, sent, raw, everybody=started or step.closing)  # (m, ...)
            scored, moves, refolded = self._decide(scored, step)
            self.churn.count(moves)
            self.narrator.moved(moves, scored, events, slots)
        with self.probe("learn"):
            publication = self._learn(scored)
            if self.control.learning:
                self.catalog.learn(self.membership.centre, slots, events, scored)
        with self.probe("changes"):
            renamed = self.control.renamed
            self.narrator.profiles(force=started or intervened or refolded or renamed or step.closing)
            self.narrator.rejected(sorted(rejects, key=lambda reject: reject.row))
            counts = count(step, decoded, admitted, rejects, self.control)
            return self._sign(step, counts, touched, raw, scored, moves, publication)

    # --- the stages that are more than one call ----------------------------------------------------------

    def _release(self, gone: I32, step: Step) -> None:
        """Say farewell to users whose windows are empty, or who make room for others; forget their state."""
        if len(gone):
            moves = self.membership.leave(gone, step.number)
            self.churn.count(moves)
            self.narrator.left(moves)
            self.forget(gone)

    def forget(self, slots: I32) -> None:
        """Nobody has these slots any more, and nothing of who had them is left in them."""
        for part in (self.features, self.membership, self.attribution, self.catalog, self.lifecycle):
            part.clear(slots)
        self.users.release(slots)

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
        self.control.placed()
        self.past.learned(0, self.clock.now_ms, len(self.users))
        return True

    def _tend(self) -> bool:
        """Let the segmenter rearrange its centres, and everybody who names them follow. Before anything is scored."""
        if not self.warmup.done or not self.control.learning:
            return False
        told = self.segmenter.tend()
        if not told and not self.past.due():
            return False
        elsewhere = self.past.elsewhere(self.segmenter)
        who = self.membership, self.users.last_ms, self.past
        if told:
            rows = max(one.rows for one in told) // 2
            people = asked(*who, rows, self.segmenter, self._embed)
        elif elsewhere.any():
            people = found(*who, self.segmenter)
        else:
            return False
        return self._settle(name_groups(people, told, elsewhere))

    def reseed(self) -> None:
        """Draw all centres anew, from the reservoir; every id goes on with its people. In a step, before it scores."""
        assert self.warmup.done, "reseed() before the warm start: there are no segments yet"
        self.segmenter.seed(self.publisher.encode(self.publisher.reservoir))
        who = self.membership, self.users.last_ms, self.past
        people = asked(*who, self.past.home_rows, self.segmenter, self._embed)
        self._settle(name_groups(people, None))

    def _settle(self, naming: Naming) -> bool:
        """The centres stand for other people now: ids follow the people (`overlap.py`)."""
        if (np.diff(naming.order) != 1).any():
            self.segmenter.permute(naming.order)
        begun = [one.centre for one in naming.facts if one.begins]
        self.past.rearranged(naming.order, begun, self.segmenter.centres)
        since_ms = self.past.ago_ms(self.past.home_rows)
        before = self.membership.counts()
        self.narrator.intervened(self.membership.intervene(naming.facts, self.clock.now_ms, since_ms))
        self.churn.intervene(naming.facts, before, self.membership.counts())
        self.attribution.intervene(naming.facts)
        self.catalog.intervene(naming.facts, self.membership.ids)
        self.control.placed()
        return bool(naming.facts)

    def _embed(self, slots: I32) -> F32:
        raw = self.features.rows(slots, self.users, self.clock.now_ms, peek=True)
        return self.publisher.encode(self.features.scale(raw))

    def _score(self, touched: I32, sent: I64, raw: F32, everybody: bool) -> Scored:
        """The users this step scores: the touched ones and silent ones whose windows moved."""
        if not self.warmup.done:
            return Scored.none(self.features.d, self.publisher.d_out, self.segmenter.k)
        silent = self.users.silent(touched, self.features, self.clock.now_ms, everybody)
        untold = np.union1d(self.membership.unsettled(UNTOLD_MAX), self.control.merged)
        untold = np.setdiff1d(untold, touched)
        silent = np.union1d(silent, untold)
        raw = np.concatenate([raw, self._raw(silent)])  # (m, d)
        return self._scored(np.concatenate([touched, silent]), len(touched), raw, sent)

    def _raw(self, slots: I32) -> F32:
        return self.features.rows(slots, self.users, self.clock.now_ms)

    def _scored(self, slots: I32, touched: int, raw: F32, sent: I64 | None = None) -> Scored:
        x = self.features.scale(raw)  # (m, d)
        z = self.publisher.encode(x)  # (m, d) -> (m, e)
        nearest, distances = self.segmenter.score(z)  # (m,), (m, k)
        return Scored(slots, touched, raw, x, z, nearest, distances, self.segmenter.centres, sent)

    def _decide(self, scored: Scored, step: Step) -> tuple[Scored, Moves, bool]:
        """Who is where from now on, and what people are told; whoever must be told with them is scored too."""
        m, now_ms = self.membership, self.clock.now_ms
        target = m.place(scored, now_ms)  # (m,)
        facts, summoned = m.refold(scored.slots, target, now_ms, self._fold)
        self.narrator.folded(facts)
        if len(summoned):
            target = np.concatenate([target, m.centre[summoned]])
            scored = scored.and_also(self._scored(summoned, 0, self._raw(summoned)))
        seen = self.users.events_seen[scored.slots].astype(np.int64)
        return scored, m.tell(scored, target, seen, now_ms, step.number), bool(facts)

    def _fold(self, sizes: I64, floor: int) -> I32:
        """(k,) which segment each is published as, so that each group has `floor` of these users (k,)."""
        return nearest.fold(self.segmenter.centres, self.membership.ids, sizes, floor)

    def _learn(self, scored: Scored) -> Publication | None:
        """After scoring, never before: touched users only, once each, in slot order."""
        self.attribution.remember(scored, self.publisher.version)
        self.lifecycle.see(scored)
        t = scored.touched
        if not t or not self.control.learning:
            return None
        self.segmenter.learn(scored.z[:t], len(self.users))
        self.past.learned(t, self.clock.now_ms, len(self.users))
        self.past.see(self.segmenter, self.publisher.version)
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
            self.membership.calibration.fingerprint(), str(self.clock.now_ms).encode(),
            *self.membership.fingerprint(), self.control.fingerprint(),
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
            versions=self.recorded_versions(),
            watermark_ms=self.clock.watermark_ms,
            counts=counts,
            next_segment_id=self.membership.identities.next_id,
            next_lineage_id=self.membership.identities.next_lineage_id,
            previous_hash=chain.manifest_hash,
            output_hash=output_hash(records),
            state_hash=state_hash,
            publication=None if publication is None else asdict(publication),
        )
        chain.follow(manifest)
        return Output(step.number, records, manifest, counts, self._gauges(moves, publication))

    def begin_epoch(self, opening: Manifest) -> None:
        """Go on after a step that begins an epoch: fresh in everything but what must never repeat."""
        self.membership.identities.next_id = opening.next_segment_id
        self.membership.identities.next_lineage_id = opening.next_lineage_id
        if self.ledger is not None:
            self.ledger.resume(opening.versions.get(SPENT, self.ledger.recorded))
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

    def recorded_versions(self) -> dict[str, str | int]:
        """For the manifest: with the key of the pseudonyms and what was spent on sizes, where there are such."""
        known: dict[str, str | int] = {} if self.pseudonyms is None else dict(self.pseudonyms.versions())
        return self.versions() | known | ({} if self.ledger is None else {SPENT: self.ledger.recorded})

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
        return {name: getattr(self, name).snapshot() for name in self._stateful()}

    def restore(self, state: State) -> None:
        """Continue as if nothing had happened since `snapshot`."""
        for name in self._stateful():
            getattr(self, name).restore(state[name])

    def _stateful(self) -> tuple[str, ...]:
        return STATEFUL if self.ledger is None else (*STATEFUL, "ledger")


STATEFUL = (
    "clock", "admission", "users", "features", "warmup", "publisher", "segmenter",
    "past", "membership", "churn", "attribution", "catalog", "lifecycle", "control", "chain",
)  # fmt: skip


def count(step: Step, decoded: Events, admitted: Admitted, rejects: list[Reject], control: Control) -> Counts:
    """Every record of the step in exactly one of accepted, duplicates, late, rejected, commands."""
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
        withheld=control.withheld,
        commands=control.obeyed,
    )
    assert counts.balanced(), f"coverage: {counts.records} records, but {counts}"
    return counts
