"""Bundles and adapters damaged or forged at random: each is refused in a sentence or works, in bounded time and memory.

``XCROSSREC_MUTATIONS=500`` raises their number, ``XCROSSREC_MUTATION_SEED=1`` takes others.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from sentence_transformers import CrossEncoder

from xcrossrec.exceptions import BundleError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import MANIFEST, read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.files import file_digest, file_digests

COUNT = int(os.environ.get("XCROSSREC_MUTATIONS", "20"))
SEED = int(os.environ.get("XCROSSREC_MUTATION_SEED", "0"))
MOST_SECONDS, MOST_MIB = 5, 300

DEEP: Any = []
for _ in range(150):
    DEEP = [DEEP]
VALUES: list[Any] = [
    *(None, True, -1, 0, 7, 10**9, 10**40, 1.5, math.nan, math.inf, "", "x", "..", "../x", "/etc/passwd", "a/b", "\0"),
    *("x" * 100_000, "(a+)+$", [], {}, [1], ["query"], {"a": 1}, {"(a|a)*b": 3}, DEEP, ["x"] * 20_000),
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with one of its keys or indices."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def change_json(path: Path, rng: random.Random) -> str:
    found = json.loads(path.read_text(encoding="utf-8"))
    every = list(places(found))
    if not every or rng.random() < 0.1:
        text = rng.choice(["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "{}" + " " * 5_000_000, "\xff", "NaN"])
        path.write_text(text, encoding="latin-1")
        return f"all is {text[:10]!r}"
    container, key = rng.choice(every)
    deed = rng.choice(["drop", "replace", "replace", "replace", "rename", "repeat"])
    if deed == "drop" or (deed == "rename" and isinstance(container, list)):
        del container[key]
    elif deed == "rename":
        container[rng.choice(["", "Base", "../x", "x" * 5000])] = container.pop(key)
    elif deed == "repeat":
        container[key] = [container[key], container[key]]
    else:
        container[key] = rng.choice(VALUES)
    path.write_text(json.dumps(found), encoding="utf-8")
    return f"{deed} {key!r}"


def change_tensors(path: Path, rng: random.Random) -> str:
    tensors = load(path.read_bytes())
    name = rng.choice(sorted(tensors))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
        "nan": lambda t: t * math.nan,
        "infinite": lambda t: t + math.inf,
        "whole": lambda t: t.long(),
        "half": lambda t: t.half(),
        "flat": lambda t: t.reshape(-1),
        "wide": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)]),
        "empty": lambda t: t.reshape(-1)[:0],
        "gone": lambda t: None,
    }
    deed = rng.choice([*changes, "more", "cut"])
    if deed == "cut":
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
        return deed
    if deed == "more":
        tensors["base_model.model.embeddings.word_embeddings.weight"] = torch.zeros(2, 2)
    elif (changed := changes[deed](tensors.pop(name))) is not None:
        tensors[name] = changed.clone()
    save_file(tensors, path)
    return f"{name} {deed}"


def change_files(path: Path, rng: random.Random) -> str:
    deed = rng.choice(["lost", "more", "link", "folder link", "pipe", "renamed", "empty"])
    if deed == "more":
        (path.parent / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    elif deed == "folder link":
        (path.parent / "out").symlink_to("/", target_is_directory=True)
    elif deed == "renamed":
        path.rename(path.with_name("renamed"))
    else:
        path.unlink()
        if deed == "link":
            path.symlink_to("/etc/hostname")
        elif deed == "pipe":
            os.mkfifo(path)
        elif deed == "empty":
            path.touch()
    return deed


def restamp(folder: Path, changed: Path) -> None:
    """Make all manifests agree with the changed file, as a forger would."""
    manifest = folder / MANIFEST
    own = changed.parent / MANIFEST
    if own not in (changed, manifest) and own.exists() and changed.is_file():
        found = json.loads(own.read_text(encoding="utf-8"))
        found["files"][changed.name] = file_digest(changed)
        own.write_text(json.dumps(found), encoding="utf-8")
    if changed != manifest and not (changed.is_symlink() or changed.is_fifo() or (changed.parent / "out").exists()):
        found = json.loads(manifest.read_text(encoding="utf-8"))
        found["files"] = file_digests(folder, besides=MANIFEST)
        manifest.write_text(json.dumps(found), encoding="utf-8")


def mutate(folder: Path, rng: random.Random) -> tuple[Path, str]:
    """Change one thing in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("tokenizer"))
    path = rng.choice([*files, *(file for file in files if file.suffix == ".json")])
    if rng.random() < 0.1 or path.suffix not in (".json", ".safetensors"):
        return path, change_files(path, rng)
    return path, change_json(path, rng) if path.suffix == ".json" else change_tensors(path, rng)


def loaded(load: Callable[[], Any], refusal: type[Exception], case: str) -> Any:
    """What loads, or None for what is refused in a sentence; anything else fails, with the case that it is."""
    started, said = time.process_time(), None
    try:
        found = load()
    except refusal as error:
        found, said = None, str(error)
    except BaseException as error:
        raise AssertionError(case) from error
    assert time.process_time() - started < MOST_SECONDS, case
    assert said is None or (20 < len(said) < 1000 and "\n" not in said), (case, said)
    return found


@pytest.fixture
def bounded() -> Iterator[None]:
    """The whole test takes a bounded time for each mutation, and a bounded memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MIB


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
@pytest.mark.usefixtures("bounded")
def test_a_mutated_bundle_is_refused_in_a_sentence_or_works(tiny_models: Any, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    sound = [tiny_models.merged, tiny_models.late, tiny_models.shared, tiny_models.sources[0]]
    refused = 0
    for number in range(COUNT):
        folder = tmp_path / str(number)
        shutil.copytree(rng.choice(sound), folder)
        path, deed = mutate(folder, rng)
        if rng.random() < 0.75:
            restamp(folder, path)
        case = f"seed {SEED}, case {number}: {path.relative_to(folder)} {deed}"
        model = loaded(partial(bundle.load, folder), BundleError, case)
        if model is not None:
            given = model.predict([("a b", "c")]) if isinstance(model, CrossEncoder) else model.encode(["a b"])
            assert np.isfinite(given).all(), case
        refused += model is None
        shutil.rmtree(folder)
    assert refused >= COUNT / 2  # the rest changed what no model reads


@pytest.mark.usefixtures("bounded")
def test_a_mutated_adapter_is_refused_in_a_sentence_or_works(tiny_models: Any, tmp_path: Path) -> None:
    rng, base = random.Random(SEED), load_base(str(tiny_models.base))
    refused = 0
    for number in range(2 * COUNT):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(tiny_models.sources[0] / name, folder)
        path, deed = mutate(folder, rng)
        case = f"seed {SEED}, case {number}: {path.relative_to(folder)} {deed}"
        adapter = loaded(partial(read_adapter, folder, base), ModelError, case)
        assert adapter is None or all(torch.isfinite(factors.up).all() for factors in adapter.factors.values()), case
        refused += adapter is None
    assert refused > COUNT / 2
