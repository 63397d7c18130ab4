"""AdapterFusion over LoRA sources: one stream, each layer's outputs under the adapters fused by attention.

Legend: ``source`` = an adapter, ``batch`` = text, ``token`` = position, ``dim`` = hidden size d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xcrossrec.models.adapters import Adapter, read_adapter
from xcrossrec.models.base import Base, load_base
from xcrossrec.models.encoder import read_adapters
from xcrossrec.models.files import take_over
from xcrossrec.models.xcross.encoder import INTEGRATOR_WEIGHTS, XCrossEncoder
from xcrossrec.models.xcross.integrator import Integrator
from xcrossrec.training.target import source_names
from xcrossrec.types import PairAttention
from xcrossrec_lab.methods.finetuning import fit_encoder
from xcrossrec_lab.task import Fitted, Task, check_settings

FUSION_RATE = 1e-3
"""AdamW's rate for the fusion layers."""


class FusionIntegrator(Integrator):
    """Attention over the adapters' outputs h_m, whose result is the next layer's input for all of them.

    ``q = W_q mean(h)``, ``k_m = W_k h_m``, ``a = softmax_m(q . k_m / sqrt(r))``,
    ``out = (I + W_up W_down) sum_m a_m h_m``: AdapterFusion with keys, queries and what the value adds to the
    identity of rank r. W_q and W_up start at zero, so at first the outputs' mean goes on. ``4 r d`` parameters.

    Args:
        sources: number of adapters.
        dim: hidden size d.
        rank: r.
    """

    def __init__(self, sources: int, dim: int, rank: int) -> None:
        super().__init__(sources, dim)
        del self.concat_weight  # fusion has weights of its own
        self.rank = rank
        self.query = nn.Parameter(torch.zeros(rank, dim))
        self.key = nn.Parameter(torch.randn(rank, dim) * dim**-0.5)
        self.value_down = nn.Parameter(torch.randn(rank, dim) * dim**-0.5)
        self.value_up = nn.Parameter(torch.zeros(dim, rank))

    def attention(self, hidden: Sequence[Float[Tensor, "*batch dim"]]) -> Float[Tensor, " source *batch"]:
        """Each source's share at each token; they sum to 1."""
        mean = torch.stack(list(hidden)).mean(0)
        query = nn.functional.linear(mean, self.query.to(mean.dtype))
        keys = [nn.functional.linear(state, self.key.to(state.dtype)) for state in hidden]
        logits = torch.stack([(query * key).sum(-1) for key in keys])
        share: Tensor = (logits.float() * self.rank**-0.5).softmax(0).to(mean.dtype)
        return share

    def pair_weights(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]]
    ) -> tuple[Float[Tensor, " pair *batch"], Float[Tensor, " pair *batch"]]:
        """The shares in the integrators' terms: every stream becomes the same weighted mean."""
        share = self.attention(hidden)
        contrast = torch.stack([-share[j] for _, j in self.pairs])
        return torch.zeros_like(contrast), contrast

    def mix(
        self, hidden: Sequence[Float[Tensor, "*batch dim"]], *, without: int | None = None
    ) -> list[Float[Tensor, "*batch dim"]]:
        """Give all streams the fused state."""
        if without is not None:
            return [self._value(state) for state in super().mix(hidden, without=without)]
        share = self.attention(hidden)
        fused = share[0].unsqueeze(-1) * hidden[0]
        for weight, state in zip(share[1:], hidden[1:], strict=True):
            fused = torch.addcmul(fused, weight.unsqueeze(-1), state)
        return [self._value(fused)] * self.sources

    def _value(self, state: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        down, up = self.value_down.to(state.dtype), self.value_up.to(state.dtype)
        return state + nn.functional.linear(nn.functional.linear(state, down), up)


class FusionEncoder(XCrossEncoder):
    """An encoder whose layers fuse the outputs of frozen adapters.

    Args:
        base: the base; taken over.
        adapters: at least two, of one base.
        rank: of keys, queries and values.
        max_tokens: longest text; None takes what the model can, at most 256.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``.
    """

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Adapter],
        *,
        rank: int = 8,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, adapters, max_tokens=max_tokens, pair_attention=pair_attention)
        self.rank = rank
        for layer in self.integrated_layers:
            layer.integrator = FusionIntegrator(len(self.sources), self.dim, rank)
        self.stream_weight.requires_grad_(False)  # the streams are one

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The fusion layers."""
        return {"learning_rate": super().parameter_groups()["learning_rate"]}

    def settings(self) -> dict[str, Any]:
        """What an integrated encoder has, and the rank."""
        return {**super().settings(), "rank": self.rank}

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        model = cls(
            base,
            read_adapters(folder, settings["sources"], base),
            rank=settings["rank"],
            max_tokens=settings["max_tokens"],
            pair_attention=settings["pair_attention"],
        )
        take_over(model.integration_state(), folder / INTEGRATOR_WEIGHTS)
        return model


def adapter_fusion(task: Task) -> Fitted:
    """Fuse the sources' frozen adapters layer by layer; ``rank`` is that of keys, queries and values (8)."""
    check_settings(task, {"rank"})
    folders = [source.adapter for source in task.sources]
    base = load_base(task.base)
    names = source_names(folders)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        encoder = FusionEncoder(
            base,
            [read_adapter(folder, base, name=name) for folder, name in zip(folders, names, strict=True)],
            rank=task.setting("rank", 8),
            pair_attention=task.attention,
        )
    fitted = fit_encoder(task, encoder, task.setting("learning_rate", FUSION_RATE), sources=folders)
    return replace(fitted, report={**fitted.report, "rank": encoder.rank})
