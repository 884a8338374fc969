"""A snapshot of an older version of the format is brought up to date when it is loaded."""

import pytest
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream import migrations, packing, snapshots
from shoal.stream.migrations import migrate
from shoal.stream.packing import FORMAT
from shoal.stream.snapshots import DirectoryStore, NoStore
from shoal.stream.sources import MemorySource


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


class Reading(MemorySource):
    """Remembers where replay began."""

    first = None

    def read(self, ranges):
        if self.first is None and ranges:
            self.first = ranges[0].start
        return super().read(ranges)


@pytest.mark.parametrize("step", [7, 28, 49])
def test_a_snapshot_of_an_older_version_is_loaded_and_goes_on_to_the_same_bytes(
    whole, tmp_path, step, monkeypatch
):
    """The state that a migration gives is the one that is restored; nothing is replayed in between."""
    sink, captured = MemorySink(), Captured(step)
    captured.engine = engine(_config(), sink=sink, store=captured)
    captured.engine.run()
    hidden = {"step": step, "manifest_hash": captured.body["manifest_hash"], "old": captured.body["state"]}
    DirectoryStore(tmp_path, 9).save(step, hidden.pop("manifest_hash"), lambda: {"old": hidden["old"]})

    def reveal(body):
        return {**body, "state": body["state"]["old"]}

    for module in (migrations, snapshots):
        monkeypatch.setattr(module, "FORMAT", FORMAT + 1)
    monkeypatch.setattr(migrations, "MIGRATIONS", {FORMAT: reveal})
    source = Reading([events()])
    engine(_config(), source, sink, DirectoryStore(tmp_path, 9)).run()
    assert source.first == step * 64
    assert sink.records == whole.records
    assert list(sink.manifests()) == list(whole.manifests())


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


def test_a_snapshot_of_a_version_to_come_is_passed_over(tmp_path, monkeypatch, caplog):
    """Whoever goes back to an older Shoal replays, too."""
    monkeypatch.setattr(packing, "FORMAT", FORMAT + 1)
    DirectoryStore(tmp_path, 9).save(7, "a", dict)
    monkeypatch.undo()
    assert list(DirectoryStore(tmp_path, 9).newest(100)) == []
    assert str(FORMAT + 1) in caplog.text
