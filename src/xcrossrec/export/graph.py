"""ONNX: token ids and mask to unit vectors, and a tokenizer beside that needs neither torch nor transformers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from tokenizers import Tokenizer

from xcrossrec.exceptions import ModelError
from xcrossrec.export.folders import BATCH, Encode
from xcrossrec.export.stream import Stream
from xcrossrec.replacing import scratch_folder

OPSET = 17
GRAPH, TOKENIZER = "model.onnx", "tokenizer.json"

_TRACED = ("one text", "and another one that is longer")


def write_onnx(stream: Stream, folder: Path, *, int8: bool) -> None:
    """Write graph and tokenizer.

    The exporter is torch's by tracing, which needs nothing beside torch (ModelError: it cannot trace this
    architecture); attention is written out, in the stream's own backbone. ``int8`` gives weights in 8 bits, and
    activations quantised as they come (onnxruntime's dynamic quantisation).
    """
    stream.backbone.set_attn_implementation("eager")
    inputs = stream.reading.tokens(_TRACED, False)
    axes = {"input_ids": {0: "text", 1: "token"}, "attention_mask": {0: "text", 1: "token"}, "of_history": {0: "text"}}
    if stream.head.history is None:
        inputs = inputs[:2]
        del axes["of_history"]
    place = folder / GRAPH
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the exporter by tracing is the older one, and of each traced branch
            torch.onnx.export(
                stream.vectors(),
                inputs,
                str(place),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(axes),
                output_names=["vectors"],
                dynamic_axes={**axes, "vectors": {0: "text"}},
            )
    except Exception as error:  # whatever the cause inside torch, the user needs one sentence
        kind = type(stream.backbone).__name__
        raise ModelError(
            f"torch cannot write {kind} as ONNX ({str(error).splitlines()[0][:200]}): use --to sentence-transformers"
        ) from error
    if int8:
        _quantise(place)
    _write_tokenizer(stream, folder / TOKENIZER)


def read_onnx(stream: Stream, folder: Path) -> Encode:
    """By onnxruntime and tokenizers alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))

    def encode(texts: Sequence[str], as_history: bool) -> Float32[np.ndarray, "text dim"]:
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer.encode_batch(stream.reading.texts(texts[start : start + BATCH], as_history))
            feed = {"input_ids": np.array([b.ids for b in batch])}
            feed["attention_mask"] = np.array([b.attention_mask for b in batch])
            if stream.head.history is not None:
                feed["of_history"] = np.full(len(batch), as_history)
            parts.append(session.run(None, feed)[0])
        return np.concatenate(parts)

    return encode


def _quantise(place: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = place.with_name("full.onnx")
    place.rename(full)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    try:
        with scratch_folder() as scratch:  # where it works, too
            quantize_dynamic(str(full), str(scratch / GRAPH), weight_type=QuantType.QInt8, per_channel=True)
            content = (scratch / GRAPH).read_bytes()
    finally:
        root.setLevel(level)
    place.write_bytes(content)
    full.unlink()


def _write_tokenizer(stream: Stream, place: Path) -> None:
    backend = getattr(stream.reading.tokenizer, "backend_tokenizer", None)
    if backend is None:
        kind = type(stream.reading.tokenizer).__name__
        raise ModelError(f"the tokenizer {kind} is written in Python alone: use --to sentence-transformers")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.enable_truncation(stream.reading.max_tokens)
    tokenizer.enable_padding(pad_id=stream.reading.tokenizer.pad_token_id, pad_token=stream.reading.tokenizer.pad_token)
    tokenizer.save(str(place))
