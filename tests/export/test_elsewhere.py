"""Exports where xcrossrec cannot be imported: what their own README says gives the model's vectors and ranking."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xcrossrec
from exported_models import IDS, TITLES
from xcrossrec.models import bundle
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.scorer import ModelScorer

RUN = """
import json, sys, warnings
warnings.simplefilter("ignore")
answers = {}
for to, work in json.load(sys.stdin).items():
    sys.modules.update(dict.fromkeys(work["refused"]))  # importing these fails
    sys.path.insert(0, work["folder"])
    given = {"texts": work["texts"], "ids": work["ids"]}
    exec(work["code"], given)
    found = [given["scores"](h, [given["vectors"][given["ids"].index(i)] for i in h], given["ids"], given["vectors"],
                             given["known"]).tolist() for h in work["histories"]]
    answers[to] = {"vectors": given["vectors"].tolist(), "best": given["best"].tolist(), "scores": found}
    for name in ("score", *work["refused"]):
        del sys.modules[name]
    del sys.path[0]
print(json.dumps(answers))
"""
KINDS: tuple[Any, ...] = ("vectors", "onnx", "sentence-transformers", "peft")
HISTORIES = [["i7", "i3"], ["i4"], [], ["i1", "i2", "i1", *["i5"] * 20, "i0"]]
LIMITS = {"onnx": 1e-3}


@pytest.fixture(scope="module")
def answers(whole: Path, domain: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each README's code, run in one process in which importing xcrossrec, and for some kinds torch, fails."""
    root, work = tmp_path_factory.mktemp("exported"), {}
    for to in KINDS:
        found = xcrossrec.export_model(whole, to, root / to, catalogue=domain[1])
        assert found.exact
        assert max(found.parity.vectors, found.parity.scores) < LIMITS.get(to, 1e-5)
        code = "\n".join(re.findall(r"^```python\n(.*?)^```", (root / to / "README.md").read_text(), re.M | re.S))
        code = code.replace("DIR", str(root / to)).replace("ITEM ", "i")
        refused = ["xcrossrec", *(["torch", "transformers"] if to in ("vectors", "onnx") else [])]
        work[to] = {
            **{"folder": str(root / to), "code": code, "refused": refused},
            **{"texts": TITLES, "ids": IDS, "histories": HISTORIES},
        }
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(work), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found_there: dict[str, Any] = json.loads(done.stdout)
    return found_there


@pytest.mark.parametrize("to", KINDS)
def test_the_readme_gives_the_models_vectors_and_ranking(to: str, answers: dict[str, Any], whole: Path) -> None:
    model = bundle.load(whole)
    np.testing.assert_allclose(answers[to]["vectors"], encode_titles(model, TITLES).numpy(), atol=1e-5)
    scorer = ModelScorer(model, TITLES, ids=IDS, name="model")
    rows = [[IDS.index(item) for item in history] for history in HISTORIES]
    expected = scorer.score(rows)
    np.testing.assert_allclose(answers[to]["scores"], expected, atol=1e-5)
    assert answers[to]["best"] == expected[0].argsort()[::-1].tolist()
    assert np.ptp(expected[2]) > 0.3  # what is bought most counts without a history
    text_alone = scorer.inner.score(rows[:2])
    assert np.abs(expected[:2] - text_alone).max() > 0.1  # co-purchases count
