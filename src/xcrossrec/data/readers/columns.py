"""What columns are called: named by the user, or found by the names that tables use for them."""

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
"""What an item may have beside its title; the canonical names of these columns, too."""

VOCABULARY = tomllib.loads(files("xcrossrec.data.readers").joinpath("vocabulary.toml").read_text("utf-8"))
"""What columns are called, and what they say, in the exports of many shops and languages."""

_BEFORE: Mapping[Role, str] = dict.fromkeys(("item", "title", *FIELDS), VOCABULARY["before"]["item"]) | {
    "user": VOCABULARY["before"]["user"]
}
_WORDS = {kind: re.compile("|".join(words), re.IGNORECASE) for kind, words in VOCABULARY["words"].items()}


def check_choices(settings: Any) -> None:
    """Refuse (ConfigError) a dataclass of which a field with a few possible values has another one."""
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
        item: in interactions and items alike; of several, one a line, each file's is the first that it has.
        clock: the time of day, where ``time`` is a date alone; found beside a date that was found (``order_date``).
        position: order within the user's sequence.
        category: one text, or a path of categories as a list.
        price: a number, perhaps with a currency.
        in_stock: yes or no, or how many.
        history: of ready splits, what the user bought before: ids with blanks between them.
        time_unit: s, ms, us or ns since 1970, iso for ISO 8601 text (UTC where it names no zone), mdy for 1/31/2026 or
            dmy for 31/1/2026, days as spreadsheets count them; None takes the unit that the first time is in, and every
            other time of the file must be in it too.
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
        """Give the columns as one file has them; of several that are named for a role, the first that is there.

        Args:
            elsewhere: the item's column may be meant for another file, and is then found by its usual names.
            products: it is a table of items alone.

        Raises:
            DataError: a column that is named or needed is not there, or several may be it.
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
        """Give the columns with the time of day that stands beside the date, if no other is named."""
        return replace(self, clock=self.clock or _clock_of(self.time or "", present))


def candidates(role: Role, present: Sequence[str], *, products: bool = False) -> list[str]:
    """All columns that may be it, the likeliest first."""
    return list(dict.fromkeys(name for found in _called(role, present, "", products) for name in found))


def _find(role: Role, path: str, present: Sequence[str], within: str = "", *, products: bool = False) -> str | None:
    """Find a column, first inside the object that holds the item."""
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
    """Find the time of day that belongs to a date: its name is the same but for the word."""
    stem, dates = _WORDS["day"].subn("", _plain(day), count=1)
    named = (name for name in present if _WORDS["clock"].subn("", _plain(name), count=1) == (stem, 1))
    return next(named, None) if dates else None


def _called(role: Role, present: Sequence[str], within: str, products: bool) -> Iterator[list[str]]:
    """Give the columns that are called so: whole, by the last part of a dotted name, behind another word."""
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
    """Whether a column of some role is usually called so."""
    usual = [*VOCABULARY["usual"].values(), *VOCABULARY["otherwise"].values()]
    return any(_plain(name) == _plain(known) for names in usual for known in names.split())


def is_dated(name: str) -> bool:
    """Whether a column is called as one of dates is."""
    return bool(_WORDS["dated"].search(unaccented(name)))


@cache
def _plain(name: str) -> str:
    turned = re.sub(r"^id[\s_-]+(.+)", r"\1id", name.lower())
    return "".join(filter(str.isalnum, unaccented(turned).lower()))
