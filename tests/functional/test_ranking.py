"""The pairwise preference: Eq. 8-9 as double loops, invariances, edge cases, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.functional.ranking import order_agreement_counts, ordered_pairs, pairwise_ranking_loss

NAN = float("nan")
quick = settings(deadline=None, max_examples=60)
margins = st.sampled_from([0.0, 0.125, 0.5, 2.0])


@st.composite
def segments(draw, max_rows=3, max_width=6):
    """Entropies are multiples of 1/8, so that sums are exact and differences hit a margin."""
    num_rows, width = draw(st.integers(1, max_rows)), draw(st.integers(1, max_width))

    def rows(elements):
        row = st.lists(elements, min_size=width, max_size=width)
        return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)))

    entropy = rows(st.integers(0, 40)).double() / 8
    return entropy, rows(st.integers(0, 4)), rows(st.booleans())


def pairs_of(order, where):
    positions = range(len(order))
    return [(r, s) for r in positions for s in positions if order[r] < order[s] and where[r] and where[s]]


def loss_of(entropy, order, where, margin):
    pairs = pairs_of(order, where)
    violations = [max(0.0, entropy[r] - entropy[s] + margin) for r, s in pairs]
    return sum(violations) / len(pairs) if pairs else 0.0


def loss(entropy, order, where, margin):
    return pairwise_ranking_loss(entropy, ordered_pairs(order, where=where), margin=margin)


def everywhere(order):
    return torch.ones_like(order, dtype=torch.bool)


def test_loss_by_hand():
    entropy = torch.tensor([[2.0, 1.0, 4.0]])
    order = torch.tensor([[0, 1, 2]])
    expected = ((2.0 - 1.0 + 0.5) + 0.0 + 0.0) / 3
    torch.testing.assert_close(loss(entropy, order, everywhere(order), 0.5), torch.tensor([expected]))


def test_pairs_by_hand():
    is_pair = ordered_pairs(torch.tensor([[1, 0, 1, 5]]), where=torch.tensor([[True, True, True, False]]))
    assert is_pair.nonzero().tolist() == [[0, 1, 0], [0, 1, 2]]


@quick
@given(segments())
def test_pairs_equal_the_double_loop(segment):
    _, order, where = segment
    is_pair = ordered_pairs(order, where=where)
    for row in range(len(order)):
        found = {(r, s) for r, s in is_pair[row].nonzero().tolist()}
        assert found == set(pairs_of(order[row].tolist(), where[row].tolist()))


@quick
@given(segments(), margins)
def test_loss_equals_the_double_loop(segment, margin):
    entropy, order, where = segment
    expected = [loss_of(*(field[row].tolist() for field in segment), margin) for row in range(len(order))]
    torch.testing.assert_close(loss(entropy, order, where, margin), torch.tensor(expected, dtype=torch.float64))


@quick
@given(segments(), margins, st.randoms(use_true_random=False))
def test_permuting_positions_changes_nothing(segment, margin, random):
    permutation = list(range(segment[0].shape[1]))
    random.shuffle(permutation)
    permuted = [field[:, permutation] for field in segment]
    torch.testing.assert_close(loss(*permuted, margin), loss(*segment, margin))


@quick
@given(segments(), margins, st.integers(-16, 16))
def test_adding_a_constant_to_all_entropies_changes_nothing(segment, margin, constant):
    entropy, order, where = segment
    shifted = loss(entropy + constant, order, where, margin)
    torch.testing.assert_close(shifted, loss(entropy, order, where, margin), rtol=0, atol=0)


@quick
@given(segments(), margins)
def test_only_the_ranks_of_the_order_matter(segment, margin):
    entropy, order, where = segment
    torch.testing.assert_close(loss(entropy, 7 * order**3 - 100, where, margin), loss(entropy, order, where, margin))


@quick
@given(segments(), margins)
def test_zero_exactly_when_every_pair_is_ordered_with_margin(segment, margin):
    entropy, order, where = segment
    values = loss(entropy, order, where, margin)
    for row in range(len(order)):
        pairs = pairs_of(order[row].tolist(), where[row].tolist())
        is_ordered = all(entropy[row, r] + margin <= entropy[row, s] for r, s in pairs)
        assert (values[row].item() == 0) == is_ordered


@quick
@given(segments(max_rows=1), margins)
def test_where_is_dropping(segment, margin):
    entropy, order, where = segment
    kept = where[0]
    dropped = loss(entropy[:, kept], order[:, kept], where[:, kept], margin)
    torch.testing.assert_close(loss(entropy, order, where, margin), dropped)
    agreement = order_agreement_counts(entropy, ordered_pairs(order, where=where))
    is_pair = ordered_pairs(order[:, kept], where=where[:, kept])
    assert agreement == order_agreement_counts(entropy[:, kept], is_pair)


@quick
@given(segments(), margins)
def test_rows_do_not_mix(segment, margin):
    rows = [loss(*(field[row : row + 1] for field in segment), margin) for row in range(len(segment[0]))]
    torch.testing.assert_close(loss(*segment, margin), torch.cat(rows))


@pytest.mark.parametrize(
    ("order", "where"),
    [
        ([[0, 0, 0]], [[True, True, True]]),
        ([[0, 1, 2]], [[False, False, False]]),
        ([[0, 1, 2]], [[False, True, False]]),
    ],
    ids=["one step", "nothing", "one position"],
)
def test_no_pair_gives_zero_and_zero_gradient(order, where):
    entropy = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    value = loss(entropy, torch.tensor(order), torch.tensor(where), 0.5)
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert entropy.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_an_empty_segment_gives_zero():
    entropy = torch.zeros(2, 0, requires_grad=True)
    order = torch.zeros(2, 0, dtype=torch.long)
    value = loss(entropy, order, everywhere(order), 0.5)
    assert value.tolist() == [0.0, 0.0]
    assert value.requires_grad


def test_nan_outside_the_pairs_is_not_seen_and_gets_no_gradient():
    entropy = torch.tensor([[2.0, NAN, 1.0]], requires_grad=True)
    is_pair = ordered_pairs(torch.tensor([[0, 1, 2]]), where=torch.tensor([[True, False, True]]))
    value = pairwise_ranking_loss(entropy, is_pair, margin=0.5)
    value.sum().backward()
    assert value.tolist() == [2.0 - 1.0 + 0.5]
    assert entropy.grad.tolist() == [[1.0, 0.0, -1.0]]
    assert [count.tolist() for count in order_agreement_counts(entropy, is_pair)] == [[0], [1]]


def test_nan_inside_a_pair_is_not_hidden():
    order = torch.tensor([[0, 1]])
    assert loss(torch.tensor([[NAN, 1.0]]), order, everywhere(order), 0.5).isnan().all()


def test_gradient_flows_through_both_entropies():
    entropy = torch.tensor([[2.0, 1.0, 4.0]], requires_grad=True)
    order = torch.tensor([[0, 1, 2]])
    loss(entropy, order, everywhere(order), 0.5).sum().backward()
    torch.testing.assert_close(entropy.grad, torch.tensor([[1 / 3, -1 / 3, 0.0]]))


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_gradient(margin):
    """No difference of two entropies is within 0.05 of the kink."""
    entropy = torch.tensor([[0.9, 0.1, 2.3, 1.5], [3.0, 2.2, 1.4, 0.6]], dtype=torch.float64, requires_grad=True)
    is_pair = ordered_pairs(torch.tensor([[0, 1, 1, 2], [0, 1, 2, 3]]), where=torch.ones(2, 4, dtype=torch.bool))
    assert torch.autograd.gradcheck(lambda entropy: pairwise_ranking_loss(entropy, is_pair, margin=margin), entropy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    order = torch.tensor([[0, 1]])
    assert loss(torch.ones(1, 2, dtype=dtype), order, everywhere(order), 0.5).dtype is dtype


def test_arguments_are_not_changed():
    entropy, order, where = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    is_pair = ordered_pairs(order, where=where)
    before = [field.clone() for field in (entropy, order, where, is_pair)]
    pairwise_ranking_loss(entropy, is_pair, margin=0.5)
    order_agreement_counts(entropy, is_pair)
    torch.testing.assert_close([entropy, order, where, is_pair], before, rtol=0, atol=0)


def test_agreement_by_hand():
    entropy, order = torch.tensor([[1.0, 2.0, 2.0, 0.5]]), torch.tensor([[0, 1, 2, 2]])
    num_agreeing, num_pairs = order_agreement_counts(entropy, ordered_pairs(order, where=everywhere(order)))
    assert num_agreeing.tolist() == [len([(0, 1), (0, 2)])]
    assert num_pairs.tolist() == [len([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])]


@quick
@given(segments())
def test_agreement_equals_the_double_loop(segment):
    entropy, order, where = segment
    num_agreeing, num_pairs = order_agreement_counts(entropy, ordered_pairs(order, where=where))
    for row in range(len(order)):
        pairs = pairs_of(order[row].tolist(), where[row].tolist())
        assert num_pairs[row] == len(pairs)
        assert num_agreeing[row] == sum(bool(entropy[row, r] < entropy[row, s]) for r, s in pairs)
