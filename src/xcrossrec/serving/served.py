"""One served model: its bundle, its catalogue, and the threads that answer."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from xcrossrec.answers import Explanation
from xcrossrec.catalogue import Catalogue, Purchase, embed_again, encode_items, fingerprint_of
from xcrossrec.catalogue.kept import recorded_model
from xcrossrec.exceptions import BundleError, ConfigError, DataError, StorageError, UnknownItemError, XCrossRecError
from xcrossrec.models import bundle
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.recommender import Answer, Recommender
from xcrossrec.recommender.learn import forget, forget_all
from xcrossrec.recommender.ranking import or_error
from xcrossrec.serving.answering import Answering
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.problems import Problem
from xcrossrec.serving.schemas import CatalogInfo, ForgetRequest, ItemToStore, ModelInfo
from xcrossrec.serving.settings import Settings, Spec
from xcrossrec.serving.worker import Worker

log = logging.getLogger(__name__)

REASONS_QUEUE = 16
"""Explanations that may wait: each is seconds of work."""

WRITES_QUEUE = 64
"""Writes that may wait."""

PURCHASES_AT_ONCE = 32
"""Requests whose purchases are written in one step: each step waits for the disk."""

_SHARED_FROM = 10_000
"""Values of a tensor from which two copies of a model share it."""


class Served:
    """A model that answers in batches; explanations and writes have threads of their own.

    Args:
        model, manifest: from :func:`load`; not to be used elsewhere.
        store: its catalogue; not closed by :meth:`close`.
        settings, metrics: of the service.
    """

    def __init__(
        self,
        spec: Spec,
        model: Model,
        manifest: Mapping[str, Any],
        store: Catalogue,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.spec, self.model, self.manifest, self.store = spec, model, manifest, store
        metrics.start_at_zero(spec.name)
        limit = settings.pair_candidates
        self.recommender = Recommender(
            model,
            store,
            pair_limit=limit,
            on_encoded=metrics.encoded.labels(spec.name).inc,
            on_recalled=metrics.recalled.labels(spec.name).inc,
            remembered=settings.remembered,
        )
        self._finish_forgetting()
        # a copy for explanations and writes, which would delay the answers
        self._second = Recommender(second_of(model), store, pair_limit=limit, bought=self.recommender.bought)
        self._of_second = Lock()  # one thread at a time uses it
        on_start = partial(torch.set_num_threads, torch.get_num_threads())  # each thread has a number of its own
        self.answers = Answering(spec.name, self.recommender, settings, metrics, on_start)
        self.reasons: Worker[Answer, list[Explanation]] = Worker(
            f"{spec.name}-reasons",
            partial(_one_by_one, self._explain),
            queue=min(REASONS_QUEUE, settings.queue),
            on_start=on_start,
        )
        queue = min(WRITES_QUEUE, settings.queue)
        self.writes: Worker[Sequence[ItemToStore] | Sequence[str] | ForgetRequest, dict[str, Any]] = Worker(
            f"{spec.name}-writes", partial(_one_by_one, self._write), queue=queue, on_start=on_start
        )
        self.purchases: Worker[tuple[Sequence[Purchase], bool], dict[str, Any]] = Worker(
            f"{spec.name}-purchases", self._add_purchases, queue=queue, batch=PURCHASES_AT_ONCE, on_start=on_start
        )

    @property
    def domain(self) -> str | None:
        """The domain that the model was trained for."""
        record = self.manifest.get("domain")
        return str(record["name"]) if isinstance(record, Mapping) and record.get("name") else None

    @property
    def report(self) -> Path | None:
        """The page that ``xcrossrec adapt`` wrote next to the bundle; None if it cannot be read or is a link."""
        with suppress(OSError, RuntimeError):  # the working directory is gone, or links lead in a circle
            places = [self.spec.path.resolve().parent / name for name in ("report.html", "decision.json")]
            own = all(each.is_file() and not each.is_symlink() and os.access(each, os.R_OK) for each in places)
            return places[0] if own else None
        return None

    @property
    def info(self) -> ModelInfo:
        """The description of the model at /v1/model."""
        encoder = encoder_of(self.model)
        snapshot = self.store.snapshot()
        return ModelInfo(
            name=self.spec.name,
            domain=self.domain,
            sources=list(encoder.sources),
            scoring=kind_of(self.model).name,
            text=encoder.text.template,
            parameters=self.manifest.get("parameters") or {},
            fingerprint=self.store.fingerprint,
            base=self.manifest["base"],
            created=self.manifest.get("created"),
            catalog=CatalogInfo(items=len(snapshot), version=snapshot.version),
            report=self.report is not None,
        )

    def close(self) -> None:
        """Take no more questions; those that wait are answered."""
        for worker in (self.answers, self.reasons, self.writes, self.purchases):
            worker.close()

    def join(self) -> None:
        """Wait until all questions are answered."""
        for worker in (self.answers, self.reasons, self.writes, self.purchases):
            worker.join()

    def _explain(self, answer: Answer) -> list[Explanation]:
        with self._of_second:
            return self._second.explain_answer(answer)

    def _finish_forgetting(self) -> None:
        """Remove customers from the bundle's folder whom a process forgot in the catalogue before it died."""
        if forgotten := self.store.forgotten:
            try:
                forget_all(self.spec.path, forgotten)
            except XCrossRecError as error:
                log.warning("%s may still know who was forgotten in its catalogue: %s", self.spec.path, error)

    def _forget(self, user_id: str) -> dict[str, Any]:
        """Delete a customer's purchases in the catalogue, in the counts, and in the bundle's folder."""
        self.store.snapshot()  # reads other services' writes
        self.recommender.bought.learn()
        known = len(self.recommender.bought.of(user_id))
        self.store.forget(user_id)
        self.recommender.bought.learn()
        try:
            forget(self.spec.path, user_id)
        except StorageError as error:  # models often lie where a service may not write
            said = f"the catalogue and all answers have forgotten the customer, but {self.spec.path} has not"
            remedy = f"run  xcrossrec forget USER {self.spec.path}  where that may be changed"
            raise Problem(507, "storage", f"{said} ({error.__cause__ or error}): {remedy}") from error
        return {"catalog_version": self.store.version, "forgotten": known}

    def _write(self, asked: Sequence[ItemToStore] | Sequence[str] | ForgetRequest) -> dict[str, Any]:
        """Forget a customer, or store or delete items; returns the new version, and how many changed."""
        if isinstance(asked, ForgetRequest):
            return self._forget(asked.user_id)
        if isinstance(asked[0], str):
            done, count = "deleted", self.store.delete([str(item_id) for item_id in asked])
        else:
            text = encoder_of(self._second.model).text
            items = [item.stored(text) for item in asked if isinstance(item, ItemToStore)]
            with self._of_second:
                vectors = encode_items(self._second.model, items)
            done, count = "written", self.store.upsert(items, vectors)
        return {"catalog_version": self.store.version, done: count}

    def _add_purchases(self, asked: Sequence[tuple[Sequence[Purchase], bool]]) -> Sequence[dict[str, Any] | Exception]:
        """Store and count the purchases of many requests in one step."""
        known = [or_error(self._of_known_items, *each) for each in asked]
        stored = [purchase for each in known if not isinstance(each, Exception) for purchase in each[0]]
        fresh = or_error(self.store.add_purchases, stored)
        if isinstance(fresh, DataError) and len(asked) > 1:  # one request's fault is not the others'
            return [answer for each in asked for answer in self._add_purchases([each])]
        if isinstance(fresh, Exception):
            return [each if isinstance(each, Exception) else fresh for each in known]
        self.recommender.bought.learn()
        new, version = {id(purchase) for purchase in fresh}, self.store.version

        def answer(purchases: Sequence[Purchase], unknown: dict[str, Any]) -> dict[str, Any]:
            added = sum(id(purchase) in new for purchase in purchases)
            return {"catalog_version": version, "added": added, **unknown}

        return [each if isinstance(each, Exception) else answer(*each) for each in known]

    def _of_known_items(
        self, purchases: Sequence[Purchase], skip_unknown: bool
    ) -> tuple[Sequence[Purchase], dict[str, Any]]:
        """The purchases of items that the catalogue has, and the other items' ids, where these may be left out."""
        snapshot = self.store.snapshot()
        unknown = snapshot.lacking(each.item_id for each in purchases)
        if unknown and not skip_unknown:
            raise UnknownItemError(
                f"unknown item id {unknown[0]!r}: the catalogue of {len(snapshot)} items lacks it; nothing "
                "was added: write the item first, or send skip_unknown to leave out purchases of such items"
            )
        left_out = {"unknown": unknown} if skip_unknown else {}
        return [purchase for purchase in purchases if purchase.item_id not in unknown], left_out


def _one_by_one(work: Callable[[Any], Any], questions: Sequence[Any]) -> list[Any]:
    return [or_error(work, question) for question in questions]


def load(spec: Spec, base: str | None = None) -> tuple[Model, dict[str, Any]]:
    """Load and verify a bundle; for ``base`` and BaseMismatchError see :func:`xcrossrec.load`.

    BundleError: incomplete, changed, foreign or unsafe content, or an invalid path.
    """
    try:
        manifest = bundle.read_bundle_manifest(spec.path)
        model = bundle.load(spec.path, base=base)
    except XCrossRecError:
        raise
    except (OSError, ValueError) as error:  # too long, with a zero byte, not to be read
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BundleError(f"{str(spec.path)[:200]!a} cannot be read ({why}): give the folder of a bundle") from error
    encoder_of(model).precision = spec.precision
    return model, manifest


def load_current(spec: Spec, base: str | None = None) -> tuple[Spec, Model, dict[str, Any]]:
    """Load a bundle, or the one to which services with the same catalogue have changed; errors as for :func:`load`."""
    model, manifest = load(spec, base)
    fingerprint, folder = recorded_model(spec.catalog) or ("", None)
    if folder and fingerprint != fingerprint_of(model) and Path(folder).is_dir():
        log.warning("%s: the catalogue has the vectors of %s, so that is served, not %s", spec.name, folder, spec.path)
        spec = Spec(spec.name, Path(folder), spec.catalog, spec.precision)
        model, manifest = load(spec, base)
    return spec, model, manifest


def second_of(model: Model) -> Model:
    """Copy a model, so that explanations can switch off parts of it; large weights, which never change, are shared."""
    large = [t for t in (*model.parameters(), *model.buffers()) if t.numel() >= _SHARED_FROM]
    return deepcopy(model, {id(tensor): tensor for tensor in large})


def replace(old: Served, path: Path | None, settings: Settings, metrics: Metrics) -> Served:
    """Load another bundle for a served model's catalogue.

    The catalogue is encoded again if the new model makes other vectors; meanwhile the old model answers, and its
    catalogue takes writes until the end.

    Args:
        old: goes on answering; close it once the new one has its place.
        path: of the new bundle; None loads the present one again.

    Raises:
        BundleError: the bundle cannot be used.
        ConfigError: the new model scores in another way than the catalogue was made for.
    """
    spec = Spec(old.spec.name, path or old.spec.path, old.spec.catalog, old.spec.precision)
    model, manifest = load(spec, settings.base)
    same = (fingerprint := fingerprint_of(model)) == old.store.fingerprint
    if not same and kind_of(model).name != kind_of(old.model).name:
        raise ConfigError(
            f"{spec.path} scores {kind_of(model).name!r} and {old.spec.name!r} is served with "
            f"{kind_of(old.model).name!r}: serve it under another name, with a catalogue of its own"
        )
    store = old.store.successor(fingerprint) or old.store
    if store is old.store and not same:
        log.info("encoding %d items again for %s", len(store), spec.path)
        store = embed_again(store, model, spec.path)
    if store.replaced_by is not None:
        raise BundleError(
            f"the catalogue of {old.spec.name!r} holds another model's vectors than {spec.path} makes: reload that "
            "model, or embed the catalogue again by this one"
        )
    new = Served(spec, model, manifest, store, settings, metrics)
    if same:
        new.recommender.memory = old.recommender.memory
    return new
