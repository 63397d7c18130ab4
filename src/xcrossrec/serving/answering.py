"""How one model's questions are answered: at once, or after the model has read texts for them.

There are two threads: one looks questions up and searches, the other lets the model read texts, a slice at a time. If
texts must be read for a question, the second thread reads them, and then the first answers it. So only questions with
texts wait for other questions' texts, and these take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from threading import Lock
from time import monotonic
from typing import Any

from xcrossrec.models.model import encoder_of
from xcrossrec.recommender import Answer, Question, Recommender
from xcrossrec.recommender.questions import Text
from xcrossrec.recommender.ranking import DualRanking, Read, or_error
from xcrossrec.recommender.recommender import Unread
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.problems import Problem, busy
from xcrossrec.serving.settings import Settings
from xcrossrec.serving.worker import Gone, Job, Worker, deliver

_TURN = 8
"""Texts that are read for a question in one turn."""

_SLICE_CHARACTERS = 4_000
"""Text read at a time, about 1,000 tokens: in a larger slice a text is hardly quicker."""

_LONGEST_READ = 2_000
"""About how many characters of one text a model reads."""

_LEAST_READ = 20
"""Characters that any text counts as, at least."""


class Texts:
    """The texts of one question that must still be read, and what was read."""

    def __init__(self, texts: list[Text]) -> None:
        self.left, self.read, self.count = texts, dict[Text, Any](), len(texts)
        self.spent_s = 0.0

    def alone_s(self, each_s: float) -> float:
        """Estimated seconds that all of them take without other questions; a text usually takes ``each_s``."""
        done = self.count - len(self.left)
        return max(self.spent_s / done, each_s) * self.count if done else each_s * self.count


class Reading(Worker[Texts, Read]):
    """Lets a model read texts in slices; questions take turns, and one that nobody waits for any more is dropped.

    Args:
        name, on_start: as for :class:`Worker`.
        price: characters of a text.
        limit: texts that may wait.
        batch: questions whose texts may share a slice.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Sequence[Text]], Read],
        price: Callable[[Text], int],
        *,
        limit: int,
        batch: int,
        on_start: Callable[[], object],
    ) -> None:
        self._read, self._price = read, price
        super().__init__(name, lambda _: [], queue=limit, batch=batch, on_start=on_start)

    def __len__(self) -> int:
        return sum(len(job.question.left) for job in (*self._taken, *self._jobs))

    def _check_room(self, question: Texts) -> None:
        waiting = len(self)
        if waiting and waiting + question.count > self._limit:
            raise busy(
                f"{waiting} texts wait to be read and {self._limit} may, {question.count} more are too many: ask again "
                "after the seconds in Retry-After, or for fewer",
                retry_s=self._retry_s(),
            )

    def _late(self, question: Texts, timeout_s: float) -> Problem:
        alone_s = question.alone_s(self._seconds_each)
        if alone_s <= timeout_s:
            return super()._late(question, timeout_s)
        return Problem(
            503,
            "too_costly",
            f"{question.count} texts had to be read, which takes about {math.ceil(alone_s)} s, and {timeout_s:g} s are "
            "allowed: send fewer at a time, or write them to the catalogue first",
        )

    def _work(self, batch: list[Job]) -> int:
        """Read one slice, and return its number of texts; questions with texts left go to the end of the queue."""
        begun = monotonic()
        slices = self._slices([job.question.left for job in batch])
        texts = list({text: None for own in slices for text in own})
        found = or_error(self._read, texts)
        failed = isinstance(found, Exception)
        finished = []
        with self._changed:
            for job, own in zip(batch, slices, strict=True):
                if not failed:
                    job.question.read.update((text, found[text]) for text in own)
                    job.question.left = job.question.left[len(own) :]
                    job.question.spent_s += (monotonic() - begun) * len(own) / len(texts)
                if failed or not job.question.left:
                    finished.append(job)
                else:
                    self._jobs.append(job)
            self._taken = []
        deliver(finished, [found if failed else job.question.read for job in finished])
        return len(texts)

    def _slices(self, waiting: Sequence[Sequence[Text]]) -> list[Sequence[Text]]:
        """Choose the texts to read now: some of each question in turn, until the slice is full."""
        taken, used = [0] * len(waiting), 0
        while used < _SLICE_CHARACTERS and any(n < len(texts) for n, texts in zip(taken, waiting, strict=True)):
            for place, texts in enumerate(waiting):
                for text in texts[taken[place] : taken[place] + _TURN]:
                    if used >= _SLICE_CHARACTERS:
                        break
                    used += max(_LEAST_READ, min(self._price(text), _LONGEST_READ))
                    taken[place] += 1
        return [texts[:n] for n, texts in zip(taken, waiting, strict=True)]


class Answering:
    """Answers the questions to one model; no other thread may let the recommender's model read.

    ``on_start`` is called first on each thread.
    """

    def __init__(
        self, name: str, recommender: Recommender, settings: Settings, metrics: Metrics, on_start: Callable[[], object]
    ) -> None:
        self._most = settings.texts if recommender.ranking.together else settings.pair_candidates
        self._open, self._closing, self._lock = 0, False, Lock()

        def begin() -> None:
            on_start()
            warm(recommender)

        self._known: Worker[tuple[Question, Read], Answer | Unread] = Worker(
            name,
            recommender.answer_read,
            queue=settings.queue,
            batch=settings.batch,
            wait_s=settings.batch_wait_ms / 1000 if settings.batch > 1 else 0.0,
            on_start=on_start,
            on_batch=partial(metrics.observe_batch, name),
        )
        self.reading = Reading(
            f"{name}-reading",
            recommender.read,
            recommender.ranking.price,
            limit=settings.waiting_texts,
            batch=1 if settings.batch == 1 else settings.queue,  # a slice has its own limit
            on_start=begin,
        )
        self.reading.started.wait()

    def __len__(self) -> int:
        return len(self._known)

    async def ask(self, question: Question, *, timeout_s: float, gone: Gone | None = None) -> Answer:
        """Wait for an answer, at most ``timeout_s`` and until the client hangs up.

        Problem: 422 where too many texts must be read, 429 where too many wait, 503 after the time limit; also raises
        the exception that is the answer.
        """
        with self._lock:
            if self._closing:
                raise busy("the model is being taken away: ask again", status=503, code="replaced")
            self._open += 1
        until, read = monotonic() + timeout_s, dict[Text, Any]()
        try:
            while True:
                left_s = max(0.001, until - monotonic())
                answer = await self._known.ask((question, read), timeout_s=left_s, admitted=bool(read))
                if isinstance(answer, Answer):
                    return answer
                if len(answer.texts) > self._most:
                    raise Problem(
                        422,
                        "limit",
                        f"{len(answer.texts)} texts would have to be read, at most {self._most} are for one request: "
                        "send fewer at a time, or write them to the catalogue first",
                    )
                left_s = max(0.001, until - monotonic())
                read.update(await self.reading.ask(Texts(answer.texts), timeout_s=left_s, gone=gone))
        finally:
            with self._lock:
                self._open -= 1
                self._close_if_done()

    def close(self) -> None:
        """Take no more questions; those that wait are answered."""
        with self._lock:
            self._closing = True
            self._close_if_done()

    def join(self) -> None:
        """Wait until all questions are answered."""
        self._known.join()
        self.reading.join()

    def _close_if_done(self) -> None:
        if self._closing and not self._open:
            self._known.close()
            self.reading.close()


def warm(recommender: Recommender) -> None:
    """Let a model read texts of usual and unusual length, one and many, so that the first request is not slower."""
    ranking = recommender.ranking
    text = encoder_of(recommender.model).text
    titles = [item.read(text) or "A title" for item in islice(recommender.catalogue.snapshot(), 64)] or ["A title"]
    for some in (titles[:1], titles[:3], titles, [" ".join(titles)[:_LONGEST_READ]]):
        if isinstance(ranking, DualRanking):
            ranking.read(list(dict.fromkeys(some)))
        else:
            ranking.read([(title, title) for title in some[:16]])
