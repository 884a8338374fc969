"""A change as a line for people.

14:03:11  user 42: night shoppers -> big spenders  (user_behavior, .87)
"""

from __future__ import annotations

from datetime import UTC, datetime

from .facts import Change, Member, Place

NOBODY = "nowhere"


def change_line(change: Change, *, day: bool = False) -> str:
    """`day`: with the date. Times are stream time, UTC; a change learned from the members has none."""
    return f"{_when(change.decided_ms, day)}  {_who(change)}: {_way(change)}  ({', '.join(_why(change))})"


def _when(time_ms: int | None, day: bool) -> str:
    wide = 19 if day else 8
    if time_ms is None:
        return "-" * wide
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S")


def _who(change: Change) -> str:
    return change.user if change.anonymous else f"user {change.user}"


def _way(change: Change) -> str:
    if change.transition == "erased":
        return f"{_name(change.before)} -> erased"
    return f"{_name(change.before)} -> {_name(change.after)}"


def _name(place: Place | None) -> str:
    return place.name if place else NOBODY


def _why(change: Change) -> list[str]:
    why = [change.reason or change.transition]
    if change.confidence is not None:
        why.append(f"{change.confidence.score:.2f}".removeprefix("0"))
    if change.after_gap:
        why.append("earlier changes were missed")
    return why


def member_line(member: Member) -> str:
    since = datetime.fromtimestamp(member.place.since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{member.user}\t{member.place.segment_id}\t{member.place.name}\tsince {since}"
