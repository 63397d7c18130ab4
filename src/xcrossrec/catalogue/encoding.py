"""Encoding of many items in blocks, by an engine; what is encoded is kept until all of it is where it belongs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from xcrossrec._version import __version__
from xcrossrec.catalogue.fingerprint import fingerprint_of
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.engine import Engine, Parts, Work
from xcrossrec.models.bundle import Loading
from xcrossrec.models.dual import TEXTS_AT_ONCE, encode_titles, reading_order
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.progress import stage
from xcrossrec.prompts import item_texts
from xcrossrec.types import is_url


@dataclass(frozen=True)
class BlockEncoder:
    """Encodes as :func:`xcrossrec.catalogue.encode_items` does, to the bit; made by :func:`in_blocks`.

    Attributes:
        loading: loads the model in another process.
        parts: the finished blocks.
    """

    model: Model
    loading: Loading
    engine: Engine
    parts: Parts

    at_once: ClassVar[int] = 500_000
    """Items that are best encoded together: workers load the model each time."""

    def __call__(self, items: Sequence[StoredItem]) -> Float32[np.ndarray, "item dim"]:
        """Encode items as the model reads them; no columns for a `pair` model."""
        read = [item.read(encoder_of(self.model).text) for item in items]
        if kind_of(self.model).name == "pair":
            return kind_of(self.model).encode_items(self.model, read)
        return self.texts(item_texts(read))

    def texts(self, texts: Sequence[str], *, as_history: bool = False) -> Float32[np.ndarray, "text dim"]:
        """Encode texts into unit vectors; see :func:`xcrossrec.models.dual.encode_titles`."""
        different = reading_order(texts)
        cut = [different[start : start + TEXTS_AT_ONCE] for start in range(0, len(different), TEXTS_AT_ONCE)]
        asked = [(block, as_history) for block in cut]
        blocks = {hashlib.sha256(repr((list(each[0]), as_history)).encode()).hexdigest()[:32]: each for each in asked}
        load: Callable[[], Model] = (lambda: self.model) if self.engine.here else self.loading.anywhere()
        with stage("encoding", "texts") as bar:
            total = len(different)
            if self.engine.here:
                before = sum(len(block) for name, (block, _) in blocks.items() if self.parts.path(name).exists())
                self.parts.complete(self.engine, partial(_encoding, load, lambda n: bar.at(before + n, total)), blocks)
            else:
                make, told = partial(_encoding, load), (lambda done, of: bar.at(total * done // of, total))
                self.parts.complete(self.engine, make, blocks, told)
        found = np.frombuffer(b"".join(map(self.parts.read, blocks)), np.float32)
        rows = found.reshape(len(different), kind_of(self.model).dim(self.model))
        place = {text: number for number, text in enumerate(different)}
        return rows[[place[text] for text in texts]]


@contextmanager
def in_blocks(model: Model, loading: Loading, engine: Engine, out: Path | str) -> Iterator[BlockEncoder]:
    """Lend an encoder whose finished blocks lie beside ``out`` until the block is left; a killed run finds them there.

    Args:
        model: as ``loading`` loads it.
        engine: where it encodes.
        out: what the vectors are for: a folder, or a database's URL, whose blocks lie beside the model.

    Raises:
        DataError: another process does the same.
    """
    place = Path(out).absolute()
    if is_url(out):
        folder = Path(loading.path).absolute()
        place = folder.with_name(f"{folder.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}")
    job = {"model": fingerprint_of(model), "precision": loading.precision, "xcrossrec": __version__}
    with Parts.claimed(place, job, overwrite=True) as parts:
        yield BlockEncoder(model, loading, engine, parts)


def _encoding(load: Callable[[], Model], told: Callable[[int], None] = lambda done: None) -> Work:
    model, done = load(), 0

    def work(block: tuple[list[str], bool]) -> bytes:
        nonlocal done
        (texts, as_history), before = block, done
        found = encode_titles(model, texts, as_history=as_history, told=lambda count: told(before + count))
        done += len(texts)
        return bytes(found.numpy().tobytes())

    return work
