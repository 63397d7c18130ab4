"""The integrators against slow loops over sources and tokens, written from the equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xcrossrec.models.integrator import INTEGRATORS, PairwiseIntegrator, build_integrator

from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.models.xcross.integrator import Integrator, mix_sources

DIM = 6
SIZES = st.integers(2, 4)


def random_integrator(name: str, n: int, *, beta: float = 0.7, gamma: float = -1.3, seed: int = 0) -> Integrator:
    torch.manual_seed(seed)
    integrator = build_integrator(name, n, DIM, beta=beta, gamma=gamma)
    for parameter in integrator.parameters():
        torch.nn.init.normal_(parameter)
    return integrator


def hidden_states(n: int, *, batch: int = 2, token: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, batch, token, DIM, generator=torch.Generator().manual_seed(seed))


def paper_loop(integrator: Integrator, hidden: Tensor, without: int | None = None) -> Tensor:
    """Stages 2 and 3 of METHOD.md, one token at a time."""
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
                        out[m, b, t] += integrator.beta * transfer[m, j] * h[j]
                        out[m, b, t] += integrator.gamma * contrast[m, j] * (h[m] - h[j])
    return out


def pairwise_loop(integrator: PairwiseIntegrator, hidden: Tensor, without: int | None = None) -> Tensor:
    """``h'_m = h_m + strength sum_j (u_mj . (h_j - h_m) / sqrt(d) + b_mj) (h_j - h_m)``, a token at a time."""
    n, batch, token, dim = hidden.shape
    out = hidden.clone()
    for b in range(batch):
        for t in range(token):
            pair = 0
            for m in range(n):
                for j in range(n):
                    if j == m:
                        continue
                    difference = hidden[j, b, t] - hidden[m, b, t]
                    gate = integrator.direction[pair] @ difference / dim**0.5 + integrator.bias[pair]
                    pair += 1
                    if j != without:
                        out[m, b, t] += integrator.strength * gate * difference
    return out


LOOPS = {"paper": paper_loop, "pairwise": pairwise_loop}


def test_every_form_that_mixes_has_a_loop() -> None:
    assert set(INTEGRATORS) == {*LOOPS, "none"}


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("name", LOOPS)
def test_integrator_equals_the_loop_over_sources_and_tokens(name: str, n: int) -> None:
    integrator, hidden = random_integrator(name, n), hidden_states(n)
    torch.testing.assert_close(integrator(hidden), LOOPS[name](integrator, hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", LOOPS)
def test_leaving_a_source_out_equals_the_loop_without_its_terms(name: str, n: int) -> None:
    integrator, hidden = random_integrator(name, n), hidden_states(n)
    for without in range(n):
        expected = LOOPS[name](integrator, hidden, without)
        torch.testing.assert_close(integrator(hidden, without=without), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, integrator(hidden))


@pytest.mark.parametrize("name", INTEGRATORS)
@given(n=SIZES, seed=st.integers(0, 100))
@settings(max_examples=20)
def test_zero_parameters_change_nothing(name: str, n: int, seed: int) -> None:
    hidden = hidden_states(n, seed=seed)
    assert torch.equal(build_integrator(name, n, DIM)(hidden), hidden)


@given(n=SIZES, seed=st.integers(0, 100), scale=st.floats(0.1, 10.0))
@settings(max_examples=25)
def test_pairwise_never_moves_streams_that_agree(n: int, seed: int, scale: float) -> None:
    integrator = random_integrator("pairwise", n, seed=seed)
    equal = scale * hidden_states(1, seed=seed).expand(n, -1, -1, -1).contiguous()
    torch.testing.assert_close(integrator(equal), equal, rtol=1e-5, atol=1e-5)


@given(n=SIZES, seed=st.integers(0, 100))
@settings(max_examples=20)
def test_coefficients_rebuild_the_mix(n: int, seed: int) -> None:
    integrator, hidden = random_integrator("paper", n, seed=seed), hidden_states(n, seed=seed)
    streams = hidden.unbind(0)
    coefficient = integrator.coefficients(streams)
    expected = torch.einsum("mjbt,jbtd->mbtd", coefficient, hidden)
    torch.testing.assert_close(torch.stack(mix_sources(streams, coefficient)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(integrator(hidden), expected, rtol=1e-4, atol=1e-4)


@given(n=SIZES, seed=st.integers(0, 50), data=st.data())
@settings(max_examples=20)
def test_tokens_are_mixed_independently_of_each_other(n: int, seed: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(INTEGRATORS))
    integrator, hidden = random_integrator(name, n, seed=seed), hidden_states(n, seed=seed)
    alone = integrator(hidden[:, 1:2, 2:3])
    torch.testing.assert_close(integrator(hidden)[:, 1:2, 2:3], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_parameter_counts_are_the_documented_ones(n: int) -> None:
    def count(integrator: Integrator) -> int:
        return sum(p.numel() for p in integrator.parameters())

    assert count(Integrator(n, DIM)) == 2 * n * (n - 1) * n * DIM
    assert count(PairwiseIntegrator(n, DIM)) == n * (n - 1) * (DIM + 1)


def test_dropping_a_source_keeps_the_pairs_of_the_others() -> None:
    old = random_integrator("pairwise", 3)
    new = old.reselect([2, 0])
    hidden = hidden_states(3)
    mixed = new(hidden[[2, 0]])
    without_one = old(hidden, without=1)
    torch.testing.assert_close(mixed, without_one[[2, 0]], rtol=1e-5, atol=1e-5)


def test_a_joining_source_starts_without_influence() -> None:
    old = random_integrator("pairwise", 2)
    new = old.reselect([0, None, 1])
    hidden = hidden_states(3)
    mixed = new(hidden)
    torch.testing.assert_close(mixed[[0, 2]], old(hidden[[0, 2]]), rtol=1e-5, atol=1e-5)
    assert torch.equal(mixed[1], hidden[1])
    assert new.strength == old.strength


def test_paper_refuses_to_change_its_sources() -> None:
    with pytest.raises(ModelError, match=r"cannot change its 3 sources.*pairwise"):
        random_integrator("paper", 3).reselect([0, 1])


@pytest.mark.parametrize("name", INTEGRATORS)
def test_one_source_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="got 1"):
        build_integrator(name, 1, DIM)


def test_pairwise_refuses_to_shrink_to_one_source() -> None:
    with pytest.raises(ModelError, match="got 1"):
        random_integrator("pairwise", 2).reselect([0])


@pytest.mark.parametrize("without", [None, 1])
def test_no_integrator_gives_the_streams_back(without: int | None) -> None:
    integrator, hidden = build_integrator("none", 3, DIM), hidden_states(3)
    assert not list(integrator.parameters())
    assert torch.equal(integrator(hidden, without=without), hidden)
    identity = torch.eye(3)[:, :, None, None].expand(3, 3, *hidden.shape[1:3])
    assert torch.equal(integrator.coefficients(hidden.unbind(0), without=without), identity)
    assert integrator.reselect([2, None]).sources == 2


def test_unknown_integrator_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown integrator 'softmax'.*paper, pairwise, none"):
        build_integrator("softmax", 2, DIM)


@pytest.mark.parametrize("name", LOOPS)
def test_gradients_reach_every_parameter_from_the_zero_start(name: str) -> None:
    integrator = build_integrator(name, 3, DIM)
    integrator(hidden_states(3)).square().sum().backward()
    for parameter in integrator.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().amax(-1).gt(0).all()
