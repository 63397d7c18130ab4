"""Stage 4, and all stages together: n domain-specific language models over one base, integrated layer by layer.

Legend: ``source`` = stream of one domain's adapter, ``batch`` = text, ``token`` = position, ``dim`` = hidden size.

Source: X-Cross (SIGIR 2025, arXiv 2504.20859); stage 4: ``h = sum_m w_m h'_m`` after the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xcrossrec.config import Integration
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.adapters import Adapter
from xcrossrec.models.base import Base, encoder_layers
from xcrossrec.models.encoder import IntegratedSettings, TitleEncoder, check_sources, read_adapters
from xcrossrec.models.fast.door import FastPass
from xcrossrec.models.files import save_tensors, take_over
from xcrossrec.models.pair_attention import attention_arguments, repeat_rows
from xcrossrec.models.xcross.integrator import IntegratedLayer, Integrator
from xcrossrec.models.xcross.streams import stack_adapters
from xcrossrec.types import PairAttention

INTEGRATOR_WEIGHTS = "integrators.safetensors"


class XCrossEncoder(TitleEncoder):
    """Several language models over one base, each refined with the others after every layer, or the last ones.

    The streams are the leading part of the batch axis: each base weight multiplies all of them at once. Only the
    integrators and the stream weights train; base and adapters are frozen.

    Args:
        base, max_tokens, pair_attention: as of :class:`xcrossrec.models.encoder.TitleEncoder`.
        adapters: at least two, of one base, with different names.
        top_layers: number of last layers after which the streams are integrated; below, they are independent. None
            integrates after all layers, as in the paper.

    Raises:
        ModelError: fewer than two adapters, or two of one name.
        ConfigError: ``top_layers`` is not from 1 to the number of layers.
    """

    settings_schema = IntegratedSettings

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Adapter],
        *,
        top_layers: int | None = None,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, max_tokens, pair_attention)
        self.sources = check_sources(adapters)
        self.integration = Integration("xcross", top_layers=top_layers)
        self.adapters = tuple(adapters)
        self.backbone = base.backbone
        self._first_integrated = _first_of_last(top_layers, len(encoder_layers(base.backbone)))
        stack_adapters(self.backbone, [adapter.factors for adapter in adapters])
        self.backbone.requires_grad_(False)
        self._integrate()
        self.fast = FastPass(self, self.integrated_layers)
        self.stream_weight = nn.Parameter(torch.full((len(self.sources),), 1 / len(self.sources)))

    def _integrate(self) -> None:
        """Put an integrator behind each layer from the first integrated one on."""
        layers = encoder_layers(self.backbone)
        for number in range(self._first_integrated, len(layers)):
            integrator = Integrator(len(self.sources), self.dim)
            conv = _first_convolution(self.backbone)
            if number == 0 and conv is not None:  # DeBERTa-v2 xlarge: the first layer's output is the convolution's
                self.backbone.encoder.conv = IntegratedLayer(conv, integrator)
            else:
                layers[number] = IntegratedLayer(layers[number], integrator)

    @property
    def integrated_layers(self) -> list[IntegratedLayer]:
        """The layers with their integrators, first to last."""
        found = [_first_convolution(self.backbone), *encoder_layers(self.backbone)]
        return [layer for layer in found if isinstance(layer, IntegratedLayer)]

    @property
    def layer_numbers(self) -> list[int]:
        """Which of the base's layers are integrated; 1 is the lowest."""
        return [self._first_integrated + place + 1 for place in range(len(self.integrated_layers))]

    @property
    def integrators(self) -> list[Integrator]:
        """The integrators, first layer to last."""
        return [layer.integrator for layer in self.integrated_layers]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The integrators, and the stream weights, which belong to the head."""
        integrators = [p for integrator in self.integrators for p in integrator.parameters()]
        return {"learning_rate": integrators, "head_learning_rate": [self.stream_weight]}

    def encode_streams(
        self, input_ids: Int[Tensor, "batch token"], attention_mask: Any, **attention: Any
    ) -> Float[Tensor, "source batch token dim"]:
        """Stages 1 to 3: run all streams and give each one's refined last states. The arguments are the backbone's
        (:func:`xcrossrec.models.pair_attention.attention_arguments`)."""
        n = len(self.sources)
        arguments = repeat_rows({"attention_mask": attention_mask, **attention}, n)
        hidden = self.backbone(input_ids=input_ids.repeat(n, 1), **arguments)
        states: Tensor = hidden.last_hidden_state
        return states.view(n, *input_ids.shape, self.dim)

    def _by_layers(self, features: Mapping[str, Any]) -> Sequence[Float[Tensor, "batch token dim"]]:
        attention = attention_arguments(self.backbone, features, self.pair_attention)
        return self.encode_streams(features["input_ids"], **attention).unbind(0)

    def _combine(self, streams: Sequence[Float[Tensor, "*batch dim"]]) -> Float[Tensor, "*batch dim"]:
        """Stage 4: the streams' weighted sum."""
        total = streams[0] * self.stream_weight[0]
        for state, weight in zip(streams[1:], self.stream_weight[1:], strict=True):
            total = total + weight * state
        return total

    # ---- parts switched off, to measure their effects

    @contextmanager
    def _layers_with(self, layer: int | None = None, **settings: Any) -> Iterator[None]:
        """Change settings of all integrated layers, or of one, within the block."""
        layers = self.integrated_layers if layer is None else [self.integrated_layers[layer]]
        for each in layers:
            vars(each).update(settings)
        try:
            yield
        finally:
            for each in layers:
                for name in settings:
                    del vars(each)[name]

    def silenced(self, source: int, layer: int | None = None) -> AbstractContextManager[None]:
        """Within the block ``source`` gives nothing to the others, at one integrated layer or (None) at any."""
        return self._layers_with(layer, without=source)

    def integration_off(self) -> AbstractContextManager[None]:
        """Within the block streams are not mixed: the output is the weighted sum of the source models' states."""
        return self._layers_with(enabled=False)

    @contextmanager
    def left_out(self, source: int) -> Iterator[None]:
        """Within the block ``source`` is left out of the final sum (stage 4)."""
        weight = self.stream_weight.detach()
        before = weight[source].clone()
        weight[source] = 0.0
        try:
            yield
        finally:
            weight[source] = before

    @contextmanager
    def observing(self) -> Iterator[list[Tensor]]:
        """Collect the mixing coefficients (source, source, batch, token) of the layers, pass after pass."""
        records: list[Tensor] = []
        with self._layers_with(observed=records):
            yield records

    # ---- on disk

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the files of every encoder, and the integrators."""
        super().save(output_path)
        save_tensors(self.integration_state(), Path(output_path) / INTEGRATOR_WEIGHTS)

    def integration_state(self) -> dict[str, Tensor]:
        """The trained tensors: per integrated layer, counted from 0, the integrator's, and the stream weights."""
        state = {
            f"layers.{number}.{key}": value
            for number, integrator in enumerate(self.integrators)
            for key, value in integrator.state_dict().items()
        }
        return {**state, "stream_weight": self.stream_weight}

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        model = cls(
            base,
            read_adapters(folder, settings["sources"], base),
            top_layers=settings["integration"]["top_layers"],
            max_tokens=settings["max_tokens"],
            pair_attention=settings["pair_attention"],
        )
        take_over(model.integration_state(), folder / INTEGRATOR_WEIGHTS)
        return model


def _first_convolution(backbone: Any) -> nn.Module | None:
    """DeBERTa-v2 xlarge's convolution, whose output is the first layer's."""
    return getattr(getattr(backbone, "encoder", None), "conv", None)


def _first_of_last(top_layers: int | None, layers: int) -> int:
    """The number of the first of so many last layers, or of all."""
    if top_layers is None:
        return 0
    if not 1 <= top_layers <= layers:
        raise ConfigError(
            f"top_layers is {top_layers!r}: expected a whole number from 1 to {layers}, the base's layers"
        )
    return layers - top_layers
