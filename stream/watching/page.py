"""The pages for people: how the engine is, its segments, one segment, one user. No script, nothing from elsewhere.

Everything that came from outside (labels, names, user ids) goes through `text`: there is no other way into a page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .api import Api, Problem, checked_key
from .words import change_sentence, feature_words, when

Value = Mapping[str, Any]

FACTS_MAX = 12
"""Facts of lineage shown."""
_TRAITS_SHOWN = 3
_QUANTITIES_SHOWN = 12

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bar:#4a8fd0;--soft:#777}
@media(prefers-color-scheme:dark){:root{--bar:#5fa8ea;--soft:#aaa}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:64rem}
table{border-collapse:collapse;width:100%}
td,th{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:var(--bar);height:.6rem;border-radius:.3rem;min-width:1px;margin-top:.5rem}
.soft{color:var(--soft)}.bad{color:#d04a4a;font-weight:600}
ul{margin:.2rem 0;padding-left:1.1rem}
input,button{font:inherit;padding:.3rem .6rem}input{width:min(24rem,60vw)}
svg{stroke:var(--bar);fill:none;stroke-width:1.5;width:6rem;height:1.5rem}
@media(max-width:40rem){.wide{display:none}td,th{padding-right:.5rem}}
"""


def text(value: object) -> str:
    """Fit for any place in a page."""
    return html.escape(str(value), quote=True)


# --- the pages ------------------------------------------------------------------------------------------


async def front(api: Api) -> str:
    """How the engine is, and its segments; as much of it as can be had now."""
    status, health = api.metrics.status, api.metrics.health
    alive, ready = health.alive(), health.ready()
    facts = [
        ("phase", text(health.phase.value)),
        ("health", _verdict(alive.ok, alive.text)),
        ("readiness", _verdict(ready.ok, ready.text)),
        ("step", text(status.step)),
        ("users", text(status.users)),
        ("segments", text(len(status.sizes or {}))),
    ]
    try:
        shown = _segments(api, await api.segments())
    except Problem as problem:  # the page is there for the very time when nothing answers
        shown = f'<p class="soft">{text(problem.detail)}</p>{_sizes(status.sizes or {})}'
    rest = f"<h2>Segments</h2>{shown}{_quality(api)}{_lineage(api)}"
    return _page("Shoal", f"<h1>Shoal</h1>{_form()}{_table(facts)}{rest}{_LINKS}")


async def segment(api: Api, segment_id: int) -> str:
    """One segment: what sets it apart, with its numbers."""
    value = await api.segment(segment_id)
    facts = [
        ("users", f"{value['size']:,} ({100 * value['share']:.1f} % of those in segments)"),
        ("over time", _trend(api.recent.trend(segment_id))),
        ("state", text(value.get("state", ""))),
        ("what sets it apart", _list(map(text, _traits(value, 99)))),
        ("takes to", _list(text(f"{t['label']} ({t['lift']:.1f} x)") for t in value["takes_to"])),
    ]
    title = f"Segment {segment_id}: {value['name']}"
    return _page(title, f"<h1>{text(title)}</h1>{_table(facts)}{_as_of(value)}{_LINKS}")


async def user(api: Api, key: str) -> str:
    """One user: where, how surely, why, and what it does."""
    if not key:
        return _page("User", f"<h1>User</h1>{_form()}{_LINKS}")
    checked_key(key.encode("utf-8", "replace"))
    try:
        value = await api.user(key)
    except Problem as problem:
        if problem.status != 404:
            raise
        return _page("User", f"<h1>User</h1>{_form(key)}<p>{text(problem.detail)}</p>{_LINKS}")
    why = await api.why(key)
    body = (
        f"<h1>User {text(value['user']['key'])}</h1>{_form(key)}{_table(_place(value))}"
        f"<h2>Why</h2>{_why(why)}<h2>Nearest segments</h2>{_nearest(value)}"
        f"<h2>What it does</h2>{_quantities(value)}{_as_of(value)}{_LINKS}"
    )
    return _page(f"User {value['user']['key']}", body)


def problem(found: Problem) -> str:
    """Why there is no answer."""
    return _page(found.title, f"<h1>{text(found.title)}</h1><p>{text(found.detail)}</p>{_LINKS}")


# --- parts of the front page ----------------------------------------------------------------------------


def _segments(api: Api, value: Value) -> str:
    rows = []
    largest = max((profile["size"] for profile in value["segments"]), default=0) or 1
    for profile in value["segments"]:
        width = 100 * profile["size"] / largest
        rows.append(
            f'<tr><td class="n"><a href="/segments/{profile["segment_id"]:d}">{profile["segment_id"]:d}</a></td>'
            f"<td>{text(profile['name'])}<ul>{''.join(f'<li>{text(w)}</li>' for w in _traits(profile))}</ul></td>"
            f'<td class="n">{profile["size"]:,}<br><span class="soft">{100 * profile["share"]:.1f} %</span></td>'
            f'<td class="wide" style="width:25%"><div class="bar" style="width:{width:.1f}%"></div></td>'
            f'<td class="wide">{_trend(api.recent.trend(profile["segment_id"]))}</td></tr>'
        )
    if not rows:
        return '<p class="soft">There are no segments yet.</p>'
    more = value["total"] - len(rows)
    tail = f'<p class="soft">and {more:,} smaller ones</p>' if more else ""
    head = '<tr><th class="n">id</th><th>name, what sets it apart</th><th class="n">users</th>'
    head += '<th class="wide"></th><th class="wide">over time</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>{tail}"


def _sizes(sizes: Mapping[str, int]) -> str:
    """As of the last step that was committed here."""
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:64]
    return _table([(text(segment_id), text(users)) for segment_id, users in largest])


def _traits(profile: Value, most: int = _TRAITS_SHOWN) -> list[str]:
    return [
        feature_words(f["feature"], f["segment_mean"], f["population_mean"])
        for f in profile["features"][:most]
    ]


def _quality(api: Api) -> str:
    measured = api.recent.measured()
    if measured is None:
        return ""
    names = ("silhouette", "davies_bouldin", "inertia")
    facts = [
        (text(n.replace("_", "-")), "unknown" if measured[n] is None else f"{measured[n]:.3f}") for n in names
    ]
    return f"<h2>Quality</h2>{_table(facts)}"


def _lineage(api: Api) -> str:
    facts = api.recent.lineage()[:FACTS_MAX]
    if not facts:
        return ""
    rows = [(when(fact["decided_time"]), text(_fact(fact))) for fact in facts]
    return f"<h2>What became of segments</h2>{_table(rows)}"


def _fact(fact: Value) -> str:
    """`split: 9 (night owls) out of 3`."""
    parents = " and ".join(str(p) for p in fact["parents"] if p != fact["segment_id"])
    if fact["segment_id"] is None:  # about all segments
        return str(fact["kind"])
    said = f"{fact['kind']}: {fact['segment_id']} ({fact['name']})"
    if fact.get("previous_name"):
        said += f", before: {fact['previous_name']}"
    return f"{said} {'took over' if fact['kind'] == 'merge' else 'out of'} {parents}" if parents else said


def _trend(sizes: Sequence[int]) -> str:
    """A line of the last sizes."""
    if len(sizes) < 2:
        return ""
    top = max(sizes) or 1
    points = " ".join(f"{96 * i / (len(sizes) - 1):.1f},{22 - 20 * n / top:.1f}" for i, n in enumerate(sizes))
    said = f"from {sizes[0]:,} to {sizes[-1]:,} users"
    return f'<svg viewBox="0 0 96 24" role="img" aria-label="{said}"><polyline points="{points}"/></svg>'


# --- parts of a user's page -----------------------------------------------------------------------------


def _place(value: Value) -> list[tuple[str, str]]:
    segment, seen, sure = value["segment"], value["seen"], value["confidence"]
    where = "in no segment"
    if segment is not None:
        link = f'<a href="/segments/{segment["segment_id"]:d}">{segment["segment_id"]:d}</a>'
        where = f"{text(segment['name'])} ({link}) since {when(segment['since'])}"
        if segment["becomes"]:
            where += f", which was given up: now {text(segment['becomes']['name'])}"
    facts = [("segment", where), ("kind", text(value["user"]["kind"]))]
    if sure is not None:
        rest = ", provisional" if sure["provisional"] else ""
        facts.append(("how sure", f"score {sure['score']:.2f}, margin {sure['margin']:.2f}{rest}"))
    if value["pending"]:
        pending = value["pending"]
        share = f"{100 * pending['confirmed']:.0f} % confirmed"
        facts.append(("maybe about to go to", f"{text(pending['name'])} ({share})"))
    facts.append(("seen", f"{seen['events']:,} events, {when(seen['first'])} to {when(seen['last'])}"))
    return facts


def _why(why: Value) -> str:
    parts = []
    if why["last_change"]:
        parts.append(f"<p>Last change: {text(change_sentence(why['last_change']))}</p>")
    for name, title in (
        ("than_the_next", "Rather than the next one"),
        ("than_everybody", "Unlike everybody"),
    ):
        if why[name]:
            against = f" ({text(why['against']['name'])})" if name == "than_the_next" else ""
            told = [
                text(feature_words(f["feature"], f["user_value"], f["population_mean"]))
                for f in why[name]["features"]
                if not f["feature"].startswith("interest")
            ]
            parts.append(f"<p>{title}{against}, now:</p>{_list(told)}")
    return "".join(parts) or '<p class="soft">Nothing to explain: it is in no segment.</p>'


def _nearest(value: Value) -> str:
    rows = [
        (
            f'<a href="/segments/{near["segment_id"]:d}">{near["segment_id"]:d}</a> {text(near["name"])}',
            "its own" if near["own"] else "" if near["ratio"] is None else f"{near['ratio']:.2f} x as far",
        )
        for near in value["nearest"]
    ]
    return _table(rows)


def _quantities(value: Value) -> str:
    rows = []
    for group in value["quantities"][:_QUANTITIES_SHOWN]:
        strongest = max(group["features"], key=lambda f: abs(f["deviations"]))
        usual = strongest["population_mean"]
        words = feature_words(strongest["feature"], strongest["user_value"], usual)
        rows.append((text(words), f"{strongest['deviations']:+.1f}"))
    return _table(rows, ("", "deviations from the average"))


# --- pieces ---------------------------------------------------------------------------------------------

_SERVED = (
    "/",
    "/v1/segments",
    "/v1/lineage",
    "/v1/quality",
    "/v1/openapi.json",
    "/metrics",
    "/healthz",
    "/readyz",
)
_LINKS = "<ul>" + "".join(f'<li><a href="{path}">{path}</a></li>' for path in _SERVED) + "</ul>"


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _form(key: str = "") -> str:
    return (
        '<form action="/users" method="get"><label>User <input name="id" maxlength="256" autocomplete="off" '
        f'value="{text(key)}" placeholder="key, as in segment.changes"></label> <button>Look up</button></form>'
    )


def _table(rows: Iterable[tuple[str, str]], head: tuple[str, ...] = ()) -> str:
    """Of cells that are HTML already."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"] if head else []
    lines += [f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows]
    return f"<table>{''.join(lines)}</table>"


def _list(items: Iterable[str]) -> str:
    """Of items that are HTML already."""
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _verdict(ok: bool, said: str) -> str:
    return text(said) if ok else f'<span class="bad">{text(said)}</span>'


def _as_of(value: Value) -> str:
    as_of = value["as_of"]
    return f'<p class="soft">As of step {as_of["step"]:,}, stream time {when(as_of["time"])} UTC.</p>'
