"""`shoal bench segmenter`: River's rule compiled, against River, scikit-learn and FAISS, over a grid of shapes.

Every round is a process of its own with one thread (`segmenter_runs.py`, which also says what each contestant
does with a row). Medians over rounds; ratios are medians of the ratios within a round, so a machine that is
busier in one round than in another does not decide.
"""

from __future__ import annotations

import statistics
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import click

from .pipeline import machine, machine_line, result_of
from .segmenter_proof import verify

CELLS = tuple((d, k) for d in (16, 32, 64) for k in (8, 32, 128))
OURS = ("shoal float64", "shoal float32")
PEERS = (
    "river",
    *(f"scikit-learn {b} {dtype}" for dtype in ("float64", "float32") for b in (256, 1024, 4096)),
)


def measure(
    rounds: int, rows: int, cells: tuple[tuple[int, int], ...], seed: int, verify_rows: int, echo: bool
) -> dict[str, Any]:
    """Run the rounds, then compare `verify_rows` rows with River bit for bit. Raises ShoalError if a round fails."""
    names = ",".join(f"{d}x{k}" for d, k in cells)
    module = f"{__package__}.segmenter_runs"
    options = ["--rows", str(rows), "--cells", names]
    results = []
    for turn in range(rounds):
        command = [sys.executable, "-m", module, *options, "--seed", str(seed + turn)]
        results.append(result_of(command, [], f"{module} {' '.join(options)}"))
        if echo:
            click.echo(f"round {turn + 1} of {rounds} done", err=True)
    summary: dict[str, Any] = {"machine": _machine(), "rows": rows, "rounds": rounds, "seed": seed}
    summary["cells"] = [_cell([result["cells"][i] for result in results], results) for i in range(len(cells))]
    if find_spec("faiss") is None:
        summary["not_installed"] = ["FAISS (pip install faiss-cpu)"]
    if verify_rows:
        summary["bit_for_bit"] = verify(verify_rows, seed)
    return summary


def _machine() -> dict[str, Any]:
    peers = [
        name
        for name in ("scikit-learn", "faiss-cpu")
        if find_spec(name.split("-")[0].replace("scikit", "sklearn"))
    ]
    return {**machine(), **{name: version(name) for name in peers}}


def _cell(runs: list[dict[str, Any]], results: list[dict[str, Any]]) -> dict[str, Any]:
    """One shape: median rates; per mode of ours the median ratio to each peer and the share of the matrix limit."""
    d, k = runs[0]["d"], runs[0]["k"]
    rates = [run["rows_per_s"] for run in runs]
    row: dict[str, Any] = {"d": d, "k": k, "flips": statistics.median(run["flips"] for run in runs)}
    row["rows_per_s"] = {name: statistics.median(rate[name] for rate in rates) for name in rates[0]}
    for ours in OURS:
        dtype = ours.split()[1]
        row[ours] = {
            "times": {
                peer: statistics.median(rate[ours] / rate[peer] for rate in rates)
                for peer in rates[0]
                if peer not in OURS
            },
            "matrix_share": statistics.median(
                rate[ours] * 2 * d * k / result["matrix_flops"][dtype]
                for rate, result in zip(rates, results, strict=True)
            ),
        }
    return row


_HEAD = (
    "shape d x k", "Shoal f64, rows/s", "of dgemm", "x River", "x sklearn 256 / 1024 / 4096",
    "Shoal f32, rows/s", "of sgemm", "x sklearn f32 256 / 1024 / 4096", "flips", "River, rows/s",
    "sklearn 1024, rows/s", "FAISS assignment, rows/s",
)  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """One Markdown table, what it is about above it and what was not measured below."""
    lines = [
        f"Learn and label, rows per second of CPU time, one thread; median of {result['rounds']} rounds of "
        f"{result['rows']:,} rows. "
        "Shoal and River move the winner before the next row; scikit-learn labels and learns by batch; "
        "FAISS only labels.",
        machine_line(result["machine"]),
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|---|" + "---:|" * (len(_HEAD) - 1),
        *("| " + " | ".join(_line(row)) + " |" for row in result["cells"]),
    ]
    lines += [f"\nNot installed: {', '.join(result['not_installed'])}."] if "not_installed" in result else []
    if "bit_for_bit" in result:
        proof = result["bit_for_bit"]
        lines.append(
            f"\nBit for bit River's: {proof['rows']:,} rows in {proof['streams']} streams (seed {proof['seed']}), "
            f"{proof['different']} different labels, {proof['centres_different']} different sets of centres."
        )
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> list[str]:
    rates = row["rows_per_s"]
    wide, narrow = (row[ours] for ours in OURS)
    faiss = rates.get("faiss assignment float32")
    return [
        f"{row['d']} x {row['k']}",
        f"{rates[OURS[0]]:,.0f}",
        f"{wide['matrix_share']:.0%}",
        f"{wide['times']['river']:,.0f}",
        " / ".join(f"{wide['times'][peer]:.1f}" for peer in PEERS[1:4]),
        f"{rates[OURS[1]]:,.0f}",
        f"{narrow['matrix_share']:.0%}",
        " / ".join(f"{narrow['times'][peer]:.1f}" for peer in PEERS[4:]),
        f"{row['flips']:.1e}",
        f"{rates['river']:,.0f}",
        f"{rates['scikit-learn 1024 float64']:,.0f}",
        f"{faiss:,.0f}" if faiss else "not installed",
    ]
