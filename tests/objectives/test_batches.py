"""What a row gets does not depend on the rows beside it; gradient accumulation equals the large batch."""

import dataclasses

import pytest
import torch
from helpers import TINY, token_statistics_of
from objectives import two_ranks

from tabom.backbones import NewTinyDLM
from tabom.backbones.target_pass import TargetPass
from tabom.data.encoding import Row, collate_rows
from tabom.objectives import (
    Ranking,
    T3DObjective,
    TabomObjective,
)
from tabom.seeding import RowDraws

NUM_ROWS = 8
EOS = 2
SHARED = ("nelbo", "inverse_ratio", "cart", "papl", "dparallel", "dinfer", "t3d", "exact_order")
NEWER = ("tad", "lift", "lift_random", "gift", "d_opsd")
OBJECTIVES = {
    **{name: two_ranks.OBJECTIVES[name] for name in SHARED + NEWER},
    "t3d_released": T3DObjective(block_length=3, path="prefix_levels", states="one_block", random_ratio=0.5),
    "tabom": TabomObjective(),
    "jumps": TabomObjective(window=3, starts="non_left_to_right"),
    "shuffled": TabomObjective(window=3, truncated_windows=True, ranking=Ranking(order="shuffled")),
}


def rows():
    """Prompts of 1 to 4 tokens and responses of 4 to 11, decoded in a random order, some of it filler."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for number in range(NUM_ROWS):
        length = 4 + number
        ids = torch.randint(3, 90, (length,), generator=generator).tolist()
        ids[3:] = [EOS] * (length - 3) if number % 3 == 2 else ids[3:]
        step = torch.randperm(length, generator=generator).tolist()
        entropy = torch.rand(length, generator=generator).tolist()
        told, place = [8] * (1 + number % 3), 100 + 3 * number
        result.append(
            Row(str(number), [7] * (1 + number % 4), ids, step, entropy, number=place, teacher_prompt_ids=told)
        )
    return result


def batch_of(some_rows):
    return collate_rows(some_rows, pad_token_id=0, eos_token_id=EOS)


def corrupted(objective, some_rows, mask_token_id=1):
    batch = batch_of(some_rows)
    return objective.corrupt_by_model(batch, mask_token_id, RowDraws.of_numbers(0, batch.row_numbers), look)


def look(first):
    """Statistics that depend on a row's masks and tokens alone."""
    values = (first.clean_ids + 7 * first.is_masked.cumsum(1)).double().sin().abs()
    values = values.masked_fill(~first.is_target, torch.nan)
    return token_statistics_of(values, entropy=values)


def seen(batch, row):
    """Everything about a row, and what a reference sees of it, their padding cut off."""
    canvas = getattr(batch, "reference_canvas", None)
    own = _seen(batch, row)
    return own if canvas is None else own | {f"canvas {name}": value for name, value in _seen(canvas, row).items()}


def _seen(batch, row):
    inside = batch.attention_mask[row]
    tensors = {
        field.name: getattr(batch, field.name)
        for field in dataclasses.fields(batch)
        if isinstance(getattr(batch, field.name), torch.Tensor)
    }
    return {name: tensor[row][inside] if tensor.dim() == 2 else tensor[row] for name, tensor in tensors.items()}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_row_is_corrupted_alike_in_every_batch(objective):
    """In one batch, backwards in two, and alone: with other padding and other neighbours."""
    all_rows = rows()
    whole = corrupted(objective, all_rows)
    num_copies = len(whole.query_ids) // NUM_ROWS
    for numbers in ([*range(NUM_ROWS)][:3:-1], [3, 2, 1, 0], *([number] for number in range(NUM_ROWS))):
        part = corrupted(objective, [all_rows[number] for number in numbers])
        for copy in range(num_copies):
            for row, number in enumerate(numbers):
                expected = seen(whole, copy * NUM_ROWS + number)
                got = seen(part, copy * len(numbers) + row)
                assert expected.keys() == got.keys()
                for name, value in expected.items():
                    torch.testing.assert_close(got[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.fixture(scope="module")
def backbone(tokenizer):
    torch.manual_seed(0)
    return NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer).double()


def loss_and_gradients(backbone, objective, batches):
    """Of the mean over the batches, as gradient accumulation adds them up."""
    backbone.zero_grad()
    total = 0.0
    for batch in batches:
        hidden = corrupted(objective, batch, backbone.mask_token_id)
        loss = objective.terms(TargetPass(backbone, hidden).statistics(), hidden)["loss"] / len(batches)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in backbone.parameters()])


@pytest.mark.parametrize("name", ["nelbo", "inverse_ratio", "cart", "papl", "dinfer", "tabom", "exact_order"])
def test_accumulated_gradients_are_those_of_the_large_batch(backbone, name):
    all_rows, objective = rows(), OBJECTIVES[name]
    expected_loss, expected = loss_and_gradients(backbone, objective, [all_rows])
    for size in (1, 2):
        batches = [all_rows[start : start + size] for start in range(0, NUM_ROWS, size)]
        loss, gradients = loss_and_gradients(backbone, objective, batches)
        assert loss == pytest.approx(expected_loss, rel=0, abs=1e-12)
        torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 1e-3


def test_a_mean_over_tokens_is_not_that_of_the_large_batch(backbone):
    """Which :meth:`Objective.mean_where` says: the rows have 3 and 4 to 11 targets."""
    objective = TabomObjective(reduction="batch_tokens", rank_weight=0.0)
    whole, _ = loss_and_gradients(backbone, objective, [rows()])
    apart, _ = loss_and_gradients(backbone, objective, [[row] for row in rows()])
    assert abs(whole - apart) > 1e-3
