"""One door out: a model as other libraries' folder, compared with the model before it is put in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xcrossrec.arguments import checked
from xcrossrec.catalogue import BlockEncoder, in_blocks, is_catalogue, open_catalogue, read_items
from xcrossrec.data.domain import Domain
from xcrossrec.data.store import read_domain
from xcrossrec.engine import Engine, Local
from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.export import folders
from xcrossrec.export.distilling import distilled
from xcrossrec.export.history import history_part, write_history
from xcrossrec.export.parity import Parity, Sample, cost_in_ranks
from xcrossrec.export.readme import readme
from xcrossrec.export.request import MOST_APART, README, To, check_request
from xcrossrec.export.stream import Stream
from xcrossrec.extras import require
from xcrossrec.models import bundle
from xcrossrec.models.base import Base, quiet_progress
from xcrossrec.models.identity import find_base
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.scorer import as_read
from xcrossrec.models.source import SingleStreamEncoder
from xcrossrec.prompts import item_texts
from xcrossrec.replacing import replacing_folder


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the model.

    Attributes:
        parity: of the model and what was read back from the folder.
        exact: whether nothing was given up: neither distilled nor in 8 bits.
        ranks: what giving up costs in MRR (:func:`xcrossrec.export.parity.cost_in_ranks`); None where nothing was, or
            on no domain.
    """

    path: Path
    to: To
    parity: Parity
    exact: bool = True
    ranks: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        near = self.parity
        if self.exact:
            return (
                f"largest difference to the model {near.vectors:.0e} over {near.texts} texts, {near.scores:.0e} in "
                "scores by score.py"
            )
        lines = [f"cosine to the model's vectors at least {near.cosine:.4f} over {near.texts} texts"]
        if ranks := self.ranks:
            low, high = ranks["ci"]
            lines.append(
                f"MRR {ranks['export']:.4f} instead of {ranks['model']:.4f}: {ranks['difference']:+.4f} "
                f"[{low:+.4f}, {high:+.4f}] (95%, {ranks['users']:,} users of {ranks['split']})"
            )
        return "\n".join(lines)


@checked
def export_model(
    path: Path | str,
    to: To,
    out: Path | str,
    *,
    catalogue: Path | str | None = None,
    distill: bool = False,
    int8: bool = False,
    base: Path | str | None = None,
    overwrite: bool = False,
    engine: Engine | None = None,
) -> Exported:
    """Write a `dual` model as a folder that needs no xcrossrec, with the history's part and a README beside.

    Args:
        path: the model's folder.
        to: ``sentence-transformers`` (a plain SentenceTransformer), ``peft`` (one LoRA over the base), ``onnx`` (token
            ids and mask to unit vectors) or ``vectors`` (items' vectors as Parquet).
        catalogue: a domain's folder, a table of items or a catalogue: items of the vectors, and of the texts that are
            compared. On a domain's users is measured what ``distill`` and ``int8`` cost.
        distill: make one LoRA of a model of the form ``xcross``, trained on the domain's texts.
        int8: ONNX with weights of 8 bits.
        base: of the model, its folder or name; None looks for it (:func:`xcrossrec.load`).
        overwrite: replace an earlier export.
        engine: where items are encoded for their ``vectors``; None is this process.

    Raises:
        BundleError: no model, or the folder exists and may not be replaced.
        ConfigError: arguments that do not go together.
        ModelError: a model that cannot be exported so, or an export that differs from it; nothing is left of that.
        DataError: no source of items.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    path, out = Path(path), Path(out)
    check_request(to, out, catalogue=catalogue, distill=distill, int8=int8, overwrite=overwrite)
    if to == "onnx":
        require("onnx")
    domain = _domain(catalogue)
    if distill and domain is None:
        raise ConfigError(f"{catalogue} is no domain's folder: distilling is measured on a domain's users, give one")
    model = bundle.load(path, base=base)
    _check_model(model, path, to, distill=distill)
    part = history_part(model)
    domain = None if domain is None else as_read(path, domain)
    with replacing_folder(out, overwrite=overwrite) as folder, quiet_progress():
        write_history(part, folder)
        if to == "vectors":
            with in_blocks(model, bundle.Loading(path, base), engine or Local(), out) as by_engine:
                sample, encode = _vectors(model, catalogue or "", folder, by_engine)
        else:
            sample, encode = _encoder(model, path, to, folder, catalogue, distill, int8, base)
        parity = Parity.measured(sample, encode, folder)
        exact = not (distill or int8)
        if exact:
            _refuse_apart(to, path, parity.vectors, parity.scores)
        ranks = None if exact or domain is None else cost_in_ranks(model, domain, encode)
        exported = Exported(out, to, parity, exact, ranks)
        (folder / README).write_text(readme(to, part, str(exported), distilled=distill), encoding="utf-8")
    return exported


def _domain(catalogue: Path | str | None) -> Domain | None:
    """The domain of a folder; None for other items."""
    place = None if catalogue is None else Path(catalogue)
    return read_domain(place) if place is not None and place.is_dir() and not is_catalogue(place) else None


def _check_model(model: Model, path: Path, to: To, *, distill: bool) -> None:
    """Refuse by name what has no such form."""
    encoder = encoder_of(model)
    if kind_of(model).name == "pair":
        raise ModelError(
            f"{path} is a pair model, which reads history and candidate in one text and has no vector of an item: "
            "train one with --scoring dual"
        )
    single = isinstance(encoder, SingleStreamEncoder)
    if distill and single:
        raise ModelError(f"{path} is one encoder already, so nothing is to be distilled: leave out --distill")
    if to != "vectors" and not (single or distill):
        raise ModelError(
            f"{path} is X-Cross of {len(encoder.sources)} streams, which is no single encoder: add --distill with "
            "--catalog DOMAIN to make one LoRA of it (what that costs is measured), or export its --to vectors"
        )
    if to == "peft" and single and not (encoder.adapters or encoder.has_adapter):
        raise ModelError(f"{path} is its base as it is, without a LoRA: use the base, or --to sentence-transformers")


def _vectors(model: Model, source: Path | str, folder: Path, encode: BlockEncoder) -> tuple[Sample, folders.Encode]:
    with open_catalogue(model, source, encode=encode) as catalogue:
        snapshot = catalogue.snapshot()
        items = list(snapshot)
        folders.write_vectors(encode, items, snapshot.vectors([item.item_id for item in items]).numpy(), folder)
    sample = Sample.of(model, items, longer=False)
    return sample, folders.read_vectors(folder, sample.ids)


def _encoder(
    model: Model,
    path: Path,
    to: To,
    folder: Path,
    catalogue: Path | str | None,
    distill: bool,
    int8: bool,
    base: Path | str | None,
) -> tuple[Sample, folders.Encode]:
    """Write a folder that encodes texts, and read it back."""
    encoder = encoder_of(model)
    items = None if catalogue is None else read_items(catalogue, encoder.text)
    sample = Sample.of(model, items)
    trained_on = {"name": encoder.base_name, "digest": encoder.base_digest}

    def fresh() -> Base:
        return find_base(f"model {path}", trained_on, [path], None if base is None else str(base))

    if distill:
        texts = item_texts([item.read(encoder.text) for item in items or ()])
        stream = distilled(model, fresh(), list(dict.fromkeys(texts)))
    else:
        stream = Stream.of(model)
    encode = _written(stream, to, folder, int8, encoder.base_name, fresh)
    if distill and not int8:
        made = folders.by_torch(stream.reading, stream.vectors())
        apart = [np.abs(encode(sample.texts, mode) - made(sample.texts, mode)).max() for mode in (False, True)]
        _refuse_apart(to, path, *map(float, apart))
    return sample, encode


def _written(stream: Stream, to: To, folder: Path, int8: bool, base: str, fresh: Callable[[], Base]) -> folders.Encode:
    """Write a stream in one of three forms, and read it back as its user does."""
    if to == "peft":
        folders.write_peft(stream, folder, base)
        return folders.read_peft(stream, folder, fresh())
    if to == "onnx":
        from xcrossrec.export.graph import read_onnx, write_onnx

        write_onnx(stream, folder, int8=int8)
        return read_onnx(stream, folder)
    folders.write_sentence_transformer(stream, folder)
    return folders.read_sentence_transformer(folder)


def _refuse_apart(to: To, path: Path, *differences: float) -> None:
    """Refuse an export that says something else than its model, or no number at all."""
    if not max(differences) <= MOST_APART[to]:
        raise ModelError(
            f"{path} --to {to} would differ from the model by {max(differences):.1e}, at most {MOST_APART[to]:.0e} is "
            "allowed: nothing was written; this is a fault of xcrossrec or of a library, please report it"
        )
