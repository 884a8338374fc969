"""Short Chinese names for segments, by the same traits as the English ones: 高频买家·玩具，晚间活跃.

The first trait is a noun (who they are), what they take to follows behind a middle dot, further traits are
predicates (what they do). Labels come from the data and stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .naming import family

PHRASES: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "purchase": (("高频买家", "购买频繁"), ("低频买家", "购买较少")),
    "checkout": (("常结账用户", "结账频繁"), ("少结账用户", "结账较少")),
    "cart_add": (("爱加购用户", "加购频繁"), ("少加购用户", "加购较少")),
    "view": (("高频浏览者", "浏览频繁"), ("低频浏览者", "浏览较少")),
    "impression": (("高曝光用户", "曝光较多"), ("低曝光用户", "曝光较少")),
    "click": (("高频点击者", "点击频繁"), ("低频点击者", "点击较少")),
    "search": (("爱搜索用户", "搜索频繁"), ("少搜索用户", "搜索较少")),
    "dwell": (("长停留用户", "停留时间长"), ("短停留用户", "停留时间短")),
    "play": (("高频播放者", "播放频繁"), ("低频播放者", "播放较少")),
    "favorite": (("爱收藏用户", "收藏频繁"), ("少收藏用户", "收藏较少")),
    "like": (("爱点赞用户", "点赞频繁"), ("少点赞用户", "点赞较少")),
    "comment": (("爱评论用户", "评论频繁"), ("少评论用户", "评论较少")),
    "rate": (("爱评分用户", "评分频繁"), ("少评分用户", "评分较少")),
    "rating": (("爱评分用户", "评分频繁"), ("少评分用户", "评分较少")),
    "share": (("爱分享用户", "分享频繁"), ("少分享用户", "分享较少")),
    "follow": (("爱关注用户", "关注频繁"), ("少关注用户", "关注较少")),
    "login": (("常登录用户", "登录频繁"), ("少登录用户", "登录较少")),
    "custom": (("其他行为较多用户", "其他行为较多"), ("其他行为较少用户", "其他行为较少")),
    "money": (("高消费用户", "消费金额高"), ("低消费用户", "消费金额低")),
    "value": (("高消费用户", "消费金额高"), ("低消费用户", "消费金额低")),
    "spend": (("高消费用户", "消费金额高"), ("低消费用户", "消费金额低")),
    "quantity": (("批量购买者", "购买件数多"), ("零散购买者", "购买件数少")),
    "distinct": (("兴趣广泛用户", "涉猎广泛"), ("兴趣专一用户", "涉猎集中")),
    "recency": (("近期沉寂用户", "近期沉寂"), ("近期活跃用户", "近期活跃")),
    "tenure": (("老用户", "加入较早"), ("新用户", "新近加入")),
    "age": (("老用户", "加入较早"), ("新用户", "新近加入")),
    "events": (("高活跃用户", "活跃度高"), ("低活跃用户", "活跃度低")),
    "count": (("高活跃用户", "活跃度高"), ("低活跃用户", "活跃度低")),
    "total": (("高活跃用户", "活跃度高"), ("低活跃用户", "活跃度低")),
    "night": (("夜间活跃用户", "夜间活跃"), ("夜间少活动用户", "夜间很少活动")),
    "morning": (("早间活跃用户", "早间活跃"), ("早间少活动用户", "早间很少活动")),
    "afternoon": (("午后活跃用户", "午后活跃"), ("午后少活动用户", "午后很少活动")),
    "evening": (("晚间活跃用户", "晚间活跃"), ("晚间少活动用户", "晚间很少活动")),
    "weekend": (("周末活跃用户", "周末活跃"), ("工作日活跃用户", "工作日活跃")),
    "hour": (("其他时段用户", "其他时段活跃"), ("其他时段用户", "其他时段活跃")),
}
"""Feature family -> (noun, predicate) for more than the population, and for less."""

NOTHING_SPECIAL = "普通用户"

_BETWEEN = "\n"  # of noun and predicate in one phrase


def phrase(feature: str, z: float) -> str:
    """Noun and predicate, on two lines, for being z deviations off the population in this feature.

    >>> phrase("evening_share", 1.0).split()
    ['晚间活跃用户', '晚间活跃']
    """
    words = PHRASES.get(family(feature))
    if words is None:
        much = "偏高" if z > 0 else "偏低"
        return f"{family(feature)} {much}的用户{_BETWEEN}{family(feature)} {much}"
    return _BETWEEN.join(words[0] if z > 0 else words[1])


def compose(phrases: Sequence[str], label: str, segment_id: int, taken: Collection[str]) -> tuple[str, int]:
    """A name that is not taken, and how many of the phrases it uses.

    >>> compose([phrase("purchase_count_7d", 1), phrase("evening_share", 1)], "玩具", 3, {"高频买家·玩具"})
    ('高频买家·玩具，晚间活跃', 2)
    >>> compose([], "toys", 3, set()), compose([], "玩具", 3, set())
    (('偏爱 toys 的用户', 0), ('偏爱玩具的用户', 0))
    """
    predicates = [one.split(_BETWEEN)[1] for one in phrases]
    head = phrases[0].split(_BETWEEN)[0] if phrases else NOTHING_SPECIAL
    if label:
        head = f"{head}·{label}" if phrases else f"偏爱{_spaced(label)}的用户"
    used = min(len(phrases), 1 if label else 2)
    for n in range(used, max(used, len(phrases)) + 1):
        name = _sentence(head, predicates[1:n])
        if name not in taken:
            return name, n
    name = _sentence(head, predicates[1:used])
    while name in taken:
        name += f"（{segment_id}）"
    return name, used


def _sentence(head: str, predicates: Sequence[str]) -> str:
    return f"{head}，{'、'.join(predicates)}" if predicates else head


def _spaced(label: str) -> str:
    """A label among Chinese words: with a space on a side where its own script wants one."""
    before = " " if label[0].isascii() else ""
    after = " " if label[-1].isascii() else ""
    return f"{before}{label}{after}"
