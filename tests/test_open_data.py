"""Real events: three openly licensed files run to their end, every line accounted for, twice the same bytes."""

import gzip
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from conftest import ROOT

from shoal.stream.cli import shoal

pytestmark = pytest.mark.data

FILES = {
    "online_retail_to_2011-06": (245_903, "online_retail.toml"),
    "completejourney": (83_691, "complete_journey.toml"),
    "otto_sample": (862, "otto.toml"),
}


def _config(name: str) -> str:
    """The field map that the project ships for this data set."""
    return str(ROOT / "deploy" / "maps" / FILES[name][1])


def _run(data_dir: Path, name: str, folder: Path, output: str) -> dict:
    arguments = ["run", "--config", _config(name), "--input", str(data_dir / f"{name}.jsonl.gz")]
    done = CliRunner().invoke(shoal, [*arguments, "--output", str(folder / output), "--json"])
    assert done.exit_code == 0, done.output
    return orjson.loads(done.stdout)


def _total(counts: dict) -> int:
    return counts["accepted"] + counts["duplicates"] + counts["late"] + sum(counts["rejected"].values())


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_runs_to_its_end_and_every_line_is_counted_once(data_dir, tmp_path, name):
    """accepted + duplicates + late + rejected is the number of lines; segments come out."""
    counts = _run(data_dir, name, tmp_path, "out")
    with gzip.open(data_dir / f"{name}.jsonl.gz") as file:
        assert sum(1 for _ in file) == FILES[name][0]
    assert counts["records"] == _total(counts) == FILES[name][0]
    assert counts["late"] == counts["duplicates"] == 0, "these files are in order and without duplicates"
    assert sum(segment["users"] for segment in counts["segments"]) > 0


def test_events_without_a_user_are_rejects_and_not_users(data_dir, tmp_path):
    """69,014 lines of the retail file name nobody: rejected with their bytes, and no user comes of them."""
    counts = _run(data_dir, "online_retail_to_2011-06", tmp_path, "out")
    assert counts["accepted"] == 176_889
    assert counts["rejected"] == {"schema": 69_014}
    rejected = (tmp_path / "out" / "behavior.rejected.jsonl").read_bytes().splitlines()
    assert len(rejected) == 69_014
    assert all(orjson.loads(orjson.loads(line)["value"]).get("user_id") is None for line in rejected)
    members = (tmp_path / "out" / "segment.members.jsonl").read_bytes().splitlines()
    assert {orjson.loads(line)["key"] for line in members}.isdisjoint({"", "None", "null"})


def test_two_runs_over_one_file_write_the_same_bytes(data_dir, tmp_path):
    """Time comes from the events and chance from seeds: nothing differs, in any topic."""
    for output in ("one", "two"):
        _run(data_dir, "completejourney", tmp_path, output)
    one = {path.name: path.read_bytes() for path in (tmp_path / "one").glob("*.jsonl")}
    two = {path.name: path.read_bytes() for path in (tmp_path / "two").glob("*.jsonl")}
    assert one == two
    assert len(one) >= 5


def test_a_real_run_can_be_verified(data_dir, tmp_path):
    """Manifest and input alone give the published bytes again."""
    _run(data_dir, "otto_sample", tmp_path, "out")
    arguments = ["--config", _config("otto_sample"), "--output", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(
        shoal, ["verify", "--input", str(data_dir / "otto_sample.jsonl.gz"), *arguments]
    )
    assert done.exit_code == 0, done.output
    assert orjson.loads(done.stdout)["same"] is True
