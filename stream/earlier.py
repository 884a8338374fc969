"""The models as they were: scaling and centres at up to EARLIER_MAX earlier steps, dense lately, sparse long ago.

Asked with today's row they say where it would have been then. Who asks for a step gets the next one kept, which
is close to it: of all steps in between, the one is dropped that leaves the smallest gap for its age, and the last
before an intervention or a publication only for want of another. Weights
are not kept: only the serving encoder and the one before can be asked (`Publisher.encode_previous`), so what
was kept under older ones is dropped as well. Memory: EARLIER_MAX times 8 (k e + 3 d) bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .events import F32, F64, I32, I64
from .ports import Publisher, State

EARLIER_MAX = 32


class Scales(Protocol):
    """Who scales rows, as it does now or did at an earlier time."""

    def scale(self, raw: F32, as_then: F64 | None = None) -> F32: ...  # (n, d) -> (n, d)
    def scale_now(self) -> F64: ...  # all that `scale` depends on, to be given back to it as `as_then`


@dataclass(frozen=True, slots=True)
class Model:
    """What decided in one step, but for the encoder's weights."""

    number: int  # of the step
    version: int  # of the encoder
    scale: F64  # see `Scales.scale_now`
    centres: F64  # (k, e); NaN for one that has been placed elsewhere since


class Earlier:
    """`keep` a model every step; `index` finds the one for a step, `embed` asks it."""

    def __init__(self) -> None:
        self._models: list[Model] = []
        self._turns: list[int] = []  # numbers of the models that were the last before a centre or an encoder

    def __getitem__(self, at: int) -> Model:
        return self._models[at]

    def centres(self) -> F64:
        """(m, k, e) of all models kept, the latest last; NaN for what has been placed elsewhere since."""
        return np.stack([one.centres for one in self._models])

    def versions(self) -> I64:
        """(m,) of the encoder of each."""
        return np.array([one.version for one in self._models])

    @property
    def latest(self) -> Model:
        assert self._models, "no model was kept: judge() comes first"
        return self._models[-1]

    def keep(self, model: Model) -> None:
        """The model of this step, whose number is larger than all before."""
        if self._models and self.latest.version != model.version:
            self._turn()
        self._models = [one for one in self._models if one.version >= model.version - 1]
        self._models.append(model)
        if len(self._models) > EARLIER_MAX:
            number = np.array([one.number for one in self._models], np.float64)
            gap = (number[2:] - number[:-2]) / (number[-1] + 1.0 - number[:-2])  # without the one between
            gap += np.isin(number[1:-1], self._turns)  # above 1: rather than one of these any other
            del self._models[1 + int(gap.argmin())]
        self._turns = [turn for turn in self._turns if any(one.number == turn for one in self._models)]

    def index(self, number: I32, version: int) -> I64:
        """(n,) the model kept for each of these steps, among those that `version` or the one before made."""
        numbers = np.array([one.number for one in self._models])
        usable = int(np.argmax(self.versions() >= version - 1))
        found = np.searchsorted(numbers, number, side="left")
        return np.clip(found, usable, len(numbers) - 1).astype(np.int64)

    def embed(self, raw: F32, index: I64, scales: Scales, publisher: Publisher) -> F32 | None:
        """Rows (n, d) as model `index` (n,) would have embedded them, (n, e); NaN where it cannot be asked."""
        z = None
        version = self.versions()[index]
        x = np.empty_like(raw)
        for at in np.unique(index).tolist():
            mine = index == at
            x[mine] = scales.scale(raw[mine], self[at].scale)
        for rows, encode in (
            (np.flatnonzero(version == publisher.version), publisher.encode),
            (np.flatnonzero(version != publisher.version), publisher.encode_previous),
        ):
            part = encode(x[rows]) if len(rows) else None
            if part is not None:
                z = np.full((len(raw), part.shape[1]), np.nan, np.float32) if z is None else z
                z[rows] = part
        return z

    def forget(self, centre: int) -> None:
        """This centre is placed anew: it was not there before."""
        self._turn()
        for one in self._models:
            one.centres[centre] = np.nan

    def _turn(self) -> None:
        """The latest model is the last of its kind."""
        if self._models and self.latest.number not in self._turns:
            self._turns.append(self.latest.number)

    def snapshot(self) -> State:
        return {
            "turns": np.array(self._turns, np.int64),
            "number": np.array([one.number for one in self._models], np.int64),
            "version": np.array([one.version for one in self._models], np.int64),
            "scale": _stacked([one.scale for one in self._models]),
            "centres": _stacked([one.centres for one in self._models]),
        }

    def restore(self, state: State) -> None:
        rows = zip(
            state["number"].tolist(), state["version"].tolist(), state["scale"], state["centres"], strict=True
        )
        self._turns = state["turns"].tolist()
        self._models = [
            Model(n, version, scale.copy(), centres.copy()) for n, version, scale, centres in rows
        ]


def _stacked(arrays: list[F64]) -> F64:
    return np.stack(arrays) if arrays else np.empty(0)
