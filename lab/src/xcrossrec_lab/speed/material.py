"""What figures measure on: real texts, adapters with random weights, and the models over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from peft import get_peft_model
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from xcrossrec import Domain, Integration, build_domain
from xcrossrec.data.text import ItemText
from xcrossrec.models.base import DEFAULT_BASE, load_base
from xcrossrec.models.model import encoder_of
from xcrossrec.models.source import default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.prompts import clean_title, history_prompt
from xcrossrec.training.target import build_target_model
from xcrossrec.types import Form, Split
from xcrossrec_lab.speed.harness import Settings
from xcrossrec_lab.speed.plain import base_location

DOMAINS = ("toys", "electronics", "sports")
TEXT_DOMAINS = ("beauty", "sports", "toys")
HISTORY = 8
RANK = 8
_SEED = 0
_TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@dataclass(frozen=True)
class Texts:
    """One kind of text.

    Attributes:
        name: what tables call it.
        texts: as an encoder reads them.
    """

    name: str
    texts: list[str]


def amazon_folder(settings: Settings, domain: str) -> Path:
    """Where a domain's files lie.

    Raises:
        FileNotFoundError: the real data are not on this machine.
    """
    folder = settings.shared / "data" / "amazon" / domain
    if not folder.is_dir():
        raise FileNotFoundError(f"REAL DATA ABSENT: {folder} does not exist, and figures are measured on real texts")
    return folder


def read_amazon_items(settings: Settings, domain: str) -> pl.DataFrame:
    """Read a domain's catalogue: ``item_id`` and ``title``, without empty titles."""
    path = amazon_folder(settings, domain) / "items.csv.gz"
    items = pl.read_csv(path, schema_overrides={"item_id": pl.String, "title": pl.String})
    items = items.select("item_id", pl.col("title").fill_null("").str.strip_chars())
    return items.filter(pl.col("title") != "").unique("item_id", keep="first", maintain_order=True)


def read_histories(settings: Settings, domain: str) -> list[list[str]]:
    """Read the titles that each train user bought, oldest first; users with at least two."""
    path = amazon_folder(settings, domain) / "train.csv.gz"
    bought = pl.read_csv(path, schema_overrides={"user_id": pl.String, "item_id": pl.String})
    titled = bought.join(read_amazon_items(settings, domain), on="item_id").sort("user_id", "position")
    grouped = titled.group_by("user_id", maintain_order=True).agg("title")["title"].to_list()
    return [titles for titles in grouped if len(titles) > 1]


def title_texts(settings: Settings, count: int) -> Texts:
    """Draw titles of all domains, in a random order."""
    pool = pl.concat([read_amazon_items(settings, domain) for domain in DOMAINS])["title"].to_list()
    drawn = _draw(pool, 48 if settings.quick else count)
    return Texts("titles", [text for title in drawn if (text := clean_title(title))])


def prompt_texts(settings: Settings, count: int) -> Texts:
    """Draw histories of at most :data:`HISTORY` items and write them as prompts."""
    pool = [titles for domain in DOMAINS for titles in read_histories(settings, domain)]
    drawn = _draw(pool, 24 if settings.quick else count)
    return Texts("history prompts", [history_prompt(titles[-HISTORY:]) for titles in drawn])


def field_texts(settings: Settings, count: int) -> Texts:
    """Draw items of three categories and write their titles, brands and categories: some 40 tokens each.

    Raises:
        FileNotFoundError: the real data are not on this machine.
    """
    paths = [settings.shared / "data" / "amazon-text" / name / "items.csv.gz" for name in TEXT_DOMAINS]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"REAL DATA ABSENT: {path} does not exist, and figures are measured on real texts")
    items = pl.concat([pl.read_csv(path, infer_schema=False) for path in paths])
    pool = ItemText("{title}; {brand}; {category}").render(items).to_list()
    return Texts("title; brand; category", [text for text in _draw(pool, 48 if settings.quick else count) if text])


def _draw(pool: Sequence[Any], count: int) -> list[Any]:
    order = np.random.default_rng(_SEED).permutation(len(pool))[:count]
    return [pool[number] for number in order]


def training_domain(settings: Settings, domain: str, users: int, *, validation_users: int = 0) -> Domain:
    """Make a domain of some users of the real train file, with the whole catalogue.

    Args:
        settings: where the data are.
        domain: whose.
        users: in the train split.
        validation_users: others of the same file, in a validation split.
    """
    folder = amazon_folder(settings, domain)
    items = read_amazon_items(settings, domain)
    bought = pl.read_csv(folder / "train.csv.gz", schema_overrides={"user_id": pl.String, "item_id": pl.String})
    bought = bought.join(items.select("item_id"), on="item_id", how="semi").unique(["user_id", "item_id"])
    long_enough = bought.group_by("user_id").len().filter(pl.col("len") > 2)["user_id"].sort().to_list()
    drawn = _draw(long_enough, users + validation_users)
    splits: dict[Split, pl.DataFrame] = {"train": _purchases(bought, drawn[:users])}
    if validation_users:
        splits["validation"] = _purchases(bought, drawn[users:])
    return build_domain(domain, items, splits)


def _purchases(bought: pl.DataFrame, users: Sequence[str]) -> pl.DataFrame:
    own = bought.filter(pl.col("user_id").is_in(users)).sort("user_id", "position")
    return own.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over("user_id").alias("position"))


def base_name(settings: Settings) -> str:
    """Name the base: the packaged MiniLM, or for a smoke test a tiny random BERT with its tokenizer."""
    if not settings.quick:
        return DEFAULT_BASE
    folder = settings.work / "tiny-base"
    if not (folder / "model.safetensors").exists():
        located = base_location(DEFAULT_BASE)
        config = AutoConfig.from_pretrained(located)
        config.update(_TINY)
        with seeded():
            AutoModel.from_config(config).save_pretrained(str(folder))
        AutoTokenizer.from_pretrained(located).save_pretrained(str(folder))
    return str(folder)


def random_adapters(base: str, count: int, folder: Path, *, rank: int = RANK) -> list[Path]:
    """Write PEFT LoRA folders on query and value with random weights: their values do not matter for speed."""
    folders = []
    with seeded():
        for number in range(count):
            path = folder / f"{Path(base).name}-r{rank}-source{number}"
            if not (path / "adapter_model.safetensors").exists():
                model = get_peft_model(load_base(base).backbone, default_lora(rank))
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        nn.init.normal_(parameter, std=0.02)
                model.save_pretrained(str(path))
            folders.append(path)
    return folders


def integrated_model(base: str, adapters: Sequence[Path], form: Form = "xcross") -> SentenceTransformer:
    """Our n integrated streams, or merged sources, with a `dual` head; integrators are random and small, not zero."""
    model = build_target_model(adapters, Integration(form, top_layers=None), base=base)
    encoder = encoder_of(model)
    with seeded(), torch.no_grad():
        for integrator in encoder.integrators if isinstance(encoder, XCrossEncoder) else ():
            for parameter in integrator.parameters():
                nn.init.normal_(parameter, std=0.2 / encoder.dim**0.5)
    encoder.backbone.requires_grad_(False)  # as in a loaded model, which folds LoRAs into the weights once
    model.eval()
    assert isinstance(model, SentenceTransformer)
    return model


def token_lengths(base: str, texts: Sequence[str], limit: int = 256) -> np.ndarray:
    """Tokens of each text, special tokens included, as the base cuts it."""
    tokenizer = AutoTokenizer.from_pretrained(base_location(base))
    ids = tokenizer(list(texts), truncation=True, max_length=limit, verbose=False)["input_ids"]
    return np.array([len(row) for row in ids])


@contextmanager
def seeded() -> Iterator[None]:
    """Within the block torch draws from one seed, and PEFT's note on a renamed attribute is not shown."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        torch.manual_seed(_SEED)
        yield
