"""The text of an item that models read: a template over the columns of the item table, rendered for all items at once.

People see titles; models read texts. A template names columns in braces, as in ``{title}; {brand}; {category}``. An
empty field disappears together with its separator and label. A number after a colon, as in ``{description:64}``, limits
the words that are read of that field. Words are counted because no tokenizer is needed for it (an English word is about
1.3 tokens); in scripts without spaces, eight characters count as a word.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, NamedTuple

import polars as pl
from polars.datatypes import DataTypeClass

from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import ITEM, TITLE

CATEGORY, BRAND, DESCRIPTION, PRICE, IN_STOCK = "category", "brand", "description", "price", "in_stock"
CANONICAL: dict[str, pl.DataType] = {
    BRAND: pl.String(),
    CATEGORY: pl.String(),
    DESCRIPTION: pl.String(),
    PRICE: pl.Float64(),
    IN_STOCK: pl.Boolean(),
}
"""Columns of an item table with a fixed meaning and type, besides id and title."""

CHARACTERS_A_WORD = 8
_LONGEST_TEMPLATE, _MOST_WORDS = 1_000, 1_000

_ENTITY = re.compile(r"&(?:#[0-9]{1,9}|#[xX][0-9a-fA-F]{1,8}|[A-Za-z][A-Za-z0-9]{0,31});")
_ENTITY_DEPTH = 3  # "&amp;amp;quot;" occurs in the wild
_USUAL_ENTITIES = {"&amp;": "&", "&quot;": '"', "&lt;": "<", "&gt;": ">", "&nbsp;": "\xa0", "&apos;": "'", "&#39;": "'"}
_PLAIN = 1_000  # characters; above, Python's regular expressions may take minutes, and those of Polars are used
_SHORT = 100  # bytes; shorter texts are likely to repeat
_UNSEEN = r"(?is)<(?:script|style)\b[^>]*>.*?</(?:script|style)\s*>|<!--.*?-->"
_INLINE = r"(?i)</?(?:a|abbr|b|big|em|font|i|mark|s|small|span|strong|sub|sup|u)(?:\s[^<>]*)?/?>"
_BLOCK = (
    r"(?i)</?(?:article|blockquote|body|br|center|dd|div|dl|dt|figure|footer|form|h[1-6]|head|header|hr|html|iframe|img|"
    r"input|li|link|main|meta|nav|object|ol|option|p|pre|section|select|table|tbody|td|tfoot|th|thead|title|tr|ul|"
    r"video|wbr)(?:\s[^<>]*)?/?>"
)
_UNFOLDED = r"[\s\x1c-\x1f&&[^ ]]|  |^ | $"
ABSENT = ("nan", "none", "null", "n/a", "nat", "<na>", "#n/a", "(null)", "undefined", "\\n", "(not set)")
"""What databases, pandas and spreadsheets write for a missing value, in any case."""
NOTHING = rf"^(?i:{'|'.join(map(re.escape, ABSENT))})$|^NA$"

_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u200b-\u200f]")
_ALIKE = str.maketrans("ıđĐłŁøØيىك", "idDlLoOییک")
_ASIAN = r"\p{Han}\p{Hiragana}\p{Katakana}", r"\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}"
WORD = rf"[{_ASIAN[0]}]{{1,2}}|[{_ASIAN[1]}]{{1,6}}|[^\s{''.join(_ASIAN)}]+"
"""A word, for Polars; in scripts without spaces, about as many letters as a word has."""
_DIGITS = {chr(ord(zero) + place): str(place) for zero in "٠۰०০੦૦୦௦౦೦൦๐໐၀០" for place in range(10)}
_DIGITS |= {"\u066c": ",", "\u066b": "."}  # between Arabic digits
_HAN = "\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
is_han = re.compile(f"[{_HAN}]+").fullmatch
"""Whether a text has only Chinese characters."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_SCRIPTS = re.compile(f"(?P<han>[{_HAN}]+)|(?P<runs>[{_UNSPACED}]+)|[\u3041-\u309f]+|[\u30a1-\u30ff]+")

_TAGS_OUT, _NAUGHT = [re.compile(each) for each in (_UNSEEN, _INLINE, _BLOCK)], re.compile(NOTHING)

_SEPARATOR = re.compile(r"\s*(?:[;,|/•·—\u2013]|(?<=\s)-+(?=\s)|[.!?](?=\s))\s*")
"""The separator between two fields; before it is the end of the first field, after it the label of the second."""
_BARE = re.compile(r"(?P<close>[)\]}>»”\u2019\"']*)(?P<separator>[^\w(\[{<«“\"'#$€£@]*)(?P<label>.*)", re.S)


class Field(NamedTuple):
    """One field of a template.

    Attributes:
        words: the most words that are read; None for all.
        separator: written before the field unless all earlier fields are empty.
        label: written before the field, after the separator.
        close: written after the field.
    """

    name: str
    words: int | None
    separator: str
    label: str
    close: str


@dataclass(frozen=True)
class ItemText:
    """The text of an item that models read.

    Args:
        template: columns in braces, with text between them; ``{{`` and ``}}`` are braces. ConfigError: no column, or
            invalid syntax.
    """

    template: str = f"{{{TITLE}}}"

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or not 0 < len(self.template) <= _LONGEST_TEMPLATE:
            raise ConfigError(
                f"the item text {str(self.template)[:60]!r} is not a template of 1 to {_LONGEST_TEMPLATE} characters: "
                "write one such as '{title}; {brand}'"
            )
        if not self.parts:
            raise ConfigError(
                f"the item text {self.template!r} names no column: write one in braces, as in '{{title}}; {{brand}}'"
            )

    def __str__(self) -> str:
        return self.template

    @classmethod
    def default(cls, items: pl.DataFrame) -> ItemText:
        """Those of title, brand and category that a table of items has and that are not all empty."""
        named = [name for name in (BRAND, CATEGORY) if name in items.columns]
        there = [name for name in named if (clean_text(items[name].unique()) != "").any()]
        return cls("; ".join(f"{{{name}}}" for name in (TITLE, *there)))

    @cached_property
    def parts(self) -> tuple[Field, ...]:
        """The fields in order."""
        try:
            parsed = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ConfigError(
                f"the item text {self.template!r} is not understood ({error}): write columns in braces, as in "
                "'{title}; {brand}', and braces themselves twice"
            ) from error
        literals, named = [""], list[tuple[str, int | None]]()
        for literal, name, spec, conversion in parsed:
            literals[-1] += re.sub(r"\s+", " ", literal)
            if name is not None:  # None after an escaped brace
                named.append((name.strip(), self._words(name, spec, conversion)))
                literals.append("")
        if not named:
            return ()
        between = [_divided(literal) for literal in literals[1:-1]]
        closes = [*(close for close, _, _ in between), literals[-1]]
        starts = [("", literals[0]), *((separator, label) for _, separator, label in between)]
        return tuple(Field(*n, *start, close) for n, start, close in zip(named, starts, closes, strict=True))

    def _words(self, name: str, spec: str | None, conversion: str | None) -> int | None:
        limited = not spec or (spec.isascii() and spec.isdigit() and 0 < int(spec) <= _MOST_WORDS)
        if not name.strip() or conversion or not limited:
            raise ConfigError(
                f"the item text {self.template!r} has the field {{{name}{f'!{conversion}' if conversion else ''}"
                f"{f':{spec}' if spec else ''}}}: write a column's name and, to limit it, a number "
                f"of words from 1 to {_MOST_WORDS} after a colon, as in '{{description:64}}'"
            )
        return int(spec) if spec else None

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        return tuple(dict.fromkeys(part.name for part in self.parts))

    @property
    def is_title(self) -> bool:
        """Whether only full titles are read."""
        return self.template == f"{{{TITLE}}}"

    def missing(self, columns: Collection[str]) -> list[str]:
        """The fields that are not among the columns."""
        return [name for name in self.fields if name not in columns]

    def check(self, what: str, columns: Sequence[str]) -> None:
        """Raise DataError if a table lacks a field; the message has the existing columns and the remedy."""
        if lost := self.missing(columns):
            there = ", ".join(name for name in columns if name != ITEM)
            raise DataError(
                f"{what} has no {lost[0]!r}, which is read as part of the item text {self.template!r}; it has "
                f"{there}: add the column (cells may be empty), or let other fields be read: import with another "
                "--text, or use another model"
            )

    def render(self, items: pl.DataFrame) -> pl.Series:
        """The text of each item, without line breaks; empty if all fields are.

        The table has a column of any type for each field (otherwise DataError).
        """
        self.check("the table of items", items.columns)
        cleaned = {name: clean_text(items[name], title=name == TITLE) for name in self.fields}
        values = [_first_words(cleaned[part.name], part.words) for part in self.parts]
        if self.is_title:
            return values[0].alias("text")
        frame = pl.DataFrame([value.alias(str(number)) for number, value in enumerate(values)])
        return _folded(frame.select(pl.concat_str(*self._pieces()).alias("text")).to_series())

    def _pieces(self) -> Iterator[pl.Expr]:
        before = pl.lit(value=False)
        for number, part in enumerate(self.parts):
            there = pl.col(str(number)) != ""
            separator = pl.when(before).then(pl.lit(part.separator)).otherwise(pl.lit(""))
            piece = pl.concat_str(separator, pl.lit(part.label), str(number), pl.lit(part.close))
            yield pl.when(there).then(piece).otherwise(pl.lit(""))
            before = before | there

    def of(self, values: Mapping[str, Any]) -> str:
        """The text of one item, as :meth:`render` writes it, from values by column; missing fields are empty."""
        text, before = "", False
        for part in self.parts:
            value = clean(values.get(part.name), title=part.name == TITLE)
            if part.words is not None:
                some = value[: part.words * CHARACTERS_A_WORD].rstrip(" ")
                value = " ".join(some.split(" ", part.words)[: part.words])
            if value:
                text += f"{part.separator if before else ''}{part.label}{value}{part.close}"
                before = True
        return " ".join(text.split())

    def cut(self, items: pl.DataFrame) -> dict[str, dict[str, int]]:
        """Count the items that are cut by a field's limit; fields that are read in full are left out.

        For each field ``items``, the number of items that are longer, and ``words``, the limit.
        """
        found = {}
        for part in self.parts:
            if part.words is not None:
                texts = clean_text(items[part.name], title=part.name == TITLE)
                count = int((_first_words(texts, part.words) != texts).sum())
                if count:
                    found[part.name] = {"items": count, "words": part.words}
        return found


TITLES = ItemText()
"""Titles alone."""


def clean_text(column: pl.Series, *, title: bool = False) -> pl.Series:
    """Convert a column to plain text: HTML is removed, white space becomes single spaces; trimmed.

    Args:
        column: of any type; a missing value becomes the empty text, a list its parts joined by commas.
        title: texts that were checked before: ``nan``, ``none`` and the like are kept.
    """
    texts = plain(column).fill_null("")
    usual = texts.str.contains(r"&(?:amp|quot|lt|gt|nbsp|apos|#39);")
    texts = _where(texts, usual, lambda some: some.str.replace_many(_USUAL_ENTITIES))
    texts = _where(texts, texts.str.contains(_ENTITY.pattern), lambda some: _each(some, unescape))
    texts = _folded(_where(texts, texts.str.contains("<", literal=True), _without_tags))
    return texts if title else texts.set(texts.str.contains(NOTHING), "")


def clean_titles(items: pl.DataFrame) -> pl.DataFrame:
    """Clean titles, brands and categories, as :func:`clean_text` does.

    A missing title becomes the empty text, an empty brand or category null.
    """
    others = [clean_text(items[name]) for name in (BRAND, CATEGORY) if name in items.columns]
    return items.with_columns(clean_text(items[TITLE], title=True), *(each.set(each == "", None) for each in others))


def is_empty_title() -> pl.Expr:
    """An expression: whether ``title`` is missing, blank or a word for a missing value."""
    return pl.col(TITLE).fill_null("").str.strip_chars().str.contains(rf"^$|{NOTHING}")


def clean(value: object, *, title: bool = False) -> str:
    """Convert one value to plain text, as :func:`clean_text` does for a column."""
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = "" if value != value else str(value).removesuffix(".0")
    elif isinstance(value, (list, tuple)):
        value = ", ".join(clean(each, title=True) for each in value if each is not None and each == each)
    elif isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = unescape("" if value is None else str(value))
    if "<" in text and len(text) > _PLAIN:
        text = str(_without_tags(pl.Series([text]))[0])
    elif "<" in text:
        text = _TAGS_OUT[2].sub(" ", _TAGS_OUT[1].sub("", _TAGS_OUT[0].sub(" ", text)))
    text = " ".join(text.split())
    return "" if not title and _NAUGHT.search(text) else text


def unescape(text: str) -> str:
    """Replace HTML entities by characters, even if they were escaped several times."""
    for _ in range(_ENTITY_DEPTH):
        if not _ENTITY.search(text):
            break
        text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
    return text


def has_entity() -> pl.Expr:
    """An expression: whether ``title`` has an HTML entity."""
    return pl.col(TITLE).fill_null("").str.contains(_ENTITY.pattern)


def unaccented(text: str) -> str:
    """Remove accents, vowel points and invisible characters, and unify letters: é is e, ı i, ５ 5."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFKD", text)).translate(_ALIKE))


def plain_numbers(texts: pl.Series) -> pl.Series:
    """Convert digits of any script, their separators, and letters of full or half width to the usual ones."""
    odd = texts.str.len_bytes() > texts.str.len_chars()
    return _where(texts.clone(), odd, lambda some: some.str.normalize("NFKC").str.replace_many(_DIGITS))


def spaced(text: str, size: int = 1) -> str:
    """Insert blanks between words in scripts without spaces; English text does not change.

    Chinese characters are split into overlapping groups of ``size``, letters of Thai, Lao, Burmese and Khmer into
    groups of three; runs of kana stay whole. Combining marks are removed, which ``\\w`` does not match.
    """
    if text.isascii():
        return text
    plain = "".join(c for c in unicodedata.normalize("NFC", text) if not unicodedata.category(c).startswith("M"))

    def parts(found: re.Match[str]) -> str:
        run, wide = found.group(), {"han": size, "runs": 3}.get(found.lastgroup or "", 10**6)
        return f" {' '.join(run[start : start + wide] for start in range(max(1, len(run) - wide + 1)))} "

    return _SCRIPTS.sub(parts, plain)


def plain(column: pl.Series) -> pl.Series:
    """Convert a column to text without cleaning; lists are joined by commas, whole numbers have no decimal point."""
    return column.to_frame().select(_as_text(pl.col(column.name), column.dtype)).to_series()


def _as_text(value: pl.Expr, dtype: pl.DataType | DataTypeClass) -> pl.Expr:
    if isinstance(dtype, pl.Array):
        value, dtype = value.arr.to_list(), pl.List(dtype.inner)
    if isinstance(dtype, pl.List):
        plainly = not (dtype.inner.is_nested() or dtype.inner.is_float())  # faster
        parts = value.cast(pl.List(pl.String)) if plainly else value.list.eval(_as_text(pl.element(), dtype.inner))
        return parts.list.join(", ")
    if isinstance(dtype, pl.Struct):
        return pl.when(value.is_not_null()).then(value.struct.json_encode())
    text = value.cast(pl.String)
    return text.str.strip_suffix(".0").replace("NaN", None) if dtype.is_float() else text


def _folded(texts: pl.Series) -> pl.Series:
    fold = r" *[\s\x1c-\x1f&&[^ ]][\s\x1c-\x1f]*|  +"
    return _where(
        texts, texts.str.contains(_UNFOLDED), lambda some: some.str.replace_all(fold, " ").str.strip_chars(" ")
    )


def _without_tags(texts: pl.Series) -> pl.Series:
    return texts.str.replace_all(_UNSEEN, " ").str.replace_all(_INLINE, "").str.replace_all(_BLOCK, " ")


def _first_words(texts: pl.Series, words: int | None) -> pl.Series:
    if words is None:
        return texts
    some = texts.str.head(words * CHARACTERS_A_WORD).str.strip_chars_end(" ")
    long = some.str.count_matches(" ", literal=True) >= words
    return _where(some, long, lambda each: each.str.extract(rf"^((?:[^ ]+ ){{{words - 1}}}[^ ]+)"))


def _where(texts: pl.Series, wanted: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    rows = wanted.arg_true()
    return texts.scatter(rows, change(texts.gather(rows))) if rows.len() else texts


def _each(texts: pl.Series, change: Callable[[str], str]) -> pl.Series:
    """Change every text; short ones only once for each distinct text."""
    if (texts.str.len_bytes().mean() or 0) > _SHORT:  # type: ignore[operator]
        return pl.Series(texts.name, map(change, texts), dtype=pl.String)
    different = texts.unique()
    return texts.replace_strict(different, pl.Series(map(change, different), dtype=pl.String), return_dtype=pl.String)


def _divided(literal: str) -> tuple[str, str, str]:
    """Divide the text between two fields: end of the first, separator, label of the second."""
    if found := _SEPARATOR.search(literal):
        return literal[: found.start()], found.group(), literal[found.end() :]
    found = _BARE.fullmatch(literal)
    assert found is not None
    return found["close"], found["separator"], found["label"]
