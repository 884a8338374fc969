"""What was found, as text for people: the story first, then the numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..watching.words import feature_words, when

Value = Mapping[str, Any]

WIDTH = 110
HISTORY_MAX = 20
"""Changes shown, the newest; --json has them all."""
_QUANTITIES_SHOWN = 12
_DAY_MS = 86_400_000.0

_WHY = {
    "user_behavior": "because of its own behaviour",
    "segment_moved": "because the segments moved, not the user",
    "encoder_published": "because a new encoder began to serve",
    "expiry": "because it fell silent",
    "lineage": "because of what became of the segment",
}


def user(found: Value) -> str:
    """Of `{"as_of", "key", "portrait", "why", "history"}`; each but the key may be None."""
    portrait, history = found["portrait"], found["history"]
    parts = ["\n".join(_head(found))]
    if portrait is not None:
        parts += ["\n".join(_numbers(portrait)), "\n".join(_reasons(found["why"]))]
        parts += ["\n".join(_doings(portrait)), "\n".join(_nearest(portrait))]
    if history:
        parts.append("\n".join(_history(history)))
    return "\n\n".join(part for part in parts if part)


def segments(found: Value) -> str:
    rows = [
        f"{s['segment_id']:>4}  {s['size']:>7,}  {100 * s['share']:>4.1f} %  {s['name']}"
        for s in found["segments"]
    ]
    if not rows:
        return "No segments yet."
    more = found["total"] - len(rows)
    tail = [f"and {more:,} smaller ones"] if more else []
    head = f"{found['users']:,} users, {found['total']:,} segments{_as_of(found)}"
    return "\n".join([head, "", f"{'id':>4}  {'users':>7}   share  name", *rows, *tail])


def segment(found: Value) -> str:
    head = f"Segment {found['segment_id']}: {found['name']}{_as_of(found)}"
    lines = [head, "", f"  users      {found['size']:,} ({100 * found['share']:.1f} % of those in segments)"]
    for at, trait in enumerate(found["features"]):
        words = feature_words(trait["feature"], trait["segment_mean"], trait["population_mean"])
        lines.append(f"  {'' if at else 'set apart':<10} {words}")
    for at, taste in enumerate(found["takes_to"]):
        lines.append(f"  {'' if at else 'takes to':<10} {taste['label']} ({taste['lift']:.1f} x)")
    return "\n".join(lines)


def features(found: Value) -> str:
    lines = [f"Features of version {found['version']}{_as_of(found)}", ""]
    lines.append(f"{'feature':<26} {'usual':>14} {'+-':>14}  meaning")
    for one in found["features"]:
        usual, deviation = (
            _valued(one["feature"], one[name]) for name in ("population_mean", "population_deviation")
        )
        lines.append(f"{one['feature']:<26} {usual:>14} {deviation:>14}  {one['meaning']} ({one['unit']})")
    if found["interest_columns"]:
        lines.append(
            f"and {found['interest_columns']} columns of interest: what a user turns to, as a direction"
        )
    return "\n".join(lines)


def lineage(facts: Sequence[Value]) -> str:
    """Oldest first."""
    lines = []
    for fact in facts:
        parents = " and ".join(str(p) for p in fact["parents"] if p != fact["segment_id"])
        before = f" (before: {fact['previous_name']})" if fact.get("previous_name") else ""
        out_of = f" {'took over' if fact['kind'] == 'merge' else 'out of'} {parents}" if parents else ""
        what = f"{fact['kind']:<8} {fact['segment_id'] or '':>5} {fact['name'] or ''}{out_of}{before}"
        lines.append(f"{when(fact['decided_time'])}  {what.rstrip()}")
    return "\n".join(lines) or "No segment has come to be yet."


# --- parts of a user ------------------------------------------------------------------------------------


def _head(found: Value) -> Iterator[str]:
    portrait, history = found["portrait"], found["history"]
    yield f"User {found['key']}{_as_of(found)}"
    yield ""
    if portrait is None:
        yield "Not kept now: it left, or its state is not at hand; what was published about it follows."
        return
    segment = portrait["segment"]
    if segment is None:
        yield "In no segment yet."
        return
    yield from _wrapped(_story(segment, history))
    if segment["becomes"]:
        yield f"That segment was given up; from its next scoring on it is in {_named(segment['becomes'])}."
    if portrait["pending"]:
        pending = portrait["pending"]
        yield f"Maybe about to go to {_named(pending)}: {100 * pending['confirmed']:.0f} % confirmed."


def _story(segment: Value, history: Sequence[Value]) -> str:
    """In one sentence: where, since when, from where, and why."""
    told = f"In {_named(segment)} since {when(segment['since'])}"
    last = history[-1] if history else None
    if last is None or last["position"]["sequence"] != segment["sequence"]:
        return f"{told}."
    came = f"came from {_named(last['from'])}" if last["from"] else "its first one"
    return f"{told}: {came}, {_because(last)}."


def _because(change: Value) -> str:
    """The reason with its figures."""
    told = _WHY.get(change["reason"]["kind"], change["reason"]["kind"])
    if change["transition"] == "assigned":
        told = "assigned as the nearest"
    words = [*_evidence(change)[:1], *_otherwise(change)]
    return f"{told}: {'; '.join(words)}" if words else told


def _evidence(change: Value) -> list[str]:
    """What spoke for it, in words, strongest first: against everybody."""
    return [
        feature_words(f["feature"], f["user_value"], f["population_mean"])
        for f in (change["explanation"] or {}).get("features", [])
        if not f["feature"].startswith("interest")
    ]


def _otherwise(change: Value) -> list[str]:
    """What would have changed the decision, where the record says so."""
    found = (change["explanation"] or {}).get("counterfactual")
    return [found["text"]] if found else []


def _numbers(portrait: Value) -> Iterator[str]:
    seen, sure = portrait["seen"], portrait["confidence"]
    if sure is not None:
        rest = ", provisional" if sure["provisional"] else ""
        yield f"  how sure   score {sure['score']:.2f}, margin {sure['margin']:.2f}{rest}"
    yield f"  seen       {seen['events']:,} events, {when(seen['first'])} to {when(seen['last'])}"
    alike = [one for one in (portrait["interest"] or {"alike": []})["alike"] if one["cosine"] > 0]
    for at, one in enumerate(alike):
        yield f"  {'' if at else 'turns to':<10} the same things as {_named(one)}: cosine {one['cosine']:.2f}"


def _reasons(why: Value | None) -> Iterator[str]:
    for name, said in (("than_the_next", "Why not "), ("than_everybody", "Unlike everybody")):
        found = why[name] if why else None
        if why is not None and found and found["features"]:
            yield f"{said}{_named(why['against']) if name == 'than_the_next' else ''}, as of now:"
            for f in found["features"]:
                share = f"{100 * f['contribution']:>3.0f} %"
                if f["feature"].startswith("interest"):
                    yield f"  {share}  what it turns to"
                else:
                    yield f"  {share}  {feature_words(f['feature'], f['user_value'], f['segment_mean'])}"


def _doings(portrait: Value) -> Iterator[str]:
    yield f"{'What it does':<30} {'user':>12} {'its segment':>12} {'everybody':>12}  deviations"
    for group in portrait["quantities"][:_QUANTITIES_SHOWN]:
        f = max(group["features"], key=lambda one: abs(one["deviations"]))
        values = [
            _valued(f["feature"], f[name]) for name in ("user_value", "segment_mean", "population_mean")
        ]
        cells = " ".join(f"{value:>12}" for value in values)
        yield f"  {f['feature']:<28} {cells}  {f['deviations']:+.1f}"


def _nearest(portrait: Value) -> Iterator[str]:
    if portrait["nearest"]:
        yield "Nearest segments"
    for near in portrait["nearest"]:
        far = "its own" if near["own"] else "" if near["ratio"] is None else f"{near['ratio']:.2f} x as far"
        yield f"  {near['segment_id']:>4}  {near['name']:<50} {far}"


def _history(history: Sequence[Value]) -> Iterator[str]:
    shown = history[-HISTORY_MAX:]
    rest = f", the newest {len(shown)}" if len(shown) < len(history) else ""
    yield f"History ({len(history):,} changes{rest}; newest first)"
    for change in reversed(shown):
        way = " -> ".join(_named(side) for side in (change["from"], change["to"]) if side) or "?"
        why = _WHY.get(change["reason"]["kind"], change["reason"]["kind"])
        yield f"  {when(change['times']['decided_time'])}  {change['transition']:<9} {way}"
        if change["transition"] != "assigned":
            yield f"{'':<20} {why}{_sure(change)}"
        for words in (*_evidence(change)[:2], *_otherwise(change)):
            yield from _wrapped(words, indent=21)


def _sure(change: Value) -> str:
    sure = change["confidence"]
    return "" if sure is None else f" (score {sure['score']:.2f}, margin {sure['margin']:.2f})"


# --- pieces ---------------------------------------------------------------------------------------------


def _named(side: Value) -> str:
    return f"'{side['name']}' ({side['segment_id']})"


def _valued(feature: str, value: float | None) -> str:
    """In a unit that a person uses."""
    if value is None:
        return ""
    if feature.endswith("_share"):
        return f"{100 * value:.0f} %"
    if feature in ("recency_ms", "tenure_ms"):
        return f"{value / _DAY_MS:.1f} days"
    return f"{value / 1000:.1f} s" if feature.startswith("dwell_ms") else _plain(value)


def _plain(value: float) -> str:
    if value and (abs(value) < 0.01 or abs(value) >= 1e9):
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def _as_of(found: Value) -> str:
    as_of = found.get("as_of")
    return f"   (as of step {as_of['step']:,}, {when(as_of['time'])})" if as_of else ""


def _wrapped(text: str, indent: int = 0) -> list[str]:
    edge = " " * indent
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=edge,
        subsequent_indent=edge,
        break_long_words=False,
        break_on_hyphens=False,
    )
