"""Random requests by the service's own schema: no 5xx, and no answer outside the schema.

``XCROSSREC_FUZZ_CASES=5000 XCROSSREC_FUZZ_SEED=7 pytest tests/serving/http/test_fuzz.py`` runs at least so many of that
seed; the usual run has fewer, and the same ones each time.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CASES = int(os.environ.get("XCROSSREC_FUZZ_CASES", "110"))
"""Of all operations together."""

SEED = os.environ.get("XCROSSREC_FUZZ_SEED")
"""Of the draws; none draws the same each time."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def test_random_requests_by_the_schema(shop: Any) -> None:
    schema = schemathesis.openapi.from_dict(shop.ask("GET", "/openapi.json").json())
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 14
    asked: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    with asyncio.Runner() as runner:
        client = shop.client()

        def send(case: Any) -> None:
            if case.operation.label == "POST /v1/models/{name}/reload" and isinstance(case.body, dict):
                case.body.pop("path", None)  # no file of this machine is meant
            if case.meta.generation.mode is GenerationMode.POSITIVE:
                known(case, sum(asked.values()))
            answer = runner.run(client.request(**requested(case)))
            asked[case.operation.label] += 1
            statuses[answer.status_code] += 1
            case.validate_response(schemathesis.Response.from_any(answer), checks=CHECKS)

        for operation in operations:
            fuzz(operation, send)
        runner.run(client.aclose())
    print(f"\n{sum(asked.values())} cases: {dict(asked)}; statuses {dict(sorted(statuses.items()))}")
    assert sum(asked.values()) >= CASES
    assert {200, 404, 422} <= set(statuses)


def known(case: Any, number: int) -> None:
    """Name what there is in three of four requests that fit the schema: random names would all be unknown."""
    if number % 4 == 0:
        return
    for values in (case.body, case.query):
        if isinstance(values, dict):
            values.pop("model", None)
    if isinstance(case.body, dict):
        for entry in (*case.body.get("history", ()), *(case.body.get("candidates") or ()), case.body.get("item")):
            if isinstance(entry, dict) and entry.get("item_id"):
                entry["item_id"] = f"i{len(entry['item_id']) % 6}"
        if case.operation.path == "/v1/recommend" and case.body.get("candidates"):
            case.body["candidates"] = [f"i{len(item_id) % 6}" for item_id in case.body["candidates"]]


def requested(case: Any) -> dict[str, Any]:
    """A case as httpx takes it."""
    asked = case.as_transport_kwargs(base_url="http://localhost")
    names = ("method", "url", "headers", "params", "json", "content")
    if isinstance(asked.get("data"), bytes):
        asked["content"] = asked.pop("data")
    assert not asked.get("data")
    return {name: asked[name] for name in names if asked.get(name) is not None}


def fuzz(operation: Any, send: Any) -> None:
    plain = not operation.body and not operation.query
    count = 3 if plain else -(-CASES // 8)

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=SEED is None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE) if plain else either(operation))
    def run(case: Any) -> None:
        send(case)

    if SEED is not None:
        run = seed(int(SEED))(run)
    run()


def either(operation: Any) -> Any:
    """Requests that fit the schema, and requests that do not."""
    fits = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    return fits | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/score"])
def test_the_schemas_own_examples_are_taken(shop: Any, path: str) -> None:
    schema = shop.ask("GET", "/openapi.json").json()
    reference = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    for example in schema["components"]["schemas"][reference.rpartition("/")[2]]["examples"]:
        answer = shop.post(path, example)
        if example.get("history"):
            assert answer.status_code in (200, 404), answer.text  # an example's ids are another catalogue's
        else:
            beside = " beside the purchases of 'c-17', of which none are known here," if "user_id" in example else ""
            said = answer.json()["error"]["message"]  # these models know no purchases
            assert said.startswith(f"the history{beside} is empty: give at least one")
