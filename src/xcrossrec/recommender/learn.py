"""Yesterday's purchases for a model that is trained: counted with those it knows, and weighed anew; no training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.arguments import checked
from xcrossrec.catalogue import ItemSource, is_catalogue, read_items, recorded_purchases
from xcrossrec.catalogue.purchases import leave_out
from xcrossrec.copurchase import CoPurchases, user_hash
from xcrossrec.copurchase.weight import Choice
from xcrossrec.data.given import Table
from xcrossrec.data.interactions import as_text, canonical
from xcrossrec.data.readers import Columns, Inputs, read_interactions
from xcrossrec.data.readers.sources import Paths
from xcrossrec.data.store import read_parquet
from xcrossrec.exceptions import BundleError, ConfigError, DataError
from xcrossrec.models import bundle
from xcrossrec.models.day_one import POPULARITY, ladder_of, without
from xcrossrec.models.identity import AnyBase
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.purchases import Purchases, check_knows, purchases_of, with_counts
from xcrossrec.replacing import changing, clear_leftovers
from xcrossrec.training.purchases import MOST_TEXTS, weighed
from xcrossrec.types import ITEM, USER, is_url

_TRAINED = "user"
"""Column of the table of users that a training saw."""

_LOG = logging.getLogger(__name__)
_NOTHING = pl.DataFrame(schema={USER: pl.String, ITEM: pl.String})
_WRITTEN_ANEW = ("format_version", "xcrossrec_version", "created", "files")


@dataclass(frozen=True)
class Learned:
    """What a model knows now.

    Attributes:
        purchases: of each customer and item one.
        added: purchases that it did not know before.
        copurchase: how their weights were chosen; None where they stayed, as of a model that ranks by bestsellers.
    """

    purchases: int
    customers: int
    added: int
    copurchase: Choice | None


@checked
def learn(
    path: Path | str,
    interactions: Paths | Table,
    catalogue: ItemSource | None = None,
    *,
    columns: Columns | None = None,
    base: AnyBase | None = None,
    seed: int = 0,
) -> Learned:
    """Add purchases to those that a `dual` model knows, in its folder, which is replaced in one step.

    To give purchases again changes nothing. A model that knew none gets a co-purchase term; with a catalogue its
    weights are chosen as after a training, on the customers themselves and with the model's texts.

    Args:
        path: the model's folder.
        interactions: a table, files of any form that `data import` takes, or catalogues, whose purchases came in while
            serving: folders that no service has open, or databases' URLs. Purchases come after those of the same
            customers that the model knows, in the order of their times, or as they stand. Who was forgotten in a
            catalogue is so in the model, as by :func:`forget`; files do not bring back who was forgotten in either.
        catalogue: items with their texts (:func:`xcrossrec.catalogue.read_items`); None leaves the weights as they are.
        columns: what the interactions' columns are called; None finds them.
        base: of the model; None looks for it (:func:`xcrossrec.load`).
        seed: of the draws for the weights.

    Raises:
        BundleError: no model there, or a damaged one.
        ModelError: a `pair` model.
        DataError: unreadable interactions, or none of an item that the catalogue has.
        ConfigError: no catalogue, and no weights that could stay.
    """
    path = Path(path)
    manifest, model = _read_model(path, base)
    check_knows(model)
    if catalogue is None and purchases_of(model) is None:
        raise ConfigError(
            f"{path} knows no purchases yet, so their weight beside the text must be chosen: give the catalogue with "
            "the items' texts (--catalog)"
        )
    reads = encoder_of(model).text
    texts = None if catalogue is None else {item.item_id: item.read(reads) for item in read_items(catalogue, reads)}
    fresh, forgotten = _read(interactions, columns or Columns())
    if forget_all(path, forgotten):
        manifest, model = _read_model(path, base)
    known, counts = _joined(model, manifest, fresh)
    best_sellers = (ladder := ladder_of(model)) is not None and ladder.knows_best_sellers_alone("several")
    choice = None if texts is None or best_sellers else _choose(model, counts, texts, seed)
    with changing(path):
        if bundle.read_bundle_manifest(path) != manifest:
            manifest, model = _changed_meanwhile(path, base, manifest)
            known, counts = _joined(model, manifest, fresh)
        _write(with_counts(model, counts, (choice or known).weights), path, manifest, choice)
    now = {who for place in filter(is_url, _paths(interactions)) for who in recorded_purchases(place).forgotten}
    forget_all(path, now - set(forgotten))  # while this went on
    return Learned(counts.purchases, counts.customers, counts.purchases - known.term.counts.purchases, choice)


def _joined(model: Model, manifest: Mapping[str, Any], fresh: Sequence[pl.DataFrame]) -> tuple[Purchases, CoPurchases]:
    """What a model knows; and that with the purchases of files, but for who was forgotten in it, and of catalogues."""
    known = purchases_of(model) or Purchases(_NOTHING, {})
    told = leave_out(fresh[0], manifest.get(bundle.FORGOTTEN, ()))
    if less := fresh[0].height - told.height:
        _LOG.warning("%d purchases are left out: their customers were forgotten in this model", less)
    return known, known.term.counts.joined(pl.concat([told, *fresh[1:]]))


def _read_model(path: Path, base: AnyBase | None) -> tuple[Mapping[str, Any], Model]:
    """The manifest first: what is changed after it is seen when the model is written."""
    return bundle.read_bundle_manifest(path), bundle.load(path, base=base)


def _changed_meanwhile(path: Path, base: AnyBase | None, then: Mapping[str, Any]) -> tuple[Mapping[str, Any], Model]:
    """Read a model again that learned or forgot something meanwhile."""
    now, model = _read_model(path, base)
    trained, again = ({n: d for n, d in each["files"].items() if n.endswith(".safetensors")} for each in (then, now))
    if trained != again:
        raise BundleError(f"{path} was replaced by another training meanwhile: nothing was changed; learn again")
    return now, model


def forget(path: Path | str, user_id: str) -> int:
    """Take a customer out of what a model knows, in its folder, which is replaced in one step.

    Her purchases go, her part of how much items are bought, and her hash from the users of the training; what her
    purchases did to the weights of the training, and to the bridge, stays, and names nobody. A model that knew her
    keeps her hash, so that no file that it learns brings her back.

    Args:
        user_id: one of whom it knows nothing is no error.

    Returns:
        how many of her purchases it knew.

    Raises:
        BundleError: no model there, or a damaged one.
        StorageError: the disk refuses; nothing was changed.
    """
    return forget_all(Path(path), [user_hash(user_id)])


def forget_all(path: Path, customers: Collection[str]) -> int:
    """The same of customers by the hashes of their ids; what a crash left beside the folder knows them, and goes."""
    with changing(path):
        clear_leftovers(path)
        manifest = bundle.read_bundle_manifest(path)
        names = [name for name in manifest["files"] if name.endswith(".parquet")]
        tables = {name: read_parquet(path / name, remedy="copy the model again") for name in names}
        items, changed, gone = list[str](), dict[str, pl.DataFrame](), set(manifest.get(bundle.FORGOTTEN, ()))
        for name, table in tables.items():
            for column in {USER, _TRAINED} & set(table.columns):
                if (hers := table.filter(pl.col(column).is_in(customers))).height:
                    changed[name] = table.filter(~pl.col(column).is_in(customers))
                    gone |= set(hers[column])
                    items += hers[ITEM].to_list() if ITEM in hers.columns else []
        popular = (name for name in names if items and Path(name).name == POPULARITY)
        changed |= {name: without(tables[name], Counter(items)) for name in popular}
        if changed:
            bundle.save_tables(path, changed, forgotten=gone)
    return len(items)


def _read(interactions: Paths | Table, columns: Columns) -> tuple[list[pl.DataFrame], list[str]]:
    """Users and items, each user's oldest first, of files, and then of each catalogue in order of arrival; and the
    hashes of who was forgotten in catalogues."""
    if kept := [path for path in _paths(interactions) if is_catalogue(path)]:
        interactions = [path for path in _paths(interactions) if path not in kept]
    logs = [recorded_purchases(path) for path in kept]
    tables = [_NOTHING, *(log.table().select(USER, ITEM) for log in logs)]
    forgotten = [customer for log in logs for customer in log.forgotten]
    if not kept or interactions:
        found = read_interactions(Inputs(interactions=interactions, columns=columns))
        if found.height:  # else a day without a purchase
            tables[0] = leave_out(as_text(canonical(found)).select(USER, ITEM), forgotten)
    return tables, forgotten


def _paths(interactions: Paths | Table) -> list[Path | str]:
    """The paths that are given; none of a table."""
    if interactions is None:
        raise DataError("interactions is None: give a table of purchases, or files")
    given = [interactions] if isinstance(interactions, (str, Path)) else interactions
    paths = isinstance(given, Sequence) and all(isinstance(each, (str, Path)) for each in given)
    return list(given) if paths else []


def _choose(model: Model, counts: CoPurchases, texts: Mapping[str, str], seed: int) -> Choice:
    table = counts.table()
    if not table[ITEM].is_in(list(texts)).any():
        raise DataError(
            f"none of the {table[ITEM].n_unique():,} items that were bought ({next(iter(table[ITEM]), 'none')!r} "
            f"first) is in the catalogue of {len(texts):,} items: give the catalogue of these purchases"
        )
    sequences = table.group_by(USER, maintain_order=True).agg(ITEM)[ITEM].to_list()
    return weighed(model, sequences, texts, most_texts=MOST_TEXTS, seed=seed)


def _write(model: Model, path: Path, manifest: Mapping[str, Any], choice: Choice | None) -> None:
    """Put the model in its old one's place, with what else lies there."""
    stated = {name: value for name, value in manifest.items() if name not in _WRITTEN_ANEW}
    if choice is not None:
        stated["metrics"] = {**(manifest.get("metrics") or {}), "copurchase": asdict(choice)}
    tables = {file.name: read_parquet(file, remedy="copy the model again") for file in sorted(path.glob("*.parquet"))}
    bundle.save(model, path, stated, overwrite=True, tables=tables)
