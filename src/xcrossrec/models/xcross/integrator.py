"""Stages 2 and 3: after an encoder layer, each stream is refined with the others by signed weights per token.

Legend: ``source`` = stream of one domain's adapter, ``pair`` = ordered pair of two different sources,
``batch`` = text, ``token`` = position, ``dim`` = hidden size d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xcrossrec.exceptions import ModelError


def mix_sources(
    hidden: Sequence[Float[Tensor, "*batch dim"]], coefficient: Float[Tensor, "source source *batch"]
) -> list[Float[Tensor, "*batch dim"]]:
    """Give each stream a weighted sum of all streams: ``out[m] = sum_j coefficient[m, j] * hidden[j]``; coefficients
    are signed, not normalised."""
    mixed = []
    for row in coefficient:
        total = row[0].unsqueeze(-1) * hidden[0]
        for weight, state in zip(row[1:], hidden[1:], strict=True):
            total = torch.addcmul(total, weight.unsqueeze(-1), state)
        mixed.append(total)
    return mixed


class Integrator(nn.Module):
    """One layer's integrator: one matrix reads all streams and gives two signed scalars per ordered pair and token.

    Stage 2: ``z = W_concat [h_1; ...; h_n]``, no bias, no softmax. Stage 3:
    ``h'_m = h_m + sum_j (z_jm h_j + z'_mj (h_m - h_j))``.
    ``2 n (n - 1) * n d`` parameters; they start at zero, where streams stay as they are. The paper's strengths of both
    terms, beta and gamma, are 1: its values are not known to us, and they act like a learning rate.

    Args:
        sources: number of streams n.
        dim: hidden size d.

    Raises:
        ModelError: fewer than two sources.

    Source:
        X-Cross (SIGIR 2025, arXiv 2504.20859), stages 2 and 3.
    """

    def __init__(self, sources: int, dim: int) -> None:
        super().__init__()
        if sources < 2:
            raise ModelError(f"mixing needs at least 2 sources, got {sources}: load another adapter")
        self.sources = sources
        self.dim = dim
        # pairs[p] = (receiver m, giver j)
        self.pairs = [(m, j) for m in range(sources) for j in range(sources) if j != m]
        self.concat_weight = nn.Parameter(torch.zeros(2 * len(self.pairs), sources * dim))

    def pair_weights(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]]
    ) -> tuple[Float[Tensor, " pair *batch"], Float[Tensor, " pair *batch"]]:
        """Stage 2: apply ``W_concat``; its first half gives z (transfer, the factor of ``h_j``), the second z'
        (contrast, that of ``h_m - h_j``)."""
        by_source = torch.split(self.concat_weight.to(hidden[0].dtype), self.dim, dim=1)
        z = nn.functional.linear(hidden[0], by_source[0])
        for state, weight in zip(hidden[1:], by_source[1:], strict=True):
            z = z + nn.functional.linear(state, weight)
        transfer, contrast = z.movedim(-1, 0).chunk(2)
        return transfer, contrast

    def coefficients(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]], *, without: int | None = None
    ) -> Float[Tensor, "source source *batch"]:
        """Collect the pair weights into one matrix per token: the identity plus what integration adds. The source
        ``without`` gives nothing to the others (for ablation)."""
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

    def mix(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]], *, without: int | None = None
    ) -> list[Float[Tensor, "*batch dim"]]:
        """Stage 3: refine each stream with the others; with all parameters zero ``hidden`` stays as it is."""
        return mix_sources(hidden, self.coefficients(hidden, without=without))


class IntegratedLayer(nn.Module):
    """One layer of the backbone followed by its integrator.

    Args:
        layer: the backbone's module whose output is the layer's output.
        integrator: mixes the streams of that output.

    Attributes:
        without: a source that gives nothing to the others; None for none.
        enabled: whether streams are mixed.
        observed: a list that collects the mixing coefficients (source, source, batch, token) of every pass.
    """

    without: int | None = None
    enabled = True
    observed: list[Tensor] | None = None

    def __init__(self, layer: nn.Module, integrator: Integrator) -> None:
        super().__init__()
        self.layer = layer
        self.integrator = integrator

    def __getattr__(self, name: str) -> Any:
        """Attributes that models read from their layers (ModernBERT's attention type) are the layer's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, then mix its hidden states; its other outputs are passed on."""
        output = self.layer(*args, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        streams = hidden.view(self.integrator.sources, -1, *hidden.shape[1:]).unbind(0)
        mixed = torch.cat(list(self.mix(streams)))
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    def mix(self, hidden: Sequence[Float[Tensor, "*batch dim"]]) -> Sequence[Float[Tensor, "*batch dim"]]:
        """Mix streams given one by one, subject to the ablation settings."""
        if not self.enabled:
            return hidden
        if self.observed is not None:
            self.observed.append(self.integrator.coefficients(hidden).detach())
        return self.integrator.mix(hidden, without=self.without)
