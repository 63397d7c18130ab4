"""A thread that answers questions in batches, behind a bounded queue."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any, Generic, TypeAlias, TypeVar

from xcrossrec.recommender.ranking import or_error
from xcrossrec.serving.problems import Problem, busy

Q = TypeVar("Q")
A = TypeVar("A")

log = logging.getLogger(__name__)

_NO_MORE_THAN_S = 30
"""Longest wait that Retry-After names."""

_LOOK_S = 0.25
"""Interval at which a waiting question checks whether its client is still connected, in seconds."""

Gone: TypeAlias = Callable[[], Awaitable[bool]]
"""Whether the client hung up."""


@dataclass(eq=False, slots=True)
class Job:
    """A waiting question, and the future of its answer."""

    question: Any
    future: asyncio.Future[Any]
    arrived: float
    expires: float

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.future.done() and monotonic() < self.expires


class Worker(Generic[Q, A]):
    """Answers questions on a thread of its own, several at a time.

    Args:
        answer: returns one answer or exception for each question; called only on the worker's thread.
        queue: questions that may wait.
        batch: questions answered together, at most.
        wait_s: how long a batch waits for more questions after its first one, in seconds.
        on_start: called first on the worker's thread, before ``started`` is set.
        on_batch: called with the size of every batch and the seconds that its questions had waited.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Sequence[Q]], Iterable[A | Exception]],
        *,
        queue: int,
        batch: int = 1,
        wait_s: float = 0.0,
        on_start: Callable[[], object] = lambda: None,
        on_batch: Callable[[int, Sequence[float]], None] = lambda size, waited: None,
    ) -> None:
        self._answer = answer
        self._limit, self._batch, self._wait_s = queue, batch, wait_s
        self._on_start, self._on_batch = on_start, on_batch
        self._jobs: deque[Job] = deque()
        self._taken: list[Job] = []
        self._changed = Condition()
        self._closing = False
        self.started = Event()
        self._seconds_each = 0.0  # moving mean, for Retry-After
        self._thread = Thread(target=self._run, name=f"xcrossrec-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    async def ask(self, question: Q, *, timeout_s: float, gone: Gone | None = None, admitted: bool = False) -> A:
        """Wait for an answer, at most ``timeout_s`` and until the client hangs up; ``admitted`` passes a full queue.

        Problem: 429 where the queue is full, 503 after the time limit; also raises the exception that is the answer.
        """
        job = self._submit(question, timeout_s, admitted=admitted)
        try:
            while not job.future.done():
                left_s = job.expires - monotonic()
                if left_s <= 0:
                    raise self._late(question, timeout_s)
                await asyncio.wait([job.future], timeout=min(left_s, _LOOK_S if gone else left_s))
                if not job.future.done() and gone and await gone():
                    raise Problem(400, "hung_up", "the client hung up before its request was answered")
            answer: A = job.future.result()
            return answer
        finally:
            job.future.cancel()

    def close(self) -> None:
        """Take no more questions; the thread ends after the waiting ones are answered."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _late(self, question: Q, timeout_s: float) -> Problem:
        return busy(
            f"no answer within {timeout_s:g} s, because the server is busy: ask again, or for less",
            status=503,
            code="timeout",
            retry_s=self._retry_s(),
        )

    def _check_room(self, question: Q) -> None:
        if len(self._jobs) >= self._limit:
            raise busy(
                f"{self._limit} requests wait already and no more may: ask again after the seconds in Retry-After",
                retry_s=self._retry_s(),
            )

    def _submit(self, question: Q, timeout_s: float, *, admitted: bool) -> Job:
        now = monotonic()
        with self._changed:
            if self._closing:
                raise busy("the model is being taken away: ask again", status=503, code="replaced")
            if not admitted:
                self._check_room(question)
            job = Job(question, asyncio.get_running_loop().create_future(), now, now + timeout_s)
            self._jobs.append(job)
            self._changed.notify()
        return job

    def _retry_s(self) -> int:
        return min(_NO_MORE_THAN_S, max(1, round(self._seconds_each * len(self))))

    def _run(self) -> None:
        try:
            self._on_start()
        finally:
            self.started.set()
        while (batch := self._next_batch()) is not None:
            now = monotonic()
            if batch and (done := self._work(batch)):
                spent = (monotonic() - now) / done
                self._seconds_each += (0.1 if self._seconds_each else 1.0) * (spent - self._seconds_each)
            batch = self._taken = []  # nothing of what was answered is kept

    def _work(self, batch: list[Job]) -> int:
        """Answer questions, and return their number."""
        now = monotonic()
        self._on_batch(len(batch), [now - job.arrived for job in batch])
        found = or_error(lambda: list(self._answer([job.question for job in batch])))
        deliver(batch, [found] * len(batch) if isinstance(found, Exception) else found)
        return len(batch)

    def _next_batch(self) -> list[Job] | None:
        """Wait for questions, and shortly for more, and take those that somebody waits for; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            if not self._jobs:
                return None
            until = self._jobs[0].arrived + self._wait_s
            self._changed.wait_for(
                lambda: len(self._jobs) >= self._batch or self._closing, timeout=max(0.0, until - monotonic())
            )
            first = [self._jobs.popleft() for _ in range(min(self._batch, len(self._jobs)))]
            self._taken = [job for job in first if job.wanted]
            return self._taken


def deliver(jobs: Sequence[Job], answers: Sequence[Any]) -> None:
    """Hand the answers to the event loops that wait for them, with one call for each loop."""
    of_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, answer in zip(jobs, answers, strict=True):
        of_loop.setdefault(job.future.get_loop(), []).append((job.future, answer))
    for loop, pairs in of_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:
            log.info("%d answers came after the server had stopped", len(pairs))


def _settle(pairs: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in pairs:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
