"""A snapshot of an older version of the format is brought up to date when it is loaded."""

import hashlib

import numpy as np
import orjson
import pytest
import safetensors.numpy
from made import T0, Touch, columns, config
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream import migrations, snapshots
from shoal.stream.interest import Interest
from shoal.stream.migrations import MIGRATIONS, migrate
from shoal.stream.packing import FORMAT
from shoal.stream.snapshots import DirectoryStore, NoStore
from shoal.stream.sources import MemorySource
from shoal.stream.users import Users


@pytest.fixture(scope="module")
def whole() -> MemorySink:
    """An uninterrupted run."""
    sink = MemorySink()
    engine(_config(), sink=sink).run()
    return sink


def _config():
    """Few users fit, so that slots become free and are given again."""
    return small("features.users_max=100", "engine.step_records_max=64", "engine.snapshot_every_steps=7")


class Captured(NoStore):
    """Keeps what would be saved, and stops the engine after `step`."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.engine = None

    def save(self, step, manifest_hash, capture):
        if step == self._step:
            self.body = {"step": step, "manifest_hash": manifest_hash, "state": capture()}
            self.engine.stop()


def _layout_1(body):
    """As version 1 had it: only live users, and those with an interest, each with its slot."""
    pipeline = body["state"]["pipeline"]
    users, interest = pipeline["users"], pipeline["features"]["interest"]
    live = np.array([slot for slot, name in enumerate(users["names"]) if name], np.int32)
    users |= {name: users[name][live] for name in ("last_ms", "first_ms", "events_seen")}
    users |= {"names": [users["names"][slot] for slot in live.tolist()], "slots": live}
    touched = np.flatnonzero(interest["reference_ms"])
    interest |= {name: interest[name][touched] for name in ("sums", "reference_ms")} | {"slots": touched}
    return body


def _pack_1(tree) -> bytes:
    """As version 1 wrote it, by its own words: flat arrays, their shapes and the ends of texts in the tree."""
    arrays = {}

    def put(value):
        arrays[str(len(arrays))] = np.ascontiguousarray(value).reshape(-1)
        return str(len(arrays) - 1)

    def flatten(value):
        if isinstance(value, dict):
            return {"d": {key: flatten(inner) for key, inner in value.items()}}
        if isinstance(value, np.ndarray):
            return {"a": put(value), "s": list(value.shape)}
        if isinstance(value, bytes):
            return {"b": put(np.frombuffer(value, np.uint8))}
        if isinstance(value, (list, tuple)) and len(value) > 32 and all(isinstance(v, str) for v in value):
            raw = [v.encode("utf-8", "surrogatepass") for v in value]
            ends = np.cumsum([len(v) for v in raw], dtype=np.int64)
            return {"t": [put(np.frombuffer(b"".join(raw), np.uint8)), put(ends)]}
        if isinstance(value, (list, tuple)):
            return {"l": [flatten(inner) for inner in value]}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
            return {"i": str(value)}
        return {"v": value}

    plain = orjson.dumps(flatten(tree)).decode()
    return safetensors.numpy.save(arrays, metadata={"format": "1", "tree": plain})


class Reading(MemorySource):
    """Remembers where replay began."""

    first = None

    def read(self, ranges):
        if self.first is None and ranges:
            self.first = ranges[0].start
        return super().read(ranges)


@pytest.mark.parametrize("step", [7, 28, 49])
def test_a_snapshot_of_version_1_is_loaded_and_goes_on_to_the_same_bytes(whole, tmp_path, step):
    """Also where slots are free: written by the old code, restored by this one, nothing is replayed in between."""
    sink, captured = MemorySink(), Captured(step)
    captured.engine = engine(_config(), sink=sink, store=captured)
    captured.engine.run()
    data = _pack_1(_layout_1(captured.body))
    name = f"snapshot-{step:012d}-{hashlib.blake2b(data, digest_size=8).hexdigest()}.safetensors"
    (tmp_path / name).write_bytes(data)
    source = Reading([events()])
    engine(_config(), source, sink, DirectoryStore(tmp_path, 9)).run()
    assert source.first == step * 64
    assert sink.records == whole.records
    assert list(sink.manifests()) == list(whole.manifests())


def test_free_slots_stay_free():
    """Rows of live users go back to their own slots; what was free in between is empty, and given in the same order."""
    users, interest = Users(config()), Interest(config())
    touches = [Touch(f"user {i}", T0 + i, tokens=("a",)) for i in range(9)]
    slots = users.touch(columns(touches))
    interest.update(slots, columns(touches))
    for gone in (np.array([5, 2], np.int32), np.array([8], np.int32)):
        users.release(gone)
        interest.clear(gone)

    def body():
        features = {"interest": interest.snapshot()}
        return {"state": {"pipeline": {"users": users.snapshot(), "features": features}}}

    found, wanted = migrate(_layout_1(body()), 1)["state"]["pipeline"], body()["state"]["pipeline"]
    assert wanted["users"]["names"][2] == ""
    restored = Users(config())
    restored.restore(found["users"])
    assert len(restored) == len(users) == 6
    for one, other in (
        (found["users"], wanted["users"]),
        (found["features"]["interest"], interest.snapshot()),
    ):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_a_damaged_snapshot_of_version_1_is_passed_over(tmp_path, caplog):
    """Its hash is another one, and is checked all the same."""
    data = _pack_1({"step": 7, "manifest_hash": "a", "state": {}})
    digest = hashlib.blake2b(data, digest_size=8).hexdigest()
    (tmp_path / f"snapshot-{7:012d}-{digest}.safetensors").write_bytes(data.replace(b"manifest", b"manifast"))
    assert list(DirectoryStore(tmp_path, 9).newest(100)) == []
    assert "its bytes do not match its name" in caplog.text


def test_the_oldest_version_goes_through_every_one_up_to_today(monkeypatch):
    """One function from each version to the next, in order."""
    monkeypatch.setattr(migrations, "FORMAT", 4)
    steps = {n: lambda body, n=n: {"went": [*body.get("went", []), n]} for n in (1, 2, 3)}
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    assert migrate({}, 1) == {"went": [1, 2, 3]}
    assert migrate({}, 3) == {"went": [3]}
    assert migrate({"as": "it is"}, 4) == {"as": "it is"}


def test_a_version_that_nothing_leads_from_is_passed_over(tmp_path, monkeypatch, caplog):
    """With its number; recovery replays more."""
    DirectoryStore(tmp_path, 9).save(7, "a", dict)
    for module in (migrations, snapshots):
        monkeypatch.setattr(module, "FORMAT", FORMAT + 1)
    assert list(DirectoryStore(tmp_path, 9).newest(100)) == []
    assert f"it has format {FORMAT}, and nothing leads from there to {FORMAT + 1}" in caplog.text


def test_every_version_before_this_one_has_its_migration():
    """Whoever raises FORMAT says how the state of the version before becomes one of the new."""
    assert sorted(MIGRATIONS) == list(range(1, FORMAT))
