"""What columns are called: named by the user, or found by the names that tables use for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast, get_args

from xcrossrec.exceptions import ConfigError, DataError

TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns", "iso"]
Role: TypeAlias = Literal["user", "item", "title", "time", "position"]
ROLES: tuple[Role, ...] = get_args(Role)

NAMES: Mapping[Role, str] = {
    "user": "user_id user customer_id customer client_id buyer_id account_id member_id shopper_id reviewerID",
    "item": "item_id item product_id product sku article_id article asin parent_asin movie_id isbn",
    "title": "title name item_name item_title product_name product_title movie_title",
    "time": "timestamp time datetime date ts order_date ordered_at purchase_date purchased_at created_at",
    "position": "position",
}
"""Per role the names by which a column is found, whatever their case and punctuation; the first is preferred."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a user's own tables are called; those that are None are found by their ``NAMES``.

    Args:
        user: the user's id.
        item: the item's id, in interactions and items alike.
        title: the item's title.
        time: when it happened.
        position: order within the user's sequence.
        time_unit: s, ms, us or ns since 1970, or iso for ISO 8601 text (UTC where it names no zone); None takes
            the unit that the first time is in, and every other time of the file must be in it too.
    """

    user: str | None = None
    item: str | None = None
    title: str | None = None
    time: str | None = None
    position: str | None = None
    time_unit: TimeUnit | None = None

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

    def found_in(
        self, path: Path, present: Sequence[str], needed: Sequence[Role], optional: Sequence[Role] = ()
    ) -> Self:
        """Give the columns as one file has them.

        Args:
            path: the file, for messages.
            present: the file's columns.
            needed: what must be there.
            optional: what is looked for, too.

        Raises:
            DataError: a column that is named or needed is not there, or several may be it.
        """
        named: dict[str, Any] = {role: _find(role, getattr(self, role), path, present) for role in (*needed, *optional)}
        if missing := [role for role in needed if named[role] is None]:
            raise DataError(
                f"{path} has no column for the {missing[0]}, it has {', '.join(map(repr, present)) or 'none'}: "
                f"name it with --column {missing[0]}=NAME, or choose the format that the file has"
            )
        return replace(self, **named)


def _find(role: Role, stated: str | None, path: Path, present: Sequence[str]) -> str | None:
    if stated is not None:
        if stated not in present:
            raise DataError(
                f"{path} has no column {stated!r}, it has {', '.join(map(repr, present)) or 'none'}: "
                "name the right column, or choose the format that the file has"
            )
        return stated
    names = NAMES[role].split()
    known = [_plain(name) for name in names]
    found = [name for name in dict.fromkeys(present) if _plain(name) in known]
    preferred = [name for name in found if name == names[0]]
    if len(found) > 1 and not preferred:
        raise DataError(
            f"{path} has several columns that may be the {role}, {', '.join(map(repr, found))}: "
            f"say which with --column {role}={found[0]}"
        )
    return next(iter(preferred or found), None)


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
