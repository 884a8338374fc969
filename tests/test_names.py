"""Names in two languages, and names that operators give."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from decisions import NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_catalog import BROWSERS, BUYERS, PLAIN, learned, refresh

from shoal.stream import naming, naming_zh
from shoal.stream.catalog import Catalog
from shoal.stream.config import Membership as Config
from shoal.stream.names import LANGUAGES, NAME_CHARS_MAX, SegmentNames
from shoal.stream.windows import PARTS, _names

CHINESE = re.compile(r"[\u4e00-\u9fff·，（）]+")


# --- the Chinese names ---------------------------------------------------------------------------------------


def test_chinese_names_say_what_the_english_ones_say():
    catalog = learned((BUYERS, 50), ([0, 0, 5, 0.9, 0, 0], 50), labels=["玩具"] * 50 + ["toys"] * 50)
    buyers, browsers = refresh(catalog)
    assert buyers.names == {"en": "frequent buyers of 玩具", "zh": "高频买家·玩具"}
    assert browsers.names["zh"].startswith("高频浏览者·toys")
    assert (buyers.name, buyers.name_source) == (buyers.names["en"], "generated")


def test_further_traits_follow_as_what_people_do():
    two = [naming_zh.phrase("purchase_count_7d", 1.0), naming_zh.phrase("evening_share", 1.0)]
    assert naming_zh.compose(two, "", 1, set())[0] == "高频买家，晚间活跃"
    assert naming_zh.compose(two, "玩具", 1, {"高频买家·玩具"})[0] == "高频买家·玩具，晚间活跃"
    three = [*two, naming_zh.phrase("tenure_ms", 1.0)]
    assert naming_zh.compose(three, "", 1, {"高频买家，晚间活跃"})[0] == "高频买家，晚间活跃、加入较早"
    assert naming_zh.compose(two, "", 1, {"高频买家，晚间活跃"})[0] == "高频买家，晚间活跃（1）"
    assert naming_zh.compose([], "", 1, set())[0] == "普通用户"


def test_every_english_phrase_has_a_chinese_one_and_none_is_english():
    """A family that only one language knows would be glossed; noun and predicate are Chinese throughout."""
    assert set(naming.PHRASES) == set(naming_zh.PHRASES)
    for family, sides in naming_zh.PHRASES.items():
        for noun, predicate in sides:
            assert CHINESE.fullmatch(noun + predicate), family
            assert noun.endswith(("者", "家", "用户")), f"{noun} is nobody"
            assert not predicate.endswith("用户"), f"{predicate} is somebody"


def test_all_features_that_rows_have_are_known_to_both_languages():
    horizon = SimpleNamespace(name="7d")
    for feature in (*_names((horizon,)), *PARTS, "recency_ms", "tenure_ms"):
        for z in (1.0, -1.0):
            assert naming.family(feature) in naming.PHRASES, feature
            assert CHINESE.fullmatch(naming_zh.phrase(feature, z).replace("\n", "")), feature


def test_a_feature_that_no_table_knows_keeps_its_word():
    assert naming_zh.phrase("shoe_size", 1.0).split("\n") == ["shoe 偏高的用户", "shoe 偏高"]
    assert naming_zh.phrase("shoe_size", -1.0).split("\n") == ["shoe 偏低的用户", "shoe 偏低"]


@given(
    st.lists(st.lists(st.sampled_from([-3.0, 0.0, 3.0]), min_size=6, max_size=6), min_size=1, max_size=9),
    st.dictionaries(
        st.integers(1, 9), st.sampled_from(["ours", "average users", "average users (3)"]), max_size=4
    ),
)
@settings(max_examples=50, deadline=None)
def test_names_are_unique_in_every_language_whatever_operators_ask_for(means, asked):
    catalog = learned(*((mean, 4) for mean in means))
    for turn in range(2):
        profiles = refresh(catalog)
        for language in LANGUAGES:
            found = [profile.names[language] for profile in profiles]
            assert len(set(found)) == len(found)
            assert all(name and name.isprintable() for name in found)
        if not turn:
            for segment, name in asked.items():
                catalog.rename(segment, {"en": name, "zh": name + "们"})


# --- names that operators give -------------------------------------------------------------------------------


def catalog_of_three():
    catalog = learned((BUYERS, 50), (BROWSERS, 50), (PLAIN, 50))
    return catalog, [profile.name for profile in refresh(catalog)]


def test_an_operators_name_shows_from_the_next_refresh_and_makes_it_due():
    catalog, before = catalog_of_three()
    assert not catalog.due
    assert catalog.rename(1, {"en": "  Our  best ", "zh": "核心客户"}) == ""
    assert catalog.due
    assert catalog.names()[1] == before[0], "changes still use the name that was published"
    profile = refresh(catalog)[0]
    assert profile.names == {"en": "Our best", "zh": "核心客户"}
    assert (profile.name, profile.name_source, catalog.names()[1]) == ("Our best", "operator", "Our best")
    assert not catalog.due


def test_a_name_for_one_language_leaves_the_other_generated():
    catalog, before = catalog_of_three()
    catalog.rename(1, {"zh": "核心客户"})
    profile = refresh(catalog)[0]
    assert profile.names == {"en": before[0], "zh": "核心客户"}
    assert profile.name_source == "operator"


def test_it_is_kept_until_it_is_taken_back():
    """Whatever becomes of what the segment is; the generated name lives on behind it."""
    catalog, before = catalog_of_three()
    catalog.rename(1, {"en": "Our best"})
    refresh(catalog)
    catalog.scaled.population_variance = (
        catalog.scaled.population_variance * 1e4
    )  # nothing stands out any more
    assert refresh(catalog)[0].name == "Our best"
    assert catalog.rename(1, None) == ""
    profile = refresh(catalog)[0]
    assert (profile.name, profile.name_source) == (naming.NOTHING_SPECIAL, "generated")
    assert before[0] != profile.name


def test_it_ends_with_its_segment():
    catalog, _ = catalog_of_three()
    catalog.rename(1, {"en": "Our best"})
    refresh(catalog)
    catalog._give_up(0, 1)
    assert catalog.names()[1] == "Our best", "those who still have to be told are told by it"
    profiles = catalog.refresh(np.array([4, 2, 3]), np.full(3, 10), 0, np.full(150, -1, np.int32))
    assert "Our best" not in [profile.name for profile in profiles]
    assert catalog.rename(2, {"en": "Our best"}) == "", "the name is free again"


@pytest.mark.parametrize(
    ("segment", "names", "says"),
    [
        (9, {"en": "x"}, "segment 9 is not there"),
        (0, {"en": "x"}, "segment 0 is not there"),
        (1, {"fr": "x"}, "wanted one of en, zh"),
        (1, {"en": ""}, "printable"),
        (1, {"en": " "}, "printable"),
        (1, {"en": "a\u202eb"}, "printable"),
        (1, {"en": "x" * (NAME_CHARS_MAX + 1)}, "printable"),
        (1, {"en": "Taken"}, "segment 2 has it already"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(segment, names, says):
    catalog, before = catalog_of_three()
    assert catalog.rename(2, {"en": "Taken"}) == ""
    refresh(catalog)
    assert says in catalog.rename(segment, names)
    assert not catalog.due
    assert [profile.name for profile in refresh(catalog)] == [before[0], "Taken", before[2]]


def test_asking_twice_is_asking_once():
    catalog, _ = catalog_of_three()
    catalog.rename(1, {"en": "Our best"})
    refresh(catalog)
    catalog.rename(1, {"en": "Our best"})
    assert not catalog.due


def test_a_generated_name_gives_way_to_an_operators():
    catalog, before = catalog_of_three()
    catalog.rename(2, {"en": before[0]})
    found = [profile.name for profile in refresh(catalog)]
    assert found[1] == before[0]
    assert found[0] != before[0]
    assert len(set(found)) == 3


def test_names_go_on_after_a_restart_as_if_nothing_had_happened():
    one, _ = catalog_of_three()
    one.rename(1, {"en": "Our best", "zh": "核心客户"})
    refresh(one)
    one.rename(2, {"zh": "浏览者"})  # asked for, not yet shown
    other = Catalog(Config(), 3, NAMES)
    other.restore(one.snapshot())
    assert (one.due, one.names()) == (other.due, other.names())
    assert refresh(one) == refresh(other)
    assert [p.names for p in refresh(other)][:2] == [p.names for p in refresh(one)][:2]
    assert refresh(other)[1].names["zh"] == "浏览者"
    assert other.rename(3, {"en": "Our best"}) == one.rename(3, {"en": "Our best"}) != ""
    assert isinstance(other.titles, SegmentNames)
