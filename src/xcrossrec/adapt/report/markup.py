"""HTML that cannot be broken by what stands in it: every text is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias


class Markup(str):
    """HTML that is escaped already."""

    __slots__ = ()


Content: TypeAlias = str | Iterable["Content"] | None


def tag(name: str, /, *children: Content, **attributes: str | float | bool | None) -> Markup:
    """Write an element.

    Args:
        name: of the element.
        children: texts, which are escaped, markup, or several of them; None is nothing.
        attributes: ``class_`` is ``class``, any other underscore a hyphen; None and False are left out, True has no
            value, numbers are rounded to hundredths.
    """
    written = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in ("meta", "link"):
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Content) -> Markup:
    """Write texts and markup one after another."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(escape(children))
    return Markup("".join(map(join, children)))


def section(title: str, *children: Content, class_: str = "card") -> Markup:
    """A part of the page, named by its heading."""
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return tag("section", tag("h2", title, id=name), *children, class_=class_, aria_labelledby=name)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Content]]) -> Markup:
    """A table whose first column names the rows; the roles outlast a layout of blocks, as on phones."""
    body = [
        tag(
            "tr",
            tag("th", first, scope="row", role="rowheader"),
            [tag("td", cell, role="cell") for cell in cells],
            role="row",
        )
        for first, *cells in rows
    ]
    top = tag("tr", [tag("th", each, scope="col", role="columnheader") for each in heads], role="row")
    groups = tag("thead", top, role="rowgroup"), tag("tbody", body, role="rowgroup")
    return tag("table", tag("caption", caption), *groups, role="table")


def cell(value: str, more: str) -> Content:
    """A value, and what is to be known of it below."""
    return value, " ", tag("span", more, class_="meaning")


def title_of(text: str) -> Markup:
    """A product's title, in whichever direction it is written."""
    return tag("bdi", text)


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{escape(f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value))}"'
