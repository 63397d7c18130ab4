"""What a recommender is asked and answers, and how a history is understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias
from unicodedata import normalize

from xcrossrec.answers import ItemScore, Recommendation
from xcrossrec.catalogue import Filters, Snapshot, StoredItem
from xcrossrec.data.text import TITLES, ItemText, spaced
from xcrossrec.exceptions import ConfigError, DataError, UnknownItemError
from xcrossrec.prompts import UNTITLED, clean_title
from xcrossrec.scoring import Rung
from xcrossrec.types import ITEM, TITLE


@dataclass(frozen=True)
class Item:
    """What a history names without ambiguity: an item of the catalogue, or a title.

    Attributes:
        item_id: an id of the catalogue.
        title: the title of an item that the catalogue need not have.

    Raises:
        DataError: both or neither are given.
    """

    item_id: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if (self.item_id is None) == (self.title is None):
            raise DataError(
                f"an item is named by its id or by its title, got item_id={self.item_id!r} and title={self.title!r}: "
                "give one of the two"
            )


LONGEST_KNOWN, _AT_ONCE = 50, 256
"""Purchases that stand before a question's history, at most: the newest that are known of its customer. Of those of a
guests' account, which are many, so many are looked up at a time."""

ItemLike: TypeAlias = str | Item | Mapping[str, str]
"""How an item is named: an :class:`Item`, its mapping form, or a string.

A string is an id if the catalogue has it; ``id:...`` and ``title:...`` say which is meant; any other string is a title
if it has more than one word, and an id if it has one; of scripts without blanks, each Chinese character, each run of
kana and each three letters of Thai are a word."""

_NEWEST_ELSEWHERE = 20
"""Items of a history of other categories that are read."""

Text: TypeAlias = str | tuple[str, str]
"""A text that a model reads: a title; for a `pair` model a history's prompt and a title; ("", title) for a title in a
history, where the model reads these in another way."""


@dataclass(frozen=True)
class Question:
    """What to rank for a history; or, with ``to_score``, what to score.

    The rest is as for :meth:`xcrossrec.recommender.Recommender.recommend`.

    Attributes:
        history: a title that the catalogue has is that item; one that it lacks works by its text.
        to_score: score these items or titles, in their order, instead of finding the best of the catalogue.
        other_history: titles, or longer texts, oldest first; the newest 20 are read.

    Raises:
        ConfigError: ``k`` or ``diversity`` below 1.
    """

    history: Sequence[ItemLike] = ()
    k: int = 10
    filters: Filters | None = None
    candidates: Sequence[str] | None = None
    include_bought: bool = False
    skip_unknown: bool = False
    to_score: Sequence[ItemLike] | None = None
    diversity: int | None = None
    user_id: str | None = None
    other_history: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k is {self.k}: ask for at least 1 recommendation")
        if self.diversity is not None and self.diversity < 1:
            raise ConfigError(
                f"diversity is {self.diversity}: allow at least 1 item of near-equal titles, or leave it out"
            )


@dataclass(frozen=True)
class Known:
    """An item as it was understood: one of the catalogue, or a free title.

    Attributes:
        item: of the catalogue; None for a title that it lacks.
        free: that title, cleaned.
        reads: what the model reads of an item.
    """

    item: StoredItem | None
    free: str = ""
    reads: ItemText = TITLES

    @cached_property
    def text(self) -> str:
        """What the model reads: an item's text, or a free title as it is."""
        return self.free if self.item is None else self.item.read(self.reads) or UNTITLED

    @property
    def item_id(self) -> str | None:
        """The id, if the catalogue has the item."""
        return None if self.item is None else self.item.item_id

    @property
    def title(self) -> str:
        """The title that people read."""
        return self.free if self.item is None else self.item.title


@dataclass(frozen=True)
class Understood:
    """A question whose items were looked up.

    Attributes:
        unknown: ids that were left out of it.
        to_score: what to score; None where the catalogue is ranked.
        bought: ids of all known purchases of the customer.
        elsewhere: texts of what was bought in other categories, oldest first.
        texts: what the model must read, each once.
    """

    asked: Question
    history: Sequence[Known]
    unknown: Sequence[str] = ()
    to_score: Sequence[Known] | None = None
    bought: Sequence[str] = ()
    elsewhere: Sequence[str] = ()
    texts: Sequence[Text] = ()


@dataclass(frozen=True)
class Answer:
    """What was found, or scored.

    Attributes:
        version: of the catalogue that was searched.
        history: as it was understood, oldest first.
        found: items with their scores: the best first, or in the order in which they were to be scored.
        unknown: ids of the history that were left out.
        rung: what is known of the customer: ``none``, ``other`` (categories alone), ``one`` purchase here, ``several``.
        reason: what that means for the answer, in words.
        alike: what customers with such purchases elsewhere bought most here: ids, as of the training, and shares.
        share: of these in the scores; the text has the rest.
    """

    version: int
    history: Sequence[Known]
    found: Sequence[tuple[Known, float]]
    unknown: Sequence[str] = ()
    rung: Rung = "several"
    reason: str = ""
    alike: Sequence[tuple[str, float]] = ()
    share: float = 0.0

    @property
    def recommendations(self) -> list[Recommendation]:
        """The found items of the catalogue, ranked from 1."""
        items = [(known.item, score) for known, score in self.found]
        return [
            Recommendation(item.item_id, item.title, score, rank, item.category, item.in_stock, item.price)
            for rank, (item, score) in enumerate(items, start=1)
            if item is not None
        ]

    @property
    def scores(self) -> list[ItemScore]:
        """What was to be scored, in its order."""
        return [ItemScore(known.item_id, known.title, score) for known, score in self.found]


def understand(
    snapshot: Snapshot,
    asked: Question,
    reads: ItemText = TITLES,
    bought: Sequence[str] = (),
    *,
    knows_purchases: bool = False,
) -> Understood:
    """Look a question's items up in one version of the catalogue, for a model that ``reads`` a certain text of each.

    Args:
        bought: ids of what is known of the customer, oldest first; those that the catalogue lacks are passed over.
        knows_purchases: whether the model can be asked about a customer of whom nothing is known here.

    Raises:
        UnknownItemError: an id that the catalogue lacks.
        DataError: an empty history, or other categories, where the model knows no purchases; an entry of another kind,
            an empty title, or no candidates.
    """
    known = _newest(snapshot, bought, LONGEST_KNOWN + len(asked.history))
    beside = f" beside the purchases of {asked.user_id!r}, of which none are known here,"
    what = "history" if asked.user_id is None else f"history{beside}"
    given = _entries(what, asked.history, may_be_empty=bool(known) or knows_purchases)
    found = _found(snapshot, given, reads)
    unknown = [item_id for item_id in found if isinstance(item_id, str)]
    history = [_known(snapshot, item) for item in found if not (asked.skip_unknown and isinstance(item, str))]
    named = {each.item_id for each in history}
    history = [*[Known(item, reads=reads) for item in known if item.item_id not in named][-LONGEST_KNOWN:], *history]
    if not history and not knows_purchases:
        raise DataError(
            f"the catalogue has none of the history's {len(asked.history)} items ({unknown[0]!r} first): give one "
            "that it has, or a title"
        )
    if isinstance(asked.candidates, str) or (asked.candidates is not None and len(asked.candidates) == 0):
        raise DataError(f"candidates are a list of item ids, got {asked.candidates!r}: give at least one, or None")
    for item_id in snapshot.lacking(asked.candidates or ()):
        raise _lacking(snapshot, item_id)
    elsewhere = _texts_elsewhere(asked.other_history, knows_purchases=knows_purchases)
    if asked.to_score is None:
        return Understood(asked, history, unknown, bought=bought, elsewhere=elsewhere)
    entries = _entries("items to score", asked.to_score)
    to_score = [_known(snapshot, each) for each in _found(snapshot, entries, reads)]
    return Understood(asked, history, unknown, to_score, bought, elsewhere)


def _newest(snapshot: Snapshot, bought: Sequence[str], count: int) -> list[StoredItem]:
    """So many of the newest items that the catalogue has, or some more, oldest first."""
    found: list[StoredItem] = []
    for end in range(len(bought), 0, -_AT_ONCE):
        found = [item for item in snapshot.get(bought[max(0, end - _AT_ONCE) : end]) if item is not None] + found
        if len(found) >= count:
            break
    return found


def ids_bought(snapshot: Snapshot, known: Understood) -> set[str]:
    """Ids of the history's items, of those that share a title with one of them, and of what else was bought."""
    return snapshot.sharing_title(each.item for each in known.history if each.item is not None).union(known.bought)


def _texts_elsewhere(texts: Sequence[str], *, knows_purchases: bool) -> list[str]:
    """The newest of what was bought in other categories, as a model reads it."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"the history of other categories is a list of titles, got {texts!r}: put them into a list")
    if len(texts) and not knows_purchases:
        raise DataError(
            "the model knows no purchases, so a history of other categories tells it nothing: leave that out, or train "
            "a dual model with `train target`"
        )
    return [_clean(text) for text in texts][-_NEWEST_ELSEWHERE:]


def _entries(what: str, items: Sequence[ItemLike], *, may_be_empty: bool = False) -> Sequence[ItemLike]:
    if isinstance(items, (str, Item, Mapping)):
        raise DataError(f"the {what} is a list of items, got {items!r}: put it into a list")
    if len(items) == 0 and not may_be_empty:
        raise DataError(f"the {what} is empty: give at least one item id or title")
    return items


def _found(snapshot: Snapshot, entries: Sequence[ItemLike], reads: ItemText) -> list[Known | str]:
    """Look entries up; an id that the catalogue lacks comes back. A title that it has is that item; an id of it wins
    over every other reading of a string."""
    texts = [entry for entry in entries if isinstance(entry, str)]
    items = dict(zip(texts, snapshot.get(texts), strict=True)) if texts else {}
    named = [Item(each) if isinstance(each, str) and items[each] is not None else _read(each) for each in entries]
    fresh = [each.item_id for each in named if each.item_id is not None and each.item_id not in items]
    items |= dict(zip(fresh, snapshot.get(fresh), strict=True)) if fresh else {}
    titles = [_clean(each.title) for each in named if each.title is not None]
    composed = [normalize("NFC", title) for title in titles]  # as most write them; macOS takes accents apart
    as_given = snapshot.first_titled(titles) if titles else []
    others = snapshot.first_titled(composed) if composed != titles else as_given
    titled = iter((title, item or other) for title, item, other in zip(titles, as_given, others, strict=True))
    found: list[Known | str] = []
    for each in named:
        if each.item_id is None:
            title, item = next(titled)
            found.append(Known(None, title) if item is None else Known(item, reads=reads))
        else:
            found.append(each.item_id if (item := items[each.item_id]) is None else Known(item, reads=reads))
    return found


def _clean(title: str) -> str:
    if not (text := clean_title(title)):
        raise DataError(f"{title!r} is an empty title: give its text, or leave it out")
    return text


def _read(entry: ItemLike) -> Item:
    """Read how an item is named, where a string is no id of the catalogue."""
    if isinstance(entry, Item):
        return entry
    if isinstance(entry, Mapping):
        if not set(entry) <= {ITEM, TITLE} or not all(isinstance(value, str) for value in entry.values()):
            raise DataError(
                f"a history item has the keys {ITEM!r} or {TITLE!r} with text, got {dict(entry)!r}: give one"
            )
        return Item(**entry)
    if not isinstance(entry, str):
        raise DataError(f"a history item is an id, a title, an Item or a mapping, got {entry!r}: give one of these")
    for prefix, name in (("id:", ITEM), ("title:", TITLE)):
        if entry.startswith(prefix):
            return Item(**{name: entry.removeprefix(prefix)})
    return Item(title=entry) if len(spaced(entry).split()) > 1 else Item(item_id=entry)


def _known(snapshot: Snapshot, found: Known | str) -> Known:
    if isinstance(found, str):
        raise _lacking(snapshot, found)
    return found


def _lacking(snapshot: Snapshot, item_id: str) -> UnknownItemError:
    return UnknownItemError(
        f"unknown item id {item_id!r}: the catalogue of {len(snapshot)} items lacks it; give an id that it holds, "
        f"or write it as 'title:{item_id}', over HTTP as \"title\", if it is a title"
    )
