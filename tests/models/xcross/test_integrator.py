"""The integrator against a slow loop over sources and tokens, written from the equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xcrossrec.exceptions import ModelError
from xcrossrec.models.xcross.integrator import IntegratedLayer, Integrator, mix_sources

DIM = 6
SIZES = st.integers(2, 4)


def random_integrator(n: int, *, seed: int = 0) -> Integrator:
    integrator = Integrator(n, DIM)
    weight = torch.randn(integrator.concat_weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        integrator.concat_weight.copy_(weight)
    return integrator


def hidden_states(n: int, *, batch: int = 2, token: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, batch, token, DIM, generator=torch.Generator().manual_seed(seed))


def mixed(integrator: Integrator, hidden: Tensor, without: int | None = None) -> Tensor:
    return torch.stack(integrator.mix(hidden.unbind(0), without=without))


def loop(integrator: Integrator, hidden: Tensor, without: int | None = None) -> Tensor:
    """Stages 2 and 3 of the paper, one token at a time."""
    n, batch, token, _ = hidden.shape
    out = hidden.clone()
    for b in range(batch):
        for t in range(token):
            h = [hidden[m, b, t] for m in range(n)]
            z = integrator.concat_weight @ torch.cat(h)
            transfer, contrast = {}, {}
            row = 0
            for m in range(n):
                for j in range(n):
                    if j != m:
                        transfer[m, j], contrast[m, j] = z[row], z[n * (n - 1) + row]
                        row += 1
            for m in range(n):
                for j in range(n):
                    if j not in (m, without):
                        out[m, b, t] += transfer[m, j] * h[j]
                        out[m, b, t] += contrast[m, j] * (h[m] - h[j])
    return out


@pytest.mark.parametrize("n", [2, 3, 4])
def test_it_equals_the_loop_over_sources_and_tokens(n: int) -> None:
    integrator, hidden = random_integrator(n), hidden_states(n)
    torch.testing.assert_close(mixed(integrator, hidden), loop(integrator, hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3])
def test_leaving_a_source_out_equals_the_loop_without_its_terms(n: int) -> None:
    integrator, hidden = random_integrator(n), hidden_states(n)
    for without in range(n):
        expected = loop(integrator, hidden, without)
        torch.testing.assert_close(mixed(integrator, hidden, without), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, mixed(integrator, hidden))


@given(n=SIZES, seed=st.integers(0, 100))
@settings(max_examples=20)
def test_zero_parameters_change_nothing(n: int, seed: int) -> None:
    hidden = hidden_states(n, seed=seed)
    assert torch.equal(mixed(Integrator(n, DIM), hidden), hidden)


@given(n=SIZES, seed=st.integers(0, 100))
@settings(max_examples=20)
def test_coefficients_rebuild_the_mix(n: int, seed: int) -> None:
    integrator, hidden = random_integrator(n, seed=seed), hidden_states(n, seed=seed)
    streams = hidden.unbind(0)
    coefficient = integrator.coefficients(streams)
    expected = torch.einsum("mjbt,jbtd->mbtd", coefficient, hidden)
    torch.testing.assert_close(torch.stack(mix_sources(streams, coefficient)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed(integrator, hidden), expected, rtol=1e-4, atol=1e-4)


@given(n=SIZES, seed=st.integers(0, 50))
@settings(max_examples=20)
def test_tokens_are_mixed_independently_of_each_other(n: int, seed: int) -> None:
    integrator, hidden = random_integrator(n, seed=seed), hidden_states(n, seed=seed)
    alone = mixed(integrator, hidden[:, 1:2, 2:3])
    torch.testing.assert_close(mixed(integrator, hidden)[:, 1:2, 2:3], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_parameter_counts_are_the_documented_ones(n: int) -> None:
    assert sum(p.numel() for p in Integrator(n, DIM).parameters()) == 2 * n * (n - 1) * n * DIM


def test_one_source_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 2 sources, got 1"):
        Integrator(1, DIM)


def test_gradients_reach_every_parameter_from_the_zero_start() -> None:
    integrator = Integrator(3, DIM)
    mixed(integrator, hidden_states(3)).square().sum().backward()
    assert integrator.concat_weight.grad is not None
    assert integrator.concat_weight.grad.abs().amax(-1).gt(0).all()


# ---- a layer with its integrator


class Layer(nn.Module):
    """Gives its input back, alone or in front of something else."""

    def __init__(self, *extra: str) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor | str, ...]:
        return (x, *self.extra) if self.extra else x


def test_a_layer_is_mixed_and_whatever_else_it_returns_is_passed_on() -> None:
    integrator, hidden = random_integrator(3), hidden_states(3)
    rows = hidden.flatten(0, 1)
    expected = mixed(integrator, hidden).flatten(0, 1)
    assert torch.equal(IntegratedLayer(Layer(), integrator)(rows), expected)
    states, weights = IntegratedLayer(Layer("weights"), integrator)(rows)
    assert torch.equal(states, expected)
    assert weights == "weights"


def test_a_layer_keeps_what_modernbert_reads_off_it() -> None:
    layer = Layer()
    layer.attention_type = "sliding_attention"  # type: ignore[assignment]
    assert IntegratedLayer(layer, random_integrator(2)).attention_type == "sliding_attention"
