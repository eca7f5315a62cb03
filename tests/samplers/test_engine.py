"""Many queries in few slots: rows come and go, and none knows of another."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import TINY, ScriptedDLM, decode_with_scores
from test_sampler import OPTIONS, SETTINGS, prompts

from tabom.backbones import NewTinyDLM
from tabom.samplers import ConfidenceThreshold, Sampler, TraceCredit
from tabom.samplers.decoding_state import DecodingState
from tabom.types import NEVER

TEXTS = ["abc", "a longer prompt with padding on the others", "1", "def f(x):", "zz", "another one of some length", "q"]


@pytest.fixture(scope="module")
def backbone(tokenizer):
    torch.manual_seed(1)
    return NewTinyDLM(**TINY, initializer_range=0.7).load(tokenizer).eval()


class Watched:
    """A backbone that notes the shape of every canvas."""

    def __init__(self, backbone):
        self.backbone = backbone
        self.mask_token_id, self.unused_ids = backbone.mask_token_id, backbone.unused_ids
        self.head, self.block_size = backbone.head, backbone.block_size
        self.shapes = []

    def __call__(self, input_ids, attention_mask):
        self.shapes.append(tuple(input_ids.shape))
        return self.backbone(input_ids, attention_mask)


class Ending(ScriptedDLM):
    """Row by row, the surest positions are from the left; the first token of the prompt says where the end is."""

    def __init__(self, length, num_tokens, eos):
        table = torch.zeros(length, num_tokens)
        table[:, 1] = 9 - torch.arange(length)
        super().__init__(table)
        self.eos = eos

    def __call__(self, input_ids, attention_mask):
        hidden = super().__call__(input_ids, attention_mask)
        start = attention_mask.long().argmax(1)
        for row, first in enumerate(input_ids.gather(1, start[:, None])[:, 0].tolist()):
            end = hidden.shape[1] - len(self.table) + first
            hidden[row, end:, self.eos] = hidden[row, end:, 1]
            hidden[row, end:, 1] = 0.0
        return hidden


def ending_prompts(tokenizer, ends, length):
    """Prompts whose first token is the number of the column at which the response ends."""
    batch = prompts(tokenizer, ["x" * (i + 1) for i in range(len(ends))], response_length=length)
    ids = batch.noisy_ids.clone()
    ids[torch.arange(len(ends)), batch.attention_mask.long().argmax(1)] = torch.tensor(ends)
    ids[:, -length:] = 0
    return dataclasses.replace(batch, noisy_ids=ids)


CREDIT = {"score": "confidence", "trace_credit": TraceCredit(weight=5.0), "schedule": ConfidenceThreshold(0.3)}


@pytest.mark.parametrize("settings", [*SETTINGS, *OPTIONS, CREDIT])
@pytest.mark.parametrize("num_slots", [1, 3])
def test_few_slots_and_many_give_the_same(backbone, tokenizer, settings, num_slots):
    batch = prompts(tokenizer, TEXTS)
    sampler = Sampler(**settings)
    (together, scores), (refilled, scores_refilled) = (
        decode_with_scores(sampler, backbone, batch, num_slots=slots) for slots in (None, num_slots)
    )
    assert torch.equal(refilled.response_ids, together.response_ids)
    assert torch.equal(refilled.unmask_step, together.unmask_step)
    torch.testing.assert_close(refilled.unmask_entropy, together.unmask_entropy, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores_refilled, scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [*SETTINGS, *OPTIONS, CREDIT])
def test_every_step_is_told_and_changes_nothing(backbone, tokenizer, settings):
    """What is told after a step is the end with what comes later masked, in few slots as well."""
    batch = prompts(tokenizer, TEXTS)
    told = [[] for _ in TEXTS]

    def on_step(canvas):
        for row, ids, steps in zip(canvas.rows, canvas.response_ids, canvas.unmask_step, strict=True):
            told[row].append((ids.tolist(), steps.tolist()))

    sampler = Sampler(**settings)
    watched = sampler.decode(backbone, batch, num_slots=3, on_step=on_step)
    alone = sampler.decode(backbone, batch, num_slots=3)
    for name in ("response_ids", "unmask_step", "unmask_entropy"):
        assert torch.equal(getattr(watched, name), getattr(alone, name))
    for row, states in enumerate(told):
        ids, steps = alone.response_ids[row].tolist(), alone.unmask_step[row].tolist()
        assert len(states) >= max(steps) + 1
        for number, state in enumerate(states):
            is_there = [step <= number for step in steps]
            expected = [token if there else tokenizer.mask_token_id for token, there in zip(ids, is_there, strict=True)]
            assert state == (expected, [s if there else NEVER for s, there in zip(steps, is_there, strict=True)])


def test_draws_made_in_pieces_are_the_same(backbone, tokenizer, monkeypatch):
    batch = prompts(tokenizer, TEXTS)
    whole = Sampler(temperature=0.7, top_k=5).decode(backbone, batch)
    monkeypatch.setattr(
        "tabom.samplers.sampler.row_chunks",
        lambda logits: [slice(start, start + 2) for start in range(0, len(logits), 2)],
    )
    assert torch.equal(Sampler(temperature=0.7, top_k=5).decode(backbone, batch).response_ids, whole.response_ids)


def test_longest_prompts_come_first_and_the_canvas_gets_narrower(backbone, tokenizer):
    watched = Watched(backbone)
    finished = []
    Sampler(tokens_per_step=3).decode(
        watched, prompts(tokenizer, TEXTS), num_slots=3, on_finished=lambda rows, _: finished.append(len(rows))
    )
    lengths = sorted(map(len, TEXTS), reverse=True)
    expected = [(3, 6 + lengths[0])] * 2 + [(3, 6 + lengths[3])] * 2 + [(1, 6 + lengths[6])] * 2
    assert watched.shapes == expected
    assert finished == [3, 3, 1]


def test_a_finished_row_makes_room(tokenizer):
    """Ends at 0, 4, 1, 2, 5 of 6 columns: 1, 5, 2, 3 and 6 steps, in two slots: 0 and 1 start, then 2 takes over ..."""
    model = Ending(6, 8, eos=3)
    batch = ending_prompts(tokenizer, [0, 4, 1, 2, 5], 6)
    seen = []
    watched = Watched(model)
    decoded = Sampler("confidence").decode(
        watched, batch, num_slots=2, eos_token_id=3, on_finished=lambda *told: seen.append((len(watched.shapes), *told))
    )
    # longest prompts first: 5 + 1 | 2 + 1, 1 + 1 | 4 + 1 | 0 + 1 steps
    assert [(num_calls, len(rows)) for num_calls, rows, _ in seen] == [(3, 1), (5, 1), (6, 1), (7, 1), (10, 1)]
    for _, rows, told in seen:
        for name in ("response_ids", "unmask_step", "unmask_entropy"):
            torch.testing.assert_close(
                getattr(told, name), getattr(decoded.select(rows), name), rtol=0, atol=0, equal_nan=True
            )
    assert decoded.response_ids.tolist() == [
        [3] * 6,
        [1, 1, 1, 1, 3, 3],
        [1, 3, 3, 3, 3, 3],
        [1, 1, 3, 3, 3, 3],
        [1, 1, 1, 1, 1, 3],
    ]


@pytest.mark.parametrize("settings", [{}, {"tokens_per_step": 2}, {"block_length": 2}, {"temperature": 0.3}])
def test_an_early_finish_changes_nothing_before_the_end(tokenizer, settings):
    batch = ending_prompts(tokenizer, [0, 4, 1, 2, 5], 6)
    sampler = Sampler("confidence", **settings)
    whole, early = (sampler.decode(Ending(6, 8, eos=3), batch, eos_token_id=eos) for eos in (None, 3))
    for row in range(5):
        ids = whole.response_ids[row].tolist()
        kept = (ids.index(3) if 3 in ids else 5) + 1
        assert early.response_ids[row].tolist() == ids[:kept] + [3] * (6 - kept)
        assert torch.equal(early.unmask_step[row, :kept], whole.unmask_step[row, :kept])
        assert torch.equal(early.unmask_entropy[row, :kept], whole.unmask_entropy[row, :kept])


def test_the_rest_is_recorded_as_one_more_step(tokenizer):
    decoded = Sampler("confidence").decode(Ending(6, 8, 3), ending_prompts(tokenizer, [2], 6), eos_token_id=3)
    assert decoded.unmask_step.tolist() == [[0, 1, 2, 3, 3, 3]]
    assert decoded.unmask_entropy.isnan().tolist() == [[False] * 3 + [True] * 3]


def test_an_end_that_is_revealed_early_waits_for_what_is_before_it(tokenizer):
    """Confidence falls from right to left: the end at column 3 is known long before the rest."""
    table = torch.zeros(6, 4)
    table[:, 1] = torch.arange(6) + 1.0
    table[3, 2] = 9.0
    batch = prompts(tokenizer, ["a"], response_length=6)
    decoded = Sampler("confidence").decode(ScriptedDLM(table), batch, eos_token_id=2)
    assert decoded.response_ids.tolist() == [[1, 1, 1, 2, 1, 1]]
    assert decoded.unmask_step.tolist() == [[5, 4, 3, 0, 2, 1]]


def test_the_first_end_counts_also_when_a_later_one_is_revealed_after_it(tokenizer):
    """Ends at columns 1 and 4 come first and second, then column 0: nothing is left before the first end."""
    table = torch.zeros(6, 4)
    table[:, 1] = torch.tensor([5.0, 0.0, 4.0, 3.0, 0.0, 2.0])
    table[[1, 4], 2] = torch.tensor([9.0, 8.0])
    batch = prompts(tokenizer, ["a"], response_length=6)
    decoded = Sampler("confidence").decode(ScriptedDLM(table), batch, eos_token_id=2)
    assert decoded.response_ids.tolist() == [[1, 2, 2, 2, 2, 2]]
    assert decoded.unmask_step.tolist() == [[2, 0, 3, 3, 1, 3]]


def test_samples_of_a_query_differ_and_the_first_is_that_of_the_query(backbone, tokenizer):
    batch = prompts(tokenizer, ["abc", "abc", "abc"])
    sampler = Sampler(temperature=2.0)
    first = sampler.decode(backbone, batch).response_ids
    assert torch.equal(first[0], first[1])
    samples = sampler.decode(backbone, dataclasses.replace(batch, samples=(1, 0, 2))).response_ids
    assert torch.equal(samples[1], first[0])
    assert len({tuple(ids) for ids in samples.tolist()}) == 3


def test_draws_have_nothing_to_do_with_each_other(tokenizer):
    """Two positions, two steps: tokens drawn in one step say nothing about those of another position or step."""
    model = ScriptedDLM(torch.zeros(2, 3))
    batch = prompts(tokenizer, [str(number) for number in range(4000)], response_length=2)
    decoded = Sampler("random", temperature=1.0).decode(model, batch)
    pairs = torch.bincount(2 * (decoded.response_ids[:, 0] - 1) + decoded.response_ids[:, 1] - 1, minlength=4)
    assert (pairs - 1000).abs().max() < 4 * (4000 * 3 / 16) ** 0.5
    order = torch.bincount(2 * decoded.unmask_step[:, 0] + decoded.response_ids[:, 0] - 1, minlength=4)
    assert (order - 1000).abs().max() < 4 * (4000 * 3 / 16) ** 0.5


def test_prompts_of_one_length_keep_their_order():
    state = DecodingState(np.array([5, 7, 6] * 50), response_length=1, block_length=1, num_slots=150)
    assert state.rows.tolist() == [*range(1, 150, 3), *range(2, 150, 3), *range(0, 150, 3)]


def test_progress_of_blocks():
    state = DecodingState(np.array([2, 5]), response_length=4, block_length=2, num_slots=2)
    assert state.rows.tolist() == [1, 0]
    turn = state.turn(torch.device("cpu"))
    assert [part.tolist() for part in turn.candidates] == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert [part.tolist() for part in state.waiting(torch.device("cpu"))[:3]] == [
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [2, 3, 2, 3],
    ]
    assert turn.num_prompt == 5
    is_revealed = np.array([[True, False, False, False], [True, True, False, False]])
    assert state.advance(is_revealed, np.zeros_like(is_revealed)) == []
    turn = state.turn(torch.device("cpu"))
    assert turn.block_starts == [0, 2]
    assert turn.is_first == [False, True]
    assert turn.block_step.tolist() == [1, 0]
    assert turn.step.tolist() == [1, 1]
    assert turn.candidates.column.tolist() == [1, 2, 3]
    assert turn.spread(torch.tensor([7, 8, 9]), -1).tolist() == [[-1, 7, -1, -1], [-1, -1, 8, 9]]
    is_end = np.array([[False, True, False, False], [False, False, False, False]])
    assert state.advance(is_end, is_end) == [1]
    assert state.rows.tolist() == [0]
