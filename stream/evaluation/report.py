"""The evaluation as Markdown: one table per measure, a line per stream; then the goals that were not reached."""

from __future__ import annotations

from typing import Any

from ..benchmarks.pipeline import machine_line
from .goals import tally

MEASURES = {
    "ari": ("ARI per window (1: the true groups)", "{:.3f}"),
    "nmi": ("NMI per window", "{:.3f}"),
    "ssq": ("Sum of squares, times the window's optimum", "{:.3f}"),
    "ari_whole": ("ARI over the whole stream, names kept", "{:.3f}"),
    "churn": ("Churn: rows whose group has another name than a window ago", "{:.1%}"),
    "live": ("Live centres", "{:.0%}"),
    "recovery": ("Rows from a change until within 5 % of the true centres", "{:,.0f}"),
    "interventions": ("Interventions per 10,000 rows", "{:.1f}"),
}


def render(result: dict[str, Any]) -> str:
    streams = result["streams"]
    lines = [
        f"Prequential, batches of {result['batch_rows']} rows, up to {result['rows']:,} scored rows a stream; "
        f"means over seeds {_span(result['seeds'])}; peers tuned per stream on seeds {_span(result['tuning_seeds'])}.",
        machine_line(result["machine"]),
    ]
    if result["overrides"]:
        lines.append("Configuration of Shoal: " + ", ".join(result["overrides"]))
    for measure, (title, form) in MEASURES.items():
        lines += ["", f"**{title}**", "", *_table(streams, measure, form)]
    return "\n".join([*lines, "", *_goals(result["goals"])])


def _span(seeds: list[int]) -> str:
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def _table(streams: dict[str, Any], measure: str, form: str) -> list[str]:
    names = list(dict.fromkeys(who for row in streams.values() for who in row))
    lines = ["| stream | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for stream, row in streams.items():
        values = [row.get(who, {}).get(measure, {}).get("mean") for who in names]
        if any(value is not None for value in values):
            cells = ["" if value is None else form.format(value) for value in values]
            lines.append(f"| {stream} | " + " | ".join(cells) + " |")
    return lines


def _goals(goals: list[dict[str, Any]]) -> list[str]:
    missed = [goal for goal in goals if not goal["reached"]]
    lines = [tally(goals)]
    if missed:
        lines += ["", "| stream | goal | got | wanted |", "|---|---|---:|---:|"]
    for goal in missed:
        wanted = f">= {goal['at_least']:.3f}" if "at_least" in goal else f"<= {goal['at_most']:.3f}"
        lines.append(f"| {goal['stream']} | {goal['goal']} | {goal['got']:.3f} | {wanted} |")
    return lines
