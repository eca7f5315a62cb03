"""The pairwise preference and its surrogates: equations as loops, enumeration, invariances, edge cases, gradients.

tests/objectives/test_objective_ranking.py compares values and gradients of all surrogates with loops.
"""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.agreement import order_agreement_counts
from tabom.functional.ranking import (
    boltzmann_kl_loss,
    logistic_ranking_loss,
    ordered_pairs,
    pair_violation,
    pairwise_ranking_loss,
    plackett_luce_loss,
)

NAN = float("nan")
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
    return hinge(entropy, ordered_pairs(order, where=where), margin=margin)


def hinge(energy, is_pair, **violation):
    return pairwise_ranking_loss(pair_violation(energy, **violation), is_pair)


def logistic(energy, is_pair, *, inverse_temperature, **violation):
    return logistic_ranking_loss(pair_violation(energy, **violation), is_pair, inverse_temperature=inverse_temperature)


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


@given(segments())
def test_pairs_equal_the_double_loop(segment):
    _, order, where = segment
    is_pair = ordered_pairs(order, where=where)
    for row in range(len(order)):
        found = {(r, s) for r, s in is_pair[row].nonzero().tolist()}
        assert found == set(pairs_of(order[row].tolist(), where[row].tolist()))


@given(segments(), margins)
def test_loss_equals_the_double_loop(segment, margin):
    entropy, order, where = segment
    expected = [loss_of(*(field[row].tolist() for field in segment), margin) for row in range(len(order))]
    torch.testing.assert_close(loss(entropy, order, where, margin), torch.tensor(expected, dtype=torch.float64))


@given(segments(), margins, st.randoms(use_true_random=False))
def test_permuting_positions_changes_nothing(segment, margin, random):
    permutation = list(range(segment[0].shape[1]))
    random.shuffle(permutation)
    permuted = [field[:, permutation] for field in segment]
    torch.testing.assert_close(loss(*permuted, margin), loss(*segment, margin))


@given(segments(), margins, st.integers(-16, 16))
def test_adding_a_constant_to_all_entropies_changes_nothing(segment, margin, constant):
    entropy, order, where = segment
    shifted = loss(entropy + constant, order, where, margin)
    torch.testing.assert_close(shifted, loss(entropy, order, where, margin), rtol=0, atol=0)


@given(segments(), margins)
def test_only_the_ranks_of_the_order_matter(segment, margin):
    entropy, order, where = segment
    torch.testing.assert_close(loss(entropy, 7 * order**3 - 100, where, margin), loss(entropy, order, where, margin))


@given(segments(), margins)
def test_zero_exactly_when_every_pair_is_ordered_with_margin(segment, margin):
    entropy, order, where = segment
    values = loss(entropy, order, where, margin)
    for row in range(len(order)):
        pairs = pairs_of(order[row].tolist(), where[row].tolist())
        is_ordered = all(entropy[row, r] + margin <= entropy[row, s] for r, s in pairs)
        assert (values[row].item() == 0) == is_ordered


@given(segments(max_rows=1), margins)
def test_where_is_dropping(segment, margin):
    entropy, order, where = segment
    kept = where[0]
    dropped = loss(entropy[:, kept], order[:, kept], where[:, kept], margin)
    torch.testing.assert_close(loss(entropy, order, where, margin), dropped)
    agreement = order_agreement_counts(entropy, ordered_pairs(order, where=where))
    is_pair = ordered_pairs(order[:, kept], where=where[:, kept])
    assert agreement == order_agreement_counts(entropy[:, kept], is_pair)


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
    value = hinge(entropy, is_pair, margin=0.5)
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
    assert torch.autograd.gradcheck(lambda entropy: hinge(entropy, is_pair, margin=margin), entropy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    order = torch.tensor([[0, 1]])
    assert loss(torch.ones(1, 2, dtype=dtype), order, everywhere(order), 0.5).dtype is dtype


def test_arguments_are_not_changed():
    entropy, order, where = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    is_pair = ordered_pairs(order, where=where)
    before = [field.clone() for field in (entropy, order, where, is_pair)]
    hinge(entropy, is_pair, margin=0.5)
    order_agreement_counts(entropy, is_pair)
    torch.testing.assert_close([entropy, order, where, is_pair], before, rtol=0, atol=0)


def test_agreement_by_hand():
    entropy, order = torch.tensor([[1.0, 2.0, 2.0, 0.5]]), torch.tensor([[0, 1, 2, 2]])
    num_agreeing, num_pairs = order_agreement_counts(entropy, ordered_pairs(order, where=everywhere(order)))
    assert num_agreeing.tolist() == [len([(0, 1), (0, 2)])]
    assert num_pairs.tolist() == [len([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])]


@given(segments())
def test_agreement_equals_the_double_loop(segment):
    entropy, order, where = segment
    num_agreeing, num_pairs = order_agreement_counts(entropy, ordered_pairs(order, where=where))
    for row in range(len(order)):
        pairs = pairs_of(order[row].tolist(), where[row].tolist())
        assert num_pairs[row] == len(pairs)
        assert num_agreeing[row] == sum(bool(entropy[row, r] < entropy[row, s]) for r, s in pairs)


def on_pairs(loss):
    return lambda energy, order, where: loss(energy, ordered_pairs(order, where=where))


def kl(energy, order, where):
    return boltzmann_kl_loss(energy, order.to(energy.dtype), where=where, inverse_temperature=2.0)


SURROGATES = {
    "hinge": on_pairs(partial(hinge, margin=0.3)),
    "logistic": on_pairs(partial(logistic, margin=0.3, inverse_temperature=2.0)),
    "plackett_luce": on_pairs(partial(plackett_luce_loss, inverse_temperature=2.0)),
    "boltzmann_kl": kl,
}
every_surrogate = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)


@every_surrogate
@pytest.mark.parametrize("where", [[False, False, False], [False, True, False]], ids=["nothing", "one position"])
def test_nothing_to_compare_is_zero_with_zero_gradient(surrogate, where):
    energy = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    value = surrogate(energy, torch.tensor([[0, 1, 2]]), torch.tensor([where]))
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert energy.grad.tolist() == [[0.0, 0.0, 0.0]]


@every_surrogate
def test_an_empty_window_is_an_attached_zero(surrogate):
    energy = torch.zeros(2, 0, requires_grad=True)
    value = surrogate(energy, torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool))
    assert value.tolist() == [0.0, 0.0]
    assert value.requires_grad


@every_surrogate
@pytest.mark.parametrize("hidden", [NAN, math.inf, -math.inf])
def test_what_takes_no_part_changes_neither_value_nor_gradient(surrogate, hidden):
    energy = torch.tensor([[2.0, hidden, 1.0, 0.5]], requires_grad=True)
    bare = torch.tensor([[2.0, 1.0, 0.5]], requires_grad=True)
    values = (
        surrogate(energy, torch.tensor([[0, 1, 2, 3]]), torch.tensor([[True, False, True, True]])),
        surrogate(bare, torch.tensor([[0, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)),
    )
    sum(values).backward()
    torch.testing.assert_close(*values)
    assert energy.grad[0, 1] == 0
    torch.testing.assert_close(energy.grad[:, [0, 2, 3]], bare.grad)
    assert bare.grad.any()


@every_surrogate
def test_rows_of_no_surrogate_mix(surrogate):
    generator = torch.Generator().manual_seed(0)
    energy, order = torch.rand(4, 5, generator=generator), torch.randint(4, (4, 5), generator=generator)
    where = torch.rand(4, 5, generator=generator) < 0.7
    rows = [surrogate(energy[i : i + 1], order[i : i + 1], where[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(surrogate(energy, order, where), torch.cat(rows))


@every_surrogate
def test_a_constant_added_to_all_energies_changes_nothing(surrogate):
    energy, order = torch.tensor([[0.5, 2.0, 1.0]]).double(), torch.tensor([[2, 0, 1]])
    torch.testing.assert_close(surrogate(energy + 100, order, everywhere(order)), surrogate(energy, order, order >= 0))


@every_surrogate
def test_every_surrogate_has_the_gradient_it_says(surrogate):
    energy = torch.tensor([[0.9, 0.1, 2.3, 1.5], [3.0, 2.2, 1.4, 0.6]], dtype=torch.float64, requires_grad=True)
    order = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 3]])
    assert torch.autograd.gradcheck(lambda energy: surrogate(energy, order, everywhere(order)), energy)


def test_a_margin_for_each_pair():
    energy, order = torch.tensor([[2.0, 1.0, 4.0]]), torch.tensor([[0, 1, 2]])
    margin = torch.tensor([[[NAN, 0.5, 3.0], [NAN, NAN, 3.5], [NAN, NAN, NAN]]])
    value = hinge(energy, ordered_pairs(order, where=everywhere(order)), margin=margin)
    assert value.tolist() == [((2.0 - 1.0 + 0.5) + (2.0 - 4.0 + 3.0) + (1.0 - 4.0 + 3.5)) / 3]
    assert pair_violation(energy, margin=margin)[0, 0, 1] == 2.0 - 1.0 + 0.5


@pytest.mark.parametrize("loss", [hinge, partial(logistic, inverse_temperature=2.0)], ids=["hinge", "logistic"])
def test_one_side_can_be_without_a_gradient(loss):
    """Position 0 is the earlier of both pairs, position 2 the later of both."""
    order = torch.tensor([[0, 1, 2]])
    is_pair = ordered_pairs(order, where=everywhere(order))
    values, gradients = {}, {}
    for side in ("none", "earlier", "later"):
        energy = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
        values[side] = loss(energy, is_pair, margin=0.5, stop_gradient=side)
        (gradients[side],) = torch.autograd.grad(values[side].sum(), energy)
    assert values["none"] == values["earlier"] == values["later"]
    torch.testing.assert_close(gradients["earlier"] + gradients["later"], gradients["none"])
    assert [value > 0 for value in gradients["later"][0].tolist()] == [True, True, False]
    assert [value < 0 for value in gradients["earlier"][0].tolist()] == [False, True, True]


@given(segments(), margins, st.sampled_from([0.1, 1.0, 7.0, 1000.0]))
def test_the_logistic_form_is_above_the_hinge_and_comes_close(segment, margin, beta):
    energy, order, where = segment
    is_pair = ordered_pairs(order, where=where)
    excess = logistic(energy, is_pair, margin=margin, inverse_temperature=beta) - loss(*segment, margin)
    assert (excess >= 0).all()
    assert (excess <= math.log(2) / beta + 1e-12).all()


def test_the_logistic_form_of_one_pair_is_plackett_luce():
    energy, order = torch.tensor([[1.0, 0.3]]).double(), torch.tensor([[0, 1]])
    is_pair = ordered_pairs(order, where=everywhere(order))
    luce = plackett_luce_loss(energy, is_pair, inverse_temperature=3.0)
    torch.testing.assert_close(logistic(energy, is_pair, margin=0.0, inverse_temperature=3.0), luce)


def chance(energies, beta):
    """Of drawing these one after the other in just this order."""
    weights = [math.exp(-beta * energy) for energy in energies]
    return math.prod(weight / sum(weights[i:]) for i, weight in enumerate(weights))


@pytest.mark.parametrize("width", range(1, 7))
def test_plackett_luce_is_the_chance_of_the_order_and_these_sum_to_one(width):
    energy, beta = torch.rand(width, generator=torch.Generator().manual_seed(width)).double() * 3, 1.7
    orders = torch.tensor(list(itertools.permutations(range(width))))
    is_pair = ordered_pairs(orders, where=everywhere(orders))
    loss = plackett_luce_loss(energy.expand(len(orders), width), is_pair, inverse_temperature=beta)
    found = (-beta * loss * (width - 1)).exp()
    expected = [chance(energy[order.argsort()].tolist(), beta) for order in orders]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_an_equal_of_plackett_luce_comes_before_all_later_ones_wherever_its_equals_stand():
    """The chance of that, summed over all orders in which it holds."""
    energy, order, beta = [0.4, 1.0, 0.1, 0.7, 2.0], [0, 0, 1, 2, 2], 1.3
    draws = []
    for r in range(3):
        later = [s for s in range(5) if order[s] > order[r]]
        draws.append(
            sum(
                chance([energy[i] for i in drawn], beta)
                for drawn in itertools.permutations(range(5))
                if all(drawn.index(r) < drawn.index(s) for s in later)
            )
        )
    is_pair = ordered_pairs(torch.tensor([order]), where=torch.ones(1, 5, dtype=torch.bool))
    value = plackett_luce_loss(torch.tensor([energy]).double(), is_pair, inverse_temperature=beta)
    assert value.item() == pytest.approx(-sum(math.log(p) for p in draws) / 3 / beta)


def test_plackett_luce_of_equals_alone_is_zero_with_zero_gradient():
    energy, order = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True), torch.tensor([[4, 4, 4]])
    value = plackett_luce_loss(energy, ordered_pairs(order, where=everywhere(order)), inverse_temperature=2.0)
    value.sum().backward()
    assert (value.tolist(), energy.grad.tolist()) == ([0.0], [[0.0, 0.0, 0.0]])


GRADIENTS = {
    "logistic": lambda energy, is_pair, beta: logistic(energy, is_pair, margin=0.1, inverse_temperature=beta),
    "plackett_luce": lambda energy, is_pair, beta: plackett_luce_loss(energy, is_pair, inverse_temperature=beta),
    "boltzmann_kl": lambda energy, is_pair, beta: boltzmann_kl_loss(
        energy, energy.detach().flip(1), where=is_pair.any(1) | is_pair.any(2), inverse_temperature=beta
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_inverse_temperature_does_not_scale_the_gradient(name):
    """Where all orders are contradicted a weight means about the same for each surrogate at each beta."""
    order = torch.arange(8)[None]
    energy = torch.linspace(3.5, 0.0, 8)[None].double().requires_grad_()
    is_pair = ordered_pairs(order, where=everywhere(order))

    def norm(value):
        return torch.autograd.grad(value.sum(), energy)[0].abs().sum().item()

    hinge = norm(loss(energy, order, everywhere(order), 0.1))
    for beta in (1.0, 5.0, 20.0, 80.0):
        assert hinge / 3 < norm(GRADIENTS[name](energy, is_pair, beta)) <= hinge * 2.5


def test_boltzmann_kl_by_hand():
    """exp(-E) is 1 : 2 for the target and 1 : 1 for the model."""
    target, energy = torch.tensor([[math.log(2), 0.0, NAN]]), torch.tensor([[5.0, 5.0, 1.0]], requires_grad=True)
    where = torch.ones(1, 3, dtype=torch.bool)
    value = boltzmann_kl_loss(energy, target, where=where, inverse_temperature=1.0)
    value.sum().backward()
    expected = 1 / 3 * math.log((1 / 3) / (1 / 2)) + 2 / 3 * math.log((2 / 3) / (1 / 2))
    torch.testing.assert_close(value.detach(), torch.tensor([expected]))
    torch.testing.assert_close(energy.grad, torch.tensor([[1 / 3 - 1 / 2, 2 / 3 - 1 / 2, 0.0]]))


def test_boltzmann_kl_is_the_mean_of_the_blocks():
    """Of those that have two positions."""
    energy, target = torch.rand(2, 1, 7, generator=torch.Generator().manual_seed(0)).double().unbind()
    block, where = torch.tensor([[0, 0, 0, 1, 2, 2, 3]]), torch.tensor([[True] * 6 + [False]])
    loss = partial(boltzmann_kl_loss, inverse_temperature=2.0)
    parts = [loss(energy[:, part], target[:, part], where=where[:, part]) for part in (slice(0, 3), slice(4, 6))]
    torch.testing.assert_close(loss(energy, target, where=where, block=block), (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_boltzmann_kl_is_smallest_at_the_target(beta):
    target = torch.tensor([[0.2, 1.5, 0.9]]).double()
    loss = partial(boltzmann_kl_loss, where=torch.ones(1, 3, dtype=torch.bool), inverse_temperature=beta)
    energy = (target + 2.0).requires_grad_()
    value = loss(energy, target)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), torch.zeros(1).double())
    torch.testing.assert_close(energy.grad, torch.zeros(1, 3).double())
    assert loss(target + torch.tensor([[0.0, 0.1, 0.0]]), target).item() > 1e-5


@pytest.mark.parametrize("target", [[NAN, NAN], [NAN, 1.0]])
def test_boltzmann_kl_without_two_targets_is_zero_with_zero_gradient(target):
    energy = torch.tensor([[3.0, 1.0]], requires_grad=True)
    where = torch.ones(1, 2, dtype=torch.bool)
    value = boltzmann_kl_loss(energy, torch.tensor([target]), where=where, inverse_temperature=2.0)
    value.sum().backward()
    assert (value.tolist(), energy.grad.tolist()) == ([0.0], [[0.0, 0.0]])
