"""What a run found, for people: the segments in words, the counts, and how well they match a known truth.

summary = summarise(pipeline, counts)
print(render_text(summary))
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..catalog import Profile
from ..events import Counts
from ..naming import family
from ..pipeline import Pipeline
from ..simulation.population import Span
from .match import Match, compare
from .words import feature_words, life_words

TRAITS_SHOWN = 3
TASTES_SHOWN = 3
REJECTS_SHOWN = 5
_PERSONA_WIDTH = 16
_WIDTH = 110

_REMEDIES = {
    "encoding": "the input must be JSON lines in UTF-8: one JSON object a line",
    "json": "the input must be JSON lines: one JSON object a line (CSV is not read)",
    "schema": 'map your field names: --set \'input.field_map={event_time = "ts", type = "event"}\', or [input] in '
    "--config",
    "time": "see input.time_unit for numeric times, and input.field_map",
    "size": "see input.value_max_bytes",
}
"""What helps when most records are rejected for this reason."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of the table."""

    segment_id: int
    name: str
    users: int
    share: float  # of all users in segments
    traits: tuple[str, ...]  # in words, strongest first
    takes_to: tuple[str, ...]  # in words, strongest first
    names: Mapping[str, str] = field(default_factory=dict)  # by language
    life: str = ""  # age, trend, cohesion and stages, in words


@dataclass(frozen=True, slots=True)
class Summary:
    """The facts; nothing here is rounded or laid out."""

    counts: Counts
    users: int
    segments: tuple[Segment, ...]  # largest first
    encoder_version: int
    silhouette: float | None = None  # on the encoder's reservoir; None before warm-up
    match: Match | None = None  # with a known truth
    changes: Mapping[str, int] = field(default_factory=dict)  # reason -> count, where they were counted
    planted: Mapping[str, Any] | None = None  # the same names as `counts`, as simulated
    example: str = ""  # one change in a sentence


def summarise(
    pipeline: Pipeline,
    counts: Counts,
    truth: Sequence[Span] | None = None,
    planted: Mapping[str, Any] | None = None,
    changes: Mapping[str, int] | None = None,
    example: str = "",
) -> Summary:
    """What this pipeline knows now, after `counts`. It reads; it changes nothing."""
    sizes = pipeline.membership.sizes()
    quality = pipeline.quality()
    return Summary(
        counts=counts,
        users=len(pipeline.users),
        segments=tuple(_segments(pipeline, sizes)),
        encoder_version=pipeline.publisher.version,
        silhouette=None if quality is None else float(quality[0]),
        match=None if truth is None else compare(segments_of(pipeline, truth), truth),
        changes=dict(changes or {}),
        planted=planted,
        example=example,
    )


def segments_of(pipeline: Pipeline, truth: Sequence[Span]) -> dict[str, int]:
    """user id -> present segment, for those users of the truth who are in one."""
    found: dict[str, int] = {}
    for span in truth:
        name = ("\x00" if span.anonymous else "") + span.user_id
        slot = pipeline.users.slot(name if pipeline.pseudonyms is None else pipeline.pseudonyms.name(name))
        segment = 0 if slot is None else int(pipeline.membership.segment[slot])
        if segment:
            found[span.user_id] = segment
    return found


def _segments(pipeline: Pipeline, sizes: Mapping[int, int]) -> list[Segment]:
    total = sum(sizes.values()) or 1
    rows = []
    for centre in range(pipeline.membership.k):
        segment_id = int(pipeline.membership.ids[centre])
        if segment_id in sizes:  # not where it is folded into another one
            users, (profile,) = sizes[segment_id], pipeline.narrator.shown([pipeline.catalog.profile(centre)])
            hidden = segment_id in pipeline.catalog.hidden
            life = "" if hidden else life_words(profile.vital, pipeline.lifecycle.shares(centre)["stage"])
            traits = tuple(_traits(profile))
            tastes = tuple(f"{taste.label} ({taste.lift:.1f} x)" for taste in profile.takes_to)
            names = dict(profile.names)
            share = users / total
            rows.append(Segment(segment_id, profile.name, users, share, traits, tastes, names, life))
    return sorted(rows, key=lambda row: (-row.users, row.segment_id))


def _traits(profile: Profile) -> Iterator[str]:
    """The strongest window of each kind of feature."""
    told: list[str] = []
    for trait in profile.traits:
        if family(trait.feature) not in told:
            told.append(family(trait.feature))
            yield feature_words(trait.feature, trait.segment_mean, trait.population_mean)


# --- text -------------------------------------------------------------------------------------------------


def render_text(summary: Summary) -> str:
    """The whole summary as plain text, at most 110 columns where names allow it."""
    parts = [_segment_table(summary)]
    if summary.match is not None:
        parts.append(_match_text(summary.match))
    parts.append(_counts_text(summary.counts, summary.planted))
    if summary.changes:
        total = sum(summary.changes.values())
        reasons = ", ".join(
            f"{n:,} {kind}" for kind, n in sorted(summary.changes.items(), key=lambda c: -c[1]) if n
        )
        parts.append(_wrapped(f"Segment changes: {total:,} ({reasons})"))
    if summary.example:
        parts.append(_wrapped(f"For example: {summary.example}"))
    return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _segment_table(summary: Summary) -> str:
    if not summary.segments:
        if not summary.users and not summary.counts.records:
            return "No segments: the input holds no records."
        if not summary.users and not summary.counts.accepted:
            return "No segments: no record was accepted."
        return _wrapped(
            f"No segments yet: {summary.users:,} users, too few to begin with. The first segments are formed "
            f"after segmenter.warmup_rows scored rows, or fewer after segmenter.warmup_ms of stream time; a run "
            f"over a file forms them at its end."
        )
    lines = [f"{summary.users:,} users in {sum(1 for s in summary.segments if s.users)} segments", ""]
    lines.append(f"{'id':>4}  {'users':>7}  {'share':>6}  name, what sets it apart, what it takes to")
    for row in summary.segments:
        if row.users:
            lines.append(f"{row.segment_id:>4}  {row.users:>7,}  {100 * row.share:>4.1f} %  {row.name}")
            indent = " " * 23
            lines += [f"{indent}- {words}" for words in row.traits[:TRAITS_SHOWN]]
            if row.takes_to:
                lines.append(f"{indent}- takes to {', '.join(row.takes_to[:TASTES_SHOWN])}")
            if row.life:
                lines.append(f"{indent}- {row.life}")
    empty = ", ".join(str(row.segment_id) for row in summary.segments if not row.users)
    if empty:
        lines.append(f"      nobody is in {empty} now")
    return "\n".join(lines)


def _match_text(match: Match) -> str:
    lines = [
        "Against the truth (adjusted Rand index: 1 is a perfect match, 0 is chance):",
        f"  {match.adjusted_rand_clear:.2f} over {match.users_clear:,} users with one persona",
        f"  {match.adjusted_rand:.2f} over all {match.users:,} users in segments, with bots and mixtures of two",
        "",
        "Users by persona and segment; `together` is the share in the persona's largest segment:",
        "",
        f"{'persona':<{_PERSONA_WIDTH}}  together  " + "".join(f"{segment:>6}" for segment in match.purity),
    ]
    for persona, row in match.table.items():
        cells = "".join(f"{row.get(segment, 0) or '.':>6}" for segment in match.purity)
        lines.append(f"{persona:<{_PERSONA_WIDTH}}  {100 * match.together[persona]:>6.0f} %  {cells}")
    shares = "".join(f"{100 * share:>4.0f} %" for share in match.purity.values())
    lines.append(f"{'largest persona':<{_PERSONA_WIDTH}}            {shares}")
    if match.changed:
        lines += [
            "",
            f"{match.changed:,} of these users changed persona on the way; {match.followed:,} of them "
            f"({100 * match.followed / match.changed:.0f} %) are now where most of their new persona is.",
        ]
    return "\n".join(lines)


def _counts_text(counts: Counts, planted: Mapping[str, Any] | None) -> str:
    got = count_facts(counts)
    if planted is None:
        rejects = ", ".join(f"{n:,} {reason}" for reason, n in counts.rejected.items()) or "none"
        return _wrapped(
            f"Records: {counts.records:,}; accepted {counts.accepted:,}, duplicates {counts.duplicates:,}, late "
            f"{counts.late:,}, rejected {sum(counts.rejected.values()):,} ({rejects}); of the accepted, "
            f"{counts.future:,} had a clock in the future and {counts.clamped:,} an absurd value{_obeyed(counts)}"
        )
    lines = [f"{'records':<12}{'counted':>10}{'planted':>10}"]
    names = [name for name in got if name != "rejected"]
    pairs = [(name, got[name], planted.get(name, 0)) for name in names]
    reasons = sorted({*counts.rejected, *planted["rejected"]})
    pairs += [(r, counts.rejected.get(r, 0), planted["rejected"].get(r, 0)) for r in reasons]
    for name, counted, wanted in pairs:
        mark = "" if counted == wanted else "   differs"
        lines.append(f"{name:<12}{counted:>10,}{wanted:>10,}{mark}")
    return "\n".join(lines)


def _obeyed(counts: Counts) -> str:
    """What commands came to, where there were any."""
    if not counts.commands and not counts.withheld:
        return ""
    return (
        f"; {counts.commands:,} commands were obeyed, {counts.withheld:,} accepted events withheld for them"
    )


def rejects_text(counts: Counts, details: Mapping[str, int], input_path: str) -> str:
    """What is wrong with the rejected records and what to do; `details` counts some of them by what they lack."""
    rejected = sum(counts.rejected.values())
    if not rejected:
        return ""
    if 2 * rejected < counts.records:
        see = "" if input_path == "-" else f" `shoal validate {input_path}` says what is wrong with each."
        return _wrapped(f"{rejected:,} of {counts.records:,} records were rejected.{see}")
    share = "All" if rejected == counts.records else f"{rejected:,} of"
    lines = [f"{share} {counts.records:,} records were rejected:"]
    told = dict(details) or dict(counts.rejected)
    for what, count in sorted(told.items(), key=lambda pair: (-pair[1], pair[0]))[:REJECTS_SHOWN]:
        lines.append(f"  {count:>9,}  {what}")
    lines += [f"  -> {_REMEDIES[reason]}" for reason in _REMEDIES if reason in counts.rejected]
    if input_path != "-":
        lines.append(
            f"  -> shoal validate {input_path} says what is wrong with each; --set and --config as here"
        )
    return "\n".join(lines)


def count_facts(counts: Counts) -> dict[str, Any]:
    """Counts under the names that the simulator plants them under."""
    names = ("records", "accepted", "duplicates", "late", "future", "clamped")
    return {**{name: getattr(counts, name) for name in names}, "rejected": dict(counts.rejected)}


def to_json(summary: Summary) -> dict[str, Any]:
    """The same facts as one JSON object."""
    body: dict[str, Any] = {
        **count_facts(summary.counts),
        "by_type": dict(summary.counts.by_type),
        "commands": summary.counts.commands,
        "withheld": summary.counts.withheld,
        "users": summary.users,
        "encoder_version": summary.encoder_version,
        "silhouette": summary.silhouette,
        "segments": [asdict(segment) for segment in summary.segments],
    }
    if summary.changes:
        body["changes"] = dict(summary.changes)
    if summary.match is not None:
        body["match"] = summary.match.as_dict()
    if summary.planted is not None:
        body["planted"] = dict(summary.planted)
    if summary.example:
        body["example"] = summary.example
    return body
