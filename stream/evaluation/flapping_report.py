"""The evaluation of membership as Markdown: a table per measure, a line per scene; the goals that were missed."""

from __future__ import annotations

from typing import Any

from ..benchmarks.pipeline import machine_line
from .flapping_play import NEVER
from .flapping_rules import RULES
from .goals import tally

MEASURES = {
    "needless": ("Needless changes per 1,000 events", "{:.2f}"),
    "ratio": ("Needless changes, times those of the plain nearest centre", "{:.4f}"),
    "changes": ("Changes published per 1,000 events", "{:.2f}"),
    "delay": ("True moves: events until seen, median", "{:.0f}"),
    "delay_p90": ("True moves: events until seen, 90 %", "{:.0f}"),
    "later": ("True moves: events later than the plain nearest centre, median", "{:.0f}"),
    "right": ("Movers in the right group at the end", "{:.1%}"),
    "right_as_nearest": ("The same, of those whom the plain nearest centre has right", "{:.1%}"),
    "settled": ("Users of one group in it at the end", "{:.1%}"),
}


def render(result: dict[str, Any]) -> str:
    lines = [machine_line(result["machine"])]
    if "developed_on" in result:
        chosen = result["developed_on"]
        lines += [
            f"Seeds {_joined(result['seeds'])}; defaults were chosen on seeds {_joined(chosen['seeds'])} of "
            f"{_joined(chosen['shapes'])} and of the shop.",
            "Configuration: "
            + ", ".join(f"{name} {value:g}" for name, value in result["membership"].items()),
        ]
    if "tried" in result:
        return "\n".join([*lines, "", *_tried(result["tried"])])
    lines += ["", *(f"- {name}: {meaning}" for name, meaning in RULES.items())]
    for measure, (title, form) in MEASURES.items():
        rows = _table(result["scenes"], measure, form)
        lines += ["", f"**{title}**", "", *rows] if rows else []
    return "\n".join([*lines, "", *_goals(result["goals"])])


def _joined(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _table(scenes: dict[str, Any], measure: str, form: str) -> list[str]:
    known = {scene: row for scene, row in scenes.items() if all(measure in one for one in row.values())}
    if not known:
        return []
    lines = ["| scene | " + " | ".join(RULES) + " |", "|---|" + "---:|" * len(RULES)]
    for scene, row in known.items():
        cells = (_cell(row[who][measure], form) for who in RULES)
        lines.append(f"| {scene} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: float, form: str) -> str:
    return "never" if value >= NEVER / 2 else form.format(value)


def _goals(goals: list[dict[str, Any]]) -> list[str]:
    if not goals:
        return ["No goals: nobody knows the truth behind a file."]
    missed = [goal for goal in goals if not goal["reached"]]
    lines = [tally(goals)]
    if missed:
        lines += ["", "| scene | goal | got | wanted |", "|---|---|---:|---:|"]
    for goal in missed:
        wanted = f">= {goal['at_least']:.3f}" if "at_least" in goal else f"<= {goal['at_most']:.3f}"
        lines.append(f"| {goal['scene']} | {goal['goal']} | {_cell(goal['got'], '{:.3f}')} | {wanted} |")
    return lines


def _tried(tried: list[dict[str, Any]]) -> list[str]:
    names = list(tried[0]["set"])
    head = [*names, "worst ratio", "worst delay", "right", "shop: ratios", "later", "right", "all goals"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for one in tried:
        cells = [f"{one['set'][name]:g}" for name in names]
        cells += [f"{one['ratio']:.4f}", f"{one['delay']:.0f}", f"{one['right']:.1%}"]
        cells += [" ".join(f"{value:.3f}" for value in one["shop_ratio"])]
        cells += [" ".join(_cell(value, "{:.0f}") for value in one["shop_later"])]
        cells += [f"{one['shop_right']:.1%}", "yes" if one["reached"] else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
