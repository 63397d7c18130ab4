"""Models read texts, people see titles: catalogues with and without the fields that a model reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from xcrossrec.catalogue import StoredItem, build_catalogue, embed_again, fingerprint_of, open_catalogue, read_items
from xcrossrec.data import Domain, build_domain, write_domain
from xcrossrec.data.text import ItemText
from xcrossrec.exceptions import BundleError, DataError
from xcrossrec.models import bundle
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.recommender import Item, Question, Recommender
from xcrossrec.recommender.job import job_of

TABLE = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Red train", "Blue train", "Drill", "Drill"],
        "brand": ["Brio", None, "Bosch &amp; Sons", "Makita"],
        "category": ["<b>Toys</b>", "Toys", "Tools", None],
        "description": ["Of wood. " * 2000, None, "Strong", ""],
    }
)
TEXTS = ["Red train; by Brio; Toys", "Blue train; Toys", "Drill; by Bosch & Sons; Tools", "Drill; by Makita"]


@pytest.fixture(scope="module")
def model(tiny_models: Any) -> Model:
    return bundle.load(tiny_models.text)


def domain(**changes: Any) -> Domain:
    return build_domain("shop", TABLE, {"train": {"user_id": ["u"] * 4, "item_id": list("abcd")}}, **changes)


@pytest.mark.parametrize("source", ["table", "domain", "folder", "items", "on disk"])
def test_whatever_holds_the_items_the_model_reads_their_texts(source: str, model: Model, tmp_path: Path) -> None:
    write_domain(domain(), tmp_path / "shop")
    sources = {"table": TABLE, "domain": domain(), "folder": tmp_path / "shop", "items": read_items(TABLE)}
    if source == "on disk":
        build_catalogue(model, TABLE, tmp_path / "catalogue").close()
    with open_catalogue(model, sources.get(source, tmp_path / "catalogue")) as catalogue:
        vectors = catalogue.snapshot().vectors(list("abcd"))
        assert catalogue.text == encoder_of(model).text
        assert [item.title for item in catalogue.snapshot()] == TABLE["title"].to_list()
    torch.testing.assert_close(vectors, encode_titles(model, TEXTS))


def test_descriptions_are_kept_where_they_are_read_and_long_ones_are_cut(model: Model) -> None:
    assert "description" not in (read_items(domain())[0].metadata or {})
    text = ItemText("{title}; {description:3}")
    (first, *_) = read_items(domain(), text)
    assert len((first.metadata or {})["description"]) == 4_000
    assert [item.read(text) for item in read_items(domain(), text)] == domain(text=text.template).texts


def test_a_catalogue_without_a_field_is_refused_by_its_name(model: Model, tiny_models: Any, tmp_path: Path) -> None:
    titles = TABLE.select("item_id", "title", "category")
    with pytest.raises(DataError, match=r"the catalogue has no 'brand', which is read .*: add the column"):
        Recommender(model, titles)
    with pytest.raises(DataError, match=r"the domain 'd' has no 'brand'"):
        Recommender(model, build_domain("d", titles, {"train": {"user_id": ["u"], "item_id": ["a"]}}))
    titles.write_csv(tmp_path / "items.csv")
    with pytest.raises(DataError, match=r"items.csv has no 'brand'"):
        build_catalogue(model, tmp_path / "items.csv", tmp_path / "c")
    with pytest.raises(DataError, match=r"no item of the catalogue has a 'brand', which the model reads .*: build the"):
        Recommender(model, read_items(titles))
    assert not (tmp_path / "c").exists()
    late = bundle.load(tiny_models.late)
    with build_catalogue(late, tmp_path / "items.csv", tmp_path / "c") as catalogue:
        with pytest.raises(DataError, match=r"no item of the catalogue .*c has a 'brand'"):
            embed_again(catalogue, model)
        assert (catalogue.text.template, catalogue.version) == ("{title}", 1)
    with pytest.raises(BundleError, match="holds another model's vectors"):
        open_catalogue(model, tmp_path / "c")


def test_a_catalogue_gets_the_texts_of_another_model(model: Model, tiny_models: Any, tmp_path: Path) -> None:
    with build_catalogue(bundle.load(tiny_models.late), TABLE, tmp_path / "c") as catalogue:
        embed_again(catalogue, model).close()
    with open_catalogue(model, tmp_path / "c") as again:
        torch.testing.assert_close(again.snapshot().vectors(list("abcd")), encode_titles(model, TEXTS))
        assert again.text == encoder_of(model).text


def test_a_pair_catalogue_of_titles_is_refused_by_a_pair_model_that_reads_more(tiny_models: Any) -> None:
    pair, other = bundle.load(tiny_models.pair), bundle.load(tiny_models.pair)
    encoder_of(other).text = ItemText("{title}; {brand}")
    catalogue = open_catalogue(pair, TABLE.select("item_id", "title"))
    with pytest.raises(DataError, match="no item of the catalogue in memory has a 'brand'"):
        Recommender(other, catalogue)
    (scored,) = Recommender(other, TABLE).score(["a"], ["c"])
    expected = float(other.predict([("Red train; Brio", "Drill; Bosch & Sons")])[0])  # type: ignore[call-overload]
    assert scored.score == pytest.approx(expected, abs=1e-5)
    assert scored.title == "Drill"


def test_the_template_counts_for_the_fingerprint(model: Model, tiny_models: Any, tmp_path: Path) -> None:
    late = bundle.load(tiny_models.late)
    assert fingerprint_of(late) != fingerprint_of(model)
    assert (encoder_of(late).prompts.least, encoder_of(model).prompts.least) == (None, 24)  # titles are not shortened
    encoder_of(late).text = encoder_of(model).text
    assert fingerprint_of(late) == fingerprint_of(model)
    manifest = bundle.read_bundle_manifest(tiny_models.text)
    assert (manifest["text"], manifest["format_version"]) == ("{title}; by {brand}; {category}", 5)


def test_models_of_the_format_before_read_titles(tiny_models: Any, tmp_path: Path) -> None:
    model = bundle.load(tiny_models.late)
    bundle.save(model, tmp_path / "m", bundle.read_bundle_manifest(tiny_models.late))
    settings = json.loads((tmp_path / "m" / "xcrossrec_encoder.json").read_text())
    assert "text" not in settings
    (tmp_path / "m" / "xcrossrec_encoder.json").write_text(json.dumps(settings))
    manifest = json.loads((tmp_path / "m" / "xcrossrec.json").read_text())
    manifest["files"] = bundle.file_digests(tmp_path / "m", besides="xcrossrec.json")
    (tmp_path / "m" / "xcrossrec.json").write_text(json.dumps({**manifest, "format_version": 3}))
    assert encoder_of(bundle.load(tmp_path / "m")).text.is_title


def test_a_history_item_is_read_with_its_text_and_a_free_title_as_it_is(model: Model) -> None:
    recommender = Recommender(model, TABLE)
    (known,) = recommender.score(["a"], ["c"])
    vectors = encode_titles(model, [*TEXTS, "Red train set"])
    answer = recommender.ask(Question(["a", Item(title="Red train set"), Item(title=" Blue  train ")], to_score=["c"]))
    assert [each.text for each in answer.history] == [TEXTS[0], "Red train set", TEXTS[1]]
    assert [each.title for each in answer.history] == ["Red train", "Red train set", "Blue train"]
    assert known.score == pytest.approx(float(vectors[0] @ vectors[2]), abs=1e-5)
    assert known.title == "Drill"


def test_explanations_show_titles(model: Model) -> None:
    recommender = Recommender(model, TABLE)
    (found, *_) = recommender.recommend(["a", "Green train set"], k=1)
    reason = recommender.explain(["a", "Green train set"], found.item_id)
    assert reason.score == pytest.approx(found.score, abs=1e-5)
    assert reason.title == found.title
    assert [match.title for match in reason.matches] == ["Red train", "Green train set"]


def test_a_batch_job_follows_what_is_read(tiny_models: Any, tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["u"], "history": [["a"]]}).write_parquet(tmp_path / "users.parquet")
    changed = TABLE.with_columns(brand=pl.lit("Other"))
    jobs = [
        job_of(Recommender.from_pretrained(path, table), path, tmp_path / "users.parquet", Question([]))
        for path in (tiny_models.text, tiny_models.late)
        for table in (TABLE, changed)
    ]
    assert jobs[0]["catalogue"] != jobs[1]["catalogue"]
    assert jobs[2]["catalogue"] == jobs[3]["catalogue"]


def test_an_item_reads_its_own_attributes_before_its_metadata() -> None:
    item = StoredItem("a", "Saw", "Tools", price=5.0, metadata={"category": "no", "brand": ["A", "B"], "size": 2})
    text = ItemText("{title}; {category}; {brand}; {size}; {price}; {nothing}")
    assert item.read(text) == "Saw; Tools; A, B; 2; 5"
