import torch

from tabom.samplers.filtering import likely_tokens


def kept(probabilities, top_p=None, top_k=None, **options):
    return likely_tokens(torch.tensor([probabilities]).log(), top_p=top_p, top_k=top_k, **options)[0].tolist()


def test_top_p_keeps_the_token_that_exceeds_it_and_all_before():
    probabilities = [0.05, 0.5, 0.15, 0.3]
    assert kept(probabilities, top_p=0.4) == [False, True, False, False]
    assert kept(probabilities, top_p=0.75) == [False, True, False, True]
    assert kept(probabilities, top_p=0.85) == [False, True, True, True]
    assert kept(probabilities, top_p=1.0) == [True] * 4


def test_the_likeliest_token_is_always_kept():
    assert kept([0.1, 0.9], top_p=1e-6, top_k=1) == [False, True]


def test_top_k_keeps_ties_and_may_exceed_the_vocabulary():
    probabilities = [0.25, 0.5, 0.25]
    assert kept(probabilities, top_k=1) == [False, True, False]
    assert kept(probabilities, top_k=2) == [True, True, True]
    assert kept(probabilities, top_k=9) == [True, True, True]


def test_both_filters_have_to_keep_a_token():
    probabilities = [0.1, 0.4, 0.2, 0.3]
    assert kept(probabilities, top_p=0.8, top_k=2) == [False, True, False, True]
    assert kept(probabilities, top_p=0.5, top_k=3) == [False, True, False, True]


def test_top_p_may_count_what_top_k_keeps():
    """0.4 of 0.7 is more than a half."""
    probabilities = [0.1, 0.4, 0.2, 0.3]
    assert kept(probabilities, top_p=0.5, top_k=2) == [False, True, False, True]
    assert kept(probabilities, top_p=0.5, top_k=2, top_k_first=True) == [False, True, False, False]
    assert kept(probabilities, top_k=2, top_k_first=True) == [False, True, False, True]
    assert kept(probabilities, top_p=0.5, top_k_first=True) == [False, True, False, True]
