"""Runs plans of the proof by hand, in the folder `tests`.

python -m proof SEED                    the plan of a seed again: what struck, who ended, the outcome
python -m proof SEED --fault 12:kill    a plan of one's own (see --help)
python -m proof --sweep FIRST LAST      many seeds, and a table of fault x count x divergences
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence

from .kit import small_portions
from .oracle import committed_manifests
from .plans import command, drawn
from .world import Fault, Plan, World, prove


def show(plan: Plan) -> None:
    print(plan)
    world = World(plan)
    world.told = print
    with small_portions():
        world.run()
        world.check()
    print(
        f"{len(committed_manifests(world.kafka))} steps, {len(world.labels)} I/O points: the same bytes as an "
        "uninterrupted run"
    )


def sweep(first: int, last: int) -> None:
    logging.getLogger("shoal").setLevel(logging.CRITICAL)
    struck: Counter[str] = Counter()
    diverged: Counter[str] = Counter()
    points = takeovers = 0
    for seed in range(first, last + 1):
        try:
            world = prove(drawn(seed))
        except Exception as error:
            diverged.update({fault.kind for fault in drawn(seed).faults.values()})
            print(f"{command(drawn(seed))}: {type(error).__name__}: {error}")
        else:
            struck += world.struck
            points += len(world.labels)
            takeovers += world.kafka.group.generation - 1
    print(f"{last - first + 1} seeds, {points} I/O points, {takeovers} changes of the owner")
    print(f"{'fault':10} {'struck':>7} {'divergences of runs with it':>28}")
    for kind in sorted({*struck, *diverged}):
        print(f"{kind:10} {struck[kind]:7} {diverged[kind]:28}")


def fault_of(text: str) -> tuple[int, Fault]:
    number, kind, seconds = (*text.split(":"), "0")[:3]
    return int(number), Fault(kind, float(seconds))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "proof", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("seed", type=int, nargs="?")
    found.add_argument("--sweep", type=int, nargs=2, metavar=("FIRST", "LAST"))
    found.add_argument("--fault", type=fault_of, action="append", metavar="POINT:KIND[:SECONDS]")
    found.add_argument("--encoder", choices=("identity", "linear", "autoencoder"), default="identity")
    found.add_argument("--records", type=int, default=48)
    found.add_argument("--engines", type=int, default=1)
    found.add_argument("--switch", type=float, default=0.0)
    found.add_argument("--lies", action="store_true")
    found.add_argument("--markers-late", action="store_true")
    return found


def plan_of(arguments: Sequence[str]) -> Plan:
    """What `command` wrote: a seed alone, or a seed with every option that is not the default."""
    given = vars(parser().parse_args(arguments))
    faults = given.pop("fault")
    del given["sweep"]
    return Plan(**given, faults=dict(faults or ())) if len(arguments) > 1 else drawn(given["seed"])


def main(arguments: Sequence[str]) -> None:
    given = parser().parse_args(arguments)
    if given.sweep:
        sweep(*given.sweep)
    elif given.seed is None:
        parser().error("give a seed, or --sweep FIRST LAST")
    else:
        show(plan_of(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
