"""Batching, bounded queues and time limits of the answering thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from xcrossrec.serving.problems import Problem
from xcrossrec.serving.worker import Worker


class Gate:
    """Doubles numbers, one batch at a time, once it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.begun.set()
        assert self.open.wait(10)
        return [ValueError("no zero") if number == 0 else 2 * number for number in numbers]


async def asked(worker: Worker[int, int], number: int, timeout_s: float = 10.0) -> Any:
    try:
        return await worker.ask(number, timeout_s=timeout_s)
    except Exception as error:
        return error


async def begin(gate: Gate, worker: Worker[int, int]) -> asyncio.Task[Any]:
    """Ask one question and wait until the worker is at it."""
    first = asyncio.ensure_future(asked(worker, 1))
    await asyncio.to_thread(gate.begun.wait, 10)
    return first


def test_questions_that_wait_are_answered_together_and_a_bad_one_fails_alone() -> None:
    gate = Gate()
    worker: Worker[int, int] = Worker("w", gate, queue=10, batch=4)

    async def scene() -> list[Any]:
        tasks = [await begin(gate, worker), *(asyncio.ensure_future(asked(worker, n)) for n in (2, 0, 3, 4, 5))]
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(scene())
    worker.close()
    worker.join()
    assert gate.batches == [[1], [2, 0, 3, 4], [5]]
    assert answers[:2] == [2, 4]
    assert isinstance(answers[2], ValueError)
    assert answers[3:] == [6, 8, 10]
    assert not worker._thread.is_alive()


def test_a_batch_waits_a_little_for_company() -> None:
    gate = Gate()
    gate.open.set()
    worker: Worker[int, int] = Worker("w", gate, queue=10, batch=2, wait_s=30.0)

    async def scene() -> list[Any]:
        first = asyncio.ensure_future(asked(worker, 1))
        await asyncio.sleep(0.05)
        return await asyncio.gather(first, asked(worker, 2))

    assert asyncio.run(scene()) == [2, 4]
    assert gate.batches == [[1, 2]]
    worker.close()


def test_a_full_queue_refuses_with_429_and_a_time() -> None:
    gate = Gate()
    worker: Worker[int, int] = Worker("w", gate, queue=2)

    async def scene() -> list[Any]:
        tasks = [await begin(gate, worker), *(asyncio.ensure_future(asked(worker, n)) for n in (2, 3, 4))]
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(scene())
    worker.close()
    assert answers[:3] == [2, 4, 6]
    refused = answers[3]
    assert isinstance(refused, Problem)
    assert (refused.status, refused.code) == (429, "busy")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert "2 requests wait already" in str(refused)


def test_who_was_let_in_before_is_not_refused() -> None:
    gate = Gate()
    worker: Worker[int, int] = Worker("w", gate, queue=1)

    async def scene() -> list[Any]:
        tasks = [await begin(gate, worker), asyncio.ensure_future(asked(worker, 2))]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.ensure_future(worker.ask(3, timeout_s=10.0, admitted=True)))
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(scene()) == [2, 4, 6]
    worker.close()


def test_a_question_whose_time_is_over_gets_503_and_costs_nothing() -> None:
    gate = Gate()
    waits: list[float] = []
    worker: Worker[int, int] = Worker("w", gate, queue=10, on_batch=lambda size, waited: waits.extend(waited))

    async def scene() -> tuple[Any, Any]:
        first = await begin(gate, worker)
        late = await asked(worker, 7, timeout_s=0.05)
        gate.open.set()
        return await first, late

    first, late = asyncio.run(scene())
    worker.close()
    worker.join()
    assert first == 2
    assert isinstance(late, Problem)
    assert (late.status, late.code) == (503, "timeout")
    assert "no answer within 0.05 s" in str(late)
    assert gate.batches == [[1]]
    assert len(waits) == 1


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    gate = Gate()
    worker: Worker[int, int] = Worker("w", gate, queue=10)

    async def scene() -> list[Any]:
        tasks = [await begin(gate, worker), asyncio.ensure_future(asked(worker, 2))]
        await asyncio.sleep(0.05)
        worker.close()
        refused = await asked(worker, 3)
        gate.open.set()
        return [*await asyncio.gather(*tasks), refused]

    one, two, refused = asyncio.run(scene())
    assert (one, two) == (2, 4)
    assert (refused.status, refused.code) == (503, "replaced")
    worker.join()
    assert not worker._thread.is_alive()


def test_a_failure_of_the_whole_batch_reaches_every_question_and_the_thread_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(numbers: Sequence[int]) -> list[int | Exception]:
        if 13 in numbers:
            raise RuntimeError("bad luck")
        return list(numbers)

    worker: Worker[int, int] = Worker("w", fail, queue=10)
    assert isinstance(asyncio.run(asked(worker, 13)), RuntimeError)
    assert asyncio.run(asked(worker, 1)) == 1
    assert "a question failed" in caplog.text
    worker.close()
