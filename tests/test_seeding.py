import torch

from tabom.seeding import branch, stream_key, uniform


def test_branches_are_the_outputs_of_splitmix64():
    """The published test vector of the reference implementation, state 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    got = branch(torch.tensor(1234567), torch.arange(5))
    assert [number % 2**64 for number in got.tolist()] == expected
    assert uniform(got).tolist() == [(number >> 11) / 2**53 for number in expected]


def test_draws_are_uniform_over_neighbouring_branches():
    keys = torch.tensor([stream_key(0, f"q/{number}") for number in range(400)])
    draws = uniform(branch(branch(keys, torch.tensor(0))[:, None], torch.arange(500)))
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, 20, 0, 1)
    assert (counts - 10000).abs().max() < 4.5 * 10000**0.5
    for axis in (0, 1):
        first, second = draws.narrow(axis, 0, draws.shape[axis] - 1), draws.narrow(axis, 1, draws.shape[axis] - 1)
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert abs(correlation) < 0.01


def test_keys_differ_in_every_part():
    keys = {stream_key(*parts) for parts in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a0"))}
    assert len(keys) == 5
    assert all(-(2**63) <= key < 2**63 for key in keys)
