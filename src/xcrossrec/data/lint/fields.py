"""Checks of what models read besides the title: brand, category, description, and other fields of a template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import polars as pl

from xcrossrec.data.lint.report import Finding, finding
from xcrossrec.data.lint.tables import TAG, Tables
from xcrossrec.data.text import WORD, spaced
from xcrossrec.types import ITEM, TITLE

FEWEST = 10
"""Items from which on a share is meaningful."""

LONG_TEXT_WORDS = 100
_SAMPLE = 2_000
_PHRASES = {8: 0.5, 5: 0.5, 3: 0.5, 2: 0.8}
"""Length of a phrase in words, and the share of items from which on it is boilerplate."""

_TIME = r"^(?:\d{4}-\d\d-\d\d(?:[T ].*)?|1\d{9}(?:\d{3})?)$"


def check_fields(tables: Tables) -> Iterator[Finding]:
    """Find fields that are empty or the same for every item, and remains of HTML in them."""
    for name, column in tables.fields().items():
        said = column.filter(column != "")
        missing = column.len() - said.len()
        if 2 * missing > column.len():
            message = f"of {column.len():,} items have no {name}: use another field, or complete it"
            yield from finding("empty_field", tables.name, None, [name], message, count=missing)
        if said.len() < FEWEST:
            continue
        if name != TITLE:
            value, count = said.value_counts(sort=True).row(0)
            if count >= 0.95 * said.len():
                message = f"of {said.len():,} items have the same {name}, which distinguishes none: leave it out"
                yield from finding("constant_field", tables.name, None, [repr(value[:80])], message, count=count)
                continue
            tagged = said.filter(said.str.contains(TAG))
            message = f"values of {name} contain remains of HTML tags: remove the tags"
            shown = [repr(text[:80]) for text in tagged.head(3)]
            yield from finding("html_tag", tables.name, None, shown, message, count=tagged.len())
        if phrase := _phrase(said):
            count = int(said.str.to_lowercase().str.contains(phrase, literal=True).sum())
            message = f"of {said.len():,} values of {name} contain one phrase, which distinguishes none: remove it"
            yield from finding("boilerplate_field", tables.name, None, [repr(phrase)], message, count=count)


def check_leaks(tables: Tables) -> Iterator[Finding]:
    """Find fields that name what the user bought next, and fields that are an id or a time."""
    for name, column in tables.fields().items():
        said = column.filter(column != "")
        if name == TITLE or said.len() < FEWEST:
            continue
        ids = tables.items[ITEM].filter(column != "")
        own = pl.DataFrame({"text": said, "id": ids}).select(pl.col("text").str.contains(pl.col("id"), literal=True))
        words = said.str.count_matches(WORD)
        kinds = {
            "a time": int(said.str.contains(_TIME).sum()),
            "an id": int((own.to_series() & (ids.str.len_chars() >= 4)).sum()),
        }
        if said.n_unique() > 0.95 * said.len() and (words == 1).mean() > 0.95:  # type: ignore[operator]
            kinds["an id"] = said.len()
        for kind, count in kinds.items():
            if 2 * count > said.len():
                message = f"of {said.len():,} values of {name} are or contain {kind}: leave the field out"
                shown = [repr(text[:80]) for text in said.head(3)]
                yield from finding("leaking_field", tables.name, None, shown, message, count=count, eased=True)
        yield from _named_targets(tables, name, column)


def check_text_length(tables: Tables) -> Iterator[Finding]:
    """Find items with a long text."""
    template = tables.text
    if template is None or template.is_title or template.missing(tables.raw["items"].columns):
        return
    texts = template.render(tables.raw["items"])
    long = tables.raw["items"].filter(texts.str.count_matches(WORD) > LONG_TEXT_WORDS)
    message = (
        f"items have a text of more than {LONG_TEXT_WORDS} words, which is slow to read and leaves less room for the "
        "history: limit a field, as in {description:64}"
    )
    yield from finding("long_text", tables.name, None, long[ITEM].to_list(), message)


def _named_targets(tables: Tables, name: str, column: pl.Series) -> Iterator[Finding]:
    """Find users whose target is named, by id or full title, in a field of an item of their history."""
    texts = dict(zip(tables.items[ITEM], column, strict=True))
    titles = dict(zip(tables.items[ITEM], tables.items[TITLE], strict=True))
    for split, frame in tables.sequences.items():
        users = frame.filter(pl.col("items").list.len() >= 2).head(_SAMPLE)
        named = [user for user, items in users.select(frame.columns).iter_rows() if _names_target(items, texts, titles)]
        if len(named) >= 5 and len(named) > 0.05 * users.height:
            message = (
                f"of {users.height:,} users' last items are named, by id or title, in the {name} of an item "
                "bought before: leave the field out"
            )
            yield from finding("leaking_field", tables.name, split, named, message)


def _names_target(items: list[str], texts: dict[str, str], titles: dict[str, str]) -> bool:
    target = items[-1]
    title = titles.get(target, "")
    by_id = len(target) >= 4
    by_title = len(spaced(title).split()) >= 3
    for item in items[:-1]:
        text = texts.get(item, "")
        if by_title and title in text and title not in titles.get(item, ""):
            return True
        if by_id and item != target and target in text.replace(",", " ").replace(";", " ").split():
            return True
    return False


def _phrase(said: pl.Series) -> str | None:
    """The longest phrase, in lower case, that most texts have in common."""
    step = -(-said.len() // _SAMPLE)
    texts = [text.split(" ") for text in said.gather_every(step).str.to_lowercase()]
    for length, share in _PHRASES.items():
        parts = Counter(
            part
            for words in texts
            for part in {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}
        )
        if parts and (best := parts.most_common(1)[0])[1] >= max(share * len(texts), FEWEST):
            return best[0]
    return None
