"""What segments are called: a name per language, made of what sets a segment apart, or given by an operator.

A generated name is kept while what it says still holds, if more weakly: subscribers see few renamings. It says
first what other segments have not got. All languages say the same traits.

An operator's name stands in front of the generated one of its language until it is taken back or the segment
ends; the generated one lives on behind it. Names are unique within a language: an operator's name is refused
where another operator's name is the same, and a generated one gives way to it.

What was asked for by `rename` shows from the next `refresh` on, which it makes due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import naming, naming_zh
from .events import F64, I64
from .labels import Labels, Taste
from .ports import State
from .traits import Traits, standing

EN = "en"
"""The language of the name in changes, members and lineage."""

GENERATED, OPERATOR = "generated", "operator"
NAME_CHARS_MAX = 80
FORMER_MAX = 256
"""Names of given-up segments that are remembered for those who still have to be told."""

TASTES_MAX = 5
_NAME_LIFT = 1.5  # a label this much over-represented becomes part of the name
_RENAME_LIFT = 3.0  # and this much, of a name that was given before the label was known


@dataclass(frozen=True, slots=True)
class Language:
    phrase: Callable[[str, float], str]  # (feature, z): what that is called
    compose: Callable[[Sequence[str], str, int, Collection[str]], tuple[str, int]]


LANGUAGES: Mapping[str, Language] = {
    EN: Language(naming.phrase, naming.compose),
    "zh": Language(naming_zh.phrase, naming_zh.compose),
}


class Names(dict[int, str]):
    """Segment id -> name. A segment that came and went between two refreshes was never given one."""

    def __missing__(self, segment_id: int) -> str:
        return f"segment {segment_id}"


class SegmentNames:
    """Names by centre; "" before the first refresh, and where there is no segment."""

    def __init__(self, k: int, traits: Traits, labels: Labels) -> None:
        self._traits, self._labels = traits, labels
        self._generated = {language: [""] * k for language in LANGUAGES}
        self._shown = {language: [""] * k for language in LANGUAGES}  # as of the last refresh
        self._reasons = [""] * k  # what each name says, as "+purchase" or "-money" or "=label", by "\n"
        self._ids: I64 = np.zeros(k, np.int64)  # (k,) as of the last refresh
        self._given: dict[int, dict[str, str]] = {}  # segment id -> language -> operator's name
        self._former: dict[int, str] = {}  # segment id -> its last name, once it was given up
        self.asked = False  # an operator has asked for another name since the last refresh

    @property
    def english(self) -> list[str]:
        """(k,) as of the last refresh."""
        return list(self._shown[EN])

    def of(self, centre: int) -> dict[str, str]:
        """Language -> name, as of the last refresh."""
        return {language: names[centre] for language, names in self._shown.items()}

    def source(self, centre: int) -> str:
        """Who named it: an operator, in at least one language, or nobody."""
        return OPERATOR if int(self._ids[centre]) in self._given else GENERATED

    def known(self) -> Names:
        """Segment id -> English name, as of the last refresh; those given up lately have their last one."""
        pairs = zip(self._ids.tolist(), self._shown[EN], strict=True)
        return Names(self._former | {segment_id: name for segment_id, name in pairs if segment_id})

    def rename(self, segment_id: int, names: Mapping[str, str] | None) -> str:
        """Let a segment have an operator's names, by language, and no others of operators; None: none at all.

        Returns "" when it is done, else what is wrong; nothing has changed then.
        """
        if segment_id <= 0 or segment_id not in self._ids:
            return f"segment {segment_id} is not there: give the id of one in segment.catalog"
        given = {language: " ".join(name.split()) for language, name in (names or {}).items()}
        for language, name in given.items():
            wrong = self._refusal(segment_id, language, name)
            if wrong:
                return wrong
        if given != self._given.get(segment_id, {}):
            self._given.pop(segment_id, None)
            if given:
                self._given[segment_id] = given
            self.asked = True
        return ""

    def _refusal(self, segment_id: int, language: str, name: str) -> str:
        if language not in LANGUAGES:
            return f"language {language!r:.20}: wanted one of {', '.join(LANGUAGES)}"
        if not name or not name.isprintable() or len(name) > NAME_CHARS_MAX:
            return f"name {name!r:.100}: wanted 1 to {NAME_CHARS_MAX} printable characters"
        for other, theirs in self._given.items():
            if other != segment_id and theirs.get(language) == name:
                return f"name {name!r:.100}: segment {other} has it already"
        return ""

    def give_up(self, centre: int) -> None:
        """The segment of this centre has ended."""
        segment_id = int(self._ids[centre])
        if self._shown[EN][centre]:
            self._former[segment_id] = self._shown[EN][centre]
        for old in list(self._former)[:-FORMER_MAX]:
            del self._former[old]
        self._given.pop(segment_id, None)
        for names in (*self._generated.values(), *self._shown.values(), self._reasons):
            names[centre] = ""
        self._ids[centre] = 0

    def refresh(self, ids: I64) -> None:
        """Bring all names up to date. `ids` (k,) by centre; 0: none."""
        self._ids, self.asked = ids.copy(), False
        live = np.flatnonzero(ids).tolist()
        segments = {int(ids[centre]) for centre in live}
        self._given = {segment: names for segment, names in self._given.items() if segment in segments}
        z = self._traits.all_z()
        for centre in live:
            if self._taken(centre) or not self._still_true(centre, z[centre]):
                for names in self._generated.values():
                    names[centre] = ""
        strength = standing(z)
        for centre in live:
            if not self._generated[EN][centre]:
                self._name(centre, z[centre], strength[centre])
        for language, names in self._shown.items():
            for centre in live:
                given = self._given.get(int(ids[centre]), {})
                names[centre] = given.get(language, self._generated[language][centre])

    def _operators(self, language: str) -> set[str]:
        return {names[language] for names in self._given.values() if language in names}

    def _taken(self, centre: int) -> bool:
        """Whether an operator has meanwhile given this generated name to a segment."""
        return any(names[centre] in self._operators(language) for language, names in self._generated.items())

    def _name(self, centre: int, z: F64, strength: F64) -> None:
        """A name from z and strength (d,): what people do says more than what they do not."""
        features = self._traits.features
        order = np.argsort(-np.where(z > 0, strength, strength / 2), kind="stable")
        strong: dict[str, int] = {}  # family -> its strongest feature
        for j in order[self._traits.worth_a_word(centre, z)[order]].tolist():
            strong.setdefault(naming.family(features[j]), j)
        tastes = self._labels.tastes(centre, 1)
        label = tastes[0].label if tastes and tastes[0].lift >= _NAME_LIFT else ""
        reasons: dict[str, None] = {}
        for language, speaks in LANGUAGES.items():
            called = {what: speaks.phrase(features[j], z[j]) for what, j in strong.items()}
            phrases = list(dict.fromkeys(called.values()))
            taken = {*self._generated[language], *self._operators(language)}
            name, used = speaks.compose(phrases, label, int(self._ids[centre]), taken)
            self._generated[language][centre] = name
            said = [what for what, words in called.items() if words in phrases[:used]]
            reasons |= dict.fromkeys(f"{'+' if z[strong[what]] > 0 else '-'}{what}" for what in said)
        self._reasons[centre] = "\n".join([*reasons, *([f"={label}"] if label else [])])

    def _still_true(self, centre: int, z: F64) -> bool:
        """Whether everything the segment's name says holds at half the strength it took to say it."""
        reasons = self._reasons[centre].split("\n") if self._reasons[centre] else []
        if not reasons or not self._generated[EN][centre]:
            return False
        tastes: list[Taste] = self._labels.tastes(centre, TASTES_MAX)
        if tastes and tastes[0].lift >= _RENAME_LIFT and not any(r.startswith("=") for r in reasons):
            return False
        liked = [f"={taste.label}" for taste in tastes]
        signs = {
            f"{'+' if z[j] > 0 else '-'}{naming.family(self._traits.features[j])}"
            for j in np.flatnonzero(self._traits.worth_a_word(centre, z, 0.5)).tolist()
        }
        return all(reason in liked or reason in signs for reason in reasons)

    def snapshot(self) -> State:
        given = [(segment, *pair) for segment, names in self._given.items() for pair in names.items()]
        return {
            "generated": {language: list(names) for language, names in self._generated.items()},
            "shown": {language: list(names) for language, names in self._shown.items()},
            "reasons": list(self._reasons),
            "ids": self._ids.copy(),
            "given_ids": np.array([segment for segment, _, _ in given], np.int64),
            "given_languages": [language for _, language, _ in given],
            "given_names": [name for _, _, name in given],
            "former_ids": np.array(list(self._former), np.int64),
            "former_names": list(self._former.values()),
            "asked": self.asked,
        }

    def restore(self, state: State) -> None:
        for language in LANGUAGES:
            self._generated[language] = list(state["generated"][language])
            self._shown[language] = list(state["shown"][language])
        self._reasons, self._ids = list(state["reasons"]), state["ids"].copy()
        self._given = {}
        columns = state["given_ids"].tolist(), state["given_languages"], state["given_names"]
        for segment, language, name in zip(*columns, strict=True):
            self._given.setdefault(segment, {})[language] = name
        self._former = dict(zip(state["former_ids"].tolist(), state["former_names"], strict=True))
        self.asked = bool(state["asked"])
