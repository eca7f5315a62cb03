import math

import torch

from tabom.samplers import TraceCredit


def test_credit_decays_and_grows_where_the_likeliest_token_is():
    """p(1) = 0.64 in both steps, 0.64 ** 0.5 = 0.8: credit 0.8, then 0.5 * 0.8 + 0.8 = 1.2."""
    logits = torch.tensor([[0.36, 0.64]]).log()
    place = torch.tensor([7])
    credit = TraceCredit(weight=2.0, exponent=0.5, decay=0.5)
    fused, state = credit(logits, place, None)
    torch.testing.assert_close(fused - logits, torch.tensor([[0.0, 2 * math.log(1.8)]]))
    fused, state = credit(logits, place, state)
    torch.testing.assert_close(fused - logits, torch.tensor([[0.0, 2 * math.log(2.2)]]))
    fused, _ = credit(logits.flip(1), place, state)
    torch.testing.assert_close(fused - logits.flip(1), 2 * torch.tensor([[0.8, 0.6]]).log1p())


def test_credit_follows_its_position_and_a_new_block_has_none():
    """Two rows of four positions: the second goes on to its second block, the first reveals the first of its block."""
    logits = torch.tensor([[1.0, 0.0], [0.0, 4.0], [3.0, 0.0], [0.0, 2.0]])
    credit = TraceCredit(exponent=1.0, decay=1.0)
    _, state = credit(logits, torch.tensor([4, 5, 0, 1]), None)
    _, state = credit(torch.zeros(3, 2), torch.tensor([6, 7, 1]), state)
    assert state.place.tolist() == [1, 6, 7]
    first, kept = 0.5, torch.tensor([0.0, 2.0]).softmax(0)[1].item()
    torch.testing.assert_close(state.values, torch.tensor([[first, kept], [first, 0.0], [first, 0.0]]))
