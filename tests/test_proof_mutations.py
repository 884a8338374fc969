"""The proof itself is proved: engines that are broken on purpose are caught by it, each within few plans.

Every mutation is a way to build this engine that looks right and was, somewhere, shipped. It is put in by a
small subclass or a patched function; the plans are those of `test_proof_kafka.py`, which the real parts pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest
from proof import storage
from proof.client import FakeClient, FakeLog, FakeProducer, Wire
from proof.kit import Parts
from proof.log import Stored
from proof.oracle import Divergence
from proof.plans import everywhere
from proof.world import Fault, Plan, prove

from shoal.encoders.autoencoder import Autoencoder
from shoal.sinks.kafka import KafkaSink
from shoal.stream import replica
from shoal.stream.engine import Engine
from shoal.stream.events import Manifest, Output, Range, Records, Step
from shoal.stream.kafka.port import ClientError
from shoal.stream.packing import unpack
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import CommitUnknown, ReplayMismatch, Source, SourceGone, State
from shoal.stream.snapshots import DirectoryStore, NoStore

pytestmark = pytest.mark.slow
RUN = Plan(seed=1, records=40)
CAUGHT = (Divergence, ReplayMismatch, SourceGone)
Plans = Callable[[], Iterable[Plan]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("shoal")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def catch(plans: Iterable[Plan], parts: Parts) -> tuple[int, Exception]:
    """How many plans it took, and what was said."""
    for number, plan in enumerate(plans, 1):
        try:
            prove(replace(plan, parts=parts))
        except CAUGHT as error:
            return number, error
    raise AssertionError("nobody noticed")


def twice(kind: str, **base: Any) -> Iterator[Plan]:
    """The fault at each point, and again a step or two later."""
    for plan in everywhere(replace(RUN, **base), Fault(kind)):
        (first,) = plan.faults
        for distance in (25, 35, 45):
            yield replace(plan, faults={first: Fault(kind), first + distance: Fault(kind)})


def struck(kind: str, seconds: float = 0.0, **base: Any) -> Plans:
    return lambda: everywhere(replace(RUN, **base), Fault(kind, seconds))


# --- the transaction ----------------------------------------------------------------------------------------------


class OffsetsFirst(KafkaSink):
    """Positions are committed by themselves, before the outputs: a crash in between loses a step."""

    def commit(self, output: Output) -> None:
        self._client.commit_alone({r.partition: r.end for r in output.manifest.ranges})  # type: ignore[attr-defined]
        super().commit(output)


class WithoutOffsets(FakeProducer):
    def send_offsets(self, topic: str, offsets: Mapping[int, int], member: Any, timeout_s: float) -> None:
        pass


class CommitsAlone(FakeClient):
    producer_class = WithoutOffsets

    def commit_alone(self, offsets: Mapping[int, int]) -> None:
        self._wire.say("producer: offsets alone", lambda: self._wire.kafka.group.offsets.update(offsets))


class TriesAgain(KafkaSink):
    """The producer of a failed transaction is used for the next try."""

    def commit(self, output: Output) -> None:
        try:
            super().commit(output)
        except CommitUnknown:
            self._usable = True
            super().commit(output)


class Careless(FakeProducer):
    """flush() returns, so everything must be there."""

    def deliver(self, topic: str, partition: int, records: Any) -> None:
        try:
            super().deliver(topic, partition, records)
        except ClientError as error:
            if error.fenced:
                raise


class FuturesUnchecked(FakeClient):
    producer_class = Careless


class NeverReadsBack(KafkaSink):
    """The library said that it committed."""

    def confirm(self) -> None:
        self._unconfirmed = None


class Unfenced(FakeClient):
    """Every process has a transactional id of its own: nobody is fenced."""

    _numbers = count()

    def __init__(self, wire: Wire) -> None:
        super().__init__(replace(wire, transactional_id=f"shoal-{next(self._numbers)}"))


class ReadsUncommitted(FakeClient):
    """The manifest topic is read to its end, whatever became of the transactions."""

    def log(self, topic: str) -> FakeLog:
        return UncommittedLog(self._wire, topic)


class UncommittedLog(FakeLog):
    def bounds(self) -> dict[int, tuple[int, int]]:
        return {p: (0, len(part)) for p, part in enumerate(self._wire.kafka.topic(self._topic))}

    def read(self, partition: int, start: int, end: int) -> Iterator[Stored]:
        super().read(partition, start, end)
        yield from self._wire.kafka.topic(self._topic)[partition].read(start, end, committed=False)


# --- steps and their boundaries -----------------------------------------------------------------------------------


class WrongBoundary(Engine):
    """The manifest says that the step ended one record earlier."""

    def _step(self, records: Records, ranges: tuple[Range, ...], closing: bool = False) -> None:
        first, *others = ranges or [Range(0, 0, 0)]
        shorter = replace(first, end=max(first.start, first.end - 1))
        super()._step(records, (shorter, *others) if ranges else (), closing)


def recut(pipeline: Pipeline, source: Source, manifest: Manifest) -> Output:
    """Boundaries are nobody's business: what was one step is computed in two."""
    records = source.read(manifest.ranges)
    half = len(records) // 2
    for part in (take(records, 0, half), take(records, half, len(records))):
        output = pipeline.step(
            Step(manifest.step, manifest.ranges, part, manifest.as_of_ms, manifest.closing, manifest.source)
        )
    return replace(output, manifest=manifest, counts=manifest.counts)


def take(records: Records, start: int, end: int) -> Records:
    return Records(
        records.partitions[start:end], records.offsets[start:end], records.keys[start:end],
        records.values[start:end],
    )  # fmt: skip


def unchecked(pipeline: Pipeline, source: Source, manifest: Manifest) -> Output:
    """Recorded steps are computed again, and believed."""
    records = source.read(manifest.ranges)
    return pipeline.step(
        Step(manifest.step, manifest.ranges, records, manifest.as_of_ms, manifest.closing, manifest.source)
    )


# --- snapshots ----------------------------------------------------------------------------------------------------


class Unsynced:
    """A disk whose syncs do nothing until somebody looks."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def sync(self, path: Path) -> None:
        pass


class BelievesAnything(DirectoryStore):
    """A snapshot is renamed before its bytes are on the disk, and its hash is not looked at."""

    def __init__(self, directory: Path, kept: int, disk: Any, clock: Any) -> None:
        super().__init__(directory, kept, Unsynced(disk), clock)

    def _load(self, name: str) -> State | None:
        try:
            with self._disk.open(self._directory / name) as file:
                return unpack(file.read())
        except (OSError, ValueError, KeyError, TypeError):
            return None


class SavesTooEarly(Engine):
    """A snapshot is kept before its step is committed, and believed without a look at the manifests."""

    def _step(self, records: Records, ranges: tuple[Range, ...], closing: bool = False) -> None:
        commit = self.sink.commit

        def early(output: Output) -> None:
            before = self.steps, self.positions, self.counts
            self.positions = dict(self.positions)
            self.advance(output)
            self.maybe_save()
            self.steps, self.positions, self.counts = before
            commit(output)

        self.sink.commit = early  # type: ignore[method-assign]
        try:
            super()._step(records, ranges, closing)
        finally:
            self.sink.commit = commit  # type: ignore[method-assign]

    def _load(self, last: Manifest) -> None:
        for step, _, state in self.store.newest(not_past=last.step):
            self._restore(state)
            self.steps = step
            return


def without_optimiser(snapshot: Callable[[Autoencoder], State]) -> Callable[[Autoencoder], State]:
    """Weights are all there is to a model."""

    def kept(self: Autoencoder) -> State:
        state = snapshot(self)
        return state | {name: 0 * state[name] for name in ("first", "second")}

    return kept


# --- caught -------------------------------------------------------------------------------------------------------

MUTATIONS: Mapping[str, tuple[Parts, Plans]] = {
    "offsets committed before the outputs": (Parts(sink=OffsetsFirst, client=CommitsAlone), struck("kill")),
    "a producer used again after an error": (Parts(sink=TriesAgain), struck("lost")),
    "futures not checked": (Parts(client=FuturesUnchecked), struck("lost")),
    "a commit that is never read back": (Parts(sink=NeverReadsBack), struck("abort", lies=True)),
    "no fence": (Parts(client=Unfenced), struck("pause", 1.5, engines=2, seed=4)),
    "manifests of aborted transactions believed": (Parts(client=ReadsUncommitted), struck("kill")),
    "a step boundary recorded wrongly": (Parts(engine=WrongBoundary), struck("kill")),
    "a snapshot of a step that was never committed": (
        Parts(engine=SavesTooEarly),
        lambda: twice("kill", seed=3),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_engine_is_caught(name: str) -> None:
    """By what subscribers would see, within the plans that the real engine passes."""
    parts, plans = MUTATIONS[name]
    catch(plans(), parts)


def test_step_boundaries_that_replay_does_not_keep_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "replay", recut)
    catch(struck("kill")(), Parts(store=no_store))


def test_an_unflushed_snapshot_that_is_believed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is so large that it holds a snapshot's header: what is torn is not seen at once."""
    monkeypatch.setattr(storage, "BLOCK_BYTES", 8_448)
    plans = chain.from_iterable(struck("power", seed=seed)() for seed in range(1, 6))
    with pytest.raises(AssertionError, match="no blocks of these windows"):  # the windows see for themselves
        catch(plans, Parts(store=BelievesAnything))


def test_optimiser_state_left_out_of_a_snapshot_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = list(everywhere(Plan(seed=2, records=60, encoder="autoencoder"), Fault("kill")))
    monkeypatch.setattr(Autoencoder, "snapshot", without_optimiser(Autoencoder.snapshot))
    catch(reversed(plans), Parts())


def test_a_replay_that_compares_no_hashes_is_caught_where_the_input_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine as it is stops by itself, with a name for it; the one that believes goes on to a divergence."""
    plans = list(everywhere(RUN, Fault("rewrite")))[30:]
    _, error = catch(plans, Parts(store=no_store))
    assert isinstance(error, ReplayMismatch)
    monkeypatch.setattr(replica, "replay", unchecked)
    _, error = catch(plans, Parts(store=no_store))
    assert isinstance(error, Divergence)


def no_store(*_: object) -> NoStore:
    return NoStore()
