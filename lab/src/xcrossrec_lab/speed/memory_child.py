"""One process whose peak memory the figure ``memory-scoring`` reads: it encodes texts and prints its peak in MiB.

    python -m xcrossrec_lab.speed.memory_child KIND BASE TEXTS.json BATCH THREADS [ADAPTER ...]

KIND: ``plain`` (sentence-transformers with the base) or ``ours``; with ``-load`` the model is loaded and nothing
encoded, with ``-imports`` not even that. The peak is that of this program's own memory (``VmHWM``): ``getrusage``
keeps what the parent had before it started this one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from xcrossrec_lab.speed.harness import pin_threads, pin_torch


def main() -> None:
    """Encode as told and print one JSON line."""
    kind, base, texts_path, batch, threads, *adapters = sys.argv[1:]
    pin_threads(int(threads))
    texts: list[str] = json.loads(Path(texts_path).read_text(encoding="utf-8"))
    found = (
        _plain(kind, base, texts, batch, threads)
        if kind.startswith("plain")
        else _ours(kind, base, texts, threads, adapters)
    )
    print(json.dumps({**found, "peak_mib": peak_mib()}))


def _plain(kind: str, base: str, texts: list[str], batch: str, threads: str) -> dict[str, float]:
    from xcrossrec_lab.speed.plain import plain_base

    pin_torch(int(threads))
    if kind != "plain-imports":
        model = plain_base(base)
        if kind == "plain":
            model.encode(texts, batch_size=int(batch))
    return {}


def _ours(kind: str, base: str, texts: list[str], threads: str, adapters: list[str]) -> dict[str, float]:
    from xcrossrec.models.dual import encode_titles
    from xcrossrec_lab.speed import material

    pin_torch(int(threads))
    if kind == "ours-imports":
        return {}
    model = material.integrated_model(base, [Path(adapter) for adapter in adapters])
    found = shared_copy(model)
    if kind == "ours":
        encode_titles(model, texts)
    return found


def peak_mib() -> float:
    """Peak resident memory of this program."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM: memory is measured on Linux alone")


def shared_copy(model: Any) -> dict[str, float]:
    """Bytes of all distinct tensors of a model, against those of the base alone (by ``data_ptr``)."""
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.state_dict().values()}
    encoder = model[0]
    of_base = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for name, t in encoder.backbone.state_dict().items()
        if not name.endswith((".down", ".up")) and ".integrator." not in name
    }
    return {"tensors_mib": sum(sizes.values()) / 2**20, "base_mib": sum(of_base.values()) / 2**20}


if __name__ == "__main__":
    main()
