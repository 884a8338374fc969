"""`shoal bench segmenter` measures every contestant on the same rows and says what is missing."""

import sys

import orjson
import pytest
from click.testing import CliRunner

from shoal.stream.benchmarks import segmenter, segmenter_runs
from shoal.stream.cli import shoal

PEERS = {"river", *(f"scikit-learn {b} {t}" for b in (256, 1024, 4096) for t in ("float32", "float64"))}


@pytest.fixture
def short(monkeypatch):
    """One pass each, as long as it takes."""
    monkeypatch.setattr(segmenter_runs, "PASSES_S", 0.0)
    monkeypatch.setattr(segmenter_runs, "RIVER_WORK", 2000)


def test_a_cell_holds_every_contestant(short):
    """All that are installed, with their rates, and the flips of float32."""
    cell = segmenter_runs.cell(4, 3, 1000, seed=1)
    names = set(cell["rows_per_s"]) - {"faiss assignment float32"}
    assert names == {"shoal float64", "shoal float32", *PEERS}
    assert min(cell["rows_per_s"].values()) > 0
    assert 0 <= cell["flips"] < 0.01


def test_faiss_is_a_contestant_only_where_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = segmenter_runs.rows_of(4, 3, 300, 1)
    assert set(segmenter_runs.contestants(rows, rows[:3])) == {"shoal float64", "shoal float32", *PEERS}


def _round(cells, speed):
    rates = dict.fromkeys(PEERS, 10.0) | {"shoal float64": 50.0 * speed, "shoal float32": 80.0 * speed}
    return {
        "matrix_flops": {"float64": 1e4, "float32": 2e4},
        "cells": [{"d": d, "k": k, "rows_per_s": rates, "flips": 0.001} for d, k in cells],
    }


def test_the_table_shows_medians_and_ratios_within_a_round(monkeypatch):
    """Three rounds of known rates; every figure by hand."""
    rounds = iter([_round([(16, 8)], speed) for speed in (1, 2, 9)])
    monkeypatch.setattr(segmenter, "result_of", lambda *_: next(rounds))
    monkeypatch.setattr(segmenter, "find_spec", lambda name: None)
    result = segmenter.measure(3, 1000, ((16, 8),), 1, 0, echo=False)
    (cell,) = result["cells"]
    assert cell["rows_per_s"]["shoal float64"] == 100
    assert cell["shoal float64"]["times"]["river"] == 10
    assert cell["shoal float64"]["matrix_share"] == 100 * 2 * 16 * 8 / 1e4
    assert result["not_installed"] == ["FAISS (pip install faiss-cpu)"]
    line = next(line for line in segmenter.render(result).splitlines() if line.startswith("| 16 x 8"))
    assert [part.strip() for part in line.split("|")[2:6]] == ["100", "256%", "10", "10.0 / 10.0 / 10.0"]


@pytest.mark.parametrize("cell", ["32", "0x4", "axb", "4x"])
def test_a_shape_that_is_none_is_refused(cell):
    done = CliRunner().invoke(shoal, ["bench", "segmenter", "--cell", cell])
    assert done.exit_code == 2
    assert "wanted DIMENSIONSxCENTRES" in done.output


@pytest.mark.slow
def test_the_command_runs_and_prints_json():
    done = CliRunner().invoke(
        shoal,
        [
            "bench",
            "segmenter",
            "--rounds",
            "1",
            "--rows",
            "5000",
            "--cell",
            "4x3",
            "--verify",
            "500",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    result = orjson.loads(done.stdout)
    assert result["cells"][0]["shoal float64"]["times"]["river"] > 1
    assert result["bit_for_bit"]["different"] == 0
