"""Keeps the hidden states of a causal model while a masked diffusion model is made of it."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tabom.backbones.base import Backbone, Denoiser
from tabom.backbones.decoder import DecoderBackbone
from tabom.backbones.layers import layer_states, layers_of
from tabom.errors import check_range, require
from tabom.functional.alignment import layer_distance
from tabom.types import CorruptedBatch


@dataclass(frozen=True)
class Alignment:
    r"""Distance of all layers' hidden states from those of the frozen causal model, added to the loss of any objective.

    .. math:: L_{total} = L + \lambda \frac{1}{H |W|} \sum_h \sum_{i \in W} (1 - \cos(s^h_i(y_t), r^h_i(y)))

    The causal model r is what the training started from, with causal attention, over the clean rows y; the model s is
    read in the pass that its loss needs. W are all tokens of the rows, prompts included. A training needs a second
    network in memory and one more forward pass in every step.

    Attributes:
        weight: lambda; 0 leaves it out.

    Raises:
        TabomError: If the weight is below 0.

    References:
        Peng et al. 2026 (Repr-Align), arXiv:2605.06885; which positions count there was not known to us.
    """

    weight: float = 0.0

    def __post_init__(self) -> None:
        check_range("alignment.weight", self.weight, least=0)

    def check(self, backbone: Backbone, base: Denoiser | None) -> None:
        """Raise ``TabomError`` if there is no causal model to compare with."""
        if self.weight > 0:
            require(
                isinstance(base, DecoderBackbone),
                "alignment.weight: expected 0 unless all weights of a pretrained decoder are trained, which a copy of "
                f"it is compared with, got {self.weight:g} and {type(backbone).__name__}"
                f"{' with an adapter' if backbone.has_adapter else ''}",
            )

    @contextmanager
    def watching(self, backbone: Backbone) -> Generator[list[Tensor]]:
        """Collect the hidden states of the model's own layers in a pass; none where the weight is 0."""
        if self.weight == 0:
            yield []
            return
        with layer_states(backbone) as states:
            yield states

    def terms(
        self, loss: Float[Tensor, ""], corrupted: CorruptedBatch, states: list[Tensor], base: DecoderBackbone
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss with the distance, and the distance.

        Args:
            loss: Of the objective.
            corrupted: What the model saw.
            states: Of its layers in that pass, the last ones if there are those of other passes as well. Columns behind
                those of the rows are left out: noisy copies of a block-causal model.
            base: The model that training started from; its blocks are one token each for the time of a pass, which is
                causal attention.
        """
        own_size, base.block_size = base.block_size, 1
        try:
            with torch.no_grad(), layer_states(base) as reference:
                base(corrupted.clean_ids, corrupted.attention_mask)
        finally:
            base.block_size = own_size
        num_layers = sum(1 for _ in layers_of(base))
        own = states[-num_layers:]
        width = min(own[0].shape[1], corrupted.clean_ids.shape[1])
        distance = layer_distance(
            [state[:, :width] for state in own],
            [state[:, :width] for state in reference],
            corrupted.attention_mask[:, :width],
        )
        return {"loss": loss + self.weight * distance, "alignment": distance}
