"""`dual` models: history and item are encoded apart and compared by cosine; the catalogue is encoded once.

Legend: ``user`` = one history, ``slot`` = a history's item, ``item`` = an item to score, ``text`` = one text, ``dim`` =
vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.heads import Center, HistoryMatcher, Projection, PromptedCenter
from xcrossrec.models.model import Model, encoder_of, matcher_of, usual_device
from xcrossrec.progress import stage
from xcrossrec.prompts import item_texts
from xcrossrec.types import EncodingPrecision, PairStart, Scoring

_ENCODE_BATCH = 256

TEXTS_AT_ONCE = 16 * _ENCODE_BATCH
"""Texts of a block: consecutive ones of :func:`reading_order` are read in the same batches as among all the others."""

_SIMILARITIES = 2**22
"""Most cosines of one product of histories with the catalogue (16 MiB)."""

_CENTERED_TITLES = 1024
"""Titles that a catalogue's mean vector is taken over, spread over it; its error is 3% of the vectors' spread."""


_OF_BASE = (TitleEncoder, Pooling, Dense)
"""The modules that a base has too, which stand before the center."""


class DualKind:
    """What is particular to `dual` models; see :data:`xcrossrec.models.kinds.ModelKind`."""

    name: ClassVar[Scoring] = "dual"

    def head(self, encoder: TitleEncoder, pair_start: PairStart) -> list[nn.Module]:
        """The base's pooling and Dense layers, to a unit vector, and the matcher."""
        pooling = Pooling(encoder.dim, encoder.recipe.pooling)
        return [pooling, *deepcopy(encoder.base_dense), Normalize(), HistoryMatcher()]

    def assemble(self, modules: Sequence[nn.Module]) -> SentenceTransformer:
        """Make a ``SentenceTransformer``, which gives a unit vector a text and asks no hub for anything.

        It reads, by ``encode_query`` and ``encode_document`` too, with the prompts of its encoder's recipe.
        """
        encoder = modules[0]
        assert isinstance(encoder, TitleEncoder)
        prompts = {"query": encoder.recipe.history_prompt, "document": encoder.recipe.item_prompt}
        usual = "document" if any(prompts.values()) else None
        model = SentenceTransformer(
            modules=list(modules), prompts=prompts, default_prompt_name=usual, device=usual_device()
        )
        model.model_card_data.local_files_only = True
        return model

    def scorer(self, model: Model, titles: Sequence[str]) -> DualScorer:
        """Encode a catalogue."""
        return DualScorer(model, titles)

    def dim(self, model: Model) -> int:
        """Size of a vector."""
        return vector_dim(model)

    def encode_items(self, model: Model, titles: Sequence[str]) -> Float32[np.ndarray, "item dim"]:
        """Encode the titles of items, an empty one too."""
        vectors: Float32[np.ndarray, "item dim"] = encode_titles(model, item_texts(titles)).numpy()
        return vectors

    def with_projection(self, model: Model, rank: int, seed: int) -> Model:
        """Give a model without a :class:`Projection` one that changes nothing yet; rank 0 gives it back."""
        if not rank or any(isinstance(module, Projection) for module in model):
            return model
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            projection = Projection(vector_dim(model), rank)
        return self._with_module(model, projection, (*_OF_BASE, Center))

    def centered(self, model: Model, titles: Sequence[str], *, precision: EncodingPrecision = "fp32") -> Model:
        """Let a model subtract the mean vector of a catalogue, as it encodes the catalogue now.

        Only titles are read, no interactions. A model that was centered on another catalogue is moved to this one.

        Args:
            model: taken over.
            titles: the catalogue's; at most 1,024 of them, evenly spread, are encoded.

        Source:
            removing the common mean from text vectors: "All-but-the-Top" (Mu and Viswanath, ICLR 2018, arXiv
            1702.01417); for recommendation, whitening in WhitenRec (arXiv 2401.05753), of which this is the part that
            helped here.
        """
        encoder = encoder_of(model)
        if not any(isinstance(module, Center) for module in model):
            center = (PromptedCenter if encoder.recipe.apart else Center)(vector_dim(model))
            model = self._with_module(model, center, _OF_BASE)
        (center,) = (module for module in model if isinstance(module, Center))
        before_center = self.assemble([module for module in model if isinstance(module, _OF_BASE)])
        texts = item_texts(titles[:: -(-len(titles) // _CENTERED_TITLES)])
        training, former, encoder.precision = model.training, encoder.precision, precision
        center.mean.copy_(encode_titles(before_center, texts).double().mean(0))
        if isinstance(center, PromptedCenter):
            center.history_mean.copy_(encode_titles(before_center, texts, as_history=True).double().mean(0))
        encoder.precision = former
        model.train(training)
        return model

    def _with_module(self, model: Model, new: nn.Module, after: tuple[type[nn.Module], ...]) -> Model:
        """The model with a new module behind its first ones of certain classes."""
        before = [module for module in model if isinstance(module, after)]
        return self.assemble([*before, new, *list(model)[len(before) :]])


def vector_dim(model: Model) -> int:
    """Size of a text's vector: the last Dense layer's, or a token state's."""
    sizes = [module.out_features for module in model if isinstance(module, Dense)]
    return int(sizes[-1]) if sizes else encoder_of(model).dim


def reading_order(texts: Iterable[str]) -> list[str]:
    """Each different text once, longest first: so are texts of like length read together."""
    return sorted(set(texts), key=lambda text: (-len(text), text))


@torch.inference_mode()
def encode_titles(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    as_history: bool = False,
    told: Callable[[int], None] = lambda done: None,
) -> Float[torch.Tensor, "text dim"]:
    """Encode texts into unit vectors, each different text once, longest first; leaves the model in evaluation mode.

    Equal texts have equal vectors, so that their items tie. ``as_history`` reads them as a history's items, which
    differs where the model's prompts do; ``told`` hears how many of the different texts are encoded.
    """
    if model.training:
        model.eval()
    place = {text: number for number, text in enumerate(reading_order(texts))}
    different = list(place)
    encoder = encoder_of(model)
    encode = partial(encoder.preprocess, prompt=encoder.recipe.history_prompt) if as_history else encoder.preprocess
    parts = []
    with stage("encoding", "texts") as bar:
        for start in range(0, len(different), _ENCODE_BATCH):
            features = encode(different[start : start + _ENCODE_BATCH])
            parts.append(model({key: value.to(model.device) for key, value in features.items()})["sentence_embedding"])
            bar.at(done := min(start + _ENCODE_BATCH, len(different)), len(different))
            told(done)
    if not parts:
        return torch.empty(0, vector_dim(model))
    return torch.cat(parts).float().cpu()[[place[text] for text in texts]]


def runs_within(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Cut users into consecutive runs of at most so many slots (at least one user each)."""
    start = used = 0
    for user, length in enumerate(lengths):
        if user > start and used + length > most:
            yield range(start, user)
            start, used = user, 0
        used += length
    if start < len(lengths):
        yield range(start, len(lengths))


class DualScorer:
    """Scores a catalogue, in row order, by the cosine of separately encoded history and items. It is encoded once (or
    not, where its vectors are known already), or once as what histories hold and once as what is scored where the
    prompts of these differ."""

    def __init__(
        self,
        model: SentenceTransformer,
        titles: Sequence[str],
        *,
        vectors: Float[torch.Tensor, "item dim"] | None = None,
    ) -> None:
        self.model = model
        self.titles = item_texts(titles)
        self.vectors = encode_titles(model, self.titles) if vectors is None else vectors
        apart = encoder_of(model).recipe.apart
        self.slots = encode_titles(model, self.titles, as_history=True) if apart else self.vectors
        self.matcher: HistoryMatcher = deepcopy(matcher_of(model)).cpu()  # vectors are kept on the CPU

    @torch.inference_mode()
    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates, as :class:`xcrossrec.scoring.Scorer` says; no history may be empty."""
        if candidates is None:
            return torch.cat(list(self._catalogue_scores(histories))).numpy().astype(np.float32, copy=False)
        lengths = [len(history) for history in histories]
        longest = max(lengths, default=0)
        rows = torch.tensor([[*history, *[0] * (longest - len(history))] for history in histories])
        present = torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]
        similarity = torch.einsum("usd,ucd->ucs", self.slots[rows], self.vectors[torch.from_numpy(candidates)])
        scores = self.matcher.pool(similarity, present[:, None, :].expand_as(similarity))
        return scores.numpy().astype(np.float32)

    def _catalogue_scores(self, histories: Sequence[Sequence[int]]) -> Iterator[Float[torch.Tensor, "one item"]]:
        """Score the catalogue user by user; several users' slots go through one product."""
        at_once = max(1, _SIMILARITIES // max(1, len(self.vectors)))
        for users in runs_within([len(history) for history in histories], at_once):
            slots = self.slots[torch.tensor([row for user in users for row in histories[user]])]
            for part in (slots @ self.vectors.t()).split_with_sizes([len(histories[user]) for user in users]):
                present = torch.ones(1, 1, len(part), dtype=torch.bool)  # for all items, whose slots lie together
                yield self.matcher.pool(part.t().contiguous()[None], present)
