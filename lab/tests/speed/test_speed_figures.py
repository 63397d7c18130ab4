"""Every speed figure runs, on a tiny random model and a few made-up titles; what it comes to means nothing here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from xcrossrec import Domain
from xcrossrec.training.batches import DualBatches
from xcrossrec_lab.speed import material, memory_child, quality
from xcrossrec_lab.speed.figures import encode, memory, recommend, train
from xcrossrec_lab.speed.harness import Measured, Settings

_ADJECTIVES = ["red", "blue", "tiny", "large", "wooden", "steel", "soft", "loud", "quick", "old", "plain", "round"]
_NOUNS = ["train", "drill", "tape", "ball", "tent", "lamp", "kite", "cable", "phone", "racket", "puzzle", "bottle"]
_ITEMS, _USERS, _BOUGHT = 200, 40, 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A shared folder in the form of the real one."""
    root = tmp_path_factory.mktemp("speed")
    rng = np.random.default_rng(0)
    for domain in material.DOMAINS:
        folder = root / "shared" / "data" / "amazon" / domain
        folder.mkdir(parents=True)
        words = [f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {domain} no {n}" for n in range(_ITEMS)]
        items = pl.DataFrame({"item_id": [f"{domain[0]}{n}" for n in range(_ITEMS)], "title": words})
        _write(items, folder / "items.csv.gz")
        rows = [
            (f"u{user}", f"{domain[0]}{item}", position)
            for user in range(_USERS)
            for position, item in enumerate(rng.choice(_ITEMS, _BOUGHT, replace=False))
        ]
        _write(pl.DataFrame(rows, ["user_id", "item_id", "position"], orient="row"), folder / "train.csv.gz")
    for category in material.TEXT_DOMAINS:
        folder = root / "shared" / "data" / "amazon-text" / category
        folder.mkdir(parents=True)
        rows = [
            (f"{n}", f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} no {n}", "Ghost", category) for n in range(60)
        ]
        _write(pl.DataFrame(rows, ["item_id", "title", "brand", "category"], orient="row"), folder / "items.csv.gz")
    work = root / "work"
    work.mkdir()
    return Settings(repetitions=1, threads=1, shared=root / "shared", work=work, quick=True)


def _write(frame: pl.DataFrame, path: Path) -> None:
    import gzip

    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(frame.write_csv())


def _is_plain(measured: Measured) -> bool:
    low, high = measured.spread
    json.dumps(measured.details, allow_nan=False)
    return 0 < low <= measured.ratio <= high


def test_encode_has_all_rivals_and_a_floor(settings: Settings) -> None:
    measured = encode.measure_encode(settings, sources=2)
    assert _is_plain(measured)
    titles = measured.details["corpora"]["titles"]
    assert {encode.PLAIN, encode.PLAIN_BEST, "PEFT switched", "PEFT mixed batches", "PEFT X-LoRA"} == set(
        titles["ours_times_faster_than"]
    )
    assert set(measured.details["corpora"]) == {"titles", "title; brand; category", "history prompts"}
    assert set(titles["floor_s"]) == set(measured.details["throughput_gflops"])
    assert measured.ratio == min(part["ratio"] for part in measured.details["corpora"].values())


def test_fast_encoding_states_the_mrr_it_loses(settings: Settings) -> None:
    measured = encode.measure_fast(settings)
    assert _is_plain(measured)
    assert measured.details["mrr"]["users"] == 8
    assert measured.met_also is (measured.details["mrr"]["relative_loss"] <= encode.MRR_LOSS_ALLOWED)


def test_lost_mrr_sees_a_spoiled_encoder(settings: Settings) -> None:
    def spoiled(model: object) -> quality.Encode:
        return lambda texts: torch.nn.functional.normalize(
            torch.randn(len(texts), 32, generator=torch.Generator().manual_seed(0)), dim=-1
        )

    lost = quality.lost_mrr(settings, lambda model: encode._ours(model, "fp32"), spoiled)
    assert lost["largest_score_difference"] > 0.1
    assert lost["relative_loss"] == pytest.approx((lost["mrr_reference"] - lost["mrr_fast"]) / lost["mrr_reference"])


def test_recommendation_is_timed_by_ids_and_by_free_titles(settings: Settings) -> None:
    measured = recommend.measure_recommend(settings)
    assert _is_plain(measured)
    assert set(measured.details["p95_ms"]) == {"ours, history by ids", "ours, history by free titles"}
    assert set(measured.details["calls"].values()) == {3 * settings.repetitions}
    slow = max(measured.details["p95_ms"].values())
    assert measured.met_also is (slow < recommend.P95_ALLOWED_MS)


@pytest.mark.parametrize("stage", ["target", "source"])
def test_training_compares_the_same_texts(stage: train.Stage, settings: Settings) -> None:
    measured = train.measure_training(settings, stage=stage, goal=1e9)
    assert _is_plain(measured)
    assert measured.met_also
    part = measured.details["fp32"]
    assert part["prepared_s"].keys() == {train.OURS, *train.RIVALS.values()}
    assert part["ratio"] == part["ratios"][part["rival_counted"]]


def test_the_rival_can_train_without_dropout(settings: Settings) -> None:
    model = train.lora_of_sentence_transformers(material.base_name(settings)).train()
    features = model.preprocess(["red train", "blue drill with a case"])

    def encode_twice() -> list[torch.Tensor]:
        return [model(dict(features))["sentence_embedding"] for _ in range(2)]

    assert not torch.equal(*encode_twice())
    train.drop_nothing(model)
    assert torch.equal(*encode_twice())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_rival_sees_every_text_of_a_step_once() -> None:
    dataset, batches = train._pairs([["a", "b", "c", "d"], ["e", "f", "g"]])
    steps = [dataset[batch] for batch in batches]
    assert sorted(steps[0]["anchor"] + steps[0]["positive"]) == ["a", "b", "c", "d"]
    assert len(set(steps[1]["anchor"] + steps[1]["positive"])) == 2


def test_recorded_texts_are_those_that_were_tokenized() -> None:
    tokenized: list[str] = []
    titles = [f"item {n}" for n in range(9)]

    def preprocess(texts: list[str]) -> dict[str, torch.Tensor]:
        tokenized.extend(texts)
        return {"attention_mask": torch.ones(len(texts), 3)}

    batches = DualBatches([[0, 1], [2, 3, 4]], titles, preprocess, seed=0, sampled_negatives=2)
    tokenized.clear()
    steps = train.recorded_texts(lambda: batches([{"user": 0}, {"user": 1}]))
    assert [sorted(step) for step in steps] == [sorted(tokenized)]


def test_recording_refuses_a_collator_it_does_not_know(tiny_domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"label": {"member": torch.ones(1, 1)}}
    monkeypatch.setattr(DualBatches, "_batch", lambda self, users, rng: one)
    batches = DualBatches([[0, 1]], ["a b", "c d"], lambda texts: {"attention_mask": torch.ones(2, 3)}, 0, 5)
    with pytest.raises(RuntimeError, match="encoded 1 texts, expected 2: adapt recorded_texts"):
        train.recorded_texts(lambda: batches([{"user": 0}]))


def test_memory_compares_fresh_processes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"plain-imports": 100, "ours-imports": 110, "plain-load": 190, "ours-load": 210, "plain": 200, "ours": 230}
    monkeypatch.setattr(
        memory, "_child", lambda kind, *rest: {"peak_mib": float(peaks[kind]), "base_mib": 1.0, "tensors_mib": 2.0}
    )
    monkeypatch.setattr(memory, "_copies", lambda base, ours: 1.0)
    measured = memory.measure_memory(settings)
    assert measured.ratio == pytest.approx(1.15)
    assert measured.details["ratio_above_imports"] == pytest.approx(1.2)


def test_streams_share_one_copy_of_the_base(settings: Settings) -> None:
    base = material.base_name(settings)
    model = material.integrated_model(base, material.random_adapters(base, 3, settings.work / "adapters"))
    found = memory_child.shared_copy(model)
    assert memory._copies(base, found) == pytest.approx(1.0)
    assert memory_child.peak_mib() > found["tensors_mib"]


def test_absent_real_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="REAL DATA ABSENT"):
        material.title_texts(Settings(shared=tmp_path), 3)
