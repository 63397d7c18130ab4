"""Bases compared before training: the numbers are those of the baseline `centered`, the verdict is of the first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from model_families import FAMILIES, write_base
from xcrossrec.baselines import bases as module
from xcrossrec.baselines.bases import bases_table, compare_bases
from xcrossrec.baselines.named import scorer_for
from xcrossrec.cli import app
from xcrossrec.data import Domain, build_domain, write_domain
from xcrossrec.evaluation import compare, evaluate
from xcrossrec.exceptions import ConfigError, ModelError

ITEMS, USERS = 60, 24


@pytest.fixture(scope="module")
def domain() -> Domain:
    rng = np.random.default_rng(0)
    titles = [" ".join(f"w{word}" for word in rng.integers(0, 40, 4)) for _ in range(ITEMS)]
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(ITEMS)], "title": titles})

    def bought(prefix: str) -> pl.DataFrame:
        rows = [
            (f"{prefix}{user}", f"i{item}", place)
            for user in range(USERS)
            for place, item in enumerate(rng.permutation(ITEMS)[:4])
        ]
        return pl.DataFrame(
            rows, schema={"user_id": pl.String, "item_id": pl.String, "position": pl.Int64}, orient="row"
        )

    return build_domain("garden", items, {"train": bought("t"), "validation": bought("v")})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("bases")
    return [str(write_base(root / name, FAMILIES[name])) for name in ("bert", "mpnet")]


@pytest.fixture(scope="module")
def found(domain: Domain, two: list[str]) -> dict[str, Any]:
    return compare_bases(domain, two)


def test_the_numbers_are_those_of_the_baseline(found: dict[str, Any], domain: Domain, two: list[str]) -> None:
    first, second = (
        evaluate(scorer_for("baseline:centered", domain, base=base).scorer, domain, "validation") for base in two
    )
    expected = compare(second, first, permutations=1_000)["metrics"]
    assert found["users"] == USERS
    assert found["items"] == ITEMS
    for kind in ("uniform", "popularity", "full"):
        assert found["bases"][0]["mrr"][kind] == pytest.approx(first.of(kind)["mrr"].to_numpy().mean())
        of_kind = found["bases"][1]["comparison"]["metrics"][kind]["mrr"]
        assert of_kind["difference"] == pytest.approx(expected[kind]["mrr"]["difference"])
        assert of_kind["ci"] == pytest.approx(expected[kind]["mrr"]["ci"])
    assert "comparison" not in found["bases"][0]
    assert [each["name"] for each in found["bases"]] == ["bert", "mpnet"]
    assert [each["base"] for each in found["bases"]] == two
    assert module._short(["a/b", "c/b"]) == ["a/b", "c/b"]


def test_what_a_base_costs(found: dict[str, Any]) -> None:
    for each in found["bases"]:
        assert each["mb_per_1000_items"] == pytest.approx(32 * 4 / 1000)
        assert 0 < each["model_mb"] < 1
        assert each["ms_per_1000_items"] > 0
        assert 0 <= each["unread"] <= 1
        assert len(each["digest"].split(".")) == 3


def test_fewer_users_are_a_part_of_all(found: dict[str, Any], domain: Domain, two: list[str]) -> None:
    some = compare_bases(domain, two, users=5)
    whole = evaluate(scorer_for("baseline:centered", domain, base=two[0]).scorer, domain, "validation")
    chosen = domain.sequences("validation").take(5, 0).user_ids
    expected = whole.of("popularity").filter(pl.col("user_id").is_in(chosen))["mrr"].to_numpy().mean()
    assert some["users"] == 5
    assert some["bases"][0]["mrr"]["popularity"] == pytest.approx(expected)


def test_of_a_large_catalogue_only_what_is_needed_is_encoded(
    domain: Domain, two: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_CATALOGUE", ITEMS - 1)  # one user's lists hold more than half
    monkeypatch.setattr(module, "MOST_OF_LARGE", 1)
    large = compare_bases(domain, two)
    assert large["users"] == 1
    assert 30 < large["items"] < ITEMS
    assert set(large["bases"][1]["mrr"]) == {"uniform", "popularity"}


def test_rows_of_a_part_are_those_of_the_whole() -> None:
    class Inner:
        name = "inner"

        def score(self, histories: Any, candidates: Any) -> Any:
            assert histories == [[2, 0], [1]]
            return candidates.astype(np.float32)

    part = module._OfSome(Inner(), np.array([2, 5, 9]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(part.score([[9, 2], [5]], np.array([[5, 9], [2, 5]])), [[1, 2], [0, 1]])


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.01, 0.03), r"^b ranks better than a: .* b takes 2\.0 times as long as a to encode an item\.$"),
        ((-0.03, -0.01), r"^b ranks worse than a: .* Every other base ranks worse still: take a\.$"),
        ((-0.01, 0.03), r"b takes 2\.0 times as long as a to encode an item: the quicker one will do\.$"),
    ],
)
def test_the_verdict_is_of_the_best_of_the_others(interval: tuple[float, float], said: str) -> None:
    def entry(base: str, ms: float, mrr: float) -> dict[str, Any]:
        of_kind = {"mrr": {"mean_a": mrr, "mean_b": 0.3, "difference": mrr - 0.3, "ci": list(interval)}}
        told = {"a": base, "b": "a", "metrics": {"popularity": of_kind}}
        return {"name": base, "ms_per_1000_items": ms, "mrr": {"popularity": mrr}, "comparison": told}

    verdict = module._verdict([entry("a", 10, 0.3), entry("c", 10, 0.29), entry("b", 20, 0.31)])
    assert re.search(said, verdict), verdict


# ---- the command


def test_the_command_says_the_verdict_first(
    found: dict[str, Any], domain: Domain, two: list[str], tmp_path: Path
) -> None:
    write_domain(domain, tmp_path / "garden")
    options = ["-q", "bases", str(tmp_path / "garden"), "--base", two[0], "--base", two[1]]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[0] == found["verdict"].replace(found["verdict"].split(" takes ")[-1], lines[0].split(" takes ")[-1])
    assert lines[2].startswith("garden validation: 24 users, seed 0; untrained, centered.")
    table = bases_table(found).splitlines()
    assert [line.split()[0] for line in lines[4:]] == [line.split()[0] for line in table[4:]]
    told = json.loads(CliRunner().invoke(app, [*options, "--json", "--users", "3"], catch_exceptions=False).stdout)
    assert told["users"] == 3


def test_what_cannot_be_compared(domain: Domain) -> None:
    with pytest.raises(ConfigError, match="the first of at least two, got x: name others"):
        compare_bases(domain, ["x"])
    with pytest.raises(ConfigError, match="got x, x: name others"):
        compare_bases(domain, ["x", "x"])
    with pytest.raises(ModelError, match="base model '/nowhere' cannot be loaded"):
        compare_bases(domain, ["/nowhere", "/nobody"])
