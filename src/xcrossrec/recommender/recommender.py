"""One recommender: a model over a catalogue, asked by Python, the command line, the batch job and the service."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Self

from xcrossrec.answers import Explanation, ItemScore, Recommendation, customers
from xcrossrec.arguments import checked
from xcrossrec.catalogue import Catalogue, Filters, ItemSource, Snapshot, open_catalogue
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.bundle import Loading
from xcrossrec.models.identity import AnyBase
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.recommender.bought import Bought
from xcrossrec.recommender.explanation import explain_scores
from xcrossrec.recommender.questions import Answer, ItemLike, Question, Text, Understood, understand
from xcrossrec.recommender.ranking import PAIR_LIMIT, DualRanking, PairRanking, Read, or_error
from xcrossrec.types import EncodingPrecision

HISTORY = "history"
"""Column of a table of users: a list of text, item ids and titles, oldest first."""

REMEMBERED = 4096
"""Titles whose vectors are remembered: 6 MB of MiniLM's."""


@dataclass(frozen=True)
class Unread:
    """A question must wait until the model has read these texts."""

    texts: list[Text]


class Memory:
    """Remembers what a model made of its most recently used texts, at most ``most`` (0: none); thread-safe."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[Text, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def recall(self, texts: Iterable[Text]) -> dict[Text, Any]:
        """Return what is remembered of these texts."""
        with self._lock:
            known = {text: self._kept[text] for text in texts if text in self._kept}
            for text in known:
                self._kept.move_to_end(text)
        return known

    def keep(self, read: Read) -> None:
        """Remember texts; a vector is copied, as it may be a view into a batch."""
        with self._lock:
            for text, value in read.items() if self.most else ():
                self._kept[text] = value.clone()
                self._kept.move_to_end(text)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)


class Recommender:
    """Ranks the items of a catalogue for a history. Threads may share one and are answered in turn; a pickled one is
    opened again by the process that unpickles it (:meth:`elsewhere`). Close it, or use it in a ``with``.

    A `dual` model searches the vectors of all items, exactly, and encodes only titles that the catalogue lacks. A
    `pair` model reads every candidate together with the history, at most ``pair_limit`` of them.

    Args:
        model: from ``xcrossrec.load``; `dual` or `pair`, integrated or not.
        catalogue: an open catalogue with this model's vectors; or a domain, a table with ``item_id`` and ``title``, a
            domain's folder, a file of items, or a catalogue's folder or URL, of which one is made or opened.
        pair_limit: items that a `pair` model reads for one question, at most.
        on_encoded: called with the number of texts that were encoded for questions.
        on_recalled: called with the number of texts that were remembered instead.
        remembered: how many titles that the catalogue lacks are remembered with their vectors, the most recently used.
        bought: the purchases of another recommender of this model and catalogue, to be shared with it.

    Raises:
        DataError: no catalogue there, or one that cannot be ranked.
        BundleError: a catalogue of another model's vectors, or a damaged one.
    """

    @checked
    def __init__(
        self,
        model: Model,
        catalogue: Catalogue | ItemSource,
        *,
        pair_limit: int = PAIR_LIMIT,
        on_encoded: Callable[[int], None] = lambda texts: None,
        on_recalled: Callable[[int], None] = lambda texts: None,
        remembered: int = REMEMBERED,
        bought: Bought | None = None,
    ) -> None:
        self.model = model
        self.catalogue = open_catalogue(model, catalogue)
        self.bought = bought or Bought(model, self.catalogue)
        self.ranking: DualRanking | PairRanking
        if kind_of(model).name == "dual":
            self.ranking = DualRanking(model, self.bought.term)
        else:
            self.ranking = PairRanking(model, pair_limit)
        self.memory = Memory(remembered if self.ranking.together else 0)
        self._on_encoded, self._on_recalled = on_encoded, on_recalled
        self._loading: Loading | None = None
        self._turn = RLock()  # an explanation changes the model while it lasts

    @classmethod
    @checked
    def from_pretrained(
        cls,
        path: Path | str,
        catalogue: Catalogue | ItemSource,
        *,
        base: AnyBase | None = None,
        precision: EncodingPrecision = "fp32",
    ) -> Self:
        """Load a bundle or an adapter's folder.

        Args:
            path: what ``xcrossrec train`` wrote.
            catalogue: see :class:`Recommender`.
            base: see :func:`xcrossrec.load`.
            precision: of encoding.

        Raises:
            BundleError: incomplete, changed, foreign or unsafe content.
            BaseMismatchError: no base with the digest of the training was found, or the given one has another digest.
            DataError: no catalogue there, or one that cannot be ranked.
        """
        loading = Loading(path, base, precision)
        made = cls(loading(), catalogue)
        made._loading = loading
        return made

    def elsewhere(self) -> Callable[[], Recommender]:
        """A function that opens this recommender again; another process gets it pickled.

        ConfigError where the model was not loaded from a folder (:meth:`from_pretrained`).
        """
        if self._loading is None:
            raise ConfigError(
                "this recommender has a model in memory, which other processes cannot load: make it with "
                "Recommender.from_pretrained, or let the engine be this process (local)"
            )
        return partial(_opened, self._loading.anywhere(), self.catalogue.elsewhere())

    def __reduce__(self) -> tuple[Callable[[], Recommender], tuple[()]]:
        return self.elsewhere(), ()

    def close(self) -> None:
        """Close the catalogue, so that another process may open it."""
        self.catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        """Answer questions together, over one version of the catalogue; one that cannot be answered gets an error."""
        snapshot = self._snapshot()
        if not self.ranking.together and len(questions) > 1:
            return [answer for question in questions for answer in self.answer([question])]
        prepared = [or_error(self._prepare, snapshot, question) for question in questions]
        texts = list({text: None for each in prepared if isinstance(each, Understood) for text in each.texts})
        with self._turn:
            read = self.read(texts)
            return self._rank(snapshot, prepared, [read] * len(prepared))

    def answer_read(self, asked: Sequence[tuple[Question, Read]]) -> list[Answer | Unread | Exception]:
        """Answer the questions whose texts have been read; read nothing.

        Each question comes with what was read for it. One that lacks texts is answered by :class:`Unread`: another
        thread may :meth:`read` them.
        """
        snapshot = self._snapshot()
        prepared = [or_error(self._prepare, snapshot, question) for question, _ in asked]
        read: list[Read] = []
        for place, (each, (_, given)) in enumerate(zip(prepared, asked, strict=True)):
            wanted = each.texts if isinstance(each, Understood) else ()
            missing = [text for text in wanted if text not in given]
            known = self.memory.recall(missing)
            self._on_recalled(len(known))
            read.append({**given, **known})
            if unread := [text for text in missing if text not in known]:
                prepared[place] = Unread(unread)
        return self._rank(snapshot, prepared, read)

    def read(self, texts: Sequence[Text]) -> Read:
        """Let the model read, in one batch, the texts that are not remembered, and remember them."""
        known = self.memory.recall(texts)
        self._on_recalled(len(known))
        if missing := [text for text in texts if text not in known]:
            fresh = self.ranking.read(missing)
            self._on_encoded(len(missing))
            self.memory.keep(fresh)
            known.update(fresh)
        return known

    def _snapshot(self) -> Snapshot:
        """The catalogue as it is now, with all its purchases counted."""
        snapshot = self.catalogue.snapshot()
        self.bought.learn()
        return snapshot

    def _prepare(self, snapshot: Snapshot, question: Question) -> Understood:
        bought, knows = self.bought.of(question.user_id), self.ranking.ladder is not None
        known = understand(snapshot, question, encoder_of(self.model).text, bought, knows_purchases=knows)
        return replace(known, texts=self.ranking.texts(snapshot, known))

    def _rank(self, snapshot: Snapshot, prepared: Sequence[Any], read: Sequence[Read]) -> list[Any]:
        """Answer what is understood; the rest stays as it is."""
        ready = [each for each in zip(prepared, read, strict=True) if isinstance(each[0], Understood)]
        answers = iter(self.ranking.answer(snapshot, ready))
        return [next(answers) if isinstance(each, Understood) else each for each in prepared]

    def ask(self, question: Question) -> Answer:
        """Answer one question (DataError: it cannot be answered)."""
        (answer,) = self.answer([question])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def check(self, asked: Question) -> None:
        """Refuse a question that is too costly whatever its history (DataError: too many items for a `pair` model)."""
        self.ranking.check(self.catalogue.snapshot(), asked)

    @checked
    def recommend(
        self,
        history: Sequence[ItemLike] = (),
        k: int = 10,
        *,
        filters: Filters | None = None,
        candidates: Sequence[str] | None = None,
        include_bought: bool = False,
        skip_unknown: bool = False,
        diversity: int | None = None,
        user_id: str | None = None,
        other_history: Sequence[str] = (),
    ) -> list[Recommendation]:
        """Rank the catalogue, or some of it, for a history.

        Args:
            history: what was bought, oldest first; see :data:`ItemLike`. May be empty if the model knows purchases.
            k: how many at most.
            filters: conditions that every item meets.
            candidates: item ids to choose from; None takes the whole catalogue.
            include_bought: also recommend what is in the history.
            skip_unknown: leave out ids of the history that the catalogue lacks.
            diversity: at most so many items with near-equal titles (:mod:`xcrossrec.recommender.diversity`).
            user_id: a customer whose purchases model or catalogue may know: they are put before the history.
            other_history: titles of what was bought in other categories, oldest first.

        Returns:
            best first; equal scores in the catalogue's order; fewer than ``k`` where there are no more.

        Raises:
            DataError: an empty history, or other categories, where the model knows no purchases; an unknown item id,
                no candidates, or too many for a `pair` model.
            ConfigError: ``k`` or ``diversity`` below 1.
        """
        chosen = candidates if candidates is None or isinstance(candidates, str) else list(candidates)
        rest: Any = {"diversity": diversity, "user_id": user_id, "other_history": other_history}
        return self.ask(Question(history, k, filters, chosen, include_bought, skip_unknown, **rest)).recommendations

    @checked
    def score(self, history: Sequence[ItemLike], items: Sequence[ItemLike]) -> list[ItemScore]:
        """Score items of the catalogue, or titles, for a history; at least one, in their order.

        Raises:
            DataError: an empty history, where the model knows no purchases; no items, an unknown item id, or too many
                items for a `pair` model.
        """
        return self.ask(Question(history, to_score=items)).scores

    @checked
    def explain(self, history: Sequence[ItemLike], item: ItemLike) -> Explanation:
        """Say why an item has its score: which history items matched, which source gave what at which layer.

        The sources' effects are ablations: history and item are encoded again while a source gives nothing to
        the others, once for each layer and source.

        Raises:
            DataError: an empty history, where the model knows no purchases; or an unknown item id.
        """
        return self.explain_many(history, [item])[0]

    @checked
    def explain_many(self, history: Sequence[ItemLike], items: Sequence[ItemLike]) -> list[Explanation]:
        """Explain several items of one history; cheaper than one by one."""
        return self.explain_answer(self.ask(Question(history, to_score=items))) if items else []

    def explain_answer(self, answer: Answer) -> list[Explanation]:
        """Explain everything that an answer found or scored; the model may answer nobody else meanwhile."""
        if not answer.found:
            return []
        ladder = self.ranking.ladder
        if not answer.history or (ladder is not None and ladder.knows_best_sellers_alone(answer.rung)):
            return self._explain_without_history(answer)
        term = None if ladder is None else ladder.term
        with self._turn:
            return explain_scores(self.model, answer.history, answer.found, term=term, share=answer.share)

    def _explain_without_history(self, answer: Answer) -> list[Explanation]:
        """Explain by popularity and similar customers, as no purchase here is matched."""
        ladder, snapshot = self.ranking.ladder, self.catalogue.snapshot()
        shares = dict(answer.alike)
        there = [item for item in snapshot.get(list(shares)) if item is not None]
        titles = [f"{item.title} ({shares[item.item_id]:.0%})" for item in there]
        alike = [f"Customers with similar purchases in other categories bought: {'; '.join(titles)}."] if titles else []
        found = []
        for known, score in answer.found:
            bought = ladder.term.counts.popularity(known.item_id or "") if ladder is not None else 0
            sentences = (f"{answer.reason[0].upper()}{answer.reason[1:]}.", f"Bought by {customers(bought)}.", *alike)
            found.append(Explanation(known.item_id, known.title, score, (), reasons=sentences))
        return found


def _opened(loading: Loading, catalogue: Callable[[], Catalogue]) -> Recommender:
    return Recommender(loading(), catalogue())
