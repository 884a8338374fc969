"""Exactly once over files, simulated: whatever the disk does, the files are those of an uninterrupted run.

`proof/files.py` says which faults there are and what is compared. A plan that fails prints the command that
runs it again. SHOAL_PROOF_SEEDS=5000 in the environment proves more seeds.
"""

from __future__ import annotations

import copy
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from proof.disk import ProcessDisk
from proof.files import KINDS, Fault, Machine, Plan, prove, uninterrupted

from shoal.sinks.commits import encode_commit
from shoal.sinks.files import FileSink
from shoal.sinks.lines import encode_line
from shoal.stream.events import CHANGES, MANIFEST, Output
from shoal.stream.manifest import decode_manifest
from shoal.stream.packing import unpack
from shoal.stream.ports import ShoalError, State
from shoal.stream.snapshots import DirectoryStore

pytestmark = pytest.mark.slow
SMALL_RUN = Plan(records=100)
DOUBLE_RUN = Plan(records=60)
SECOND = ("kill", "power", "blackout", "refused")
LIVES_MAX = 6
SEEDS = int(os.environ.get("SHOAL_PROOF_SEEDS", "200"))
ONE_SEED = os.environ.get("SHOAL_PROOF_SEED")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A snapshot that failed is a warning, and hundreds of them are not worth reading."""
    logger = logging.getLogger("shoal")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def points(plan: Plan) -> int:
    return len(uninterrupted(plan.encoder, plan.records).labels)


# --- every point ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kill", "power", "blackout", "refused", "full"])
def test_a_fault_at_any_point_of_a_run_changes_nothing(kind: str) -> None:
    """Killed, without power, refused, out of room: at each I/O point in turn; then once more, to the end."""
    for at in range(1, points(SMALL_RUN) + 1):
        machine = prove(replace(SMALL_RUN, seed=at, faults=[Fault(kind, at)]))
        assert machine.struck == {kind: 1}


@pytest.mark.parametrize("kind", ["kill", "power", "refused"])
def test_a_second_fault_at_any_point_of_the_recovery_changes_nothing(kind: str) -> None:
    """After first faults all over the run: another at each point until a step is committed again."""
    pairs = 0
    for at in range(2 + KINDS.index(kind), points(DOUBLE_RUN), 8):
        struck = Machine(replace(DOUBLE_RUN, seed=at))
        struck.live(Fault(kind, at))
        recovered = copy.deepcopy(struck).live()
        for again in range(1, (recovered.first_commit or len(recovered.labels)) + 1):
            machine = copy.deepcopy(struck)
            machine.live(Fault(SECOND[(at + again) % len(SECOND)], again))
            machine.check_end(machine.live())
            pairs += machine.struck.total() == 2
    assert pairs > 100


# --- by chance ----------------------------------------------------------------------------------------------------


def drawn(seed: int) -> Plan:
    """Up to six lives with a fault each, wherever it meets them, and any encoder."""
    dice = Random(f"plan {seed}")
    encoder = dice.choice(("identity",) * 8 + ("linear", "autoencoder"))
    plan = Plan(seed=seed, encoder=encoder, records=dice.choice((60, 60, 100)))
    ats = [dice.randint(1, dice.choice((20, points(plan)))) for _ in range(dice.randint(1, LIVES_MAX))]
    return replace(plan, faults=[Fault(dice.choice(KINDS), at) for at in ats])


def test_any_schedule_of_faults_changes_nothing() -> None:
    """Seed by seed; every kind of fault strikes often."""
    struck: Counter[str] = Counter()
    for seed in [int(ONE_SEED)] if ONE_SEED else range(SEEDS):
        try:
            struck += prove(drawn(seed)).struck
        except Exception as error:
            again = f"SHOAL_PROOF_SEED={seed} python -m pytest tests/test_proof_files.py -k schedule"
            raise AssertionError(f"{error!r}\n{drawn(seed)}\nagain: {again}") from error
    assert ONE_SEED or SEEDS < 200 or all(struck[kind] > SEEDS / 10 for kind in KINDS), struck


def test_the_simulated_run_means_something() -> None:
    """All files are written to, segments are born, weights published, users move, snapshots are kept and removed."""
    whole = uninterrupted("autoencoder", 140)
    assert all(whole.files.values())
    assert len(whole.files) == 6
    lines = whole.files[f"{MANIFEST}.jsonl"].splitlines()
    assert len(lines) >= 8
    last = decode_manifest(lines[-1].removeprefix(b'{"value":').split(b',"lengths"')[0])
    assert int(last.versions["encoder"]) >= 2
    assert whole.files[f"{CHANGES}.jsonl"].count(b'"transition":"moved"') > 5
    assert sum("rename snapshot" in label for label in whole.labels) >= 3
    assert any("remove snapshot-0" in label for label in whole.labels)


# --- the proof can fail -------------------------------------------------------------------------------------------


class TopicsUnsynced(FileSink):
    """Only the manifest line is synced."""

    def _append(self, bodies: Any) -> None:
        for topic, body in bodies.items():
            self._files[topic].write(body)
            if topic == MANIFEST:
                self._files[topic].sync()


class ManifestUnsynced(FileSink):
    """The topics are synced, the line that commits them is not."""

    def _append(self, bodies: Any) -> None:
        for topic, body in bodies.items():
            self._files[topic].write(body)
            if topic != MANIFEST:
                self._files[topic].sync()


class ManifestFirst(FileSink):
    """The line that names the records is written before them."""

    def commit(self, output: Output) -> None:
        bodies: dict[str, bytes] = {}
        for record in output.records:
            bodies[record.topic] = bodies.get(record.topic, b"") + encode_line(record)
        self._open_files((*bodies, MANIFEST))
        self._lengths |= {topic: self._files[topic].size() + len(body) for topic, body in bodies.items()}
        self._append({MANIFEST: encode_commit(output.manifest, dict(sorted(self._lengths.items())))})
        self._append(bodies)


class TailKept(FileSink):
    """What a killed process left behind the committed length stays."""

    def _cut(self, topic: str, length: int) -> None:
        pass


class NoFolderSync(ProcessDisk):
    def sync_folder(self, path: Path) -> None:
        pass


class NoRefresh(ProcessDisk):
    def refresh(self, path: Path, start: int) -> None:
        pass


class Insisting(ProcessDisk):
    """A sync that failed is tried again."""

    def sync_file(self, file: Any, path: Path) -> None:
        try:
            super().sync_file(file, path)
        except OSError:
            super().sync_file(file, path)


class NoSync(ProcessDisk):
    def sync_file(self, file: Any, path: Path) -> None:
        pass


def over(kind: type[ProcessDisk], make: Any = FileSink) -> Any:
    """A sink or a store over a disk that is treated in another way."""

    def made(directory: Path, *rest: Any) -> Any:
        *others, disk = [each for each in rest if not hasattr(each, "monotonic")]
        return make(directory, *others, kind(disk.disk, disk.points))

    return made


class Believing(DirectoryStore):
    """A snapshot that can be read is taken as it is; nobody looks at its hash."""

    def _load(self, name: str) -> State | None:
        with self._disk.open(self._directory / name) as file, suppress(ValueError, KeyError, TypeError):
            return unpack(memoryview(file.read()))
        return None


def at_once(kind: str, first: int = 1) -> Iterator[list[Fault]]:
    """One fault, at any point."""
    for at in range(first, points(SMALL_RUN) + 1):
        yield [Fault(kind, at)]


def without_power_after_a_refused_sync() -> Iterator[list[Fault]]:
    """A manifest line is given up by the disk, the next process goes on, and the power goes."""
    for at, label in enumerate(uninterrupted(SMALL_RUN.encoder, SMALL_RUN.records).labels, 1):
        if label == f"disk: sync {MANIFEST}.jsonl":
            yield from ([Fault("refused", at), Fault("blackout", again)] for again in range(1, 20))


def run_all(sink: Any, store: Any, schedules: Iterator[list[Fault]]) -> None:
    for seed, faults in enumerate(schedules):
        prove(replace(SMALL_RUN, seed=seed, faults=faults, sink=sink, store=store))


LATE = 20  # by this point a step is committed
STORE, DIFFERS = DirectoryStore, "computed again differs|state itself differs|wanted"
REFUSED = f"{DIFFERS}|no blocks of these windows"
MUTANTS = {
    "topics unsynced": (TopicsUnsynced, STORE, at_once("blackout", LATE), "power off: .*differs|were committed"),
    "manifest unsynced": (ManifestUnsynced, STORE, at_once("blackout", LATE), "was committed, step 0 is the last"),
    "manifest first": (ManifestFirst, STORE, at_once("kill"), "0 bytes, [0-9]+ were committed"),
    "tail kept": (TailKept, STORE, at_once("kill"), "wanted"),
    "folder unsynced": (over(NoFolderSync), STORE, at_once("blackout", LATE), "was committed, step 0 is the last"),
    "last line believed": (over(NoRefresh), STORE, without_power_after_a_refused_sync(), "shoal.manifest"),
    "sync tried again": (over(Insisting), STORE, at_once("refused"), "failed, and the engine went on"),
    "snapshot unsynced, and believed": (FileSink, over(NoSync, Believing), at_once("power", LATE), REFUSED),
    "snapshot believed": (FileSink, Believing, at_once("flip", LATE), REFUSED),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_variant_is_caught(name: str) -> None:
    """Each leaves out one thing that this proof is about; a proof that does not notice would prove nothing."""
    sink, store, schedules, says = MUTANTS[name]
    with pytest.raises((AssertionError, ShoalError), match=says):
        run_all(sink, store, schedules)
