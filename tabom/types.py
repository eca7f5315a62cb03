"""What travels between the stages: examples, batches, statistics.

Axes: B rows of a batch, L positions of a canvas (left padding, prompt, response, right padding), N response positions,
S denoising steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEVER = -1
"""``unmask_step`` of a position that was not revealed by decoding."""

NO_TOKEN = -1
"""In place of a token id where there is no token."""

SELF_DISTILLED = "self_distilled"
GROUND_TRUTH = "ground_truth"
"""``answers`` of held-out queries with the answers that the base decoded, or with the task's own."""


@dataclass(frozen=True)
class Example:
    """A prompt with a reference answer.

    Attributes:
        query_id: Unique within its source and split, stable across runs.
        prompt: What is always visible.
        reference: A correct answer, or the text that followed the prompt.
    """

    query_id: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Grid:
    """How an answer is drawn: its characters without blanks fill the cells, row by row.

    Attributes:
        num_columns: Cells of a row.
        box: Cells up to which a thicker line is drawn, in both directions.
        clues: Character of each cell that the prompt gives away; empty for a blank one.
    """

    num_columns: int
    box: int
    clues: list[str]


class SpecialIds(NamedTuple):
    """Ids of the tokens that are not text."""

    pad: int
    mask: int
    eos: int

    @classmethod
    def of(cls, tokenizer: Any) -> "SpecialIds":
        """Those of a transformers tokenizer."""
        return cls(int(tokenizer.pad_token_id), int(tokenizer.mask_token_id), int(tokenizer.eos_token_id))


@dataclass(frozen=True)
class Verdict:
    """What a decoded response amounts to.

    Attributes:
        text: Up to the first end-of-sequence token.
        is_correct: Whether the text is a correct answer.
        num_tokens: Up to and with the first end-of-sequence token.
        has_ended: Whether there is an end-of-sequence token.
    """

    text: str
    is_correct: bool
    num_tokens: int
    has_ended: bool


@dataclass(frozen=True)
class TrajectoryRow:
    """One decoding, as a row of a shard holds it; see :func:`tabom.trajectories.schema.columns`."""

    query_id: str
    sample: int
    is_verified: bool
    prompt_ids: list[int]
    response_ids: list[int]
    unmask_step: list[int]
    unmask_entropy: list[float]
    prompt: str
    response: str
    reference: str


_Batch = TypeVar("_Batch", bound="_Rows")


@dataclass(frozen=True)
class _Rows:
    """Moves every tensor field, which Lightning asks for before a step, and picks rows; batches in it go along."""

    def to(self: _Batch, device: torch.device | str, *, non_blocking: bool = False) -> _Batch:
        """Return a copy on ``device``; ``non_blocking`` as in ``torch.Tensor.to``."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: _Batch) -> _Batch:
        """Return a copy in page-locked memory; a data loader asks for it where a GPU is to copy beside its work."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def select(self: _Batch, rows: Sequence[int]) -> _Batch:
        """Some of the rows of a batch in which every tensor and tuple has one entry a row."""
        chosen: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, Tensor):
                chosen[field.name] = value[torch.tensor(rows, device=value.device)]
            elif isinstance(value, Canvas):
                chosen[field.name] = value.select(rows)
            elif not isinstance(value, str | _Rows) and value is not None:
                chosen[field.name] = tuple(value[row] for row in rows)
        return dataclasses.replace(self, **chosen)

    def _with_tensors(self: _Batch, change: Callable[[Tensor], Tensor]) -> _Batch:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = {name: change(value) for name, value in fields.items() if isinstance(value, Tensor)}
        inner = {name: value._with_tensors(change) for name, value in fields.items() if isinstance(value, _Rows)}
        return dataclasses.replace(self, **changed, **inner)


@dataclass(frozen=True)
class PromptBatch(_Rows):
    """Prompts with a fully masked response, ready to be decoded.

    Attributes:
        noisy_ids: Prompts, left-padded, then N mask tokens.
        attention_mask: False on the padding.
        is_response: True on the last N positions.
        examples: Where the rows come from.
        domain: Base domain that the rows come from; empty for the new domain.
        samples: Number of each row among the decodings of its query; None if each is the first.
    """

    noisy_ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"]
    is_response: Bool[Tensor, "B L"]
    examples: tuple[Example, ...]
    domain: str = ""
    samples: tuple[int, ...] | None = None

    @property
    def queries(self) -> list[tuple[str, int]]:
        """Query id and sample of each row."""
        samples = self.samples or (0,) * len(self.examples)
        return [(example.query_id, sample) for example, sample in zip(self.examples, samples, strict=True)]


@dataclass(frozen=True)
class PromptShard:
    """Queries whose trajectories are kept in one file.

    Attributes:
        index: Number of the file.
        prompts: Every sample of every query; None if there is nothing to do for it.
    """

    index: int
    prompts: PromptBatch | None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PromptShard":
        """Return a copy on ``device``, which Lightning asks for before a step."""
        moved = self.prompts.to(device, non_blocking=non_blocking) if self.prompts else None
        return PromptShard(self.index, moved)


@dataclass(frozen=True)
class TrajectoryBatch(_Rows):
    """Clean sequences and, where a model decoded them itself, the order in which it did.

    Attributes:
        clean_ids: Prompt and response tokens x0.
        attention_mask: False on the padding around prompt and response.
        is_response: Positions that may be masked and learnt; includes end-of-sequence tokens that fill the budget.
        is_filler: Response positions after the first end-of-sequence token.
        unmask_step: Denoising step that revealed a position, 0 first; ``NEVER`` elsewhere and in offline data.
        unmask_entropy: Predictive entropy in nats just before the position was revealed; NaN where none was recorded.
        query_ids: One per row, named in error messages.
        domain: Base domain that the rows come from; empty for the new domain.
        answers: Of held-out queries, ``SELF_DISTILLED`` or ``GROUND_TRUTH``; empty elsewhere.
        row_numbers: Number of each row in the training data, which its random draws belong to; None where it is not
            known, and then nothing can be trained on them.
        block: Number of the block in which a response position was decoded, 0 first; positions of different blocks were
            never compared. None where all of a row were.
        row_weight: How much the loss of each row counts; 1 on average over the training data. None where all count
            alike.
        advantage: Verdict on each row, 1 or 0, minus the mean verdict on the decodings of its query: below 0 where it
            failed. None where rows are not compared.
        replay: Rows of the same step on which the model is kept near the base; None without replay. Their numbers are
            places in a stream that has no end.
        attention_block: Number of the block of the model's attention that each token belongs to: it sees that block and
            those before it, which are clean while it is decoded. None where every token sees every other, or for rows
            that no model has met yet.
        teacher_prompt_ids: Prompt of each row for a teacher that is told the answer, ``NO_TOKEN`` to its left where it
            is shorter than others; None unless the objective has such a teacher.
    """

    clean_ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"]
    is_response: Bool[Tensor, "B L"]
    is_filler: Bool[Tensor, "B L"]
    unmask_step: Int[Tensor, "B L"]
    unmask_entropy: Float[Tensor, "B L"]
    query_ids: tuple[str, ...]
    domain: str = ""
    answers: str = ""
    row_numbers: Int[Tensor, " B"] | None = None
    block: Int[Tensor, "B L"] | None = None
    row_weight: Float[Tensor, " B"] | None = None
    advantage: Float[Tensor, " B"] | None = None
    replay: "TrajectoryBatch | None" = None
    attention_block: Int[Tensor, "B L"] | None = None
    teacher_prompt_ids: Int[Tensor, "B P"] | None = None


@dataclass(frozen=True)
class Canvas(_Rows):
    """Another view of the rows of a batch, which may be wider or narrower than the batch.

    Attributes:
        clean_ids: Without masks: what a block-causal model sees of the blocks before that of a target.
        noisy_ids: What is seen.
        attention_mask: False on padding.
        is_target: Positions whose token is asked for: as many in each row as in the batch, and in the same order.
    """

    clean_ids: Int[Tensor, "B M"]
    noisy_ids: Int[Tensor, "B M"]
    attention_mask: Bool[Tensor, "B M"]
    is_target: Bool[Tensor, "B M"]


@dataclass(frozen=True)
class CorruptedBatch(_Rows):
    """What the network sees and what it is asked for.

    Attributes:
        clean_ids: x0.
        noisy_ids: x0 with mask tokens at masked positions.
        attention_mask: False on padding.
        is_masked: Response positions whose token the network does not see.
        is_target: Positions whose token is asked for.
        order: Decoding order over the canvas, smaller is earlier; equal where neither of two positions was decoded
            before the other. All zero where the data have no order.
        recorded_entropy: Entropy in nats just before each position was revealed; NaN where none was recorded.
        query_ids: One per row.
        mask_ratio: Probability with which each response position was masked, in (0, 1], of a row or of each position;
            None where positions were not masked independently of each other.
        domain: Base domain that the rows come from; empty for the new domain.
        token_weight: How much the negative log-likelihood of each position counts; positions that are not asked for may
            have one. None where all count alike, or the model's predictions decide.
        block: As in :class:`TrajectoryBatch`, where the order is ranked.
        is_candidate: Positions among which decoding chose what it revealed next; None unless an objective ranks these.
            With them, ``order`` is that of what was revealed next, and one later value for all other positions.
        row_weight: As in :class:`TrajectoryBatch`.
        advantage: As in :class:`TrajectoryBatch`.
        reference_canvas: What the reference model sees, where that is not what the model sees; None where it is.
    """

    clean_ids: Int[Tensor, "B L"]
    noisy_ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"]
    is_masked: Bool[Tensor, "B L"]
    is_target: Bool[Tensor, "B L"]
    order: Int[Tensor, "B L"]
    recorded_entropy: Float[Tensor, "B L"]
    query_ids: tuple[str, ...]
    mask_ratio: Float[Tensor, " B"] | Float[Tensor, "B L"] | None = None
    domain: str = ""
    token_weight: Float[Tensor, "B L"] | None = None
    block: Int[Tensor, "B L"] | None = None
    is_candidate: Bool[Tensor, "B L"] | None = None
    row_weight: Float[Tensor, " B"] | None = None
    advantage: Float[Tensor, " B"] | None = None
    reference_canvas: Canvas | None = None


class TokenStatistics(NamedTuple):
    """Per-token results of one forward pass.

    Attributes:
        nll: Negative log-likelihood of the clean token, in nats.
        entropy: Shannon entropy of the predictive distribution, in nats.
        confidence: Largest probability.
        is_correct: Whether the clean token is the likeliest one.
        sampled_nll: Negative log-likelihood of tokens that a reference model sampled, where an objective asks for it.
        divergence: KL(p_ref || p) in nats from a reference model's distribution, where an objective asks for it.
    """

    nll: Float[Tensor, "*K"]
    entropy: Float[Tensor, "*K"]
    confidence: Float[Tensor, "*K"]
    is_correct: Bool[Tensor, "*K"]
    sampled_nll: Float[Tensor, "*K"] | None = None
    divergence: Float[Tensor, "*K"] | None = None


@dataclass(frozen=True)
class DecodedBatch(_Rows):
    """What a sampler made of a :class:`PromptBatch`.

    Attributes:
        response_ids: Decoded tokens.
        unmask_step: The row's denoising step that revealed each position, 0 first; a step may reveal nothing.
        unmask_entropy: Predictive entropy in nats when it was revealed, of the model's distribution at temperature 1.
            NaN where an early finish filled it in.
        step_entropy: Entropy of every masked position before each step; NaN where it was already revealed or the row
            was finished. None unless it was asked for.
    """

    response_ids: Int[Tensor, "B N"]
    unmask_step: Int[Tensor, "B N"]
    unmask_entropy: Float[Tensor, "B N"]
    step_entropy: Float[Tensor, "B S N"] | None = None
