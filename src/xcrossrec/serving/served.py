"""One served model: its bundle, its catalogue, and the threads that answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from xcrossrec.answers import Explanation
from xcrossrec.catalogue import Catalogue, StoredItem, embed_again, encode_items, fingerprint_of
from xcrossrec.exceptions import ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.recommender import Answer, Question, Recommender
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.schemas import ItemToStore, ModelInfo
from xcrossrec.serving.settings import Settings
from xcrossrec.serving.worker import Worker
from xcrossrec.types import EncodingPrecision

log = logging.getLogger(__name__)

REASONS_QUEUE = 16
"""Explanations that may wait: each is seconds of work."""

WRITES_QUEUE = 64
"""Writes that may wait."""

_SHARED_FROM = 10_000
"""Values of a tensor from which two copies of a model share it."""


@dataclass(frozen=True)
class Spec:
    """What an operator asked to serve.

    Attributes:
        name: by which requests choose it.
        path: of the bundle.
        catalog: a catalogue, or what one is made of: a domain's folder or a table.
        precision: of encoding.
    """

    name: str
    path: Path
    catalog: Path
    precision: EncodingPrecision = "fp32"


@dataclass(frozen=True)
class Written:
    """How many items a write changed, and the version that shows it."""

    version: int
    count: int


class Served:
    """A model that answers: recommendations in batches, explanations and writes beside them, on three threads.

    Args:
        spec: what it is.
        model: loaded; taken over.
        manifest: of its bundle.
        store: its catalogue; not closed by :meth:`close`.
        settings: limits.
        metrics: told of batches.
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
        limit, encoded = settings.pair_candidates, metrics.encoded.labels(spec.name)
        self._recommender = Recommender(model, store, pair_limit=limit, on_encoded=encoded.inc)
        # another copy for explanations and writes, which would hold up the answers
        self._second = Recommender(second_of(model), store, pair_limit=limit)
        self._of_second = Lock()
        on_batch, wait_s = metrics.on_batch(spec.name), settings.batch_wait_ms / 1000
        self.answers: Worker[Question, Answer] = Worker(
            spec.name, self._on_thread(self._recommender.answer), queue=settings.queue, batch=settings.batch,
            wait_s=wait_s if settings.batch > 1 else 0.0, on_batch=on_batch,
        )  # fmt: skip
        self.reasons: Worker[Question | Answer, tuple[int, list[Explanation]]] = Worker(
            f"{spec.name}-reasons", self._one(self._explain), queue=min(REASONS_QUEUE, settings.queue)
        )
        self.writes: Worker[Sequence[ItemToStore] | Sequence[str], Written] = Worker(
            f"{spec.name}-writes", self._one(self._write), queue=min(WRITES_QUEUE, settings.queue)
        )

    @property
    def domain(self) -> str | None:
        """The domain that the model was trained for."""
        record = self.manifest.get("domain")
        return str(record["name"]) if isinstance(record, Mapping) and record.get("name") else None

    @property
    def info(self) -> ModelInfo:
        """What /v1/model shows."""
        encoder = encoder_of(self.model)
        snapshot = self.store.snapshot()
        return ModelInfo.model_validate(
            {
                "name": self.spec.name,
                "domain": self.domain,
                "sources": list(encoder.sources),
                "scoring": kind_of(self.model).name,
                "parameters": self.manifest.get("parameters") or {},
                "fingerprint": self.store.fingerprint,
                "base": {"name": encoder.base_name, "digest": encoder.base_digest},
                "created": self.manifest.get("created"),
                "catalog": {"items": len(snapshot), "version": snapshot.version},
            }
        )

    @property
    def workers(self) -> tuple[Worker[Any, Any], ...]:
        """All threads."""
        return self.answers, self.reasons, self.writes

    def warm(self) -> None:
        """Encode a text, so that the first request is as quick as the next."""
        encode_items(self.model, ["warm"])

    def close(self) -> None:
        """Take no more questions; those that wait are answered."""
        for worker in self.workers:
            worker.close()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until all questions are answered."""
        for worker in self.workers:
            worker.join(timeout_s)

    def _on_thread(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Give the worker's thread the process's number of processor threads, once."""
        threads = torch.get_num_threads()
        settled: list[bool] = []

        def run(questions: Any) -> Any:
            if not settled:
                torch.set_num_threads(threads)
                settled.append(True)
            return work(questions)

        return run

    def _one(self, work: Callable[[Any], Any]) -> Callable[[Sequence[Any]], list[Any]]:
        """Answer questions one by one, while no other thread uses the second model."""

        def run(questions: Sequence[Any]) -> list[Any]:
            with self._of_second:
                return [work(question) for question in questions]

        return self._on_thread(run)

    def _explain(self, asked: Question | Answer) -> tuple[int, list[Explanation]] | Exception:
        """Say why the items of an answer have their scores, and of which version of the catalogue they are."""
        try:
            answer = self._second.answer([asked])[0] if isinstance(asked, Question) else asked
            return answer if isinstance(answer, Exception) else (answer.version, self._second.explain_answer(answer))
        except Exception as error:
            return error

    def _write(self, asked: Sequence[ItemToStore] | Sequence[str]) -> Written | Exception:
        try:
            if isinstance(asked[0], str):
                count = self.store.delete([str(item_id) for item_id in asked])
            else:
                items = [StoredItem(**item.model_dump()) for item in asked if isinstance(item, ItemToStore)]
                count = self.store.upsert(items, encode_items(self._second.model, [item.title for item in items]))
            return Written(self.store.version, count)
        except Exception as error:
            return error


def load(spec: Spec) -> tuple[Model, dict[str, Any]]:
    """Load and verify a bundle.

    Raises:
        BundleError: incomplete, changed, foreign or unsafe content.
        BaseMismatchError: the base's weights are not those of the training.
    """
    manifest = bundle.read_bundle_manifest(spec.path)
    model = bundle.load(spec.path)
    encoder_of(model).precision = spec.precision
    return model, manifest


def second_of(model: Model) -> Model:
    """Copy a model, so that explanations can switch parts of the copy off; large weights, never changed, are shared."""
    large = [t for t in (*model.parameters(), *model.buffers()) if t.numel() >= _SHARED_FROM]
    return deepcopy(model, {id(tensor): tensor for tensor in large})


def replace(old: Served, path: Path | None, settings: Settings, metrics: Metrics) -> Served:
    """Load another bundle beside a served model, over the same catalogue.

    The catalogue is encoded again where the new model makes other vectors; the old model answers meanwhile, and
    its catalogue takes writes until the end.

    Args:
        old: goes on answering; to be closed once the new one is in its place.
        path: of the new bundle; None reads the present one again.
        settings: limits.
        metrics: told of batches.

    Raises:
        BundleError: the bundle cannot be used.
        ConfigError: the new model scores in another way than the catalogue was made for.
    """
    spec = Spec(old.spec.name, path or old.spec.path, old.spec.catalog, old.spec.precision)
    model, manifest = load(spec)
    store = old.store
    if (fingerprint := fingerprint_of(model)) != store.fingerprint:
        if kind_of(model).name != kind_of(old.model).name:
            raise ConfigError(
                f"{spec.path} scores {kind_of(model).name!r} and {old.spec.name!r} is served with "
                f"{kind_of(old.model).name!r}: serve it under another name, with a catalogue of its own"
            )
        log.info("encoding %d items again for %s (fingerprint %s)", len(store), spec.path, fingerprint[:12])
        store = embed_again(store, model)
    new = Served(spec, model, manifest, store, settings, metrics)
    new.warm()
    return new
