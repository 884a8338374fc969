"""When new encoder weights may serve. Weights and centres change together, or not at all.

    learn        rows go into the reservoir; full half-batches of them, each with as many replayed rows, are
                 gradient steps of the learning copy
    attempt      every `publish_every_rows` learned rows: embed the reservoir with both copies, lay the
                 candidate onto the serving space, carry the centres over, count whose nearest centre changes
    publication  if that is within `churn_budget`: centres and weights change, both in this call
    refusal      if not: the candidate stays the learning copy, laid onto the serving space, and is pulled there

Between two publications nothing that `encode` returns changes.
"""

from __future__ import annotations

import numpy as np
import xxhash

from ..stream import config
from ..stream.events import F32
from ..stream.ports import Publication, Segmenter, State
from .alignment import align, carry_over
from .base import Published
from .kernels import nearest
from .replay import Reservoir

ROUNDS_MAX = 8
"""Trainings of a fresh learning copy, each as long as the one at the warm start, before it is given up."""
STEPS_MAX = 4
"""Gradient steps per call: beyond 4 half-batches of rows, load turns into subsampling, not into lag."""


class ReplayPublisher:
    """An encoder, its reservoir and its publications. Memory: replay_rows + batch rows, and the weights."""

    def __init__(self, encoder: Published, config: config.Encoder) -> None:
        self._encoder = encoder
        self._half = max(1, config.batch // 2)
        self._every = config.publish_every_rows
        self._budget = config.churn_budget
        self._warmup_steps = config.warmup_steps
        self._replay = Reservoir(config.replay_rows, encoder.d_in, config.seed)
        self._fresh: F32 = np.empty((0, encoder.d_in), np.float32)  # less than half a batch, not yet learned
        self._since = 0  # rows learned since the last attempt
        self.loss = 0.0
        self.d_out = encoder.d_out

    @property
    def version(self) -> int:
        return self._encoder.version

    @property
    def reservoir(self) -> F32:
        return self._replay.rows

    def encode(self, x: F32) -> F32:
        """(n, d_in) -> (n, d_out), by the serving weights."""
        return self._encoder.encode(x)

    def encode_previous(self, x: F32) -> F32 | None:
        """(n, d_in) -> (n, d_out), by the weights that served before; None if there were none."""
        return self._encoder.encode_previous(x)

    def warm(self, x: F32) -> None:
        """First training, on the warm-up buffer (n, d_in), n >= 1; then version 1 serves."""
        x = _finite(x)
        self._replay.add(x)
        if len(x):
            self._encoder.start(x)
        self._passes(x)
        self._encoder.publish()

    def _passes(self, x: F32) -> None:
        """About `warmup_steps` batches, in no more passes over the rows (n, d_in) than help the encoder."""
        batch = max(1, min(2 * self._half, len(x)))
        starts = range(0, len(x), batch)
        for _ in range(min(self._encoder.epochs, max(1, self._warmup_steps // max(1, len(starts))))):
            order = self._replay.shuffled(len(x))
            losses = [self._encoder.learn(x[order[start : start + batch]]) for start in starts]
            self.loss = float(np.mean(losses)) if losses else 0.0

    def learn(self, x: F32, segmenter: Segmenter) -> Publication | None:
        """Learn from rows (n, d_in) already scored; when due, try to publish. None when no attempt was due.

        A row that is not finite is left out: one would spoil every weight for good.
        """
        x = _finite(x)
        self._replay.add(x)
        if not self._encoder.epochs or not len(x):
            return None
        self._train(np.concatenate([self._fresh, x]))
        self._since += len(x)
        if self._since < self._every:
            return None
        self._since = 0
        return self.attempt(segmenter)

    def _train(self, fresh: F32) -> None:
        """Gradient steps of half fresh and half replayed rows; what does not fill a half-batch waits."""
        steps = len(fresh) // self._half
        self._fresh = fresh[steps * self._half :].copy()
        taken = np.arange(min(steps, STEPS_MAX)) * steps // max(1, min(steps, STEPS_MAX))  # evenly spread
        losses = []
        for at in taken.tolist():
            new = fresh[at * self._half : (at + 1) * self._half]
            losses.append(self._encoder.learn(np.concatenate([new, self._replay.draw(self._half)])))
        if losses:
            self.loss = float(np.mean(losses))

    def renew(self, seed: int, segmenter: Segmenter) -> Publication:
        """Begin again from other weights: train a fresh learning copy on the reservoir, and publish it as always.

        While too many would move, it is trained on, at most `ROUNDS_MAX` times as long as at the warm start; if they
        still would, the old weights go on serving, and the learning copy goes on being pulled towards them.
        """
        x = self._replay.rows
        self._encoder.renew(seed)
        self._encoder.start(x)
        self._passes(x)
        return self.persuade(segmenter)

    def persuade(self, segmenter: Segmenter) -> Publication:
        """Attempt, and train the learning copy on the reservoir until few enough would move; the last attempt."""
        for _ in range(ROUNDS_MAX):
            publication = self.attempt(segmenter)
            if publication.published:
                break
            self._passes(self._replay.rows)
        return publication

    def attempt(self, segmenter: Segmenter) -> Publication:
        """Due or not: lay the candidate onto the serving space, carry the centres, count who moves; publish if few.

        Map and centres are fitted to every other row of the reservoir, and those between are counted: on the rows
        it was fitted to, any map looks better than it is.
        """
        x = self._replay.rows
        z_old, z_new = self._encoder.encode(x), self._encoder.encode_candidate(x)
        if not np.isfinite(z_new).all():  # the learning rate was too large: such weights never serve
            return Publication(self.version, False, 1.0)
        matrix, shift = align(z_new[::2], z_old[::2])
        z_new = (z_new @ matrix + shift).astype(np.float32)
        used = np.flatnonzero(segmenter.used)
        members = used[nearest(z_old, segmenter.centres[used])]
        centres = carry_over(z_new[::2], z_old[::2], members[::2], segmenter.centres)
        judges = slice(1, None, 2) if len(x) > 1 else slice(None)
        churn = float(np.mean(used[nearest(z_new[judges], centres[used])] != members[judges]))
        published = churn <= self._budget
        if published:
            segmenter.carry(centres)
            self._encoder.publish(matrix, shift)
        else:
            self._encoder.turn(matrix, shift)
        return Publication(self.version, published, churn)

    def fingerprint(self) -> bytes:
        """Of the weights of both copies, the optimiser and the reservoir's counters: 16 bytes."""
        h = xxhash.xxh3_128()
        for part in self._encoder.parts():
            h.update(np.ascontiguousarray(part).data)
        h.update(repr((self.version, self._since, self._replay.counters())).encode())
        h.update(self._fresh.data)
        return h.digest()

    def snapshot(self) -> State:
        return {
            "encoder": self._encoder.snapshot(),
            "replay": self._replay.snapshot(),
            "fresh": self._fresh.copy(),
            "since": self._since,
            "loss": self.loss,
        }

    def restore(self, state: State) -> None:
        self._encoder.restore(state["encoder"])
        self._replay.restore(state["replay"])
        self._fresh = state["fresh"].copy()
        self._since, self.loss = state["since"], state["loss"]


def _finite(x: F32) -> F32:
    """The rows (n, d) without a NaN or infinity."""
    finite = np.isfinite(x).all(axis=1)
    return x if finite.all() else x[finite]
