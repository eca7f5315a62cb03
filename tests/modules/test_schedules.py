import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from tabom.errors import TabomError
from tabom.modules import CosineWithWarmup


def test_rate_by_step():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = CosineWithWarmup(optimizer, num_warmup_steps=2, num_training_steps=6)
    rates = []
    for _ in range(7):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    cosine = [0.5 * (1 + math.cos(math.pi * part / 4)) for part in range(5)]
    assert rates == pytest.approx([2 * 1 / 2, 2 * 2 / 2, *(2 * value for value in cosine)])


def test_from_zero_is_the_schedule_of_transformers():
    def rates(schedule_of):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        schedule, result = schedule_of(optimizer), []
        for _ in range(9):
            result.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return result

    ours = rates(lambda optimizer: CosineWithWarmup(optimizer, 3, 8, from_zero=True))
    theirs = rates(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 3, 8))
    assert ours == pytest.approx(theirs)
    assert ours[0] == 0
    assert ours != pytest.approx(rates(lambda optimizer: CosineWithWarmup(optimizer, 3, 8)))


@pytest.mark.parametrize(
    ("num_warmup_steps", "expected"), [(-1, "at least 0"), (6, "below num_training_steps = 6"), (7, "below num_tr")]
)
def test_bad_settings(num_warmup_steps, expected):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    with pytest.raises(TabomError, match=rf"^num_warmup_steps: expected {expected}.*, got {num_warmup_steps}$"):
        CosineWithWarmup(optimizer, num_warmup_steps, 6)


def test_a_resumed_schedule_keeps_the_configured_length():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    short, long = CosineWithWarmup(optimizer, 2, 6), CosineWithWarmup(optimizer, 3, 12)
    optimizer.step()
    short.step()
    long.load_state_dict(short.state_dict())
    assert (long.last_epoch, long.num_warmup_steps, long.num_training_steps) == (1, 3, 12)


def test_a_schedule_whose_length_nobody_filled_in():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = CosineWithWarmup(optimizer, 0)
    optimizer.step()
    with pytest.raises(TabomError, match=r"^num_training_steps: expected a number, got none$"):
        schedule.step()
