"""What commands read and change of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..attribution import Attribution
from ..catalog import Catalog
from ..churn import Churn
from ..clock import Clock
from ..events import I32
from ..features import Features
from ..lifecycle import Lifecycle
from ..lineage import Lineage
from ..membership import Membership
from ..users import Users
from ..values import Told
from ..warmup import Warmup


class Teller(Protocol):
    """Who publishes what came of a command."""

    def answered(self, told: Told) -> None: ...
    def born(self, lineage: Sequence[Lineage]) -> None: ...


class House(Protocol):
    """What commands read and change of the pipeline."""

    config_hash: str
    clock: Clock
    users: Users
    features: Features
    warmup: Warmup
    membership: Membership
    attribution: Attribution
    catalog: Catalog
    churn: Churn
    lifecycle: Lifecycle

    @property
    def narrator(self) -> Teller: ...
    def versions(self) -> dict[str, str | int]: ...
    def forget(self, slots: I32) -> None: ...
