"""A domain in memory: its catalogue, its interactions and the users' sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from xcrossrec.arguments import checked
from xcrossrec.data.text import CANONICAL, TITLES, ItemText
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import ITEM, POSITION, SPLITS, TIMESTAMP, TITLE, USER, Split

ITEM_SCHEMA = pl.Schema({ITEM: pl.String, TITLE: pl.String})
INTERACTION_SCHEMA = pl.Schema({USER: pl.String, ITEM: pl.String, POSITION: pl.Int64})
DOMAIN, TEXT = "domain", "text"
OTHER_SCHEMA = pl.Schema({USER: pl.String, DOMAIN: pl.String, ITEM: pl.String, TEXT: pl.String, POSITION: pl.Int64})
_CHUNK_ROWS, _CHUNK_BYTES = 1 << 18, 1 << 24
SHORTEST_SEQUENCE = 2  # a history of one item and the target
WHOLE = "whole"


@dataclass(frozen=True)
class Sequences:
    """The users of one split and the item rows that each of them bought, oldest first.

    Attributes:
        known: number of a user's items that are the target's history; None: all but the last.
    """

    user_ids: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    known: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    def __repr__(self) -> str:
        return f"Sequences({len(self):,} users, {sum(map(len, self.rows)):,} items)"

    def take(self, budget: int | None, seed: int) -> Sequences:
        """Take the first ``budget`` users of a seeded permutation; None takes all, in their original order.

        With the same seed, a smaller budget is a prefix of a larger one. DataError: fewer than one, or more than all.
        """
        if budget is None:
            return self
        if not 1 <= budget <= len(self):
            every = len(self)
            raise DataError(
                f"a budget of {budget} users cannot be taken from {every} users: give 1 to {every}, or none"
            )
        return self._select(self._permutation(seed)[:budget])

    def split_off(self, count: int, seed: int) -> tuple[Sequences, Sequences]:
        """Set ``count`` randomly chosen users aside, as for early stopping; DataError if no others would remain.

        Returns:
            the rest and the users set aside, both in their original order; disjoint.
        """
        if not 0 <= count < len(self):
            raise DataError(f"{count} users cannot be set aside from {len(self)} users: give 0 to {len(self) - 1}")
        order = self._permutation(seed)
        return self._select(sorted(order[count:])), self._select(sorted(order[:count]))

    def histories_and_targets(self) -> tuple[list[tuple[int, ...]], Int64[np.ndarray, " user"]]:
        """Split each sequence into its history and its last item, the target."""
        known = self.known or [-1] * len(self)
        histories = [rows[:count] for rows, count in zip(self.rows, known, strict=True)]
        return histories, np.array([rows[-1] for rows in self.rows], dtype=np.int64)

    def with_new_targets(self) -> Sequences:
        """Keep the users who had not bought their last item before."""
        return self._select([index for index, rows in enumerate(self.rows) if rows[-1] not in rows[:-1]])

    def _permutation(self, seed: int) -> list[int]:
        order: list[int] = np.random.default_rng(seed).permutation(len(self)).tolist()
        return order

    def _select(self, order: Sequence[int]) -> Sequences:
        known = self.known and tuple(self.known[index] for index in order)
        return Sequences(
            tuple(self.user_ids[index] for index in order), tuple(self.rows[index] for index in order), known
        )


@dataclass(frozen=True, eq=False)
class Domain:
    """A catalogue and the interactions with it, checked and in canonical order.

    Make one with `xcrossrec.data.build_domain` or `xcrossrec.data.read_domain`, which check the data.

    Attributes:
        name: of the domain, in tables and bundles.
        items: ``item_id`` and ``title``, both text, and perhaps ``brand``, ``category``, ``description`` (text),
            ``price`` (float64), ``in_stock`` (boolean) and further columns of text; an item is identified by its row
            number everywhere else.
        interactions: for each split ``user_id``, ``item_id``, ``position`` (int64, oldest lowest) and
            perhaps ``timestamp`` (int64 seconds), sorted by the user's first appearance, then position.
        text: the template of the item text that models read; people see the title.
        other: what its users bought in other domains (:func:`xcrossrec.data.shared.with_shared_users`), or None:
            ``user_id``, ``domain``, ``item_id``, ``text`` (the item text in that domain), ``position`` and, if all
            have it, ``timestamp``; a user's rows oldest first.
    """

    name: str
    items: pl.DataFrame
    interactions: Mapping[Split, pl.DataFrame]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    text: ItemText = TITLES
    other: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        canonical = {name: dtype for name, dtype in CANONICAL.items() if name in self.items.columns}
        _check_schema("items", self.items, pl.Schema({**ITEM_SCHEMA, **canonical}))
        self.text.check(f"domain {self.name!r}", self.items.columns)
        for split, frame in self.interactions.items():
            _check_schema(split, frame, INTERACTION_SCHEMA)
        if self.other is not None:
            _check_schema("other", self.other, OTHER_SCHEMA)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits present, in the order train, validation, test."""
        return tuple(split for split in SPLITS if split in self.interactions)

    @property
    def filters(self) -> Mapping[str, Any]:
        """What the import did, as the manifest states it."""
        return self.manifest.get("filters") or {}

    @property
    def keeps_repeats(self) -> bool:
        """Whether the import kept repeat purchases, so that bought items remain candidates."""
        return bool(self.filters.get("repeats") == "keep")

    @property
    def keeps_orders_whole(self) -> bool:
        """Whether a history ends before the target's order: purchases of one time are the lines of one order."""
        return bool(self.filters.get("orders") == WHOLE)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of items, interactions and item text; independent of path and Parquet encoding."""
        digest = hashlib.sha256()
        for chunk in self._content():
            digest.update(chunk)
        return digest.hexdigest()

    def _content(self) -> Iterator[bytes]:
        yield from _chunks("items", self.items.select(ITEM, TITLE, pl.exclude(ITEM, TITLE)))
        if not self.text.is_title:
            yield f"text\0{self.text}\0".encode()
        for split in self.splits:
            frame = self.interactions[split]
            columns = [*INTERACTION_SCHEMA, *([TIMESTAMP] if TIMESTAMP in frame.columns else [])]
            yield from _chunks(split, frame.select(columns))
        if self.other is not None:
            yield from _chunks("other", self.other)

    def with_manifest(self, manifest: Mapping[str, Any]) -> Domain:
        """The same tables with another manifest; the fingerprint is not computed again."""
        domain = replace(self, manifest=manifest)
        domain.__dict__["fingerprint"] = self.fingerprint
        return domain

    @checked
    def with_text(self, template: str | ItemText) -> Domain:
        """The same domain with another item text for models.

        Raises:
            ConfigError: an invalid template.
            DataError: the items lack a column that it names.
        """
        text = template if isinstance(template, ItemText) else ItemText(template)
        stated = {name: value for name, value in self.manifest.items() if name not in ("fingerprint", "text")}
        return replace(self, text=text, manifest=stated)

    @checked
    def count_users(self, split: Split) -> int:
        """Count the users of one split; DataError as for :meth:`frame`."""
        return self.frame(split)[USER].n_unique()

    @cached_property
    def titles(self) -> list[str]:
        """The titles, by item row: what people see."""
        return self.items[TITLE].to_list()

    @cached_property
    def texts(self) -> list[str]:
        """The texts that models read, by item row; empty for an item without any."""
        return self.text.render(self.items).to_list()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items[ITEM].to_list())}

    @checked
    def frame(self, split: Split) -> pl.DataFrame:
        """Get the interactions of one split.

        Raises:
            DataError: the domain lacks the split; names those that exist.
        """
        if split not in self.interactions:
            raise DataError(
                f"domain {self.name!r} has no {split!r} split, only {', '.join(self.splits) or 'none'}: "
                "choose one of these or import the domain with that split"
            )
        return self.interactions[split]

    @property
    def purchases(self) -> pl.DataFrame:
        """The purchases of all splits, each once, a user's oldest first.

        ``user_id``, ``item_id``, ``position`` and, if all splits have it, ``timestamp``.
        """
        timed = all(TIMESTAMP in frame.columns for frame in self.interactions.values())
        columns = [USER, ITEM, POSITION, *([TIMESTAMP] if timed else [])]
        every = pl.concat([frame.select(columns) for frame in self.interactions.values()])
        return every.unique(maintain_order=True).sort(USER, POSITION, maintain_order=True)

    @checked
    def sequences(self, split: Split, *, minimum: int = SHORTEST_SEQUENCE) -> Sequences:
        """Collect the item rows of each user of a split, oldest first.

        Where orders are kept whole, histories of validation and test hold what was bought before the target's time.

        Args:
            split: whose users.
            minimum: length of the shortest sequence kept, in items of history and target.

        Raises:
            DataError: the domain lacks the split; names those that exist.
        """
        frame = self.frame(split)
        rows = frame[ITEM].replace_strict(self._rows, return_dtype=pl.Int64)
        whole = self.keeps_orders_whole and split != "train" and TIMESTAMP in frame.columns
        time = pl.col(TIMESTAMP)
        known = ((time < time.last()).sum() if whole else pl.len() - 1).cast(pl.Int64)
        grouped = (
            frame.with_columns(rows.alias("row"))
            .group_by(USER, maintain_order=True)
            .agg("row", known.alias("known"))
            .filter(pl.col("known") + 1 >= minimum)
        )
        ids, items = grouped[USER].to_list(), grouped["row"].to_list()
        return Sequences(tuple(ids), tuple(map(tuple, items)), tuple(grouped["known"].to_list()) if whole else None)

    @checked
    def with_users(self, split: Split, most: int, seed: int) -> Domain:
        """The same domain with at most ``most`` of the users of one split who have a history, drawn by seed.

        DataError as for :meth:`frame`, ConfigError for a negative number.
        """
        if most < 0 or seed < 0:
            raise ConfigError(f"most is {most} and seed {seed}: give 0 or more")
        every = self.sequences(split)
        if len(every) <= most:
            return self
        chosen = every.take(most, seed).user_ids
        kept = self.frame(split).filter(pl.col(USER).is_in(chosen))
        return replace(self, interactions={**self.interactions, split: kept})

    def other_histories(self, split: Split, *, first: bool = False) -> dict[str, tuple[str, ...]]:
        """Texts of what the users of one split bought in other domains, oldest first; users without any are left out.

        If both sides have times, only purchases before the user's last item here (the target) count, or, with
        ``first``, before the first one. DataError as for :meth:`frame`.
        """
        frame = self.frame(split)
        if self.other is None:
            return {}
        timed = TIMESTAMP in frame.columns and TIMESTAMP in self.other.columns
        target = pl.col(TIMESTAMP).first() if first else pl.col(TIMESTAMP).last()
        users = frame.group_by(USER, maintain_order=True).agg(*([target.alias("target")] if timed else []))
        mine = self.other.join(users, on=USER, how="inner", maintain_order="left")
        before = mine.filter(pl.col(TIMESTAMP) < pl.col("target")) if timed else mine
        grouped = before.group_by(USER, maintain_order=True).agg(TEXT)
        return {user: tuple(texts) for user, texts in grouped.iter_rows()}

    def train_counts(self) -> Int64[np.ndarray, " item"]:
        """Count how often each item occurs in train, by item row (DataError: no train split)."""
        rows = self.frame("train")[ITEM].replace_strict(self._rows, return_dtype=pl.Int64)
        return np.bincount(rows.to_numpy(), minlength=self.items.height).astype(np.int64)


def _check_schema(what: str, frame: pl.DataFrame, expected: pl.Schema) -> None:
    """Refuse a frame in which a column is missing or of another type."""
    for column, dtype in expected.items():
        if column not in frame.columns:
            raise DataError(
                f"{what} lacks the column {column!r}; it has {', '.join(frame.columns) or 'none'}: "
                f"expected {', '.join(expected)}"
            )
        if frame.schema[column] != dtype:
            raise DataError(
                f"{what}.{column} is of type {frame.schema[column]}, expected {dtype}: "
                "make the domain with xcrossrec.data.build_domain, which converts"
            )


def _chunks(name: str, frame: pl.DataFrame) -> Iterator[bytes]:
    """Encode a frame's name, shape and values unambiguously as bytes."""
    yield f"{name}\0{frame.height}\0".encode()
    for column in frame.columns:
        yield f"{column}\0".encode()
        yield np.packbits(frame[column].is_null().to_numpy()).tobytes()
        if frame.schema[column] == pl.String:
            texts = frame[column].fill_null("")
            lengths = texts.str.len_bytes().to_numpy().astype("<u4")
            yield lengths.tobytes()
            mean = max(1, int(lengths.mean())) if len(lengths) else 1  # fewer rows at a time if texts are long
            for part in texts.to_frame().iter_slices(max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // mean))):
                yield part.to_series().str.join("").cast(pl.Binary).item()
        elif frame.schema[column].is_float():
            yield frame[column].fill_null(0.0).to_numpy().astype("<f8").tobytes()
        else:
            yield frame[column].cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes()
