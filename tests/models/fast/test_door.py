"""The door and its switch: when the fast pass runs, and that everything is the same where it is off."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from operator import itemgetter
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_reference import LENGTHS, Folders, SourcesOf, adapted, integrated, states, states_and_gradients
from model_families import FAMILIES, Family, fresh_base, random_batch
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.fast import SWITCH, linear, shared, switched_on
from xcrossrec.models.fast.door import FastPass
from xcrossrec.models.fast.passes import PackedPass
from xcrossrec.models.source import SourceEncoder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PAIRS = [("w1 w2\nw3 w4 w5", "w7"), ("w1", "w8 w9"), ("w1 w2\nw3 w4 w5", "w9 w9")]


@pytest.fixture
def nothing_fast_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off, and whatever is fast fails the test."""

    def run(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the fast pass is off")

    monkeypatch.setenv(SWITCH, "0")
    for place, name in (
        (PackedPass, "of_texts"),
        (PackedPass, "of_shared_pairs"),
        (linear, "onednn_linear"),
        (linear, "onednn_linear_added"),
        (linear._FrozenProduct, "apply"),
        (shared, "attention_with_total"),
    ):
        monkeypatch.setattr(place, name, run)


def encoders(base_of: Folders, sources_of: SourcesOf, name: str) -> list[TitleEncoder]:
    plain = SourceEncoder(fresh_base(base_of(name))).eval()
    one = adapted(base_of(name), target_modules=FAMILIES[name].query_value).eval()
    return [plain, one, integrated(base_of(name), sources_of(name, 2))]


def results(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = [states(encoder, ids, mask)]
    return found + (
        states_and_gradients(encoder, ids, mask) if any(p.requires_grad for p in encoder.parameters()) else []
    )


def test_off_gives_the_same_states_and_gradients_by_the_layers(
    family: Family, base_of: Folders, sources_of: SourcesOf, request: pytest.FixtureRequest
) -> None:
    batch = random_batch(family, LENGTHS)
    both = encoders(base_of, sources_of, family.name)
    fast = [results(encoder, *batch) for encoder in both]
    request.getfixturevalue("nothing_fast_may_run")
    assert not any(encoder.fast.leaves_padding_out_in_training for encoder in both)
    for encoder, expected in zip(both, fast, strict=True):
        for found, wanted in zip(results(encoder, *batch), expected, strict=True):
            largest = float(wanted.detach().abs().max())
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * max(1.0, largest))


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@torch.no_grad()
def test_off_encodes_each_pair_by_itself(name: str, base_of: Folders, request: pytest.FixtureRequest) -> None:
    encoder = SourceEncoder(fresh_base(base_of(name)), pair_attention="shared").eval()
    together = encoder.preprocess(PAIRS)
    fast = encoder(dict(together))["token_embeddings"][0]
    request.getfixturevalue("nothing_fast_may_run")
    encoder = SourceEncoder(fresh_base(base_of(name)), pair_attention="shared").eval()
    assert not encoder.shares_history
    rows = encoder.preprocess(PAIRS)
    apart = encoder(dict(rows))["token_embeddings"]
    for pair in range(len(PAIRS)):
        own = together["candidate"][0] == pair
        length, end = int(own.sum()), int(rows["attention_mask"][pair].sum())
        torch.testing.assert_close(fast[own], apart[pair, end - length : end], **CLOSE)


@pytest.mark.usefixtures("nothing_fast_may_run")
@torch.no_grad()
def test_pairs_tokenized_together_run_while_it_is_off(base_of: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "1")
        encoder = SourceEncoder(fresh_base(base_of("bert")), pair_attention="shared").eval()
    assert encoder.shares_history
    assert encoder(encoder.preprocess(PAIRS))["token_embeddings"].isfinite().all()


@pytest.mark.parametrize(("value", "on"), [(None, True), ("1", True), ("0", False)])
def test_the_switch(value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    assert switched_on() is on


@pytest.mark.parametrize("value", ["", "off", "no"])
def test_an_unknown_position_of_the_switch_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    with pytest.raises(ConfigError, match=f"XCROSSREC_FAST is '{value}': set it to 0"):
        switched_on()


# ---- the door


def test_a_door_without_owner_gives_nothing(base_of: Folders) -> None:
    features = SourceEncoder(fresh_base(base_of("bert"))).preprocess(["w1"])
    door = FastPass()
    assert door.states(features, itemgetter(0)) is None
    assert not door.leaves_padding_out_in_training
    door.forget()


@torch.no_grad()
def test_an_exchanged_backbone_is_seen(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert"))).eval()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    before = states(encoder, ids, mask)
    encoder.backbone = sources_of("bert", 2)[0].peft
    expected = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)
    assert not torch.allclose(before, expected, atol=1e-3)


@pytest.mark.parametrize(
    "again", [deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))], ids=["copy", "pickle"]
)
@torch.no_grad()
def test_a_copy_is_its_own_owner(again: Callable[[Any], Any], base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2))
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    expected = states(encoder, ids, mask)
    copied = again(encoder)
    assert copied.fast._owner is copied
    torch.testing.assert_close(states(copied, ids, mask), expected, **CLOSE)
    copied.stream_weight.mul_(2)
    torch.testing.assert_close(states(copied, ids, mask), 2 * expected, **CLOSE)
    torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)


@torch.no_grad()
def test_whoever_watches_coefficients_gets_the_layers(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2))
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    with encoder.observing() as records:
        states(encoder, ids, mask)
    assert [record.shape for record in records] == [(2, 2, *ids.shape)] * 3


@torch.no_grad()
def test_a_backbone_elsewhere_gets_the_layers(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert"))).eval().to("meta")
    features = {"input_ids": torch.zeros(1, 2, dtype=torch.long), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    assert encoder.fast.states(features, itemgetter(0)) is None
