"""adapt as a whole, on a tiny base: what it leaves, what it does again, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

import xcrossrec
from conftest import interactions_of
from elsewhere import Elsewhere
from xcrossrec.adaptation import candidates, sources
from xcrossrec.adaptation.after import curve_of, rungs_of
from xcrossrec.adaptation.candidates import Maker, Plan
from xcrossrec.adaptation.choice import choose
from xcrossrec.adaptation.decision import Decision
from xcrossrec.adaptation.judge import Judge
from xcrossrec.adaptation.run import adapt
from xcrossrec.adaptation.shop import Clock, Fitted, Form, Shop, whole_ndcg
from xcrossrec.adaptation.sources import judge_sources
from xcrossrec.baselines.named import scorer_for
from xcrossrec.data import Domain, build_domain
from xcrossrec.evaluation import Evaluation, evaluate
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.models.model import encoder_of
from xcrossrec.models.purchases import term_of
from xcrossrec.progress import stage
from xcrossrec.recommender import Recommender
from xcrossrec.replacing import claimed, replacing_folder

QUICK = {"epochs": 1, "batch_users": 24}
PLAN = Plan(QUICK, QUICK, QUICK)
NAMES = [
    "popularity",
    *("base", "base-bought", "source-kitchen", "source-kitchen-bought", "source-camping", "source-camping-bought"),
    *("mean", "mean-bought", "merged", "lora", "lora-from-source", "xcross"),
]


@dataclass(frozen=True)
class Done:
    """A run that went to its end."""

    target: Domain
    sources: list[Path]
    out: Path
    base: str
    decision: Decision

    def again(self, **changes: Any) -> Decision:
        given = {"sources": self.sources, "out": self.out, "base": self.base, "plan": PLAN, **changes}
        return adapt(self.target, **given)


def small(name: str, users: int = 36) -> Domain:
    """A domain of 30 items with short titles; every user bought four."""
    words = [f"{one} {other}" for one in ("red", "oak", "tin", "new", "big", "old") for other in "abcde"]
    items = pl.DataFrame({"item_id": [f"{name}-{row}" for row in range(30)], "title": words})
    rng, splits = np.random.default_rng(38), {}  # of which both random adapters make something
    for split, count in {"train": users, "validation": 12, "test": 12}.items():
        bought = {f"{split}{user}": rng.permutation(30)[:4] for user in range(count)}
        splits[split] = interactions_of(
            {user: " ".join(f"{name}-{row}" for row in own) for user, own in bought.items()}
        )
    return build_domain(name, items, splits)


READS_IN = candidates.reads_in


@pytest.fixture(scope="module", autouse=True)
def read_in_fp32() -> Iterator[None]:
    """As `evaluate` and the recommender read, so that both can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "reads_in", lambda: "fp32")
        yield


@pytest.fixture(scope="module")
def done(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out, target = tmp_path_factory.mktemp("adapt") / "out", small("garden")
    sources, base = list(tiny_models.sources), str(tiny_models.base)
    decision = xcrossrec.adapt(target, sources, out=out, base=base, plan=PLAN)
    return Done(target, sources, out, base, decision)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever would be trained is named instead."""
    named: list[str] = []

    def instead(out: Path, train: Callable[..., object]) -> None:
        named.append(out.name.partition("-")[0] if out.parent.name == "training" else out.name)
        raise RuntimeError("nothing is trained here")

    monkeypatch.setattr(candidates, "_from_where_it_was", instead)
    return named


def test_what_is_trained_elsewhere_is_decided_on_alike(done: Done, tmp_path: Path) -> None:
    """Nothing but times and memory tells where the candidates were trained."""
    engine = Elsewhere()
    decision = done.again(out=tmp_path / "out", engine=engine)
    assert sorted(engine.worked) == ["lora", "lora-from-source", "merged", "xcross"]

    def told(decision: Decision) -> dict[str, Any]:
        whole = decision.model_dump(mode="json", exclude={"created"})
        for each in whole["candidates"]:
            assert each.pop("seconds") > 0
            assert each.pop("memory_mb") > 0
        return whole

    assert told(decision) == told(done.decision)
    assert not list((tmp_path / "out" / "work" / "training").glob("*"))


@pytest.mark.parametrize(("native", "read"), [(True, "bf16"), (False, "fp32")])
def test_the_catalogue_is_read_as_the_processor_does_it_natively(
    native: bool, read: str, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "reads_in", READS_IN)
    monkeypatch.setattr(candidates, "uses_bfloat16", lambda config: native)
    assert encoder_of(candidates.read_text(done.target, (), done.base).model).precision == read


def test_every_candidate_is_fitted_and_reported(done: Done) -> None:
    found = done.decision
    assert [each.name for each in found.candidates] == NAMES
    assert {each.status for each in found.candidates} == {"fitted"}
    assert [each.simple for each in found.candidates] == [True] * 9 + [False] * 4
    assert all(each.seconds >= 0 and each.memory_mb > 0 for each in found.candidates)
    assert found.candidate(found.chosen).minus_chosen.mean == 0
    assert (found.target.users.fit, found.target.users.choose, found.target.users.report) == (36, 12, 12)
    assert Decision.read(done.out) == found


def test_the_parts_below_the_verdict_are_there(done: Done) -> None:
    found = done.decision
    assert {source.name for source in found.sources} == {"kitchen", "camping"}
    assert all(source.shared_users == 0 for source in found.sources)
    assert found.curve is None  # two points make no line
    assert found.customers
    assert found.risks is not None
    assert set(found.beyond) == {found.chosen, found.gain.over}


def test_what_is_shipped_ranks_as_was_reported(done: Done) -> None:
    measured = {each.name: each.report["mrr"].mean for each in done.decision.candidates}
    for name in ("popularity", "base", "mean-bought", "xcross"):
        scorer = scorer_for(done.out / "work" / name / "model", done.target).scorer
        found = evaluate(scorer, done.target, "test", negatives=["full"])
        assert found.of("full")["mrr"].to_numpy().mean() == pytest.approx(measured[name], abs=1e-6), name
    chosen = evaluate(scorer_for(done.out / "model", done.target).scorer, done.target, "test", negatives=["full"])
    assert chosen.of("full")["mrr"].to_numpy().mean() == pytest.approx(measured[done.decision.chosen], abs=1e-6)


def test_what_sells_most_is_served_and_explained(done: Done) -> None:
    model = done.out / "work" / "popularity" / "model"
    with xcrossrec.Recommender.from_pretrained(model, done.target, base=done.base) as recommender:
        ids = done.target.items["item_id"].to_list()
        found = [recommender.recommend(ids[start : start + 2], k=5) for start in (0, 7)]
        (reason,) = recommender.explain_many(ids[:2], [f"id:{found[0][0].item_id}"])
    counts = dict(zip(ids, done.target.train_counts().tolist(), strict=True))
    best = sorted((counts[each] for each in ids if each not in ids[:2]), reverse=True)[:5]
    assert [counts[each.item_id] for each in found[0]] == best
    assert "all customers get the same: bestsellers first" in reason.reasons[0]


def test_nothing_is_fitted_twice(done: Done, untrained: list[str]) -> None:
    again = done.again()
    assert not untrained
    assert again.model_dump(exclude={"created", "curve"}) == done.decision.model_dump(exclude={"created", "curve"})


def test_who_bought_one_thing_counts(done: Done, untrained: list[str], tmp_path: Path) -> None:
    """In the first weeks that is nearly everybody: what sells most was counted from the few who had come back."""
    once = pl.DataFrame([{"user_id": f"new{n}", "item_id": "garden-9", "position": 0} for n in range(50)])
    splits = {**done.target.interactions, "train": pl.concat([done.target.frame("train"), once])}
    domain = build_domain("garden", done.target.items, splits)
    decision = adapt(domain, [], out=tmp_path / "out", base=done.base, plan=PLAN, minutes=5)
    assert (decision.target.users.fit, decision.target.purchases) == (36, 36 * 4 + 50)
    for name in ("popularity", "base", "base-bought"):
        with Recommender.from_pretrained(tmp_path / "out" / "work" / name / "model", domain) as recommender:
            first = recommender.recommend([], 1)[0]
            assert first.item_id == "garden-9", name
            term = term_of(recommender.model)
            assert term is not None
            assert term.counts.customers == 86


def test_a_source_goes_and_what_does_not_depend_on_it_stays(done: Done, untrained: list[str]) -> None:
    found = done.again(sources=None, drop_sources=["camping"])
    assert "camping" not in {source for each in found.candidates for source in each.sources}
    assert {"source-kitchen-bought", "lora"} <= {each.name for each in found.candidates if each.status == "fitted"}
    assert set(untrained) <= {"lora"}  # from the other source, if camping was the best
    back = done.again(sources=None, add_sources=[done.sources[1]])
    assert [each.name for each in back.candidates] == NAMES
    with pytest.raises(ConfigError, match=r"no source 'hobby' to drop: .* has kitchen, camping"):
        done.again(sources=None, drop_sources=["hobby"])


def test_what_was_reached_before_a_kill_is_kept(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"sources": (), "out": tmp_path / "new", "minutes": 30}
    train = candidates.train_source

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "train_source", killed)
    with pytest.raises(KeyboardInterrupt):
        done.again(**given)
    assert not (tmp_path / "new" / "decision.json").exists()
    kept = (tmp_path / "new" / "work" / "base" / "about.json").stat().st_mtime_ns
    monkeypatch.setattr(candidates, "train_source", train)
    found = done.again(**given)
    assert [each.name for each in found.candidates] == ["popularity", "base", "base-bought", "lora"]
    assert (tmp_path / "new" / "work" / "base" / "about.json").stat().st_mtime_ns == kept
    assert not list((tmp_path / "new" / "work" / "training").iterdir())


def test_with_too_few_minutes_what_was_reached_is_shipped(done: Done, tmp_path: Path) -> None:
    found = done.again(sources=[small("hobby"), done.sources[0]], out=tmp_path / "short", minutes=1e-6)
    status = {each.name: each.status for each in found.candidates}
    assert {name for name, each in status.items() if each == "fitted"} == {"popularity"}
    assert status["base"] == status["source-hobby"] == status["source-kitchen"] == status["lora"] == "skipped"
    why = {each.name: each.why for each in found.candidates}
    assert "its training does not fit into the time left" in why["source-hobby"]
    assert "give more --minutes" in why["lora"]
    assert (tmp_path / "short" / "model" / "xcrossrec.json").exists()
    assert found.curve is None
    assert Decision.read(tmp_path / "short").chosen in status


def test_one_user_gets_what_is_simplest(done: Done, tmp_path: Path) -> None:
    every = done.target.interactions
    first = {split: frame.filter(pl.col("user_id") == frame["user_id"][0]) for split, frame in every.items()}
    found = adapt(replace(done.target, interactions=first), [], out=tmp_path / "one", base=done.base, plan=PLAN)
    assert found.chosen == "popularity"
    assert found.candidates[-1].why == "needs 32 users, has 1"
    assert found.gain.sure is False


@pytest.mark.parametrize(("split", "what"), [("train", "fit"), ("validation", "choose"), ("test", "report")])
def test_a_target_without_users_is_refused(done: Done, tmp_path: Path, split: str, what: str) -> None:
    nobody = {name: frame for name, frame in done.target.interactions.items() if name != split}
    with pytest.raises(DataError, match=f"target 'garden' has no users to {what} on"):
        adapt(replace(done.target, interactions=nobody), [], out=tmp_path / "none", base=done.base)
    assert not (tmp_path / "none").exists()


def test_wrong_sources_and_folders_are_refused(done: Done, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="is the target, 'garden': a source is another category"):
        done.again(sources=[done.target], out=out)
    with pytest.raises(ConfigError, match="two sources are called 'kitchen'"):
        done.again(sources=[done.sources[0]] * 2, out=out)
    with pytest.raises(ConfigError, match=r"called 'kitchen': give .* each its own name"):  # nor on a Mac
        done.again(sources=[done.sources[0], small("Kitchen")], out=out)
    with pytest.raises(ConfigError, match="minutes are 0: give more than 0"):
        done.again(out=out, minutes=0)
    with pytest.raises(DataError, match="adapt did not write it"):
        done.again(out=done.sources[0])
    with pytest.raises(ConfigError, match=r"belongs to the target 'garden', not 'hobby'"):
        adapt(replace(done.target, name="hobby"), [], out=done.out, base=done.base)
    with pytest.raises(DataError, match="source 'hobby' has too few users to train on: its train split has 1 with"):
        done.again(sources=[small("hobby", users=1)], out=out)
    with pytest.raises(BundleError, match="is a domain without an adapter"):
        judge_sources(done.target, [small("hobby")])
    assert not out.exists()


def test_sources_are_not_judged_by_nobody(done: Done) -> None:
    once = {split: frame.unique("user_id") for split, frame in done.target.interactions.items()}
    with pytest.raises(DataError, match="target 'garden' has no users to ask: its train split has 0 with two"):
        Judge(replace(done.target, interactions=once), 0)


def test_where_nothing_can_be_fitted_the_reason_is_told(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(candidates, "_untrained", refuse)
    with pytest.raises(ModelError, match=r"nothing could be fitted to 'garden'.*: no memory is left"):
        done.again(sources=[], out=tmp_path / "out")


def test_what_a_folder_was_made_with_is_read_again_or_asked_for(done: Done, tmp_path: Path) -> None:
    given = tmp_path / "work" / "given.json"
    given.parent.mkdir()
    given.write_text('{"target": "garden", "sources": {"kitchen": ""}}')
    with pytest.raises(ConfigError, match="source 'kitchen' was given in memory before: give all sources again"):
        done.again(sources=None, out=tmp_path)
    given.write_text('{"target": "garden", "sources": ')
    with pytest.raises(BundleError, match=r"given\.json is damaged: delete it, and name the sources again"):
        done.again(sources=None, out=tmp_path)


def test_a_domains_adapter_is_trained_and_kept(done: Done, tmp_path: Path, untrained: list[str]) -> None:
    adapter = tmp_path / "out" / "sources" / "hobby"
    with pytest.raises(RuntimeError, match="nothing is trained here"):
        done.again(sources=[small("hobby")], out=tmp_path / "out")
    assert untrained == ["hobby"]
    shutil.copytree(done.sources[0], adapter)
    stated = json.loads((adapter / "xcrossrec.json").read_text())
    stated["domain"] = {"name": "hobby", "fingerprint": small("hobby").fingerprint}
    (adapter / "xcrossrec.json").write_text(json.dumps(stated))
    found = done.again(sources=[small("hobby")], out=tmp_path / "out")
    assert "hobby" not in untrained[1:]
    assert {source.name for source in found.sources} == {"hobby"}
    assert found.sources[0].shared_words == 1.0


def test_a_source_that_is_replaced_meanwhile_is_in_no_candidate_afterwards(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made of it before stays, under its digest; nothing is made of two states of it."""
    sources = [shutil.copytree(each, tmp_path / each.name) for each in done.sources]
    read = candidates.read_text

    def replaced_then(domain: Domain, made: Any, base: str) -> Any:
        if len(made) > 1:
            with replacing_folder(sources[0]) as folder:
                shutil.copytree(sources[1], folder, dirs_exist_ok=True)
        return read(domain, made, base)

    monkeypatch.setattr(candidates, "read_text", replaced_then)
    found = done.again(sources=sources, out=tmp_path / "out")
    told = {each.name: each for each in found.candidates}
    assert [told[name].status for name in ("source-kitchen", "source-camping", "lora")] == ["fitted"] * 3
    for name in ("mean", "mean-bought", "merged", "xcross"):
        assert told[name].status == "failed", name
        assert told[name].why == "source kitchen was replaced while adapt was at work: run adapt again", name
    assert not [*(tmp_path / "out" / "work" / "training").glob("merged*")]


def test_a_sources_training_that_was_killed_is_gone_on_with_and_one_of_other_data_begun_again(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source whose customers have become fewer: it was refused for ever, since so many are not there.

    The second run stands for one after a kill in that training: it went on without the source, as if it took too long.
    """
    asked: list[int | None] = []

    def instead(domain: Domain, out: Path, base: str, config: Any, budget: int | None) -> None:
        asked.append(budget)
        raise RuntimeError("nothing is trained here")

    monkeypatch.setattr(sources, "train_missing", instead)
    begun = tmp_path / "out" / "sources" / "hobby.training" / "training.json"
    begun.parent.mkdir(parents=True)
    fewer = small("hobby", users=20)
    for fingerprint in ("0" * 64, fewer.fingerprint):
        begun.write_text(json.dumps({"users": 15, "fingerprint": fingerprint}))
        (tmp_path / "out" / "work").mkdir(exist_ok=True)
        (tmp_path / "out" / "work" / "given.json").write_text('{"target": "garden", "sources": {}}')
        with pytest.raises(RuntimeError, match="nothing is trained here"):
            done.again(sources=[fewer], out=tmp_path / "out")
    assert asked == [None, 15]


# ---- single parts


def test_customers_are_counted_on_every_rung_that_they_stood_on(tiny_domain: Domain) -> None:
    found = {each.rung: (each.customers, each.share) for each in rungs_of(tiny_domain)}
    assert found == {"none": (2, 2 / 5), "other": (0, 0.0), "one": (2, 2 / 5), "several": (1, 1 / 5)}


def test_two_do_not_adapt_into_one_folder(done: Done) -> None:
    with claimed(done.out / "work"), pytest.raises(DataError, match=r"another process is at work in .*work: wait"):
        done.again()


def test_decision_json_is_plain(done: Done) -> None:
    stated = json.loads((done.out / "decision.json").read_text())
    assert stated["metric"] == {"name": "mrr", "chosen_by": "ndcg", "negatives": "full"}


def test_what_is_shipped_is_compared_with_another_text_than_its_own(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcrossrec.adaptation.run.parts_below", lambda *_: ())  # they say nothing of the comparison
    simple = {each.name: each.choose.mean for each in done.decision.candidates if each.simple}
    for chosen in ("base", "base-bought"):
        monkeypatch.setattr("xcrossrec.adaptation.run.choose", lambda *_, chosen=chosen: chosen)
        others = {name: mean for name, mean in simple.items() if not name.startswith("base")}
        assert done.again().gain.over == max(others, key=lambda name: others[name])


def test_the_whole_list_decides_where_a_few_first_places_do_not(done: Done) -> None:
    work = done.out / "work"
    found = Evaluation.load(work / "base" / "choose.parquet")
    ranks = found.of("full").sort("user_id")["rank"].to_numpy()
    np.testing.assert_allclose(whole_ndcg(found), 1 / np.log2(1 + ranks))
    assert done.decision.candidate("base").choose.mean == pytest.approx(whole_ndcg(found).mean())
    users = 128
    rng = np.random.default_rng(0)
    sells = rng.integers(1500, 6000, users)
    text = np.where(rng.random(users) < 0.02, 1, rng.integers(100, 2000, users))
    level = {"popularity": 0, "base": 1}
    by_ndcg = {"popularity": 1 / np.log2(1 + sells), "base": 1 / np.log2(1 + text)}
    assert choose(by_ndcg, level) == "base"


def test_the_curve_of_a_trained_form_is_of_nested_draws(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = replace(
        done.target, interactions={**done.target.interactions, "train": small("garden", 64).frame("train")}
    )
    with stage("testing", "steps") as bar:
        shop = Shop(domain, done.out / "work", seed=0, clock=Clock(1), bar=bar, facts={})
        maker = Maker(shop, done.base, PLAN)
        kept = done.out / "work" / "lora" / "model"
        evaluation = evaluate(maker.load(kept), domain, "test", negatives=["full"])
        shop.found["lora"] = Fitted(Form("lora", "a LoRA", level=2), kept, evaluation, evaluation, 1.0, 1.0)
        trained: list[int] = []

        def instead(source: object, out: Path, users: int) -> None:
            trained.append(users)
            shutil.copytree(kept, out)

        monkeypatch.setattr(maker, "trainer", SimpleNamespace(lora=instead))
        decision = done.decision.model_copy(update={"chosen": "lora"})
        found = curve_of(maker, [], decision)
    assert trained == [16, 32]
    assert [point.users for point in found.points] == [16, 32, 64]
    assert found.promise.mean == pytest.approx(0, abs=1e-9)  # the same model each time
    assert found.more_users == 64
    assert not list((done.out / "work" / "training").iterdir())
