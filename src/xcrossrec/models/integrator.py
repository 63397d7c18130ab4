"""The equations that mix the streams after every encoder layer.

Legend: ``source`` = stream of one domain's adapter, ``pair`` = ordered pair of two different sources,
``batch`` = text, ``token`` = position, ``dim`` = hidden size d.

Source: X-Cross (SIGIR 2025, arXiv 2504.20859), stages 2 and 3, for :class:`PaperIntegrator`; the others are this
project's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xcrossrec.exceptions import ConfigError, ModelError


def mix_sources(
    hidden: Sequence[Float[Tensor, "*batch dim"]],
    coefficient: Float[Tensor, "source source *batch"],
) -> list[Float[Tensor, "*batch dim"]]:
    """Give each stream a weighted sum of all streams: ``out[m] = sum_j coefficient[m, j] * hidden[j]``.

    Args:
        hidden: one encoder layer's outputs, one tensor a source.
        coefficient: ``coefficient[m, j]`` scales source ``j`` inside ``m``; signed, not normalised.
    """
    mixed = []
    for row in coefficient:
        total = row[0].unsqueeze(-1) * hidden[0]
        for weight, state in zip(row[1:], hidden[1:], strict=True):
            total = torch.addcmul(total, weight.unsqueeze(-1), state)
        mixed.append(total)
    return mixed


class Integrator(nn.Module, ABC):
    """One layer's integrator of ``sources`` streams.

    Args:
        sources: number of streams n.
        dim: hidden size d.

    Raises:
        ModelError: fewer than two sources.
    """

    name: str

    def __init__(self, sources: int, dim: int) -> None:
        super().__init__()
        if sources < 2:
            raise ModelError(f"mixing needs at least 2 sources, got {sources}: load another adapter")
        self.sources = sources
        self.dim = dim
        # pairs[p] = (receiver m, giver j)
        self.pairs = [(m, j) for m in range(sources) for j in range(sources) if j != m]

    @abstractmethod
    def pair_weights(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]]
    ) -> tuple[Float[Tensor, " pair *batch"], Float[Tensor, " pair *batch"]]:
        """Compute, per ordered pair (receiver m, giver j) and token, the two scalars of stage 3.

        Returns:
            ``transfer``, the factor of ``h_j``, and ``contrast``, the factor of ``h_m - h_j``;
            the strengths (beta, gamma) are in them already.
        """

    def coefficients(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]], *, without: int | None = None
    ) -> Float[Tensor, "source source *batch"]:
        """Collect the pair weights into one matrix a token: the identity plus what integration adds.

        Args:
            hidden: one encoder layer's outputs, one tensor a source.
            without: leave out everything that this source gives to the others (for ablation).
        """
        transfer, contrast = self.pair_weights(hidden)
        n = self.sources
        zero = transfer.new_zeros(transfer.shape[1:])
        rows = [[zero + 1.0 if m == j else zero for j in range(n)] for m in range(n)]
        for pair, (m, j) in enumerate(self.pairs):
            if j == without:
                continue
            rows[m][j] = transfer[pair] - contrast[pair]
            rows[m][m] = rows[m][m] + contrast[pair]
        return torch.stack([torch.stack(row) for row in rows])

    def forward(
        self, hidden: Float[Tensor, "source batch token dim"], *, without: int | None = None
    ) -> Float[Tensor, "source batch token dim"]:
        """Refine each stream with the others; all parameters zero leave ``hidden`` as it is."""
        return torch.stack(self.mix(hidden.unbind(0), without=without))

    def mix(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]], *, without: int | None = None
    ) -> list[Float[Tensor, "*batch dim"]]:
        """Refine streams that stand apart, whatever their axes before the last."""
        return mix_sources(hidden, self.coefficients(hidden, without=without))

    @abstractmethod
    def reselect(self, kept: Sequence[int | None]) -> Integrator:
        """Make the integrator of another list of sources.

        Args:
            kept: per new source its present number, or None for a source that joins (its pairs start at 0).
        """


class PaperIntegrator(Integrator):
    """The paper's form: one matrix reads all streams and gives two signed scalars per ordered pair.

    ``z = W_concat [h_1; ...; h_n]``, no bias, no softmax; then
    ``h'_m = h_m + sum_j (beta z_jm h_j + gamma z'_mj (h_m - h_j))``.
    ``2 n (n - 1) * n d`` parameters a layer; starts at zero.

    Args:
        sources: number of streams n.
        dim: hidden size d.
        beta: strength of the transfer term, dimensionless.
        gamma: strength of the contrast term, dimensionless.
    """

    name = "paper"

    def __init__(self, sources: int, dim: int, *, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__(sources, dim)
        self.beta = beta
        self.gamma = gamma
        self.concat_weight = nn.Parameter(torch.zeros(2 * len(self.pairs), sources * dim))

    def pair_weights(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]]
    ) -> tuple[Float[Tensor, " pair *batch"], Float[Tensor, " pair *batch"]]:
        """Apply ``W_concat``: rows 0 .. pairs-1 give z (transfer), the rest z' (contrast)."""
        by_source = torch.split(self.concat_weight.to(hidden[0].dtype), self.dim, dim=1)
        z = nn.functional.linear(hidden[0], by_source[0])
        for state, weight in zip(hidden[1:], by_source[1:], strict=True):
            z = z + nn.functional.linear(state, weight)
        transfer, contrast = z.movedim(-1, 0).chunk(2)
        return self.beta * transfer, self.gamma * contrast

    def reselect(self, kept: Sequence[int | None]) -> Integrator:
        """Refuse: ``W_concat`` reads all sources at once."""
        raise ModelError(
            f"the paper's integrator cannot change its {self.sources} sources, because one matrix reads them "
            "all: train again, or use the pairwise integrator"
        )


class PairwiseIntegrator(Integrator):
    """This project's pair-factored form: each ordered pair has parameters of its own.

    ``g_mj = u_mj . (h_j - h_m) / sqrt(d) + b_mj``; ``h'_m = h_m + strength * sum_j g_mj (h_j - h_m)``.
    ``n (n - 1) (d + 1)`` parameters a layer, a quarter of the paper's at n = 2. A source joins with pairs
    that start at zero and leaves with its own; no other parameter changes. Streams that agree are never
    moved, whatever the parameters, because only their difference is read and added.

    Args:
        sources: number of streams n.
        dim: hidden size d.
        strength: factor of what is added, dimensionless.
    """

    name = "pairwise"

    def __init__(self, sources: int, dim: int, *, strength: float = 1.0) -> None:
        super().__init__(sources, dim)
        self.strength = strength
        self.direction = nn.Parameter(torch.zeros(len(self.pairs), dim))
        self.bias = nn.Parameter(torch.zeros(len(self.pairs)))

    def pair_weights(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]]
    ) -> tuple[Float[Tensor, " pair *batch"], Float[Tensor, " pair *batch"]]:
        """Project the difference of each pair's states on the pair's direction."""
        scale = self.strength * self.dim**-0.5
        gates = [
            (hidden[j] - hidden[m]) @ direction.to(hidden[m].dtype) * scale + self.strength * bias
            for (m, j), direction, bias in zip(self.pairs, self.direction, self.bias, strict=True)
        ]
        gate = torch.stack(gates)
        return torch.zeros_like(gate), -gate

    def reselect(self, kept: Sequence[int | None]) -> PairwiseIntegrator:
        """Copy the pairs of the sources that stay; a joining source's pairs start at zero."""
        new = PairwiseIntegrator(len(kept), self.dim, strength=self.strength)
        index = {pair: number for number, pair in enumerate(self.pairs)}
        with torch.no_grad():
            for number, (m, j) in enumerate(new.pairs):
                old = (kept[m], kept[j])
                if None in old:
                    continue
                new.direction[number] = self.direction[index[old]]  # type: ignore[index]
                new.bias[number] = self.bias[index[old]]  # type: ignore[index]
        return new


class NoIntegrator(Integrator):
    """No mixing: each stream goes its own way, and stage 4 alone joins them. No parameters.

    What the other forms are measured against; with a LoRA of the target's own, the mean of the sources, fine-tuned.
    """

    name = "none"

    def pair_weights(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]]
    ) -> tuple[Float[Tensor, " pair *batch"], Float[Tensor, " pair *batch"]]:
        """Zeros."""
        zero = hidden[0].new_zeros(len(self.pairs), *hidden[0].shape[:-1])
        return zero, zero

    def mix(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]], *, without: int | None = None
    ) -> list[Float[Tensor, "*batch dim"]]:
        """Give the streams back as they are."""
        return list(hidden)

    def reselect(self, kept: Sequence[int | None]) -> NoIntegrator:
        """There is nothing to keep."""
        return NoIntegrator(len(kept), self.dim)


INTEGRATORS: tuple[str, ...] = (PaperIntegrator.name, PairwiseIntegrator.name, NoIntegrator.name)
"""Of streams that stay apart, one a source."""

MERGED = "merged"
"""No integrator, because there is one stream: the base with the mean of the sources' updates."""

FORMS: tuple[str, ...] = (*INTEGRATORS, MERGED)
"""How sources can become one model."""


def build_integrator(name: str, sources: int, dim: int, *, beta: float = 1.0, gamma: float = 1.0) -> Integrator:
    """Make one layer's integrator by name.

    Args:
        name: one of :data:`INTEGRATORS`.
        sources: number of streams.
        dim: hidden size.
        beta: the paper's transfer strength; the pairwise form takes it as its strength, ``none`` has no use for it.
        gamma: the paper's contrast strength; the other forms have no use for it.

    Raises:
        ConfigError: unknown name.
        ModelError: fewer than two sources.
    """
    if name == PaperIntegrator.name:
        return PaperIntegrator(sources, dim, beta=beta, gamma=gamma)
    if name == PairwiseIntegrator.name:
        return PairwiseIntegrator(sources, dim, strength=beta)
    if name == NoIntegrator.name:
        return NoIntegrator(sources, dim)
    raise ConfigError(f"unknown integrator {name!r}: choose one of {', '.join(FORMS)}")
