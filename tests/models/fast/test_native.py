"""Private operators that are missing, raise, or are wrong: the numbers stay those of the plain formula."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fast_reference import LENGTHS, Folders, SourcesOf, adapted, integrated, states, states_and_gradients
from model_families import FAMILIES, random_batch
from xcrossrec.models.fast import native
from xcrossrec.models.fast.linear import frozen_product
from xcrossrec.models.fast.shared import SharedLayout, shared_attention

TESTED = (native.onednn_multiplies, native._reorders, native.attention_gives_totals)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FAULTS = ["missing", "raises", "wrong"]


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    """Each test tries the operators itself, and so does whatever comes after."""
    for tried in TESTED:
        tried.cache_clear()
    yield
    for tried in TESTED:
        tried.cache_clear()


class _Without:
    """A namespace of operators with some of them exchanged, or gone."""

    def __init__(self, own: Any, exchanged: dict[str, Any], gone: str = "") -> None:
        self._own, self._exchanged, self._gone = own, exchanged, gone

    def __getattr__(self, name: str) -> Any:
        if name == self._gone:
            raise AttributeError(f"no operator {name}")
        return self._exchanged.get(name, getattr(self._own, name, None))


def faulty(operator: Callable[..., Any], fault: str) -> Callable[..., Any]:
    """An operator that raises, or whose numbers (the first of two, or the second) are a little wrong."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if fault == "raises":
            raise NotImplementedError("could not create a primitive")
        found = operator(*args, **kwargs)
        return (found[0], found[1] + 0.5) if isinstance(found, tuple) else found * 1.2

    return call


def break_onednn(patch: pytest.MonkeyPatch, fault: str, kind: str = "default") -> None:
    own = torch.ops.mkldnn
    pointwise = own._linear_pointwise
    broken = {name: getattr(pointwise, name) for name in ("default", "binary")}
    broken[kind] = faulty(broken[kind], fault)
    gone = "_linear_pointwise" if fault == "missing" else ""
    patch.setattr(torch.ops, "mkldnn", _Without(own, {"_linear_pointwise": SimpleNamespace(**broken)}, gone))


def break_attention(patch: pytest.MonkeyPatch, fault: str) -> None:
    name = "_scaled_dot_product_flash_attention_for_cpu"
    own = torch.ops.aten
    broken = {name: faulty(getattr(own, name), fault)}
    patch.setattr(torch.ops, "aten", _Without(own, broken, name if fault == "missing" else ""))


# ---- products


def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, residual = (torch.randn(s, generator=generator) for s in ((7, 24), (40, 24), (40,), (7, 40)))
    return x.requires_grad_(), weight, bias, residual


@pytest.mark.parametrize("kind", ["default", "binary"])
@pytest.mark.parametrize("fault", FAULTS)
def test_products_without_onednn_are_the_formula_forwards_and_backwards(
    fault: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_onednn(monkeypatch, fault, kind)
    assert not native.onednn_multiplies(torch.float32)
    x, weight, bias, residual = tensors()
    expected = x @ weight.t() + bias + residual
    found = frozen_product(x, weight, bias, residual=residual)
    torch.testing.assert_close(found, expected, **CLOSE)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], wanted, **CLOSE)
    with torch.no_grad():
        activated = frozen_product(x, weight, bias, gelu="tanh")
    torch.testing.assert_close(activated, nn.functional.gelu(x @ weight.t() + bias, approximate="tanh"), **CLOSE)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_weight_that_cannot_be_reordered_multiplies_as_it_is(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.onednn_multiplies(torch.bfloat16):
        pytest.skip("this processor has no bfloat16 products")
    own, name = torch.ops.mkldnn, "_reorder_linear_weight"
    broken = {name: faulty(getattr(own, name), fault)}
    if fault == "wrong":
        broken[name] = lambda weight, rows: own._reorder_linear_weight(weight * 1.2, rows)
    monkeypatch.setattr(torch.ops, "mkldnn", _Without(own, broken, name if fault == "missing" else ""))
    weight = tensors()[1].bfloat16()
    assert native.reordered(weight) is weight


@pytest.mark.parametrize("fault", FAULTS)
def test_bfloat16_without_onednn_is_pytorchs_own(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_onednn(monkeypatch, fault)
    x, weight, bias, _ = (tensor.detach().bfloat16() for tensor in tensors())
    assert native.reordered(weight) is weight
    assert torch.equal(frozen_product(x, weight, bias), nn.functional.linear(x, weight, bias))


def test_a_processor_without_bfloat16_is_not_asked_to_multiply_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.ops.mkldnn
    monkeypatch.setattr(torch.ops, "mkldnn", _Without(own, {"_is_mkldnn_bf16_supported": lambda: False}))
    assert not native.onednn_multiplies(torch.bfloat16)
    assert not native.onednn_multiplies(torch.float64)


# ---- attention


@pytest.mark.parametrize("fault", FAULTS)
def test_shared_attention_without_the_fused_kernel_is_the_formula(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_attention(monkeypatch, fault)
    assert not native.attention_gives_totals(torch.float32)
    layout = SharedLayout(torch.zeros(6, dtype=torch.long), torch.tensor([-1, -1, -1, 0, 0, 1]), torch.arange(6))
    query, key, value = torch.randn(3, 1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([-1, -1, -1, 0, 0, 1])
    seen = (own[None, :] < 0) | (own[:, None] == own[None, :])
    scores = (0.7 * query @ key.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
    found = shared_attention(query, key, value, layout, scale=0.7)
    torch.testing.assert_close(found, (scores.softmax(-1) @ value).transpose(1, 2), **CLOSE)


def test_attention_is_not_tried_in_other_types() -> None:
    assert not native.attention_gives_totals(torch.float64)


# ---- whole encoders


@pytest.mark.parametrize("fault", FAULTS)
def test_encoders_give_the_same_without_private_operators(
    fault: str, base_of: Folders, sources_of: SourcesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = integrated(base_of("bert"), sources_of("bert", 2))
    one = adapted(base_of("bert"), target_modules=["query", "value"]).eval()
    batch = random_batch(FAMILIES["bert"], LENGTHS)

    def results() -> list[Tensor]:
        with torch.no_grad():
            found = [states(several, *batch), states(one, *batch)]
        return [*found, *states_and_gradients(several, *batch), *states_and_gradients(one, *batch)]

    expected = results()
    several.fast.forget()  # else training looks states up
    for tried in TESTED:
        tried.cache_clear()
    break_onednn(monkeypatch, fault)
    for found, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(wanted.detach().abs().max())))


# ---- what is said, and the processor


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN")
def test_a_wrong_operator_is_said_aloud_and_a_missing_one_softly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "xcrossrec"), pytest.MonkeyPatch.context() as patch:
        break_onednn(patch, "wrong")
        native.onednn_multiplies(torch.float32)
        native.onednn_multiplies(torch.float32)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "oneDNN product in torch.float32 wrongly" in caplog.text
    caplog.clear()
    native.onednn_multiplies.cache_clear()
    break_onednn(monkeypatch, "missing")
    with caplog.at_level(logging.INFO, "xcrossrec"):
        native.onednn_multiplies(torch.float32)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "no usable oneDNN product in torch.float32" in caplog.text


def unknown() -> bool:
    raise RuntimeError("unknown processor")


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [
        (lambda: True, lambda: False, True),
        (lambda: False, lambda: True, True),
        (lambda: False, lambda: False, False),
        (None, lambda: True, False),
        (unknown, lambda: True, False),
        (lambda: "yes", lambda: None, False),
    ],
    ids=["AVX-512", "AMX", "neither", "missing", "raises", "wrong"],
)
def test_the_processors_bfloat16(
    avx512: Callable[[], Any] | None, amx: Callable[[], Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", amx)
    if avx512 is None:
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    else:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", avx512)
    assert native.processor_has_bfloat16() is expected


def test_a_wrong_bfloat16_product_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    own = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: own(x, *rest) * (1.2 if x.itemsize == 2 else 1))
    assert not native.processor_has_bfloat16()


def test_self_tests_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        native.onednn_multiplies(torch.float32)
        native.attention_gives_totals(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
