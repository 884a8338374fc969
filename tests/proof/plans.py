"""Which faults strike where: every point in turn, pairs of points, or drawn from a seed.

A plan is all that a run depends on; `command` is the line that runs it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from .kit import INTACT
from .world import Fault, Plan, World, prove

KINDS = (
    *("kill",) * 5, *("power",) * 4, *("lost",) * 5, *("pause",) * 5, *("abort",) * 3,
    "stop", "join", "fresh", "night", *("damage",) * 2, "full",
)  # fmt: skip
PAUSES_S = (0.5, 1.5, 2.5, 4.0, 10.0)  # round the session's second and the transaction's three
POINTS_PER_RECORD = 1.7  # a run that is left alone has about so many
RECOVERED = "source: poll"


def drawn(seed: int) -> Plan:
    """One to eight faults of any kind, one to three engines, any encoder."""
    dice = Random(f"plan {seed}")
    records = dice.choice((50, 80, 120))
    points = int(POINTS_PER_RECORD * records)
    faults = {
        dice.randint(1, points): Fault(dice.choice(KINDS), dice.choice(PAUSES_S))
        for _ in range(dice.choice((1, 2, 3, 4, 6, 8)))
    }
    if dice.random() < 0.3:  # several close together: faults in the recovery from a fault
        first = dice.randint(1, points)
        faults |= {first + dice.randint(0, 40): Fault(dice.choice(KINDS), 4.0) for _ in range(4)}
    return Plan(
        seed=seed,
        faults=dict(sorted(faults.items())),
        encoder=dice.choice(("identity",) * 7 + ("linear",) * 2 + ("autoencoder",)),
        records=records,
        engines=dice.choice((1, 1, 2, 2, 3)),
        switch=dice.choice((0.0, 0.02, 0.1, 0.3)),
        lies=dice.random() < 0.5,
        markers_late=dice.random() < 0.5,
    )


def everywhere(base: Plan, fault: Fault) -> Iterator[Plan]:
    """The fault at each point of a run, one after the other."""
    for number in range(1, len(prove(base).labels) + 1):
        yield replace(base, faults={number: fault})


def in_recovery(first: World, fault: Fault) -> Iterator[Plan]:
    """After the one fault of a run that was made: another at each point up to where all goes on again."""
    (struck,) = first.plan.faults
    for number in range(struck + 1, len(first.labels) + 1):
        yield replace(first.plan, faults={**first.plan.faults, number: fault})
        if first.labels[number - 1] == RECOVERED:
            return


def command(plan: Plan) -> str:
    """What to type, in the folder `tests`, to see this plan run again."""
    plain = replace(plan, parts=INTACT)
    if plain == drawn(plan.seed):
        return f"python -m proof {plan.seed}"
    options = [f"--{name} {getattr(plan, name)}" for name in ("encoder", "records", "engines", "switch")]
    options += [f"--{name.replace('_', '-')}" for name in ("lies", "markers_late") if getattr(plan, name)]
    options += [f"--fault {number}:{fault.kind}:{fault.seconds}" for number, fault in plan.faults.items()]
    return f"python -m proof {plan.seed} {' '.join(options)}"
