"""Text from a model, in Python: load, generate, read.

Axes: N response positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from tabom.backbones import Backbone, PretrainedBackbone
from tabom.backbones.checkpoint import checkpoint_dir
from tabom.backbones.families import Defaults, defaults
from tabom.backbones.lora import base_and_adapter
from tabom.data.encoding import Conversation, check_length, collate_prompts, decode_responses, encode_prompts
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import check_range, require
from tabom.samplers import Sampler
from tabom.samplers.trace import Canvas
from tabom.types import Example, SpecialIds


@dataclass(frozen=True)
class Generation:
    """One decoded response.

    Attributes:
        text: Up to the first end of a turn or of the sequence.
        response_ids: All N tokens.
        unmask_step: Denoising step that revealed each token, 0 first.
        unmask_entropy: Predictive entropy in nats when it was revealed; NaN where nothing had to be predicted.
    """

    text: str
    response_ids: list[int]
    unmask_step: list[int]
    unmask_entropy: list[float]

    @property
    def num_steps(self) -> int:
        """Denoising steps; what is filled in behind the end of sequence takes none."""
        steps = zip(self.unmask_step, self.unmask_entropy, strict=True)
        return 1 + max(step for step, entropy in steps if not isnan(entropy))


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
        prompts: Sequence[str | Conversation],
        *,
        response_length: int = 128,
        sampler: Sampler | None = None,
        chat: bool | None = None,
        batch_size: int | None = None,
        names: Sequence[str] | None = None,
        on_finished: Callable[[int], None] | None = None,
        on_step: Callable[[Canvas], None] | None = None,
    ) -> list[Generation]:
        """Decode a response to each prompt.

        Args:
            prompts: Texts of at least one token each, or conversations: lists of turns with ``role`` and ``content``,
                of which the last one is the user's.
            response_length: N, tokens of a response at most.
            sampler: How to decode; None is the model's.
            chat: Whether a text is a user's turn; None: where the tokenizer has a chat template.
            batch_size: Prompts that are decoded at a time; None: all.
            names: Of the prompts, in messages; with the seed they fix all draws. None: ``prompt 0`` and so on.
            on_finished: Told how many responses a step has finished, if any.
            on_step: Told after every step how far the responses have come.

        Returns:
            One response for each prompt, in their order. It depends on the prompt, its name and the sampler alone, not
            on the other prompts.

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
        names = names or [f"prompt {number}" for number in range(len(prompts))]
        prompt_ids = encode_prompts(self.tokenizer, prompts, names, chat=is_chat)
        examples = [Example(name, str(prompt), "") for name, prompt in zip(names, prompts, strict=True)]
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
            on_step=on_step,
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
    attention: Literal["full", "causal", "block_causal"] | None = None,
    block_size: int | None = None,
    shift: bool | None = None,
    mask_token: str | None = None,
) -> Model:
    """Read a model with its tokenizer.

    Args:
        path: Directory or hub id: LLaDA, iLLaDA, Dream, A2D, SDAR, a masked language model of transformers, or what
            tabom wrote; a trained adapter that says what its base is.
        adapter: Directory or hub id of a trained adapter by the original checkpoint's names; None: the model itself.
        dtype: Of the weights; ``auto`` is as stored.
        device: Where the model goes.
        attention: What tokens see; this and the next three as :class:`tabom.backbones.PretrainedBackbone` has them.
            None is the family's; attention, ``shift`` and ``mask_token`` are needed for a decoder of another family.
        block_size: Tokens in a block, with ``block_causal``.
        shift: Whether hidden state ``i`` predicts token ``i + 1``.
        mask_token: Mask token, by its text.

    Raises:
        TabomError: If there is no such checkpoint, it is incomplete, or its family is unknown.
    """
    base, own = base_and_adapter(path)
    source = PretrainedBackbone(
        base,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        adapter=adapter or own,
        attention=attention,
        block_size=block_size,
        shift=shift,
        mask_token=mask_token,
    )
    tokenizer, found = read_defaults(source)
    return Model(source.load(tokenizer).eval().to(device), tokenizer, Sampler(**found.sampler))


def read_defaults(source: PretrainedBackbone) -> tuple[PreTrainedTokenizerBase, Defaults]:
    """The tokenizer of a model, and what it is decoded with; its weights are not read.

    Raises:
        TabomError: If there is no such checkpoint, its family is unknown, or its tokenizer lacks a token.
    """
    source.check_family()
    tokenizer = load_tokenizer(source.path, source.mask_token)
    return tokenizer, defaults(checkpoint_dir(source.path, source.revision, with_weights=False), tokenizer)
