"""What columns are called: named by the user, or found by the names that tables use for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, cast, get_args, get_origin, get_type_hints

from xcrossrec.data.times import TimeUnit
from xcrossrec.exceptions import ConfigError, DataError

Role: TypeAlias = Literal[
    "user", "item", "title", "time", "position", "brand", "category", "description", "price", "in_stock", "history"
]
ROLES: tuple[Role, ...] = get_args(Role)
FIELDS: tuple[Role, ...] = ("brand", "category", "description", "price", "in_stock")
"""What an item may have beside its title; the canonical names of these columns, too."""

NAMES: Mapping[Role, str] = {
    "user": "user_id user customer_id customer client_id buyer_id account_id member_id shopper_id visitor_id "
    "user_pseudo_id reviewerID uid client buyer shopper customer_no customer_user_id kundennummer kunde",
    "item": "item_id item product_id product sku lineitem_sku article_id article asin parent_asin movie_id isbn "
    "product_sku item_sku variant_sku stock_code artikelnummer artikel",
    "title": "title name item_name item_title lineitem_name product_name product_title movie_title bezeichnung nom",
    "time": "timestamp time datetime date ts order_date ordered_at purchase_date purchased_at created_at event_time "
    "event_timestamp paid_at order_time purchase_time transaction_date invoice_date event_date t_dat datum kaufdatum",
    "position": "position",
    "brand": "brand brand_name manufacturer vendor maker",
    "category": "category category_name product_category category_path category_code categories main_category "
    "product_type department kategorie",
    "description": "description product_description item_description body_html long_description",
    "price": "price unit_price regular_price sale_price list_price variant_price preis prix",
    "in_stock": "in_stock is_in_stock available is_available availability stock stock_quantity inventory",
    "history": "history item_id_list item_seq history_items",
}
"""Per role the names by which a column is found, whatever their case and punctuation; the first is preferred."""

_IF_NONE: Mapping[Role, str] = {"user": "email email_address customer_email user_email"}
"""Names that count where no column has one of those."""


def check_choices(settings: Any) -> None:
    """Refuse a dataclass of which a field with a few possible values has another one.

    Raises:
        ConfigError: names the field, the value and the choices.
    """
    hints = get_type_hints(type(settings))
    for each in fields(settings):
        hint, value = hints[each.name], getattr(settings, each.name)
        kind = get_args(hint)[0] if type(None) in get_args(hint) else hint
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        if choices and value not in (*choices, each.default):
            raise ConfigError(f"{each.name} is {value!r}: choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class Columns:
    """What the columns of a user's own tables are called; those that are None are found by their ``NAMES``.

    A column inside another one has a dotted name (``customer.id``); one of a file without a header its number, from 1.

    Args:
        item: in interactions and items alike.
        position: order within the user's sequence.
        category: one text, or a path of categories as a list.
        price: a number, perhaps with a currency.
        in_stock: yes or no, or how many.
        history: of ready splits, what the user bought before: ids with blanks between them.
        time_unit: s, ms, us or ns since 1970, iso for ISO 8601 text (UTC where it names no zone), mdy for 1/31/2026 or
            dmy for 31/1/2026; None takes the unit that the first time is in, and every other time of the file must be
            in it too.
    """

    user: str | None = None
    item: str | None = None
    title: str | None = None
    time: str | None = None
    position: str | None = None
    brand: str | None = None
    category: str | None = None
    description: str | None = None
    price: str | None = None
    in_stock: str | None = None
    history: str | None = None
    time_unit: TimeUnit | None = None

    def __post_init__(self) -> None:
        check_choices(self)

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> Self:
        """Read pairs like ``user=customer``.

        Raises:
            ConfigError: no such role, or a pair without a name.
        """
        named: dict[str, str] = {}
        for pair in pairs:
            role, _, name = pair.partition("=")
            if role not in ROLES or not name:
                raise ConfigError(
                    f"column {pair!r} is not ROLE=NAME: ROLE is one of {', '.join(ROLES)}, as in user=customer"
                )
            named[role] = name
        return cls(**cast("Mapping[str, str]", named))  # type: ignore[arg-type]

    @property
    def numbered(self) -> bool:
        """Whether a column is named by its number, as of a file without a header."""
        return any((getattr(self, role) or "").isdigit() for role in ROLES)

    def found_in(
        self,
        path: str,
        present: Sequence[str],
        needed: Sequence[Role],
        optional: Sequence[Role] = (),
        hint: str = "",
        *,
        elsewhere: bool = False,
    ) -> Self:
        """Give the columns as one file has them.

        Args:
            elsewhere: the item's column may be meant for another file, and is then found by its usual names.

        Raises:
            DataError: a column that is named or needed is not there, or several may be it.
        """
        has = f"it has {', '.join(map(repr, present[:30])) or 'none'}{', ...' if len(present) > 30 else ''}"
        named: dict[str, Any] = {}
        for role in (*needed, *optional):
            stated = getattr(self, role)
            if elsewhere and role == "item" and stated not in present and _find(role, path, present):
                stated = None
            if stated is not None and stated not in present:
                raise DataError(f"{path} has no column {stated!r}, {has}: name the right column{hint}")
            named[role] = stated or _find(role, path, present)
            if present.count(named[role]) > 1:
                raise DataError(f"{path} has {present.count(named[role])} columns {named[role]!r}: rename all but one")
            if named[role] is None and role in needed:
                raise DataError(
                    f"{path} has no column for the {role}, {has}: name it with --column {role}=NAME, or choose the "
                    f"format that the file has{hint}"
                )
        return replace(self, **named)


def _find(role: Role, path: str, present: Sequence[str]) -> str | None:
    """Find a column by its whole name, or by the last part of a dotted one."""
    return _found(role, NAMES[role], path, present) or _found(role, _IF_NONE.get(role, ""), path, present)


def _found(role: Role, names: str, path: str, present: Sequence[str]) -> str | None:
    known = [_plain(name) for name in names.split()]
    found = [name for name in dict.fromkeys(present) if _plain(name) in known]
    found = found or [name for name in present if "." in name and _plain(name.rpartition(".")[2]) in known]
    preferred = [name for name in found if name in names.split()[:1]]
    if len(found) > 1 and not preferred and role not in (*FIELDS, "history"):
        raise DataError(
            f"{path} has several columns that may be the {role}, {', '.join(map(repr, found))}: "
            f"say which with --column {role}={found[0]}"
        )
    found.sort(key=lambda name: known.index(_plain(name)) if _plain(name) in known else len(known))
    return next(iter(preferred or found), None)


def is_usual(name: str) -> bool:
    """Whether a column of some role is usually called so."""
    usual = " ".join([*NAMES.values(), *_IF_NONE.values()]).split()
    return any(_plain(name) == _plain(known) for known in usual)


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
