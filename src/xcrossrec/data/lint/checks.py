"""The checks of one domain: each takes its tables and yields findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import polars as pl

from xcrossrec.data.domain import SHORTEST_SEQUENCE, WHOLE
from xcrossrec.data.interactions import HEAVY, written_otherwise
from xcrossrec.data.lint.report import EXAMPLES, Finding, finding
from xcrossrec.data.lint.tables import NEEDED, TAG, Tables, is_blank
from xcrossrec.data.splitting import ONE_MOMENT, SAME_USERS, at_one_moment, bought_after
from xcrossrec.data.text import WORD, has_entity, is_empty_title
from xcrossrec.types import ITEM, POSITION, SPLITS, TIMESTAMP, TITLE, USER, Split

LONG_TITLE_WORDS = 40
_SOME = 50  # buyers, from which on their share says something
_SPLIT_OF: Mapping[str, Split] = {split: split for split in SPLITS}


def check_readable(tables: Tables) -> Iterator[Finding]:
    """Find missing columns, empty tables, and contents that differ from the manifest."""
    for stem, frame in tables.raw.items():
        missing = [column for column in NEEDED[stem] if column not in frame.columns]
        message = f"columns are missing from {stem}, which has {', '.join(frame.columns) or 'none'}: rename or add"
        yield from finding("missing_column", tables.name, _SPLIT_OF.get(stem), missing, message)
    parts = {"items": tables.raw["items"], "train": tables.raw.get("train"), **tables.raw}
    empty = [stem for stem, frame in parts.items() if frame is None or frame.is_empty()]
    message = "tables are empty or missing: give items and train at least one row, leave other splits out"
    yield from finding("empty_domain", tables.name, None, empty, message)
    if tables.mismatch:
        yield from finding("changed_content", tables.name, None, ["-"], f"refusal to read: {tables.mismatch}")


def check_ids_present(tables: Tables) -> Iterator[Finding]:
    """Find rows without an id, and ids with blanks around them."""
    for stem, frame in tables.raw.items():
        split = _SPLIT_OF.get(stem)
        for column in (c for c in (USER, ITEM) if c in frame.columns):
            rows = frame.with_row_index("row").filter(is_blank(column))["row"]
            message = f"rows of {stem} have no {column} (examples are row numbers from 0): remove them"
            yield from finding("null_id", tables.name, split, rows.to_list(), message)
            ids = frame[column].drop_nulls().cast(pl.String).unique(maintain_order=True)
            spaced = ids.filter((ids.str.strip_chars() != ids) & (ids.str.strip_chars() != ""))
            message = f"values of {column} in {stem} begin or end with spaces: strip them before the import"
            yield from finding("id_whitespace", tables.name, split, [repr(i) for i in spaced], message)


def check_catalogue(tables: Tables) -> Iterator[Finding]:
    """Find items listed twice and items that nobody bought."""
    ids = tables.items[ITEM]
    twice = ids.filter(ids.is_duplicated()).unique(maintain_order=True).to_list()
    yield from finding("duplicate_item", tables.name, None, twice, "item ids are listed twice: keep one row each")
    if tables.splits:
        bought = pl.concat([frame[ITEM].unique() for frame in tables.splits.values()])
        unsold = ids.filter(~ids.is_in(bought.implode())).to_list()
        message = f"of {ids.len():,} items occur in no split: only their text is known"
        yield from finding("never_bought", tables.name, None, unsold, message)


def check_titles(tables: Tables) -> Iterator[Finding]:
    """Find titles that are empty, escaped, too long or say nothing."""
    items, name = tables.items, tables.name
    title = pl.col(TITLE)
    words = f"have more than {LONG_TITLE_WORDS} words, which leaves less room for the history: cut them"
    cases = {
        "empty_title": (is_empty_title(), "are NaN or empty: complete them, or drop the items"),
        "html_entity": (has_entity(), "contain HTML entities: clean them and import again"),
        "html_tag": (title.str.contains(TAG), "contain remains of HTML tags: remove the tags, or drop the items"),
        "long_title": (title.str.count_matches(WORD) > LONG_TITLE_WORDS, words),
        "title_not_alphanumeric": (
            ~is_empty_title() & ~title.str.contains(r"[\p{L}\p{N}]"),
            "have neither a letter nor a digit: complete them, or drop the items",
        ),
    }
    for code, (condition, message) in cases.items():
        found = items.filter(condition)
        shown = [f"{row[ITEM]} {row[TITLE][:80]!r}" for row in found.head(EXAMPLES).iter_rows(named=True)]
        yield from finding(code, name, None, shown, f"titles {message}", count=found.height)


def check_duplicate_titles(tables: Tables) -> Iterator[Finding]:
    """Find items with the same title."""
    titled = tables.items.filter(~is_empty_title())
    folded = titled[TITLE].str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    twice = titled.filter(folded.is_duplicated())
    groups = twice[TITLE].value_counts(sort=True).head(EXAMPLES)
    shown = [f"{title[:80]!r} x{count}" for title, count in groups.iter_rows()]
    message = "items share their title with another: no text model can tell them apart; add a brand or a size"
    yield from finding("duplicate_title", tables.name, None, shown, message, count=twice.height)


def check_repairs(tables: Tables) -> Iterator[Finding]:
    """Report what the import repaired or noticed, according to the manifest."""
    if isinstance(escaped := tables.filters.get("html_entities"), dict):
        message = "titles contained HTML entities, which the import converted: nothing to do"
        shown = escaped.get("examples", [])
        yield from finding("html_entity", tables.name, None, shown, message, count=escaped["items"])
    if isinstance(heavy := tables.filters.get("heavy_users"), dict):
        message = f"users have {heavy['interactions']:,} purchases, {HEAVY}"
        yield from finding("heavy_user", tables.name, None, heavy["examples"], message, count=heavy["users"])


def check_known_items(tables: Tables) -> Iterator[Finding]:
    """Find interactions with items that are missing from the catalogue, or written differently there."""
    known = set(tables.items[ITEM])
    for split, frame in tables.splits.items():
        unknown = [item for item in frame[ITEM].unique(maintain_order=True) if item not in known]
        alike = written_otherwise(unknown, tables.items[ITEM])
        message = "item ids are written differently in the catalogue: write them the same way"
        yield from finding("id_mismatch", tables.name, split, [f"{u!r} is {i!r}" for u, i in alike.items()], message)
        missing = [item for item in unknown if item not in alike]
        rows = int(frame[ITEM].is_in(missing).sum())
        message = f"items ({rows:,} interactions) are not in the catalogue: complete it, or drop them"
        yield from finding("unknown_item", tables.name, split, missing, message)


def check_shared_users(tables: Tables) -> Iterator[Finding]:
    """Find users in more than one split, under the same id or one written differently."""
    way = tables.filters.get("split")
    by_design = way in SAME_USERS
    users = {split: set(frame[USER].unique()) for split, frame in tables.splits.items()}
    for first, second in combinations(users, 2):
        left, right = users[first], users[second]
        remedy = f"by design of the split {way}" if by_design else "split by user, or remove them from one"
        message = f"users are in {first} and in {second}: {remedy}"
        yield from finding("shared_users", tables.name, None, sorted(left & right), message, eased=by_design)
        alike = written_otherwise(sorted(right - left), sorted(left - right))
        message = f"user ids differ between {first} and {second} only in spelling: write them the same way"
        yield from finding("id_mismatch", tables.name, None, [f"{a!r}, {b!r}" for b, a in alike.items()], message)


def check_equal_splits(tables: Tables) -> Iterator[Finding]:
    """Find two splits with the same sequences, even under other user ids."""
    sizes = {split: (frame.height, tables.splits[split].height) for split, frame in tables.sequences.items()}
    for first, second in combinations(sizes, 2):
        if not all(sizes[first]) or sizes[first] != sizes[second]:
            continue
        one, other = (sorted(map(tuple, tables.sequences[split]["items"].to_list())) for split in (first, second))
        if one == other:
            users = tables.sequences[first][USER].to_list()
            message = f"sequences of {first} are exactly those of {second}: draw one of them again"
            yield from finding("equal_splits", tables.name, None, users, message)


def check_order(tables: Tables) -> Iterator[Finding]:
    """Find positions that are no numbers or not unique, rows out of order, and times that go backwards."""
    for split, frame in tables.splits.items():
        given = tables.raw[split]
        if POSITION in given.columns:
            numbers = given[POSITION].cast(pl.Float64, strict=False).fill_nan(None)
            bad = given.filter(numbers.is_null())[POSITION].to_list()
            message = "positions are not numbers: number each user's interactions 0, 1, 2, ..."
            yield from finding("bad_position", tables.name, split, [repr(value) for value in bad], message)
        for code, (users, message) in _unordered_users(frame).items():
            eased = code == "unordered_rows" and not tables.sorted_by_contract
            yield from finding(code, tables.name, split, users, f"users {message}", eased=eased)


def check_sequences(tables: Tables) -> Iterator[Finding]:
    """Find targets that are in the history, items bought again, and sequences without a history."""
    for split, frame in tables.sequences.items():
        history, last = pl.col("items").list.slice(0, pl.col("items").list.len() - 1), pl.col("items").list.last()
        long_enough = frame.filter(pl.col("items").list.len() >= SHORTEST_SEQUENCE)
        leaked = long_enough.filter(history.list.contains(last))[USER]
        message = (
            f"of {long_enough.height:,} targets ({_percent(leaked.len(), long_enough.height)}) occur in their own "
            "history, so that filtering what was bought loses them: import with --repeats first, or --repeats keep "
            "if people buy the same again (then bought items stay candidates)"
        )
        if kept := tables.filters.get("repeats") == "keep":
            message = "targets occur in their own history, by design of --repeats keep: bought items stay candidates"
        yield from finding("target_in_history", tables.name, split, leaked.to_list(), message, eased=kept)
        again = long_enough.filter(history.list.n_unique() < history.list.len())[USER]
        message = "histories have an item more than once: import with --repeats first unless repeat purchases matter"
        yield from finding("repeated_item", tables.name, split, again.to_list(), message)
        short = frame.filter(pl.col("items").list.len() < SHORTEST_SEQUENCE)[USER]
        message = f"users have fewer than {SHORTEST_SEQUENCE} items, so no history: they are left out"
        yield from finding("short_sequence", tables.name, split, short.to_list(), message)


def check_targets(tables: Tables) -> Iterator[Finding]:
    """Find targets that do not occur in train."""
    if "train" not in tables.splits:
        return
    seen = tables.splits["train"][ITEM].unique()
    for split, frame in tables.sequences.items():
        if split == "train":
            continue
        targets = frame.filter(pl.col("items").list.len() >= SHORTEST_SEQUENCE)["items"].list.last()
        cold = targets.filter(~targets.is_in(seen.implode()))
        share = _percent(cold.len(), targets.len())
        message = f"of {targets.len():,} targets ({share}) never occur in train: only their text can rank them"
        items = cold.unique(maintain_order=True).to_list()
        yield from finding("cold_target", tables.name, split, items, message, count=cold.len())


def check_common_items(tables: Tables) -> Iterator[Finding]:
    """Find items that so many users buy that they may not be products."""
    for split, frame in [*tables.splits.items()][-1:]:
        counts = frame.unique([USER, ITEM])[ITEM].value_counts(sort=True)
        common = counts.filter(pl.col("count") > max(_SOME, frame[USER].n_unique() / 3)).join(tables.items, on=ITEM)
        shown = [f"{row[ITEM]} {row[TITLE][:80]!r}" for row in common.iter_rows(named=True)]
        message = f"items were bought by over a third of all users ({', '.join(shown[:1])}), so bestsellers are often "
        message += "right: leave out what is no product (shipping, deposits, samples, gift cards), from both tables"
        yield from finding("common_item", tables.name, split, shown, message, count=common.height)


def check_times(tables: Tables) -> Iterator[Finding]:
    """Find future purchases, targets with the same time as their history, and train purchases later than half of the
    targets."""
    train = tables.splits.get("train")
    for split, frame in tables.splits.items():
        if TIMESTAMP not in frame.columns:
            continue
        users = frame.filter(pl.col(TIMESTAMP) > time.time())[USER].unique()
        message = "users bought in the future: correct the times (seconds since 1970), or leave such rows out (--where)"
        yield from finding("future_time", tables.name, split, sorted(users), message)
        ordered = frame.sort(POSITION, maintain_order=True)
        whole = tables.filters.get("orders") == WHOLE
        if split != "train" and not whole and (found := at_one_moment(ordered)) is not None:
            message = f"of {found[1]:,} targets ({_percent(*found)}) {ONE_MOMENT}"
            yield from finding("same_moment", tables.name, split, [], message, count=found[0])
        if train is None or split == "train" or (found := bought_after(train, ordered)) is None:
            continue
        message = (
            f"of {found[1]:,} train purchases ({_percent(*found)}) were made after half of the {split} targets, so "
            "training sees the future: --split temporal splits all users at one time"
        )
        yield from finding("train_after_targets", tables.name, split, [], message, count=found[0])


def _unordered_users(frame: pl.DataFrame) -> dict[str, tuple[list[str], str]]:
    """List the users per kind of disorder, and say what it is."""
    double = frame.filter(pl.struct(USER, POSITION).is_duplicated())
    rows = frame.filter(pl.col(POSITION) < pl.col(POSITION).shift().over(USER))
    back = frame.clear()
    if TIMESTAMP in frame.columns:
        ordered = frame.sort(POSITION, maintain_order=True)
        back = ordered.filter(pl.col(TIMESTAMP) < pl.col(TIMESTAMP).shift().over(USER))
    kinds = {
        "unordered_positions": (double, "have two interactions at the same position: number them 0, 1, 2, ..."),
        "unordered_rows": (rows, "have rows that are not in the order of their positions: sort or import them again"),
        "unordered_timestamps": (back, "have timestamps that go backwards along the positions: number them by time"),
    }
    return {code: (rows[USER].unique(maintain_order=True).to_list(), said) for code, (rows, said) in kinds.items()}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f}%"


DOMAIN_CHECKS: tuple[Callable[[Tables], Iterator[Finding]], ...] = (
    check_readable, check_ids_present, check_catalogue, check_titles, check_duplicate_titles, check_repairs,
    check_known_items, check_shared_users, check_equal_splits, check_order, check_sequences,
    check_targets, check_common_items, check_times,
)  # fmt: skip
