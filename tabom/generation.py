"""Text from a model, in Python: load, generate, read.

Axes: N response positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from tabom.backbones import Backbone, PretrainedBackbone
from tabom.backbones.checkpoint import checkpoint_dir
from tabom.backbones.families import defaults
from tabom.data.encoding import check_length, collate_prompts, decode_responses, encode_prompts
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import check_range, require
from tabom.samplers import Sampler
from tabom.types import Example, SpecialIds


@dataclass(frozen=True)
class Generation:
    """One decoded response.

    Attributes:
        text: Up to the first end-of-sequence token.
        response_ids: All N tokens.
        unmask_step: Denoising step that revealed each token, 0 first.
        unmask_entropy: Predictive entropy in nats when it was revealed; NaN where nothing had to be predicted.
    """

    text: str
    response_ids: list[int]
    unmask_step: list[int]
    unmask_entropy: list[float]


@dataclass(frozen=True)
class Model:
    """A backbone with its tokenizer; see :func:`load`.

    Attributes:
        backbone: In evaluation mode.
        tokenizer: Of the backbone.
        sampler: How to decode where nothing else is asked for; :func:`load` takes that of the checkpoint's family.
    """

    backbone: Backbone
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler = field(default_factory=Sampler)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        response_length: int = 128,
        sampler: Sampler | None = None,
        chat: bool | None = None,
        batch_size: int | None = None,
        on_finished: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Decode a response to each prompt.

        Args:
            prompts: Texts, each of at least one token.
            response_length: N, tokens of a response at most.
            sampler: How to decode; None is the model's.
            chat: Whether a prompt is a user's turn; None: where the tokenizer has a chat template.
            batch_size: Prompts that are decoded at a time; None: all.
            on_finished: Told how many responses a step has finished, if any.

        Returns:
            One response for each prompt, in their order. It depends on the prompt and the sampler alone, not on the
            other prompts.

        Raises:
            TabomError: If a prompt is empty, holds the mask token, or is too long for the model together with its
                response; if a number is below 1, or the sampler does not fit the response.
        """
        check_range("response_length", response_length, least=1)
        require(not isinstance(prompts, str), "prompts: expected several texts, got one; write [prompt]")
        if not prompts:
            return []
        sampler = sampler or self.sampler
        sampler.check_response_length(response_length)
        is_chat = self.tokenizer.chat_template is not None if chat is None else chat
        examples = [Example(f"prompt {number}", prompt, "") for number, prompt in enumerate(prompts)]
        prompt_ids = encode_prompts(self.tokenizer, prompts, [example.query_id for example in examples], chat=is_chat)
        for example, ids in zip(examples, prompt_ids, strict=True):
            check_length(example.query_id, len(ids) + response_length, self.backbone.max_length)
        special = SpecialIds.of(self.tokenizer)
        batch = collate_prompts(
            list(zip(examples, prompt_ids, strict=True)),
            pad_token_id=special.pad,
            mask_token_id=special.mask,
            response_length=response_length,
        )
        told = on_finished
        decoded = sampler.decode(
            self.backbone,
            batch.to(next(self.backbone.parameters()).device),
            num_slots=batch_size,
            eos_token_id=special.eos,
            on_finished=None if told is None else lambda rows, _: told(len(rows)),
        )
        texts = decode_responses(self.tokenizer, decoded.response_ids, chat=is_chat)
        record = (decoded.response_ids, decoded.unmask_step, decoded.unmask_entropy)
        return [Generation(*parts) for parts in zip(texts, *(part.tolist() for part in record), strict=True)]


def load(
    path: str,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str | torch.device = "cpu",
    attention: Literal["full", "causal"] | None = None,
    shift: bool | None = None,
    mask_token: str | None = None,
) -> Model:
    """Read a model with its tokenizer.

    Args:
        path: Directory or hub id: LLaDA, iLLaDA, Dream, A2D, a masked language model of transformers, or what tabom
            wrote.
        adapter: Directory or hub id of a trained adapter by the original checkpoint's names; None: the model itself.
        dtype: Of the weights; ``auto`` is as stored.
        device: Where the model goes.
        attention: What tokens see; this and the next two as :class:`tabom.backbones.PretrainedBackbone` has them. None
            is the family's; all three are needed for a decoder of another family.
        shift: Whether hidden state ``i`` predicts token ``i + 1``.
        mask_token: Mask token, by its text.

    Raises:
        TabomError: If there is no such checkpoint, it is incomplete, or its family is unknown.
    """
    tokenizer = load_tokenizer(path, mask_token)
    source = PretrainedBackbone(
        path,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        adapter=adapter,
        attention=attention,
        shift=shift,
        mask_token=mask_token,
    )
    backbone = source.load(tokenizer)
    found = defaults(checkpoint_dir(path, with_weights=False), tokenizer)
    return Model(backbone.eval().to(device), tokenizer, Sampler(**found.sampler))
