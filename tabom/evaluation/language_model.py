"""A diffusion language model as lm-eval knows models.

Imported when an evaluation starts, since lm-eval takes seconds.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tabom.backbones import Backbone
from tabom.data.encoding import check_length, collate_prompts, decode_responses, encode_prompts, encode_text
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import require
from tabom.evaluation.discrimination import step_variances
from tabom.evaluation.likelihood import MonteCarlo
from tabom.evaluation.responses import Likelihood, Response, ResponseStore, request_key
from tabom.functional.end_of_sequence import until_eos
from tabom.samplers import Sampler
from tabom.types import DecodedBatch, Example, SpecialIds


@dataclass(frozen=True)
class Decoding:
    """How prompts become responses.

    Attributes:
        sampler: Decodes.
        response_length: N, tokens a response is decoded into, whatever a task asks for.
        batch_size: Rows that are decoded at a time; one that is finished makes room for the next.
        early_finish: Whether a row is finished as soon as everything up to its first end of sequence is decoded.
        keeps_special_tokens: Whether a response's text has special tokens before the end of sequence, those that end
            a turn among them.
        monte_carlo: Scores continuations.
        num_discriminated: Questions, the first ones, of whose responses the entropies before each step are looked at.
    """

    sampler: Sampler
    response_length: int
    batch_size: int
    early_finish: bool
    keeps_special_tokens: bool
    monte_carlo: MonteCarlo
    num_discriminated: int


class DiffusionLM(LM):
    """Answers the requests of lm-eval's tasks, each once.

    Args:
        backbone: On its device.
        tokenizer: Of the backbone.
        decoding: How prompts become responses.
        store: Keeps the answers; what it has is not computed again.
        on_started: Told how many answers are to be computed.
        on_finished: Told how many more have been.
        rank: Of this process.
        world_size: Number of processes; lm-eval gives each its share of the questions.

    Attributes:
        needs_greedy: Whether the task asks if a continuation is the greedy one.
        num_decoded: Responses that were decoded.
        num_tokens: Of them up to their ends, decoded in ``seconds``; without those whose entropies were looked at.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerBase,
        decoding: Decoding,
        store: ResponseStore,
        *,
        on_started: Callable[[int], None],
        on_finished: Callable[[int], None],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer  # lm-eval notes its special tokens
        self.needs_greedy = True
        self.num_decoded = self.num_tokens = 0
        self.seconds = 0.0
        self._backbone = backbone
        self._decoding = decoding
        self._store = store
        self._rank, self._world_size = rank, world_size
        self._device = next(backbone.parameters()).device
        self._on_started, self._on_finished = on_started, on_finished
        self._ids = SpecialIds.of(tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's caches."""
        return tokenizer_fingerprint(self.tokenizer)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Text of the template."""
        return self.tokenizer.chat_template if chat_template else None  # pyright: ignore[reportReturnType]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Text of a conversation; without a generation prompt its last turn is the assistant's, and goes on.

        Blanks at the end of such a turn are left to the model, as transformers did it when the paper's models were
        evaluated: what lm-eval reads off MBPP's responses needs the line break after the fence that the turn opens.
        """
        require(
            self.tokenizer.chat_template is not None,
            "chat_template: expected a tokenizer that has one, got one without",
        )
        text = str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )
        return text if add_generation_prompt else text.rstrip()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Decode what is not there yet; cut each response before its first stop string."""
        samples = _samples(requests)
        keys = [_key(str(r.task_name), _args(r)[0], sample) for r, sample in zip(requests, samples, strict=True)]
        num_questions = self._decoding.num_discriminated
        looked_at = {
            key
            for key, request, sample in zip(keys, requests, samples, strict=True)
            if sample == 0 and (request.doc_id or 0) < num_questions
        }
        wanted = {
            key: (Example(_query_id(request), _args(request)[0], ""), sample)
            for key, request, sample in zip(keys, requests, samples, strict=True)
            if not self._is_answered(key, with_variance=key in looked_at)
        }
        self._on_started(len(wanted))
        if others := {key: one for key, one in wanted.items() if key not in looked_at}:
            self._decode(others, record_steps=False)
        rest = iter([(key, one) for key, one in wanted.items() if key in looked_at])
        while some := dict(itertools.islice(rest, self._decoding.batch_size)):  # with all entropies of their rows
            self._decode(some, record_steps=True)
        return [
            _before_stop(self._response(key).text, _args(request)[1])
            for key, request in zip(keys, requests, strict=True)
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Estimate the log-likelihood of each continuation (nats), and whether greedy decoding gives it."""
        scored = self._scored(
            [(request, *self._encode_pair(*_args(request))) for request in requests], self.needs_greedy
        )
        return [(likelihood.log_likelihood, likelihood.is_greedy) for likelihood in scored]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Estimate the log-likelihood of each whole text (nats), in pieces that know nothing of each other."""
        length = self._decoding.monte_carlo.context_length
        length = min(length, self._backbone.max_length or length)
        pieces = [
            (request, [], ids[start : start + length])
            for request in requests
            for ids in [self._encode(_args(request)[0], request)]
            for start in range(0, len(ids), length)
        ]
        totals = dict.fromkeys(map(id, requests), 0.0)
        for (request, *_), likelihood in zip(pieces, self._scored(pieces, needs_greedy=False), strict=True):
            totals[id(request)] += likelihood.log_likelihood
        return [totals[id(request)] for request in requests]

    def first_response(self, task: str, context: str) -> Response | None:
        """What was decoded first for a prompt of a task, if anything was."""
        response = self._store.get(_key(task, context, 0))
        return response if isinstance(response, Response) else None

    def read_all(self) -> None:
        """Take note of what other processes answered."""
        self._store.read_all()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Of all processes, one after the other."""
        if self._world_size == 1:
            return tensor
        parts = [torch.zeros_like(tensor.reshape(-1)) for _ in range(self._world_size)]
        torch.distributed.all_gather(parts, tensor.reshape(-1))
        return torch.cat(parts)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of all processes, on one of them."""
        if self._world_size == 1:
            return [obj]
        parts: list[Any] | None = [None] * self._world_size if self._rank == dst else None
        torch.distributed.gather_object(obj, parts, dst=dst)
        return parts

    def barrier(self) -> None:
        """Wait for all processes."""
        if self._world_size > 1:
            torch.distributed.barrier()

    def _is_answered(self, key: str, *, with_variance: bool) -> bool:
        answer = self._store.get(key)
        return isinstance(answer, Response) and not (with_variance and answer.step_variance is None)

    def _response(self, key: str) -> Response:
        response = self._store.get(key)
        assert isinstance(response, Response)
        return response

    def _decode(self, wanted: Mapping[str, tuple[Example, int]], *, record_steps: bool) -> None:
        """Decode by key: a prompt, and the number of the sample."""
        keys, (examples, samples) = list(wanted), zip(*wanted.values(), strict=True)
        texts, query_ids = [example.prompt for example in examples], [example.query_id for example in examples]
        prompts = encode_prompts(self.tokenizer, texts, query_ids, chat=False)
        for query_id, prompt in zip(query_ids, prompts, strict=True):
            check_length(query_id, len(prompt) + self._decoding.response_length, self._backbone.max_length)
        batch = collate_prompts(
            list(zip(examples, prompts, strict=True)),
            pad_token_id=self._ids.pad,
            mask_token_id=self._ids.mask,
            response_length=self._decoding.response_length,
            samples=tuple(samples),
        )
        start = time.monotonic() - self.seconds

        def keep(rows: list[int], decoded: DecodedBatch) -> None:
            for row, response in zip(rows, self._responses(decoded), strict=True):
                self._store.add(keys[row], response)
                self.num_tokens += 0 if record_steps else response.num_tokens
            self.num_decoded += len(rows)
            self.seconds = self.seconds if record_steps else time.monotonic() - start
            self._on_finished(len(rows))

        self._decoding.sampler.decode(
            self._backbone,
            batch.to(self._device),
            num_slots=self._decoding.batch_size,
            eos_token_id=self._ids.eos if self._decoding.early_finish else None,
            record_steps=record_steps,
            on_finished=keep,
        )

    def _responses(self, decoded: DecodedBatch) -> list[Response]:
        ids, is_decoded = decoded.response_ids.cpu(), ~decoded.unmask_entropy.isnan()
        is_counted = until_eos(ids, self._ids.eos)
        num_steps = decoded.unmask_step.masked_fill(~is_decoded, 0).amax(1) + 1
        variances = step_variances(decoded, self._ids.eos)
        texts = decode_responses(self.tokenizer, ids, chat=not self._decoding.keeps_special_tokens)
        return [
            Response(
                text=text,
                response_ids=row_ids,
                unmask_step=steps,
                num_steps=num,
                num_tokens=num_counted,
                step_variance=variance,
            )
            for text, row_ids, num_counted, steps, num, variance in zip(
                texts,
                ids.tolist(),
                is_counted.sum(1).tolist(),
                decoded.unmask_step.tolist(),
                num_steps.tolist(),
                variances,
                strict=True,
            )
        ]

    def _scored(self, items: Sequence[tuple[Instance, list[int], list[int]]], needs_greedy: bool) -> list[Likelihood]:
        keys = [request_key("likelihood", prompt, continuation, needs_greedy) for _, prompt, continuation in items]
        missing = {key: item for key, item in zip(keys, items, strict=True) if self._store.get(key) is None}
        self._on_started(len(missing))
        for request, prompt, continuation in missing.values():
            check_length(_query_id(request), len(prompt) + len(continuation), self._backbone.max_length)
        for key, (_, prompt, continuation) in missing.items():
            likelihood = self._decoding.monte_carlo.estimate(
                self._backbone, prompt, continuation, key, ids=self._ids, needs_greedy=needs_greedy
            )
            self._store.add(key, likelihood)
            self._on_finished(1)
        return [self._likelihood(key) for key in keys]

    def _likelihood(self, key: str) -> Likelihood:
        likelihood = self._store.get(key)
        assert isinstance(likelihood, Likelihood)
        return likelihood

    def _encode(self, text: str, request: Instance) -> list[int]:
        return encode_text(self.tokenizer, [text], [_query_id(request)])[0]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, as the whole is encoded; blanks at the end of the context belong to the continuation."""
        num_blanks = len(context) - len(context.rstrip())
        if num_blanks:
            context, continuation = context[:-num_blanks], context[-num_blanks:] + continuation
        prompt, whole = encode_text(self.tokenizer, [context, context + continuation], ["context", "continuation"])
        return prompt, whole[len(prompt) :]


def _samples(requests: Sequence[Instance]) -> list[int]:
    """Number of each request among the repetitions of its own; what fills up a process's share repeats the first."""
    seen: dict[int, int] = {}
    samples = []
    for request in requests:
        sample = seen.get(id(request), 0)
        seen[id(request)] = sample + 1
        samples.append(sample if sample < (request.repeats or 1) else 0)
    return samples


def _key(task: str, context: str, sample: int) -> str:
    return request_key("response", task, context, sample)


def _args(request: Instance) -> tuple[Any, ...]:
    return request.args  # declared too narrowly


def _query_id(request: Instance) -> str:
    return f"{request.task_name}/{request.doc_id}"


def _before_stop(text: str, settings: dict[str, Any]) -> str:
    """What stands before the first stop string."""
    until = settings.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop)[0]
    return text
