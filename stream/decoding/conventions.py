"""The Segment `track` spec and GA4's BigQuery export, read as the contract.

Sources: Segment, "Spec: V2 Ecommerce Events" and "Spec: Track"; Google, "[GA4] BigQuery Export schema" and
"[GA4] Recommended events". Type names stay as they arrive; `types` says what they count as, and whatever it
does not name counts as `custom`. Fields that the contract has no use for are ignored.

Nothing here refuses anything but a container of the wrong type (`Mistyped`): the contract's types come next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .field_map import Json, as_text, content_id


class Mistyped(ValueError):
    """A container of the source has another type than its convention says."""

    def __init__(self, field: str, found: Any, wanted: str) -> None:
        super().__init__(f"{field}: got {json_type(found)}, wanted {wanted}")


@dataclass(frozen=True, slots=True)
class Convention:
    """How one tool writes behaviour events."""

    read: Callable[[Json, bytes], Json]  # source object and its bytes -> contract object
    types: Mapping[str, str]  # event name -> contract type


def json_type(found: Any) -> str:
    """JSON's name for the type of a decoded value."""
    names = {dict: "object", list: "array", str: "str", bool: "bool", int: "int", float: "float"}
    return names.get(type(found), "null")


def _object(source: Json, name: str) -> Json:
    found = source.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Mistyped(name, found, "object")
    return found


def _list(source: Json, name: str) -> list[Any]:
    found = source.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Mistyped(name, found, "array")
    return found


def _first(source: Json, *names: str) -> Any:
    """The value of the first name that is there and not null."""
    return next((found for name in names if (found := source.get(name)) is not None), None)


# --- Segment --------------------------------------------------------------------------------------------

_CALLS = {"page": "view", "screen": "view"}  # calls without an event name

SEGMENT_TYPES: Mapping[str, str] = {
    **_CALLS,
    "Products Searched": "search",
    "Product List Viewed": "view",
    "Product List Filtered": "search",
    "Promotion Viewed": "impression",
    "Promotion Clicked": "click",
    "Product Clicked": "click",
    "Product Viewed": "view",
    "Product Added": "cart_add",
    "Product Removed": "cart_remove",
    "Cart Viewed": "view",
    "Checkout Started": "checkout",
    "Order Completed": "purchase",
    "Order Refunded": "refund",
    "Order Cancelled": "refund",
    "Product Shared": "share",
    "Cart Shared": "share",
    "Product Added to Wishlist": "favorite",
    "Product Removed from Wishlist": "unfavorite",
    "Wishlist Product Added to Cart": "cart_add",
    "Product Reviewed": "rate",
    "Signed In": "login",
}


def read_segment(source: Json, raw: bytes) -> Json:
    """One Segment call. `track` by its event name; `page` and `screen` are views, other calls `custom`."""
    properties = _object(source, "properties")
    call = source.get("type")
    return {
        "event_id": source.get("messageId"),
        "type": source.get("event") if call in (None, "track") else call,
        "user_id": as_text(source.get("userId")),
        "anonymous_id": as_text(source.get("anonymousId")),
        "event_time": _first(source, "timestamp", "originalTimestamp"),
        "value": _first(properties, "revenue", "total", "value"),
        "currency": properties.get("currency"),
        "query": properties.get("query"),
        "rating": properties.get("rating"),
        "items": _segment_items(properties),
    }


def _segment_items(properties: Json) -> list[Any] | None:
    """`products`, or else the properties themselves where they speak of a product or a category."""
    products = _list(properties, "products")
    if not products and any(properties.get(name) is not None for name in ("product_id", "sku", "category")):
        products = [properties]
    return [_segment_item(one) if isinstance(one, dict) else one for one in products] or None


def _segment_item(product: Json) -> Json:
    category = product.get("category")
    return {
        "id": as_text(_first(product, "product_id", "sku")),
        "category": [category] if isinstance(category, str) else category,
        "brand": product.get("brand"),
        "price": product.get("price"),
        "quantity": product.get("quantity"),
        "position": product.get("position"),
    }


# --- GA4 ------------------------------------------------------------------------------------------------

GA4_TYPES: Mapping[str, str] = {
    "page_view": "view",
    "screen_view": "view",
    "view_item": "view",
    "view_cart": "view",
    "view_item_list": "impression",
    "view_promotion": "impression",
    "select_item": "click",
    "select_promotion": "click",
    "select_content": "click",
    "search": "search",
    "view_search_results": "search",
    "user_engagement": "dwell",
    "video_start": "play",
    "add_to_wishlist": "favorite",
    "share": "share",
    "add_to_cart": "cart_add",
    "remove_from_cart": "cart_remove",
    "begin_checkout": "checkout",
    "purchase": "purchase",
    "in_app_purchase": "purchase",
    "refund": "refund",
    "login": "login",
}


def read_ga4(source: Json, raw: bytes) -> Json:
    """One row of the BigQuery export. There is no event id: the same bytes are the same event.

    Engagement time counts as dwell on whichever event carries it: GA4's own total is their sum.
    """
    params = _ga4_params(source)
    ecommerce = _object(source, "ecommerce")
    return {
        "event_id": content_id(raw),
        "type": source.get("event_name"),
        "user_id": as_text(source.get("user_id")),
        "anonymous_id": as_text(source.get("user_pseudo_id")),
        "event_time": _ga4_whole(source.get("event_timestamp")),
        "session_id": as_text(params.get("ga_session_id")),
        "value": _first({**ecommerce, **params}, "value", "purchase_revenue", "refund_value"),
        "dwell_ms": params.get("engagement_time_msec"),
        "currency": params.get("currency"),
        "query": params.get("search_term"),
        "items": [_ga4_item(one) if isinstance(one, dict) else one for one in _list(source, "items")] or None,
    }


def _ga4_params(source: Json) -> Json:
    """`event_params`, a list of {key, value: {..._value: x}}, as one object; numbers may be text there."""
    params: Json = {}
    for param in _list(source, "event_params"):
        if not isinstance(param, dict) or not isinstance(param.get("key"), str):
            raise Mistyped("event_params[]", param, "object with a key")
        value = _object(param, "value")
        number = _first(value, "int_value", "double_value", "float_value")
        text = value.get("string_value")
        params[param["key"]] = text if text is not None else _ga4_whole(number)
    return params


def _ga4_item(item: Json) -> Json:
    levels = ("item_category", "item_category2", "item_category3", "item_category4", "item_category5")
    category = [item[name] for name in levels if item.get(name) not in (None, "", "(not set)")]
    return {
        "id": as_text(_first(item, "item_id", "item_name")),
        "category": category or None,
        "brand": item.get("item_brand"),
        "price": item.get("price"),
        "quantity": _ga4_whole(item.get("quantity")),
    }


def _ga4_whole(found: Any) -> Any:
    """BigQuery writes 64-bit integers as text when it exports JSON."""
    if (
        isinstance(found, str)
        and len(found) <= 20
        and found.isascii()
        and found.removeprefix("-").isdecimal()
    ):
        return int(found)
    return found


CONVENTIONS: Mapping[str, Convention] = {
    "segment": Convention(read_segment, SEGMENT_TYPES),
    "ga4": Convention(read_ga4, GA4_TYPES),
}
