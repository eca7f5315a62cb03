"""The likeliest tokens of tiles of the vocabulary, against whole logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional import likeliest_tokens as module
from tabom.functional.head import Head
from tabom.functional.likeliest_tokens import likeliest_tokens
from tabom.functional.token_statistics import token_statistics
from tabom.samplers.filtering import likeliest


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "_TILE_TOKENS", 3)
    monkeypatch.setattr(module, "_TILE_NUMBERS", {"cpu": 6, "other": 6})


def check(hidden, head, excluded):
    found = likeliest_tokens(hidden, head, torch.tensor(excluded, dtype=torch.long))
    logits = head.logits(hidden).float()
    tokens = likeliest(logits, torch.tensor(excluded, dtype=torch.long))
    expected = token_statistics(logits.double(), tokens)
    assert torch.equal(found.token_ids, tokens)
    torch.testing.assert_close(found.nll.double(), expected.nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy.double(), expected.entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("excluded", [[], [0], [7], [2, 3, 10], [3, 4, 5]])
@pytest.mark.parametrize("extras", [{}, {"bias": True}, {"softcap": 2.0}])
def test_equals_whole_logits(small_tiles, excluded, extras):
    torch.manual_seed(0)
    bias = torch.randn(11) if extras.get("bias") else None
    check(torch.randn(5, 4), Head(torch.randn(11, 4), bias, extras.get("softcap")), excluded)


@given(st.lists(st.floats(-80, 80, width=32), min_size=4, max_size=14), st.integers(0, 3))
def test_any_order_of_the_logits(scores, excluded):
    """The largest logit grows from tile to tile, falls, or lies in a tile whose best token is excluded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE_TOKENS", 3)
        check(torch.ones(1, 1), Head(torch.tensor(scores)[:, None]), [excluded])


def test_the_first_of_equal_tokens(small_tiles):
    found = likeliest_tokens(torch.ones(1, 1), Head(torch.ones(9, 1)), torch.tensor([0, 1]))
    assert found.token_ids.tolist() == [2]


def test_bfloat16_is_rounded_as_the_model_rounds(small_tiles):
    torch.manual_seed(0)
    check(torch.randn(5, 4).bfloat16(), Head(torch.randn(11, 4).bfloat16()), [1])


def test_no_positions():
    found = likeliest_tokens(torch.zeros(0, 2), Head(torch.ones(4, 2)), torch.tensor([0]))
    assert [len(values) for values in found] == [0, 0, 0]


def test_a_vocabulary_of_many_tiles_is_never_held(monkeypatch):
    shapes = []
    logits = Head.logits
    monkeypatch.setattr(Head, "logits", lambda head, hidden: shapes.append(logits(head, hidden)) or shapes[-1])
    torch.manual_seed(0)
    hidden, head = torch.randn(1000, 2), Head(torch.randn(5000, 2))
    found = likeliest_tokens(hidden, head, torch.tensor([4999]))
    assert max(tile.numel() for tile in shapes) <= 2**20
    assert sum(tile.numel() for tile in shapes) == 1000 * 5000
    alone = likeliest_tokens(hidden[:3], head, torch.tensor([4999]))
    for some, whole in zip(alone, found, strict=True):
        torch.testing.assert_close(some, whole[:3], rtol=1e-6, atol=1e-6)
