"""How near an export is to its model: vectors and scores of a sample, and what a difference costs in ranks.

Legend: ``text`` = one text, ``dim`` = vector size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32

from xcrossrec.catalogue import StoredItem
from xcrossrec.data.domain import Domain
from xcrossrec.evaluation import compare, evaluate
from xcrossrec.export.folders import Encode
from xcrossrec.export.request import HISTORY
from xcrossrec.export.score import scores
from xcrossrec.models.dual import DualScorer
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.purchases import term_of
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.prompts import item_texts
from xcrossrec.types import ITEM, Split

TEXTS, HISTORIES, LONGEST_HISTORY = 200, 50, 25
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """Texts that a model and its export both read.

    Attributes:
        texts: of items, or of random words of the model's vocabulary; one is longer than the model reads.
        ids: of the items; without a catalogue those of items that were bought.
        scorer: the model on them.
    """

    texts: list[str]
    ids: list[str]
    scorer: ModelScorer

    @classmethod
    def of(cls, model: Model, items: Sequence[StoredItem] | None, *, longer: bool = True) -> Self:
        """Draw it of a catalogue's items, or of random words of the vocabulary; ``longer``: one is longer than the
        model reads."""
        encoder, rng = encoder_of(model), np.random.default_rng(_SEED)
        if items is not None:
            chosen = items[:: -(-len(items) // TEXTS)]
            texts, ids = item_texts([item.read(encoder.text) for item in chosen]), [item.item_id for item in chosen]
        else:
            special = {*encoder.tokenizer.all_special_tokens}
            words = sorted({word.strip("#Ġ▁") for word in encoder.tokenizer.get_vocab() if word not in special} - {""})
            texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(TEXTS)]
            term = term_of(model)
            bought = [] if term is None else list(term.counts.popularities())[:TEXTS]
            ids = [*bought, *(f"text {number}" for number in range(len(bought), TEXTS))]
        if longer:
            texts[-1] = " ".join([texts[-1]] * encoder.max_tokens)
        return cls(texts, ids, ModelScorer(model, texts, ids=ids, name="the model"))

    @property
    def vectors(self) -> tuple[Float32[np.ndarray, "text dim"], Float32[np.ndarray, "text dim"]]:
        """The model's own, of the texts as items and as a history's."""
        inner = self.scorer.inner
        assert isinstance(inner, DualScorer)
        return inner.vectors.numpy(), inner.slots.numpy()


@dataclass(frozen=True)
class Parity:
    """How far apart a model and its export are: the largest difference of two numbers of vectors, and of two scores of
    the same item and history by ``score.py``; the smallest cosine of a text's two vectors."""

    texts: int
    vectors: float
    scores: float
    cosine: float

    @classmethod
    def measured(cls, sample: Sample, encode: Encode, folder: Path) -> Self:
        """Compare what a written folder says with the model."""
        items, slots = sample.vectors
        own, own_slots = _both(sample.scorer, encode, sample.texts)
        known = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        rng, count = np.random.default_rng(_SEED), len(sample.texts)
        lengths = [0, 1, 2, *rng.integers(1, LONGEST_HISTORY, HISTORIES - 3)]
        histories = [rng.integers(0, count, length).tolist() for length in lengths]
        expected = sample.scorer.score(histories)
        found = [scores([sample.ids[row] for row in h], own_slots[h], sample.ids, own, known) for h in histories]
        return cls(
            count,
            float(max(np.abs(own - items).max(), np.abs(own_slots - slots).max())),
            float(np.abs(np.stack(found) - expected).max()),
            float(min((own * items).sum(1).min(), (own_slots * slots).sum(1).min())),
        )


def cost_in_ranks(model: Model, domain: Domain, encode: Encode) -> dict[str, Any]:
    """What an export's vectors cost in MRR, by the same ladder and on the same users.

    Returns:
        ``users``, ``split``, ``model`` and ``export`` (MRR among the whole catalogue), ``difference`` and its ``ci``.
    """
    split: Split = "test" if "test" in domain.splits else "validation"
    ids, texts = domain.items[ITEM].to_list(), item_texts(domain.texts)
    of_model = ModelScorer(model, texts, ids=ids, name="the model")
    exported, inner = copy(of_model), copy(of_model.inner)
    assert isinstance(inner, DualScorer)
    exported.inner, exported.name = inner, "the export"
    inner.vectors, inner.slots = map(torch.from_numpy, _both(of_model, encode, texts))
    results = [evaluate(scorer, domain, split, negatives=["full"]) for scorer in (exported, of_model)]
    found = compare(*results)["metrics"]["full"]["mrr"]
    means = {"model": found["mean_b"], "export": found["mean_a"]}
    return {"users": found["users"], "split": split, **means, "difference": found["difference"], "ci": found["ci"]}


def _both(
    scorer: ModelScorer, encode: Encode, texts: Sequence[str]
) -> tuple[Float32[np.ndarray, "text dim"], Float32[np.ndarray, "text dim"]]:
    """Texts as items and as a history's; read once where that is the same."""
    items = encode(texts, False)
    return items, encode(texts, True) if encoder_of(scorer.model).recipe.apart else items
