"""Exactly once, simulated: whatever strikes, subscribers see the bytes of a run that was never interrupted.

`proof/world.py` says which faults there are, `proof/oracle.py` what is compared. A plan that fails prints the
command that runs it again. SHOAL_PROOF_SEEDS=10000 in the environment proves more seeds,
SHOAL_PROOF_FIRST_EVERY=1 every pair of crashes; `python -m proof --sweep 0 9999` prints a table.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from proof import oracle
from proof.__main__ import plan_of
from proof.plans import KINDS, command, drawn, everywhere, in_recovery
from proof.world import Fault, Plan, World, prove

pytestmark = pytest.mark.slow
SEEDS = int(os.environ.get("SHOAL_PROOF_SEEDS", "1000"))
CHUNKS = 20
FIRST_EVERY = int(os.environ.get("SHOAL_PROOF_FIRST_EVERY", "6"))
SMALL_RUN = Plan(seed=1, records=48)
LEARNING_RUN = Plan(seed=2, records=40, encoder="autoencoder", lies=True, markers_late=True)
TWO_ENGINES = Plan(seed=4, records=40, engines=2, lies=True)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("shoal")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def proven(plan: Plan) -> World:
    try:
        return prove(plan)
    except Exception as error:
        raise AssertionError(
            f"{type(error).__name__}: {error}\nagain, in the folder tests: {command(plan)}"
        ) from error


# --- every point ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "fault"),
    [
        *((SMALL_RUN, Fault(kind)) for kind in ("kill", "power", "lost", "abort")),
        (SMALL_RUN, Fault("pause", 4.0)),
        (LEARNING_RUN, Fault("kill")),
    ],
    ids=lambda value: value.encoder if isinstance(value, Plan) else f"{value.kind}-{value.seconds:g}",
)
def test_a_fault_at_any_point_of_a_run_changes_nothing(base: Plan, fault: Fault) -> None:
    """Killed, without power or answer, paused beyond the session or the transaction: at each I/O point in turn."""
    worlds = [proven(plan) for plan in everywhere(base, fault)]
    assert len(worlds) > 60
    assert sum(world.struck[fault.kind] for world in worlds) == len(worlds)


@pytest.mark.parametrize("seconds", [1.5, 4.0])
def test_a_zombie_that_wakes_at_any_point_commits_nothing(seconds: float) -> None:
    """Two engines; the one that works stands still at each point in turn while the other takes over."""
    worlds = [proven(plan) for plan in everywhere(TWO_ENGINES, Fault("pause", seconds))]
    assert sum(world.kafka.group.generation > 1 for world in worlds) > len(worlds) / 2


@pytest.mark.parametrize("kind", ["kill", "power"])
def test_a_second_fault_at_any_point_of_the_recovery_changes_nothing(kind: str) -> None:
    """For first crashes all over the run: another one at each point until the engine reads new input again."""
    pairs = 0
    for first in list(everywhere(SMALL_RUN, Fault(kind)))[3::FIRST_EVERY]:
        for plan in in_recovery(proven(first), Fault("kill")):
            proven(plan)
            pairs += 1
    assert pairs > 100


# --- by chance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_schedule_of_faults_changes_nothing(chunk: int) -> None:
    """Seeds: up to three engines, up to twelve faults of all kinds, encoders that learn, snapshots that lie."""
    struck: Counter[str] = Counter()
    for seed in range(chunk, SEEDS, CHUNKS):
        struck += proven(drawn(seed)).struck
    assert SEEDS < 1000 or set(struck) == set(KINDS), "some kind of fault never struck"


def test_a_seed_is_a_run() -> None:
    """The same plan passes the same points at the same times, so that what failed once fails again."""
    for seed in (11, 13, 15):
        first, second = proven(drawn(seed)), proven(drawn(seed))
        assert first.clock.now_s == second.clock.now_s
        assert [stored for _, stored in seen(first)] == [stored for _, stored in seen(second)]


def test_the_command_that_a_failure_prints_runs_the_same_plan() -> None:
    faults = {12: Fault("pause", 1.5), 40: Fault("kill")}
    own = Plan(seed=5, faults=faults, engines=2, switch=0.1, markers_late=True)
    for plan in (drawn(7), own):
        python, _, module, *arguments = command(plan).split()
        assert (python, module) == ("python", "proof")
        assert plan_of(arguments) == plan


def seen(world: World) -> Iterator[tuple[str, object]]:
    for topic, parts in world.kafka.topics.items():
        for part in parts:
            yield from ((topic, stored) for stored in part.read(0, len(part)))


def test_the_simulated_run_means_something() -> None:
    """Segments are born, users change them, weights are published, records rejected, snapshots kept."""
    world = proven(replace(LEARNING_RUN, records=80))
    topics = Counter(topic for topic, _ in seen(world))
    assert topics["segment.changes"] > 10
    assert topics["behavior.rejected"] > 0
    assert oracle.committed_manifests(world.kafka)[-1].versions["encoder"] >= 2
    assert any("rename snapshot" in label for label in world.labels)
