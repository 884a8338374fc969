"""How much a user's rows can still weigh in what was learned from everybody, after the user is forgotten.

Models keep no rows by name, so nothing can be subtracted; what can be said is a bound. A row is learned once a step
in which the user sent an event, so there are at most as many rows as events (`rows_max`) since the user has been
known here; what an earlier stay left, before the user was forgotten for silence, is not counted.

    centres    a row learned with step s weighs s in its centre, and s (1 - s1) (1 - s2) ... after later rows. So
               the rows of one user weigh at most rows_max * STEP_MAX together. A centre that was placed (warm
               start, swap, split, merge) is a mean of rows and may have been the user's alone: 1, if the user
               was known then. Either bound halves at least once in `halving_rows_max` rows that the centre learns.
    scaling    a running mean of n rows, n at most 100,000, gives each row 1/n or less: rows_max / n, n as of now
    means      of segments, by which they are described: half of all weight is lost each day of stream time
    meanings   of tokens: a token that nobody else touched keeps all of it (1) until others touch it
    replay     rows without a name in the encoder's reservoir and the segmenter's sample: none is found again. The
               sample is a ring: its row is overwritten after so many rows at most. One of the reservoir is after
               so many rows on average (`leaves_after_rows`)
    encoder    weights that were trained on those rows: no bound but the reservoir's (null)
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from ..clustering.sample import sample_rows
from ..clustering.steps import STEP_MAX, STEP_MIN
from ..config import Config
from ..events import F64
from ..explain import rounded
from ..means import HALF_LIFE_MS

RESERVOIR_MEMORY = 32
"""`encoders.replay.MEMORY`, which the trunk must not import; a test holds them equal."""


class Learned(Protocol):
    """What can be asked about the scaling."""

    @property
    def learned_rows(self) -> F64: ...  # (2,) behind the moments: activity, interest


class Residual:
    """The bounds, for one configuration."""

    def __init__(self, config: Config) -> None:
        adaptive = config.segmenter.mode == "adaptive"
        self._step_max, step_min = (STEP_MAX, STEP_MIN) if adaptive else (config.segmenter.step,) * 2
        self._halving_rows = math.ceil(math.log(2) / -math.log1p(-step_min))
        self._sample = sample_rows(config.segmenter.segments) if adaptive else 0
        self._reservoir = config.encoder.replay_rows
        self._interest = config.features.interest_dim > 0

    def of(self, rows_max: int, placed: bool, scaling: Learned) -> dict[str, Any]:
        """Bounds on what up to `rows_max` rows weigh; `placed`: some centre was placed since the user is known."""
        rows = scaling.learned_rows
        share = np.where(rows > 0, rows_max / np.maximum(rows, 1.0), 0.0)
        return {
            "rows_max": rows_max,
            "centres": {
                "weight_max": 1.0 if placed else _six(rows_max * self._step_max),
                "halving_rows_max": self._halving_rows,
            },
            "scaling": {"weight_max": _six(float(share.max()))},
            "means": {"half_life_ms": HALF_LIFE_MS},
            "meanings": {"weight_max": 1.0 if self._interest and rows_max else 0.0},
            "replay": {
                "reservoir_rows_max": min(rows_max, self._reservoir),
                "leaves_after_rows": RESERVOIR_MEMORY * self._reservoir,
                "sample_rows_max": min(rows_max, self._sample),
                "sample_leaves_after_rows": self._sample,
            },
            "encoder": None,
        }


def _six(weight: float) -> float:
    """A weight, at most all of it."""
    return float(rounded([min(1.0, weight)])[0])
