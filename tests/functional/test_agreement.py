"""Kendall's tau between entropy and decoding order: tau-b pair by pair, ties, rows without a value."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.agreement import kendall_tau

NAN = float("nan")


@st.composite
def responses(draw):
    """Entropies and orders with many ties, and the positions that take part, as nested lists."""
    num_rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    return rows(st.integers(0, 5).map(lambda n: n / 4)), rows(st.integers(0, 4)), rows(st.booleans())


def tau_of(entropy, order, where, block=None):
    """Tau-b by its definition, pair by pair."""
    concordant = discordant = untied_entropy = untied_order = 0
    positions = [i for i in range(len(order)) if where[i]]
    for i, r in enumerate(positions):
        for s in positions[i + 1 :]:
            if block and block[r] != block[s]:
                continue
            product = (entropy[r] - entropy[s]) * (order[r] - order[s])
            concordant += product > 0
            discordant += product < 0
            untied_entropy += entropy[r] != entropy[s]
            untied_order += order[r] != order[s]
    denominator = (untied_entropy * untied_order) ** 0.5
    return (concordant - discordant) / denominator if denominator else NAN


def taus(response):
    return [tau_of(*row) for row in zip(*response, strict=True)]


def arguments(response):
    return [torch.tensor(field) for field in response]


def tau(entropy, order, where=None):
    everywhere = [True] * len(order)
    result = kendall_tau(
        torch.tensor([entropy]), torch.tensor([order]), where=torch.tensor([everywhere if where is None else where])
    )
    assert result.dtype is torch.float64
    return result.item()


def test_value_by_hand():
    """5 of 6 pairs agree; with a tie in either, the norm shrinks."""
    assert tau([0.1, 0.3, 0.2, 0.4], [0, 1, 2, 3]) == (5 - 1) / 6
    assert tau([0.1, 0.3, 0.3, 0.4], [0, 1, 2, 3]) == pytest.approx(5 / (5 * 6) ** 0.5)
    assert tau([0.1, 0.3, 0.2, 0.4], [0, 1, 1, 3]) == pytest.approx(5 / (6 * 5) ** 0.5)


def test_value_of_scipy():
    """``scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0])``, from its documentation."""
    assert tau([12.0, 2.0, 1.0, 12.0, 2.0], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)


def test_perfect_orders_are_exact_at_a_paper_scale_length():
    entropy = torch.linspace(0, 1, 257).tolist()
    assert tau(entropy, list(range(257))) == 1.0
    assert tau(entropy, list(range(257))[::-1]) == -1.0


@given(responses())
def test_equals_the_double_loop(response):
    entropy, order, where = arguments(response)
    assert kendall_tau(entropy, order, where=where).tolist() == pytest.approx(taus(response), nan_ok=True)


@given(responses(), st.data())
def test_pairs_of_one_block_equal_the_double_loop(response, data):
    entropy, order, where = arguments(response)
    block = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=entropy.numel(), max_size=entropy.numel())))
    block = block.view_as(entropy)
    expected = [tau_of(*row) for row in zip(*response, block.tolist(), strict=True)]
    got = kendall_tau(entropy, order, where=where, block=block).tolist()
    assert got == pytest.approx(expected, nan_ok=True)


@given(responses())
def test_what_does_not_take_part_changes_nothing(response):
    entropy, order, where = arguments(response)
    changed = kendall_tau(entropy.where(where, NAN), order.where(where, 99), where=where)
    torch.testing.assert_close(changed, kendall_tau(entropy, order, where=where), rtol=0, atol=0, equal_nan=True)


def test_rows_without_a_correlation_are_nan():
    assert (
        torch.tensor(
            [
                tau([0.5], [0]),
                tau([0.5, 0.7], [0, 1], [True, False]),
                tau([0.5, 0.5], [0, 1]),
                tau([0.5, 0.7], [3, 3]),
                tau([0.5, NAN, 0.9], [0, 1, 2]),
            ]
        )
        .isnan()
        .all()
    )
