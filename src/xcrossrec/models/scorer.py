"""A model on a catalogue as a :class:`xcrossrec.scoring.Scorer`: trained here, trained elsewhere, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_CONFIG, MANIFEST, base_of, read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.day_one import Ladder, ladder_of
from xcrossrec.models.dual import DualScorer, encode_titles
from xcrossrec.models.encoder import text_of
from xcrossrec.models.identity import AnyBase
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.merged import add_to_weights
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.tokens import CutReport
from xcrossrec.scoring import check_rows
from xcrossrec.types import EncodingPrecision


class ModelScorer:
    """A trained or untrained model bound to a catalogue.

    An empty history scores every item by how much it is bought, lately, where the model knows purchases, else 0.

    Args:
        model: from :mod:`xcrossrec.models.bundle`.
        texts: the catalogue's, in row order, as the model reads them (:func:`as_read`).
        name: what tables and result files call it.
        precision: of the encoding, ``fp32`` or ``bf16``.
        ids: the items', in row order; needed where the model knows purchases (:mod:`xcrossrec.models.purchases`).

    Raises:
        DataError: the model knows purchases, and there are no ids, or of another number.
    """

    def __init__(
        self,
        model: Model,
        texts: Sequence[str],
        *,
        name: str,
        precision: EncodingPrecision = "fp32",
        ids: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        encoder_of(model).precision = precision
        encoder_of(model).tell_unread(texts)
        self.inner = kind_of(model).scorer(model, texts)
        self.name = name
        self._n_items = len(texts)
        self._ladder, self._ids = ladder_of(model), ids or ()
        if self._ladder is not None and len(self._ids) != len(texts):
            raise DataError(
                f"the model {name!r} knows purchases by item id, but {len(self._ids)} ids came with {len(texts)} "
                "texts: give ids=, one a text"
            )
        self._row_of = {item: row for row, item in enumerate(self._ids)}
        self._elsewhere: dict[str, Float32[torch.Tensor, " dim"]] = {}

    @property
    def read_elsewhere(self) -> int:
        """How many texts of other categories were read so far."""
        return len(self._elsewhere)

    @property
    def cut(self) -> CutReport:
        """How much text did not fit the model so far."""
        return encoder_of(self.model).cut

    def knowing(self, model: Model, ids: Sequence[str]) -> Self:
        """The same vectors, scored by a model that differs from this one's in what it knows of purchases alone."""
        other = copy(self)
        other.model, other._ladder, other._ids = model, ladder_of(model), ids
        other._row_of = {item: row for row, item in enumerate(ids)}
        return other

    def elsewhere(self, texts: Collection[str]) -> Float32[torch.Tensor, "text dim"]:
        """The vectors of texts of other categories, each read once."""
        if fresh := sorted(set(texts) - self._elsewhere.keys()):
            self._elsewhere |= zip(fresh, encode_titles(self.model, fresh, as_history=True), strict=True)
        return torch.stack([self._elsewhere[text] for text in texts])

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates by the model; see :class:`xcrossrec.scoring.Scorer`."""
        return self.score_with(histories, [()] * len(histories), candidates)

    def score_with(
        self,
        histories: Sequence[Sequence[int]],
        elsewhere: Sequence[Sequence[str]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates by the model's ladder; see :class:`xcrossrec.scoring.LadderScorer`.

        A model that knows no purchases leaves what was bought elsewhere out.
        """
        check_rows(histories, candidates, self._n_items)
        width = self._n_items if candidates is None else candidates.shape[1]
        scores: Float32[np.ndarray, "user candidate"] = np.zeros((len(histories), width), dtype=np.float32)
        filled = [user for user, history in enumerate(histories) if len(history)]
        if filled and width:
            chosen = None if candidates is None else candidates[filled]
            scores[filled] = self.inner.score([histories[user] for user in filled], chosen)
        if self._ladder is not None and width:
            self._climb(self._ladder, scores, histories, elsewhere, candidates)
        return scores

    def _climb(
        self,
        ladder: Ladder,
        scores: Float32[np.ndarray, "user candidate"],
        histories: Sequence[Sequence[int]],
        elsewhere: Sequence[Sequence[str]],
        candidates: Int[np.ndarray, "user candidate"] | None,
    ) -> None:
        """Make the text's scores those of the ladder, in place."""
        every = zip(histories, elsewhere, strict=True)
        read = [texts if ladder.reads_elsewhere(history) else () for history, texts in every]
        if different := {text for texts in read for text in texts}:
            self.elsewhere(different)
        for user, (history, texts) in enumerate(zip(histories, read, strict=True)):
            vectors = self.elsewhere(texts) if texts else None
            standing = ladder.standing([self._ids[row] for row in history], vectors)
            added = np.zeros(self._n_items)
            for item, more in standing.bonus.items():
                if item in self._row_of:
                    added[self._row_of[item]] = more
            if standing.everywhere is not None and isinstance(self.inner, DualScorer):
                added += standing.everywhere(self._ids, self.inner.vectors, self)
            scores[user] *= 1 - standing.share
            scores[user] += added if candidates is None else added[candidates[user]]


def as_read(path: Path | str, domain: Domain) -> Domain:
    """A domain as the model or adapter of a folder reads it: with that's item text, whatever the domain's is. One made
    elsewhere reads what the domain says. DataError: the items lack a field; BundleError: the folder is damaged."""
    text = text_of(Path(path))
    return domain if text is None or text == domain.text else domain.with_text(text)


def untrained(
    base: str,
    texts: Sequence[str],
    *,
    center: bool = False,
    precision: EncodingPrecision = "fp32",
    name: str | None = None,
) -> ModelScorer:
    """Score by the base model's own similarity of items, without any training.

    Args:
        base: see :func:`xcrossrec.models.base.load_base`.
        texts: the catalogue's, in row order.
        center: take the catalogue's mean vector off every item's.
    """
    model = build_model(SourceEncoder(load_base(base)))
    model = kind_of(model).centered(model, texts) if center else model
    called = "centered" if center else "untrained"
    return ModelScorer(model, texts, name=name or called, precision=precision)


def trained(
    path: Path | str,
    texts: Sequence[str],
    *,
    name: str | None = None,
    base: AnyBase | None = None,
    strict: bool = False,
    center: bool = False,
    precision: EncodingPrecision = "fp32",
    ids: Sequence[str] | None = None,
) -> ModelScorer:
    """Score by a bundle, one of this project's adapters, or a PEFT LoRA folder made elsewhere.

    Args:
        path: the folder. A foreign adapter gets the default head, untrained.
        texts: the catalogue's, in row order, as the model reads them (:func:`as_read`).
        name: what tables call it; the folder's name if None.
        base: see :func:`xcrossrec.models.bundle.load`.
        strict: refuse a foreign adapter of which nothing but its shapes says that it belongs to the base.
        center: center the model on this catalogue, whatever it was trained on.
        ids: see :class:`ModelScorer`.

    Raises:
        DataError: the model knows purchases, and there are no ids.
        BundleError: the folder is missing, incomplete, corrupt or foreign.
        BaseMismatchError: it belongs to another base, or to none that is there.
    """
    folder = Path(path)
    ours = (folder / MANIFEST).exists() or (folder / "modules.json").exists()
    foreign = (folder / ADAPTER_CONFIG).exists() and not ours
    model = _merged(folder, base, strict) if foreign else bundle.load(folder, base=base)
    model = kind_of(model).centered(model, texts) if center else model
    return ModelScorer(model, texts, name=name or folder.resolve().name, precision=precision, ids=ids)


def _merged(folder: Path, given: AnyBase | None, strict: bool) -> Model:
    """Add a foreign adapter's updates to its base."""
    base = base_of([folder], given)
    add_to_weights(base.backbone, read_adapter(folder, base, strict=strict).factors)
    return build_model(SourceEncoder(base))
