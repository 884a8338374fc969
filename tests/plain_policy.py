"""The membership policy for one user at a time, in plain Python: what the columns must agree with."""

from __future__ import annotations

import numpy as np

from shoal.stream.policy import RESTLESS_MAX


def narrow(value):
    """As it is kept: in single precision."""
    return float(np.float32(value))


class PlainUser:
    """One user in a segment since `now_ms`."""

    def __init__(self, config, at, now_ms):
        self.config, self.at, self.since_ms, self.seen_ms = config, at, now_ms, now_ms
        self.rival, self.evidence, self.restless = -1, 0.0, 0.0

    def decide(self, distances, centres, now_ms, touched=True, events=1):
        """True where the user moves; then `at` is where to."""
        config, elapsed_ms = self.config, now_ms - self.seen_ms
        self.seen_ms = now_ms
        self.restless = narrow(self._faded(self.restless, elapsed_ms, config.patience_ms))
        nearest = int(np.argmin(distances))
        rival = nearest if nearest != self.at else self.rival
        if rival in (-1, self.at):
            self.rival, self.evidence = -1, 0.0
            return False
        over = (self._lead(distances, centres, rival) - config.margin) / config.clear_lead
        waited = min(elapsed_ms / config.silence_ms, 1.0) if config.silence_ms else 1.0
        gained = max(-1.0, min(1.0, over)) * (min(events, config.confirmations) if touched else waited)
        evidence = self._faded(self.evidence, elapsed_ms, config.smoothing_ms) + gained
        tired = 1.0 + config.patience * self.restless
        needed = (config.confirmations - 1) * tired * tired
        stayed = now_ms - self.since_ms >= config.dwell_ms
        enough = evidence > needed or config.confirmations == 1
        if rival == nearest and over > 0 and enough and stayed:
            self.at, self.since_ms, self.rival, self.evidence = rival, now_ms, -1, 0.0
            self.restless = min(self.restless + 1.0, RESTLESS_MAX)
            return True
        held = evidence > 0
        self.rival, self.evidence = rival if held else -1, narrow(min(evidence, needed + 1)) if held else 0.0
        return False

    def _lead(self, distances, centres, rival):
        own, theirs = distances[self.at], distances[rival]
        apart = (np.sqrt(own) + np.sqrt(theirs)) ** 2
        if centres is not None:
            apart = sum((a - b) ** 2 for a, b in zip(centres[self.at], centres[rival], strict=True))
        return (own - theirs) / apart if apart > 0 else 0.0

    @staticmethod
    def _faded(held, elapsed_ms, fade_ms):
        return max(held - elapsed_ms / fade_ms, 0.0) if fade_ms else held
