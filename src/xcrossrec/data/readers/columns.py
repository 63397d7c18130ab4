"""Which column is which: named by the user, or found by the names that exports use."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self, TypeAlias, cast, get_args, get_origin, get_type_hints

from xcrossrec.data.text import unaccented
from xcrossrec.data.times import TimeUnit
from xcrossrec.exceptions import ConfigError, DataError

Role: TypeAlias = Literal[
    "user", "item", "title", "time", "clock", "position", "brand", "category", "description", "price", "in_stock",
    "history"
]  # fmt: skip
ROLES: tuple[Role, ...] = get_args(Role)
FIELDS: tuple[Role, ...] = ("brand", "category", "description", "price", "in_stock")
"""An item's columns besides its title, and their canonical names."""

VOCABULARY = tomllib.loads(files("xcrossrec.data.readers").joinpath("vocabulary.toml").read_text("utf-8"))
"""Names of columns, and words in them, in the exports of many shops and languages."""

_BEFORE: Mapping[Role, str] = dict.fromkeys(("item", "title", *FIELDS), VOCABULARY["before"]["item"]) | {
    "user": VOCABULARY["before"]["user"]
}
_WORDS = {kind: re.compile("|".join(words), re.IGNORECASE) for kind, words in VOCABULARY["words"].items()}


def check_choices(settings: Any) -> None:
    """Raise ConfigError if a dataclass field with a ``Literal`` type has another value."""
    hints = get_type_hints(type(settings))
    for each in fields(settings):
        hint, value = hints[each.name], getattr(settings, each.name)
        kind = get_args(hint)[0] if type(None) in get_args(hint) else hint
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        if choices and value not in (*choices, each.default):
            raise ConfigError(f"{each.name} is {value!r}: choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a user's tables; those that are None are found by their usual names.

    A nested column has a dotted name (``customer.id``), a column of a file without a header its number, from 1.

    Args:
        item: in interactions and items; if there are several names, one per line, each file's first existing one.
        clock: the time of day, if ``time`` is only a date; found if the date was found (``order_date``).
        position: order within the user's sequence.
        category: one text, or a path of categories as a list.
        price: a number, perhaps with a currency.
        in_stock: yes or no, or a quantity.
        history: in ready splits, ids of earlier purchases, separated by blanks.
        time_unit: s, ms, us or ns since 1970, iso for ISO 8601 text (UTC if it has no zone), mdy for 1/31/2026, dmy for
            31/1/2026, days as spreadsheets count them; None detects the unit from the first time, and all times of a
            file must have the same unit.
    """

    user: str | None = None
    item: str | None = None
    title: str | None = None
    time: str | None = None
    clock: str | None = None
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
        """Read pairs like ``user=customer`` (ConfigError: no such role, or a pair without a name)."""
        named: dict[str, str] = {}
        for pair in pairs:
            role, _, name = pair.partition("=")
            if role not in ROLES or not name:
                raise ConfigError(
                    f"column {pair!r} is not ROLE=NAME: ROLE is one of {', '.join(ROLES)}, as in user=customer"
                )
            named[role] = f"{named[role]}\n{name}" if role in named else name
        return cls(**cast("Mapping[str, str]", named))  # type: ignore[arg-type]

    @property
    def numbered(self) -> bool:
        """Whether a column is named by its number, as of a file without a header."""
        return any((getattr(self, role) or "").replace("\n", "").isdigit() for role in ROLES)

    def found_in(
        self,
        path: str,
        present: Sequence[str],
        needed: Sequence[Role],
        optional: Sequence[Role] = (),
        hint: str = "",
        *,
        elsewhere: bool = False,
        products: bool = False,
    ) -> Self:
        """Resolve the columns of one file; if a role has several names, the first existing one.

        Args:
            elsewhere: the named item column may belong to another file; this file's is then found by its usual names.
            products: the file is a table of items only.

        Raises:
            DataError: a named or needed column is absent, or several columns fit.
        """
        has = f"it has {', '.join(map(repr, present[:30])) or 'none'}{', ...' if len(present) > 30 else ''}"
        named: dict[str, Any] = {}
        for role in (*needed, *optional):
            within = "" if role in ("item", "user", "time") else (named.get("item") or "").rpartition(".")[0]
            stated = (getattr(self, role) or "").split("\n")
            own = [name for name in stated if name and name in present]
            name = own[0] if own else _find(role, path, present, within, products=products)
            if stated[0] and not own and not (elsewhere and role == "item" and name):
                again = f" (--column {role}=NAME once for each)" if elsewhere and role == "item" else ""
                raise DataError(f"{path} has no column {stated[0]!r}, {has}: name the right column{again}{hint}")
            if name is not None and present.count(name) > 1:
                raise DataError(f"{path} has {present.count(name)} columns {name!r}: rename all but one")
            if name is None and role in needed:
                several = [each for each in present if candidates(role, [re.sub(r"[\W_]*\d+$", "", each)])]
                remedy = f"name it with --column {role}=NAME, or give the file's --format"
                remedy = f"write a row for each of {', '.join(several)}" if len(several) > 1 else remedy
                raise DataError(f"{path} has no column for the {role}, {has}: {remedy}{hint}")
            named[role] = name
        return replace(self, **named)

    def with_clock(self, present: Sequence[str]) -> Self:
        """Add the column of the time of day that belongs to the date, if none is named."""
        return replace(self, clock=self.clock or _clock_of(self.time or "", present))


def candidates(role: Role, present: Sequence[str], *, products: bool = False) -> list[str]:
    """All columns that may have this role, the likeliest first."""
    return list(dict.fromkeys(name for found in _called(role, present, "", products) for name in found))


def _find(role: Role, path: str, present: Sequence[str], within: str = "", *, products: bool = False) -> str | None:
    """Find a role's column, first within the nested object of the item."""
    inside = [name for name in present if within and name.startswith(f"{within}.")]
    every = (found for names in (inside, present) for found in _called(role, names, within, products))
    found = next((names for names in every if names), [])
    found = [name for name in found if role != "time" or not any(_clock_of(day, [name]) for day in found)]
    best = [name for name in found if name.rpartition(".")[2] in VOCABULARY["usual"][role].split()[:1]]
    if role == "user" and [_plain(name) for name in best or found] in (["user"], ["userid"]):  # perhaps a cashier
        others = [name for name in candidates(role, present) if _WORDS["customer"].search(_plain(name))]
        found, best = [*others, *(best or found)], [] if others else best
    quiet = (*FIELDS, "history", "" if "." in "".join(found) else "title")
    if len(found) > 1 and len(best) != 1 and role not in quiet:
        raise DataError(
            f"{path} has several columns that may be the {role}, {', '.join(map(repr, found))}: "
            f"say which with --column {role}={found[0]}"
        )
    return next(iter(best or found), None)


def _clock_of(day: str, present: Sequence[str]) -> str | None:
    """Find the time of day of a date: their names differ only in the words for date and time."""
    stem, dates = _WORDS["day"].subn("", _plain(day), count=1)
    named = (name for name in present if _WORDS["clock"].subn("", _plain(name), count=1) == (stem, 1))
    return next(named, None) if dates else None


def _called(role: Role, present: Sequence[str], within: str, products: bool) -> Iterator[list[str]]:
    """Yield the columns with a usual name: the whole name, the last part of a dotted one, or without a prefix."""
    bare = rf"(?i)^{_BEFORE.get(role, '')}[\s_-]*|\s*([(\uff08【\[].*|, ?\w{{1,4}}\.?)$"
    whole = {name: name.removeprefix(f"{within}.") for name in present}
    last = {name: name.rstrip(". ").rpartition(".")[2] for name in present}
    behind = {name: re.sub(bare, "", part) for name, part in last.items()}
    for kind in ("usual", "otherwise", *(["products"] if products else [])):
        known = [_plain(name) for name in VOCABULARY[kind].get(role, "").split()]
        for parts in (whole, last, behind):
            plain = {name: _plain(part) for name, part in parts.items() if _plain(part) in known}
            yield sorted(plain, key=lambda name: (known.index(plain[name]), -name.count(".")))


def is_usual(name: str) -> bool:
    """Whether a name is usual for some role."""
    usual = [*VOCABULARY["usual"].values(), *VOCABULARY["otherwise"].values()]
    return any(_plain(name) == _plain(known) for names in usual for known in names.split())


def is_dated(name: str) -> bool:
    """Whether a name is usual for a column of dates."""
    return bool(_WORDS["dated"].search(unaccented(name)))


@cache
def _plain(name: str) -> str:
    turned = re.sub(r"^id[\s_-]+(.+)", r"\1id", name.lower())
    return "".join(filter(str.isalnum, unaccented(turned).lower()))
