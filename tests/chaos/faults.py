"""The deck: everything that is done to engines, broker and disks. Each fault ends healed; then progress is due."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .field import Field, Life
from .points import COMMITTING, FREEZE, SAVING, Order

_DISK_BYTES = 64 << 10
"""What the "full" disk still takes in one file: a log, not a snapshot."""


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[Field], None]


# --- engines die --------------------------------------------------------------------------------------------


def kill_leader(field: Field) -> None:
    leader = field.leader()
    field.sometime()
    field.succeeded(field.kill(leader))


def kill_at(point: str, field: Field) -> None:
    times = field.chance.randint(1, 12) if point == "while sending" else 1
    delay_ms = field.chance.randint(0, 15) if point == "during commit" else 0
    field.succeeded(field.leader_struck(Order(point, times, delay_ms=delay_ms)))


def kill_standby(field: Field) -> None:
    standby = field.standby()
    field.sometime()
    field.kill(standby)


def kill_while_following(field: Field) -> None:
    leader = field.leader()
    field.struck(
        Order("following"), lambda: [engine for engine in field.crew.engines if engine is not leader]
    )


def kill_while_loading(field: Field) -> None:
    """One that has snapshots starts anew, and dies with one half in its hands."""
    standby = field.until(
        lambda: next(
            (e for e in field.crew.engines if e is not field.crew.leader() and len(e.snapshots()) > 1), None
        ),
        "an engine that stands by has snapshots",  # more than one: the newest may be one that was damaged
    )
    assert standby is not None
    with field.rest(standby):
        field.kill(standby)
        standby.start(Order("loading a snapshot"))
        field.until(lambda: not standby.alive, f"engine {standby.name} dies loading a snapshot")


def kill_while_taking_over(point: str, field: Field) -> None:
    """The leader dies, and the next one while it takes over."""
    leader = field.leader()
    others = [engine for engine in field.crew.engines if engine is not leader]
    with field.rest(leader):
        for engine in others:
            engine.order(Order(point))
        field.kill(leader)
        field.struck(Order(point), lambda: others)


def kill_while_replaying(field: Field) -> None:
    """All die; one starts alone, computes again what was committed since its snapshot, and dies over it."""
    with field.rest(*field.crew.engines):
        for engine in field.crew.engines:
            field.kill(engine)
        first = field.chance.choice(field.crew.engines)
        first.start(Order(field.chance.choice(("replaying", "following", "loading a snapshot"))))
        field.until(lambda: not first.alive or field.crew.leader() is first, f"{first.name} dies, or works")


def kill_all(field: Field) -> None:
    """The power goes."""
    for engine in field.crew.engines:
        engine.signal(signal.SIGKILL)


def stop_leader(field: Field) -> None:
    """An orderly stop: the work moves to another engine."""
    leader = field.leader()
    with field.rest(leader):
        leader.signal(signal.SIGTERM)
        field.succeeded(Life(leader, leader.pid))
        field.until(lambda: not leader.alive, f"{leader.name} ends when it is told to")


def kill_while_stopping(field: Field) -> None:
    leader = field.leader()
    leader.order(Order("leaving the group"))
    life = Life(leader, leader.pid)
    leader.signal(signal.SIGTERM)
    field.succeeded(life)


# --- engines freeze, and wake as zombies ----------------------------------------------------------------------


def zombie(field: Field) -> None:
    """Frozen at any moment, replaced, awake again: two believe that they work."""
    leader = field.leader()
    field.sometime()
    _awake_as_zombie(field, field.freeze(leader))


def zombie_at(point: str, field: Field) -> None:
    _awake_as_zombie(field, field.leader_struck(Order(point, field.chance.randint(1, 3), FREEZE)))


def _awake_as_zombie(field: Field, frozen: Life) -> None:
    field.succeeded(frozen)
    if field.chance.random() < 0.5:
        field.progress()
    field.thaw(frozen.engine)


def nap_at(point: str, field: Field) -> None:
    """Frozen for longer than a transaction may take, but not long enough to be replaced."""
    frozen = field.leader_struck(Order(point, field.chance.randint(1, 3), FREEZE))
    field.pause(field.transaction_timeout_s + 0.6)
    field.thaw(frozen.engine)


def freeze_all(field: Field) -> None:
    """The machine is suspended for longer than every timeout but the broker's patience."""
    for engine in field.crew.engines:
        engine.signal(signal.SIGSTOP)
    field.pause(field.transaction_timeout_s + 2.5)
    for engine in field.crew.engines:
        field.thaw(engine)


# --- the broker -------------------------------------------------------------------------------------------------


def freeze_broker(seconds: float, field: Field) -> None:
    field.sometime()
    with field.broker.frozen():
        field.pause(seconds)


def kill_broker(field: Field) -> None:
    field.sometime()
    field.broker.kill()
    field.broker.start()


def restart_broker(field: Field) -> None:
    field.broker.stop()
    field.broker.start()


def kill_broker_at(point: str, field: Field) -> None:
    """The broker dies in the middle of a transaction whose producer does not."""
    frozen = field.leader_struck(Order(point, 1, FREEZE))
    field.broker.kill()
    field.thaw(frozen.engine)
    field.broker.start()


def kill_leader_and_freeze_broker(field: Field) -> None:
    leader = field.leader()
    with field.broker.frozen():
        field.kill(leader)
        field.pause(field.chance.uniform(0.2, 2.0))


# --- disks ------------------------------------------------------------------------------------------------------


def spoil_snapshots(spoil: Callable[[Path, random.Random], object], field: Field) -> None:
    """While an engine is down, its newest snapshot is damaged; whoever meets it takes an older one."""
    field.until(lambda: any(engine.snapshots() for engine in field.crew.engines), "there is a snapshot")
    engine = field.chance.choice([engine for engine in field.crew.engines if engine.snapshots()])
    with field.rest(engine):
        field.kill(engine)
        for path in engine.snapshots()[-field.chance.randint(1, 2) :]:
            spoil(path, field.chance)


def flip_bit(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut_short(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def lose(path: Path, chance: random.Random) -> None:
    path.unlink()


def fill_disk(field: Field) -> None:
    """No snapshot can be written for a while; then the leader dies without having had a recent one."""
    leader = field.leader()
    _, most = resource.prlimit(leader.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(leader.pid, resource.RLIMIT_FSIZE, (_DISK_BYTES, most))
    field.until(
        lambda: "could not be written" in leader.text or field.crew.leader() is not leader,
        f"engine {leader.name} notices that its disk is full",
    )
    field.kill(leader)


# --- the deck -----------------------------------------------------------------------------------------------------


def catalogue() -> list[Fault]:
    """One of each; what is likely in life stands several times."""
    return [
        *(4 * [Fault("leader killed, at any moment", kill_leader)]),
        *(Fault(f"leader killed {point}", partial(kill_at, point)) for point in (*COMMITTING, *SAVING)),
        *(2 * [Fault("standby killed", kill_standby)]),
        Fault("standby killed following", kill_while_following),
        Fault("standby killed loading a snapshot", kill_while_loading),
        Fault(
            "leader killed, the next before its fence", partial(kill_while_taking_over, "before the fence")
        ),
        Fault("leader killed, the next after its fence", partial(kill_while_taking_over, "after the fence")),
        Fault("all killed, the first again recovering", kill_while_replaying),
        *(2 * [Fault("all killed", kill_all)]),
        *(3 * [Fault("leader stopped (SIGTERM)", stop_leader)]),
        Fault("leader killed while stopping", kill_while_stopping),
        *(2 * [Fault("leader frozen and replaced (zombie), at any moment", zombie)]),
        *(
            Fault(f"leader frozen and replaced (zombie) {point}", partial(zombie_at, point))
            for point in ("before begin", "after begin", "while sending", "after flush", "after the offsets")
        ),
        *(
            Fault(f"leader frozen past the transaction timeout {point}", partial(nap_at, point))
            for point in ("after begin", "after flush", "after the offsets")
        ),
        Fault("all frozen for longer than every timeout", freeze_all),
        Fault("broker frozen for 0.5 s", partial(freeze_broker, 0.5)),
        *(2 * [Fault("broker frozen past the delivery timeout", partial(freeze_broker, 3.0))]),
        *(2 * [Fault("broker killed", kill_broker)]),
        Fault("broker restarted", restart_broker),
        Fault("broker killed while a commit was on its way", partial(kill_broker_at, "after the offsets")),
        Fault("leader killed while the broker was frozen", kill_leader_and_freeze_broker),
        Fault("snapshot damaged: a bit", partial(spoil_snapshots, flip_bit)),
        Fault("snapshot damaged: cut short", partial(spoil_snapshots, cut_short)),
        Fault("snapshot lost", partial(spoil_snapshots, lose)),
        *(2 * [Fault("disk full, then the leader killed", fill_disk)]),
    ]


def deck(chance: random.Random) -> Iterator[Fault]:
    """Without end: the whole catalogue in one order, then in another."""
    while True:
        faults = catalogue()
        chance.shuffle(faults)
        yield from faults
