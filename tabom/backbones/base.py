"""The contract of a backbone.

Axes: B rows, L positions, D hidden size, V vocabulary, K asked-for positions.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tabom.errors import require
from tabom.functional.token_statistics import token_statistics
from tabom.types import CorruptedBatch, SpecialIds, TokenStatistics


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

    @abstractmethod
    def forward(self, input_ids: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Hidden states; entry ``i`` predicts token ``i``."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*K D"]) -> Float[Tensor, "*K V"]:
        """Apply the head to the hidden states of asked-for positions."""


class Backbone(Denoiser):
    """A bidirectional transformer with a language model head, as it is trained, saved and handed on."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of rows of the head, at least the size of the tokenizer."""

    @property
    @abstractmethod
    def special_ids(self) -> dict[str, int]:
        """Ids of ``mask``, ``pad`` (padding) and ``eos`` (end of sequence), as far as the model's config has them."""

    @property
    def has_adapter(self) -> bool:
        """Whether only an adapter is trained."""
        return False

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


class Snapshot(Denoiser):
    """A backbone as it was at some step: keeps copies of what is trained and shares the rest; never differentiated.

    Args:
        backbone: Lends its architecture and what is not trained.
        weights: The trained weights by name; None copies the present ones.
    """

    def __init__(self, backbone: Backbone, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._backbone = [backbone]  # in a list: not a part of this module
        trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        values = trained if weights is None else weights
        self.weights = {name: values[name].detach().to(p.device, copy=True) for name, p in trained.items()}

    @property
    def mask_token_id(self) -> int:
        """The backbone's."""
        return self._backbone[0].mask_token_id

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states at that step."""
        with self._restored() as backbone:
            return backbone(input_ids, attention_mask)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head of that step."""
        with self._restored() as backbone:
            return backbone.logits(hidden)

    @contextmanager
    def _restored(self) -> Iterator[Backbone]:
        """The backbone with the earlier weights, without dropout, for a while."""
        (backbone,) = self._backbone
        parameters = dict(backbone.named_parameters())
        present = {name: parameters[name].data for name in self.weights}
        were_training = [module for module in backbone.modules() if module.training]
        # a checkpoint is read before the model moves to its device
        self.weights = {name: values.to(present[name].device) for name, values in self.weights.items()}
        backbone.eval()
        torch.clear_autocast_cache()  # it holds casts by parameter, whatever the parameter's values are by now
        try:
            for name, values in self.weights.items():
                parameters[name].data = values
            yield backbone
        finally:
            for name, values in present.items():
                parameters[name].data = values
            for module in were_training:
                module.training = True
            torch.clear_autocast_cache()


class TargetPass:
    """One forward pass over a corrupted batch, read at its targets. Only targets meet the vocabulary.

    Args:
        denoiser: Whose predictions.
        corrupted: What it sees; results are (B, L), 0 where nothing is asked for.
    """

    def __init__(self, denoiser: Denoiser, corrupted: CorruptedBatch) -> None:
        self._corrupted = corrupted
        hidden = denoiser(corrupted.noisy_ids, corrupted.attention_mask)
        self.logits = denoiser.logits(hidden[corrupted.is_target])

    def statistics(self, sampled_ids: Tensor | None = None, *, entropy_temperature: float = 1.0) -> TokenStatistics:
        """Statistics of the clean tokens, and the negative log-likelihood of other tokens (B, L), if there are any."""
        where = self._corrupted.is_target
        clean = token_statistics(self.logits, self._corrupted.clean_ids[where], entropy_temperature=entropy_temperature)
        result = TokenStatistics(*(_scatter(values, where) for values in clean if values is not None))
        if sampled_ids is None:
            return result
        return result._replace(sampled_nll=_scatter(token_statistics(self.logits, sampled_ids[where]).nll, where))

    @torch.no_grad()
    def sample(self, temperature: float, generator: torch.Generator) -> Tensor:
        """Draw a token at every target; the likeliest one at temperature 0."""
        if temperature == 0:
            tokens = self.logits.argmax(-1)
        else:
            probs = (self.logits.double() / temperature).softmax(-1)
            tokens = torch.multinomial(probs, 1, generator=generator).squeeze(1) if len(probs) else probs.long()[:, 0]
        return _scatter(tokens, self._corrupted.is_target)


def target_statistics(backbone: Denoiser, corrupted: CorruptedBatch) -> TokenStatistics:
    """Statistics of one forward pass at the targets, (B, L); 0 elsewhere."""
    return TargetPass(backbone, corrupted).statistics()


def _scatter(values: Tensor, where: Tensor) -> Tensor:
    canvas = values.new_zeros(where.shape)
    return canvas.masked_scatter(where, values)
