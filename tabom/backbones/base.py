"""The contract of a backbone.

Axes: B rows, L positions, D hidden size, V vocabulary, K asked-for positions.
"""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tabom.errors import require
from tabom.functional.token_statistics import token_statistics
from tabom.types import CorruptedBatch, TokenStatistics


class Backbone(nn.Module, ABC):
    """A bidirectional transformer with a language model head.

    Subclasses own every quirk of a checkpoint family, such as logits that are shifted by one: entry ``i`` of the hidden
    states always predicts token ``i``.
    """

    @property
    @abstractmethod
    def mask_token_id(self) -> int:
        """Id of the absorbing mask token."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of rows of the head, at least the size of the tokenizer."""

    @abstractmethod
    def forward(self, input_ids: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Hidden states; entry ``i`` predicts token ``i``."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*K D"]) -> Float[Tensor, "*K V"]:
        """Apply the head to the hidden states of asked-for positions."""

    @abstractmethod
    def save_pretrained(self, path: Path) -> None:
        """Write configuration and weights (safetensors), readable by ``PretrainedBackbone``."""

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes, dtypes and values of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ``TabomError`` if the tokenizer has another mask token or more tokens than the head."""
        require(
            tokenizer.mask_token_id == self.mask_token_id,
            f"tokenizer: expected mask token id {self.mask_token_id}, which the model has, "
            f"got {tokenizer.mask_token_id}",
        )
        require(
            len(tokenizer) <= self.vocab_size,
            f"tokenizer: expected at most {self.vocab_size} tokens, which the model has, got {len(tokenizer)}",
        )


class BackboneSource(ABC):
    """Where a backbone comes from: stored in a config, cheap to make; weights are made or read by :meth:`load`.

    Attributes:
        is_pretrained: Whether there is something to forget.
    """

    is_pretrained: bool

    @abstractmethod
    def load(self, tokenizer: PreTrainedTokenizerBase) -> Backbone:
        """Make or read the backbone, in training mode.

        Raises:
            TabomError: If the tokenizer does not fit, or the checkpoint is missing or incomplete.
        """


def target_statistics(backbone: Backbone, corrupted: CorruptedBatch) -> TokenStatistics:
    """Negative log-likelihood and entropy at the targets, (B, L); 0 elsewhere. Only targets meet the vocabulary."""
    hidden = backbone(corrupted.noisy_ids, corrupted.attention_mask)[corrupted.is_target]
    statistics = token_statistics(backbone.logits(hidden), corrupted.clean_ids[corrupted.is_target])
    return TokenStatistics(*(_scatter(values, corrupted.is_target) for values in statistics))


def _scatter(values: Tensor, where: Tensor) -> Tensor:
    canvas = values.new_zeros(where.shape)
    return canvas.masked_scatter(where, values)
