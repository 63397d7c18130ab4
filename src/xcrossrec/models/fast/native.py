"""PyTorch's private operators, each used only where it gives the numbers of the formula in plain PyTorch.

Nobody promises that these operators stay. Each is tried once a process on a tiny case; where it is missing, raises,
or is wrong, callers compute the same by PyTorch's public functions, at their speed.

Legend: ``inside`` and ``outside`` = a product's sizes, ``dim`` = size of a head.
"""

from __future__ import annotations

import ctypes
import logging
import platform
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

Gelu: TypeAlias = Literal["none", "tanh"]
"""PyTorch's names of GELU's forms: exact, and by the hyperbolic tangent."""

WithTotal: TypeAlias = tuple[Tensor, Tensor]
"""Attention's output, or its weights, and per query the logarithm of its softmax's denominator."""

_LOG = logging.getLogger(__name__)
_ROWS_HINT = 1024
"""Rows of a typical product, for which oneDNN orders a weight."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest error, absolute and relative, of a self-test's numbers, which are of order 1."""


def _works(name: str, pairs: Callable[[], Iterator[tuple[Tensor, Tensor]]], tolerance: float) -> bool:
    """Run a self-test: pairs of what an operator gives and what the plain formula gives."""
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            right = all(
                found.shape == wanted.shape
                and torch.allclose(found.float(), wanted.float(), rtol=tolerance, atol=tolerance)
                for found, wanted in pairs()
            )
    except (AttributeError, RuntimeError, TypeError) as error:  # no such operator, signature, or kernel
        _LOG.info("this PyTorch %s has no usable %s, so its public functions do it: %s", torch.__version__, name, error)
        return False
    if not right:
        _LOG.warning("this PyTorch %s computes %s wrongly, so its public functions do it", torch.__version__, name)
    return right


def _waves(*shape: int) -> Float[Tensor, "*shape"]:
    """Numbers from -1 to 1 that follow no simple rule; the random state stays as it is."""
    return torch.arange(float(torch.Size(shape).numel())).mul(12.9898).sin().view(shape)


# ---- products by oneDNN


def onednn_linear(
    x: Float[Tensor, "*batch inside"], weight: Tensor, bias: Float[Tensor, " outside"] | None, gelu: Gelu | None = None
) -> Float[Tensor, "*batch outside"]:
    """Compute ``gelu(x W^T + b)``; ask :func:`onednn_multiplies` first."""
    kind, form = ("none", "") if gelu is None else ("gelu", gelu)
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, kind, [], form)
    return out


def onednn_linear_added(
    x: Float[Tensor, "*batch inside"],
    residual: Float[Tensor, "*batch outside"],
    weight: Tensor,
    bias: Float[Tensor, " outside"] | None,
) -> Float[Tensor, "*batch outside"]:
    """Compute ``x W^T + b + residual``, all of one type; ask :func:`onednn_multiplies` first."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return out


@cache
def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN's linear kernels are here for a type (float32 or bfloat16) and right, forwards and backwards."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or dtype not in _TOLERANCE:
        return False
    return _works(f"oneDNN product in {dtype}", lambda: _products(dtype), _TOLERANCE[dtype])


def _products(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise RuntimeError("this processor has no instructions for it")
    x, weight, residual = _waves(5, 24).to(dtype), _waves(40, 24).to(dtype) / 4, _waves(5, 40).to(dtype)
    for bias, laid_out in product((None, _waves(40).to(dtype)), (weight, weight.t().contiguous().t())):
        plain = nn.functional.linear(x, laid_out, bias)
        yield onednn_linear(x, laid_out, bias), plain
        yield onednn_linear_added(x, residual, laid_out, bias), plain + residual
        for gelu in ("none", "tanh"):
            yield onednn_linear(x, laid_out, bias, gelu), nn.functional.gelu(plain, approximate=gelu)
        yield onednn_linear(residual, laid_out.t(), None), residual @ laid_out  # backwards: the input's gradient


def reordered(weight: Float[Tensor, "outside inside"]) -> Tensor:
    """A bfloat16 weight in oneDNN's own order, which spares reordering at each product (and only multiplies).

    Any other weight, and any where that does not work, comes back as it is.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not _reorders():
        return weight
    return _reorder(weight)


def _reorder(weight: Tensor) -> Tensor:
    ordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)
    return ordered


@cache
def _reorders() -> bool:
    def products() -> Iterator[tuple[Tensor, Tensor]]:
        weight = _waves(40, 24).bfloat16() / 4
        ordered = _reorder(weight)
        for rows in (1, 7):
            x = _waves(rows, 24).bfloat16()
            yield onednn_linear(x, ordered, None), nn.functional.linear(x, weight)

    right = onednn_multiplies(torch.bfloat16)
    return right and _works("reordering of weights for oneDNN", products, _TOLERANCE[torch.bfloat16])


# ---- attention with the softmax's denominator


def attention_with_total(
    query: Float[Tensor, "batch head query dim"],
    key: Float[Tensor, "batch head key dim"],
    value: Float[Tensor, "batch head key dim"],
    added: Float[Tensor, "#batch #head #query key"] | None,
    scale: float,
) -> WithTotal:
    """Attention without gradients on the CPU, all of one type; ask :func:`attention_gives_totals` first."""
    attended: WithTotal = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, attn_mask=added, scale=scale
    )
    return attended


@cache
def attention_gives_totals(dtype: torch.dtype) -> bool:
    """Whether PyTorch's fused attention is here for a type (float32 or bfloat16), with the right denominators."""
    if dtype not in _TOLERANCE:
        return False
    return _works(f"fused attention in {dtype}", lambda: _attended(dtype), _TOLERANCE[dtype])


def _attended(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    query, key, value = _waves(2, 2, 3, 8).to(dtype), _waves(2, 2, 5, 8).to(dtype), _waves(2, 2, 5, 8).to(dtype) * 2
    mask = torch.zeros(2, 1, 1, 5).index_fill(-1, torch.tensor([1, 4]), -1e9).to(dtype)
    for added in (None, mask):
        scores = 0.3 * query.float() @ key.float().transpose(-1, -2) + (0 if added is None else added.float())
        out, total = attention_with_total(query, key, value, added, 0.3)
        yield out, scores.softmax(-1) @ value.float()
        yield total, scores.logsumexp(-1)


# ---- the processor and its memory


def processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own (AVX-512 BF16 or AMX).

    Where this PyTorch cannot say so, or multiplies wrongly, no.
    """
    try:
        told = (torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return any(answer is True for answer in told) and _works("bfloat16 product", _narrow_products, 0.05)


def _narrow_products() -> Iterator[tuple[Tensor, Tensor]]:
    x, weight = _waves(5, 24), _waves(40, 24) / 4
    yield nn.functional.linear(x.bfloat16(), weight.bfloat16()), x @ weight.t()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # glibc refuses more
_KEPT_BYTES = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep and reuse freed blocks (idempotent; nothing happens elsewhere).

    On the CPU every layer frees and asks again for a few megabytes; by default each time goes through the
    kernel, which on a virtual machine can cost as much as the arithmetic (measured in lab/log).

    Returns:
        whether the allocator accepted.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _TRIM_THRESHOLD: _KEPT_BYTES, _TOP_PAD: 64 * 1024 * 1024}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())
