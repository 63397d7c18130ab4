"""Frozen products against PyTorch's own linear layer, GELU and autograd."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xcrossrec.models.fast import linear, native
from xcrossrec.models.fast.linear import FrozenLinear, frozen_product, use_frozen_products
from xcrossrec.models.fast.native import Gelu

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def tensors(rows: int, inside: int, outside: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, inside), (outside, inside), (outside,), (rows, outside))
    x, weight, bias, residual = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias, residual


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: Gelu | None) -> Tensor:
    out = x @ weight.t() + (0 if bias is None else bias)
    out = out if gelu is None else nn.functional.gelu(out, approximate=gelu)
    return out if residual is None else out + residual


@pytest.fixture(params=[True, False], ids=["onednn", "without onednn"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both kinds of kernel."""
    if not request.param:
        monkeypatch.setattr(linear, "onednn_multiplies", lambda dtype: False)
    elif not native.onednn_multiplies(torch.float32):
        pytest.skip("this PyTorch has no oneDNN kernels")
    return bool(request.param)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_frozen_product_equals_its_formula_and_so_do_its_gradients(
    gelu: Gelu | None, with_residual: bool, with_bias: bool
) -> None:
    x, weight, bias, residual = tensors(7, 24, 40)
    x.requires_grad_()
    residual.requires_grad_()
    inputs = [x, residual] if with_residual else [x]
    arguments = (bias if with_bias else None, residual if with_residual else None)
    fast = frozen_product(x, weight, arguments[0], residual=arguments[1], gelu=gelu)
    slow = reference(x, weight, *arguments, gelu)
    torch.testing.assert_close(fast, slow, **CLOSE)
    gradient = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1))
    fast_grads = torch.autograd.grad(fast, inputs, gradient)
    for one, other in zip(fast_grads, torch.autograd.grad(slow, inputs, gradient), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    with torch.no_grad():
        unrecorded = frozen_product(x, weight, arguments[0], residual=arguments[1], gelu=gelu)
    torch.testing.assert_close(unrecorded, slow.detach(), **CLOSE)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 100))
@settings(max_examples=30)
def test_any_shape_is_multiplied(rows: int, inside: int, outside: int, seed: int) -> None:
    x, weight, bias, residual = tensors(rows, inside, outside, seed)
    expected = reference(x, weight, bias, residual, None)
    torch.testing.assert_close(frozen_product(x, weight, bias, residual=residual), expected, rtol=1e-4, atol=1e-4)
    batched = frozen_product(x.expand(2, 3, -1, -1), weight, bias)
    torch.testing.assert_close(batched[1, 2], expected - residual, rtol=1e-4, atol=1e-4)


def test_an_input_without_gradient_passes_one_to_the_residual() -> None:
    x, weight, bias, residual = tensors(3, 4, 5)
    residual.requires_grad_()
    frozen_product(x, weight, bias, residual=residual).sum().backward()
    assert torch.equal(residual.grad, torch.ones(3, 5))


@pytest.mark.usefixtures("onednn")
def test_a_wider_residual_keeps_its_type() -> None:
    x, weight, bias, residual = tensors(3, 16, 8)
    narrow = frozen_product(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), residual=residual)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, reference(x, weight, bias, residual, None), rtol=0.05, atol=0.1)


def test_nothing_times_a_weight_is_nothing() -> None:
    _, weight, bias, _ = tensors(1, 4, 5)
    assert frozen_product(torch.empty(0, 4), weight, bias).shape == (0, 5)


# ---- the layer


def frozen_layer() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(12, 9)
    frozen = nn.Sequential(deepcopy(plain)).requires_grad_(False)
    use_frozen_products(frozen)
    return plain, frozen[0]


def test_a_frozen_layer_is_its_linear_layer() -> None:
    plain, frozen = frozen_layer()
    x = torch.randn(5, 3, 12)
    assert isinstance(frozen, FrozenLinear)
    assert frozen.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(frozen(x), plain(x), **CLOSE)


def test_a_layer_whose_weight_trains_again_gets_its_gradient() -> None:
    plain, frozen = frozen_layer()
    frozen.requires_grad_(True)
    x = torch.randn(5, 12)
    for layer in (plain, frozen):
        layer(x).square().sum().backward()
    torch.testing.assert_close(frozen.weight.grad, plain.weight.grad, **CLOSE)


def test_autocast_multiplies_with_a_copy_that_follows_the_weight() -> None:
    plain, frozen = frozen_layer()
    x = torch.randn(5, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = frozen(x)
        assert first.dtype == torch.bfloat16
        torch.testing.assert_close(first, plain(x), rtol=0.02, atol=0.02)
        assert frozen.in_type(torch.bfloat16)[0] is frozen.in_type(torch.bfloat16)[0]
        with torch.no_grad():
            frozen.weight.mul_(2)
            frozen.bias.mul_(2)
        torch.testing.assert_close(frozen(x), 2 * first, rtol=0.02, atol=0.02)
    assert "_converted" not in deepcopy(frozen).__dict__


def test_a_frozen_layer_keeps_its_values_in_another_order() -> None:
    plain, frozen = frozen_layer()
    assert torch.equal(frozen.weight, plain.weight)
    assert frozen.weight.t().is_contiguous()
    assert deepcopy(frozen).weight.t().is_contiguous()


def test_a_packed_weight_multiplies_alike() -> None:
    x, weight, bias, residual = tensors(300, 24, 40)
    assert native.reordered(weight) is weight
    narrow = weight.bfloat16()
    packed = native.reordered(narrow)
    for rows in (1, 7, 300):
        fast = frozen_product(x[:rows].bfloat16(), packed, bias.bfloat16(), residual=residual[:rows].bfloat16())
        slow = frozen_product(x[:rows].bfloat16(), narrow, bias.bfloat16(), residual=residual[:rows].bfloat16())
        torch.testing.assert_close(fast, slow, rtol=0.02, atol=0.05)


def test_other_layers_are_left_alone() -> None:
    class Special(nn.Linear):
        pass

    stack = nn.Sequential(Special(2, 2), nn.LayerNorm(2))
    use_frozen_products(stack)
    assert type(stack[0]) is Special
    assert type(stack[1]) is nn.LayerNorm
