"""A backbone as a model to compare with: at present, or at an earlier step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from tabom.backbones.base import Backbone, Denoiser, without_dropout
from tabom.backbones.cache import KeysAndValues, SlotCache
from tabom.functional.head import Head


class Present(Denoiser):
    """A backbone as it is, without dropout: shares all weights, and is never differentiated.

    Args:
        backbone: Lends architecture and weights.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = [backbone]  # in a list: not a part of this module

    @property
    def mask_token_id(self) -> int:
        """The backbone's."""
        return self._backbone[0].mask_token_id

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """The backbone's."""
        return self._backbone[0].unused_ids

    @property
    def block_size(self) -> int | None:
        """The backbone's."""
        return self._backbone[0].block_size

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states."""
        with self._restored() as backbone:
            return backbone(input_ids, attention_mask)

    @torch.no_grad()
    def denoise(
        self, noisy_ids: Tensor, clean_ids: Tensor, attention_mask: Tensor, is_target: Tensor | None = None
    ) -> Tensor:
        """Hidden states."""
        with self._restored() as backbone:
            return backbone.denoise(noisy_ids, clean_ids, attention_mask, is_target)

    @torch.no_grad()
    def forward_from_cache(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: KeysAndValues
    ) -> Tensor:
        """Hidden states."""
        with self._restored() as backbone:
            return backbone.forward_from_cache(input_ids, attention_mask, positions, cache)

    def slot_cache(self, num_slots: int, length: int) -> SlotCache:
        """The backbone's."""
        with without_dropout(self._backbone[0]):
            return self._backbone[0].slot_cache(num_slots, length)

    @property
    def head(self) -> Head:
        """The backbone's, without a gradient."""
        with self._restored() as backbone:
            weight, bias, softcap = backbone.head
            return Head(weight.detach(), None if bias is None else bias.detach(), softcap)

    @contextmanager
    def _restored(self) -> Iterator[Backbone]:
        """The backbone for a while; a cast that autocast made meanwhile has no gradient, and is not kept."""
        (backbone,) = self._backbone
        try:
            with without_dropout(backbone):
                yield backbone
        finally:
            torch.clear_autocast_cache()


class Snapshot(Present):
    """A backbone as it was at some step: keeps copies of what is trained and shares the rest.

    Args:
        backbone: Lends its architecture and what is not trained.
        weights: The trained weights by name; None copies the present ones.
    """

    def __init__(self, backbone: Backbone, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(backbone)
        trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        values = trained if weights is None else weights
        self.weights = {name: values[name].detach().to(p.device, copy=True) for name, p in trained.items()}

    @contextmanager
    def _restored(self) -> Iterator[Backbone]:
        """The backbone with the earlier weights for a while."""
        (backbone,) = self._backbone
        parameters = dict(backbone.named_parameters())
        present = {name: parameters[name].data for name in self.weights}
        # a checkpoint is read before the model moves to its device
        self.weights = {name: values.to(present[name].device) for name, values in self.weights.items()}
        torch.clear_autocast_cache()  # it holds casts by parameter, whatever the parameter's values are by now
        try:
            for name, values in self.weights.items():
                parameters[name].data = values
            with super()._restored():
                yield backbone
        finally:
            for name, values in present.items():
                parameters[name].data = values
            torch.clear_autocast_cache()
