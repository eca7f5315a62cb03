"""The contract of a backbone.

Axes: B rows, L positions, D hidden size, V vocabulary, K asked-for positions, P positions that are computed.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tabom.backbones.cache import CanvasCache, KeysAndValues, SlotCache
from tabom.errors import TabomError, require
from tabom.functional.head import Head
from tabom.functional.masking import block_index
from tabom.types import SpecialIds


class Denoiser(nn.Module, ABC):
    """Hidden states, and a head for the asked-for positions.

    Subclasses own every quirk of a checkpoint family, such as logits that are shifted by one: entry ``i`` of the hidden
    states always predicts token ``i``. What padding holds, and on which side it stands, never changes a real token's
    hidden state.
    """

    @property
    @abstractmethod
    def mask_token_id(self) -> int:
        """Id of the absorbing mask token."""

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """Rows of the head that no token of the tokenizer has; never chosen, as the mask token is not."""
        return ()

    @property
    def block_size(self) -> int | None:
        """Tokens in a block, if the attention is block-causal: a token sees its own block and those before it.

        Blocks are counted from a row's first real token, so padding moves none. None where every token sees every
        other.
        """
        return None

    def blocks(self, attention_mask: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"] | None:
        """Number of the block that each token belongs to; None where every token sees every other."""
        return None if self.block_size is None else block_index(attention_mask, block_length=self.block_size)

    @abstractmethod
    def forward(self, input_ids: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Hidden states; entry ``i`` predicts token ``i``."""

    def denoise(
        self,
        noisy_ids: Int[Tensor, "B L"],
        clean_ids: Int[Tensor, "B L"],
        attention_mask: Bool[Tensor, "B L"],
        is_target: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of a sequence that is learnt: entry ``i`` predicts token ``i`` as in decoding.

        With a block-causal backbone each entry sees its own block of ``noisy_ids`` and the earlier blocks of
        ``clean_ids``, for all blocks at once. With full attention it sees ``noisy_ids`` alone.

        Args:
            noisy_ids: With masks in place of tokens.
            clean_ids: Without.
            attention_mask: False on padding.
            is_target: Entries that are read; all others may hold anything. None for all.
        """
        del clean_ids, is_target
        return self(noisy_ids, attention_mask)

    @property
    @abstractmethod
    def head(self) -> Head:
        """What turns hidden states into logits; its tensors are read after a forward pass."""

    def logits(self, hidden: Float[Tensor, "*K D"]) -> Float[Tensor, "*K V"]:
        """Apply the head to the hidden states of asked-for positions."""
        return self.head.logits(hidden)

    def forward_with_cache(
        self, input_ids: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], CanvasCache]:
        """What ``forward`` gives, and the keys and values that came up on the way.

        Raises:
            TabomError: If the backbone cannot keep them.
        """
        del input_ids, attention_mask
        raise self._no_cache()

    def forward_from_cache(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Bool[Tensor, "B L"],
        positions: Int[Tensor, "B P"],
        cache: KeysAndValues,
    ) -> Float[Tensor, "B P D"]:
        """Hidden states that predict the tokens at ``positions``, computed for these alone.

        They attend to what they see in ``forward``; keys and values elsewhere come from ``cache``, which is left as it
        is. Exact if the cache is of the same input, or, in a block-causal model, of the same input in the blocks before
        those of ``positions``, the rest of which are computed; else an approximation.

        Args:
            input_ids: The whole canvas; only the ids that are computed are read.
            attention_mask: Of the whole canvas.
            positions: Columns of the canvas, ascending in each row; a row with fewer repeats its last one.
            cache: From ``forward_with_cache`` of this backbone, of as many rows and columns. Or rows of ``slot_cache``,
                of canvases without padding on the left: what is computed is put into these.

        Raises:
            TabomError: If the backbone cannot keep keys and values.
        """
        del input_ids, attention_mask, positions, cache
        raise self._no_cache()

    def slot_cache(self, num_slots: int, length: int) -> SlotCache:
        """Room for the keys and values of rows of at most ``length`` tokens, still empty.

        Raises:
            TabomError: If the backbone cannot keep them.
        """
        del num_slots, length
        raise self._no_cache()

    def _no_cache(self) -> TabomError:
        return TabomError(f"cache: expected a backbone that can keep keys and values, got {type(self).__name__}")


class Backbone(Denoiser):
    """A bidirectional transformer with a language model head, as it is trained, saved and handed on."""

    _unused_ids: tuple[int, ...] = ()
    _mask_token_id: int | None = None

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """Known once :meth:`check_tokenizer` has seen the tokenizer."""
        return self._unused_ids

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of rows of the head, at least the size of the tokenizer."""

    @property
    @abstractmethod
    def special_ids(self) -> dict[str, int]:
        """Ids of ``mask``, ``pad`` (padding) and ``eos`` (end of sequence), as far as the model's config has them."""

    @property
    def max_length(self) -> int | None:
        """Most tokens of prompt and response together that the model has positions for; None if it has no limit."""
        return None

    @property
    def has_adapter(self) -> bool:
        """Whether only an adapter is trained."""
        return False

    @property
    def adapter_settings(self) -> dict[str, Any]:
        """What an adapter computes with its weights, as JSON can hold it; empty without one."""
        return {}

    @abstractmethod
    def save_pretrained(self, path: Path) -> None:
        """Write configuration and weights in the layout they came in, readable by ``PretrainedBackbone``.

        An adapter is added to the weights.
        """

    def reference(self) -> Denoiser:
        """The frozen model that training started from: called at its start, a copy of the weights."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    @torch.no_grad()
    def interpolate(self, reference: Denoiser, weight: float) -> None:
        """Average the weights with those of ``reference``, a copy from :meth:`reference`, in place.

        Args:
            reference: Weights at 0.
            weight: From 0 to 1, at which the present weights stay.
        """
        start = dict(reference.named_parameters())
        for name, parameter in self.named_parameters():
            mixed = torch.lerp(start[name].to(parameter.device).float(), parameter.float(), weight)
            parameter.copy_(mixed)

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes, dtypes and values of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ``TabomError`` if the tokenizer has other special tokens, or more tokens than the head."""
        for kind, got in SpecialIds.of(tokenizer)._asdict().items():
            expected = self.special_ids.get(kind, got)
            require(got == expected, f"tokenizer: expected {kind} token id {expected}, which the model has, got {got}")
        used = set(tokenizer.get_vocab().values())
        num_tokens = max(used) + 1
        require(
            num_tokens <= self.vocab_size,
            f"tokenizer: expected at most {self.vocab_size} tokens, which the model has, got {num_tokens}",
        )
        self._unused_ids = tuple(sorted(set(range(self.vocab_size)) - used))
        self._mask_token_id = SpecialIds.of(tokenizer).mask


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


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every part is in its former mode."""
    were_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in were_training:
            part.training = True
