import torch

from tabom.functional.end_of_sequence import until_eos

EOS = 2


def test_until_eos():
    ids = torch.tensor([[5, EOS, 6, EOS], [5, 6, 7, 8], [EOS, EOS, EOS, EOS]])
    assert until_eos(ids, EOS).tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
