"""The README of an export: how it is loaded, what its texts are, and how a history is scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from xcrossrec._version import __version__
from xcrossrec.export.folders import named_for_others
from xcrossrec.export.request import To

_PARTS = Path(__file__).with_name("readme_parts")


def readme(to: To, part: Mapping[str, Any], parity: str, *, distilled: bool) -> str:
    """The text of it."""
    apart = len({*part["prompts"].values()}) > 1
    words = {
        "to": to,
        "made": "X-Cross, distilled into one LoRA" if distilled else "A recommender's language model",
        "version": __version__,
        "base": named_for_others(part["base"]["name"]),
        "digest": part["base"]["digest"],
        "parity": parity,
        "text": part["text"],
        "prompts": _prompts(to, **part["prompts"]),
        "slots": "items['history_vector'].to_numpy()" if to == "vectors" and apart else "vectors",
    }
    load = Template((_PARTS / f"{to}.md").read_text(encoding="utf-8")).substitute(words)
    return Template((_PARTS / "all.md").read_text(encoding="utf-8")).substitute(words, load=load)


def _prompts(to: To, history: str, item: str) -> str:
    if not (history or item):
        return ""
    said = f"Before an item stands {item!r}, before a history's item {history!r}"
    if to == "vectors":
        return (
            f"{said}: a history's items have vectors of their own, `history_vector`." if history != item else f"{said}."
        )
    if to != "onnx":
        return f"{said}; encode_document and encode_query put it there."
    input_name = "; the input `of_history` (one boolean a text) says which those are" if history != item else ""
    return f"{said}: put it there yourself{input_name}."
