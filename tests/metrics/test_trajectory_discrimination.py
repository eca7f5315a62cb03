"""Variance of the entropy over positions that are still masked: by step, by share decoded, and its mean."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tabom.backbones.dream import DreamBackbone
from tabom.errors import TabomError
from tabom.functional.discrimination import counted_positions, decoded_share_bin, entropy_variance
from tabom.metrics import TrajectoryDiscriminationScore
from tabom.samplers import LinearTimesteps, Sampler
from tabom.types import Example, PromptBatch

NAN = float("nan")


@st.composite
def decodings(draw, min_rows=1):
    """Entropies (B, S, N), NaN once a position is revealed, and the positions that count, as nested lists."""
    num_rows, num_steps, length = draw(st.integers(min_rows, 5)), draw(st.integers(2, 4)), draw(st.integers(1, 5))
    step_entropy, where = [], []
    for _ in range(num_rows):
        reveal_step = draw(st.lists(st.integers(0, num_steps), min_size=length, max_size=length))
        values = draw(st.lists(st.integers(0, 40), min_size=num_steps * length, max_size=num_steps * length))
        step_entropy.append(
            [
                [values[step * length + n] / 8 if step <= reveal_step[n] else NAN for n in range(length)]
                for step in range(num_steps)
            ]
        )
        where.append(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    return step_entropy, where


def arguments(decoding):
    step_entropy, where = decoding
    return torch.tensor(step_entropy, dtype=torch.float64), at_every_step(torch.tensor(where), len(step_entropy[0]))


def at_every_step(where, num_steps):
    return where[:, None].expand(-1, num_steps, -1)


def metric_of(num_steps, *batches, num_bins=20):
    metric = TrajectoryDiscriminationScore(num_steps, num_bins)
    for step_entropy, where in batches:
        metric.update(step_entropy, where if where.ndim == 3 else at_every_step(where, step_entropy.shape[1]))
    return metric


def computed(metric):
    result = metric.compute()
    assert tuple(result) == ("curve", "score", "curve_by_share")
    return [*result["curve"].tolist(), result["score"].item()]


def by_share(metric):
    return metric.compute()["curve_by_share"].tolist()


def mean_or_nan(values):
    return np.mean(values) if len(values) else NAN


def reference(decoding):
    """Curve and score by numpy's population variance."""
    step_entropy, where = np.array(decoding[0]), np.array(decoding[1])
    curve = []
    for step in range(step_entropy.shape[1]):
        counted = [row[step][keep & ~np.isnan(row[step])] for row, keep in zip(step_entropy, where, strict=True)]
        curve.append(mean_or_nan([np.var(values) for values in counted if len(values) > 1]))
    return [*curve, mean_or_nan([value for value in curve if not np.isnan(value)])]


def share_reference(decoding, num_bins):
    """Means per trajectory in a bin, then over trajectories, in plain loops."""
    bins = [[] for _ in range(num_bins)]
    for row, keep in zip(np.array(decoding[0]), np.array(decoding[1]), strict=True):
        own = [[] for _ in range(num_bins)]
        for values in row:
            left = [value for value, counts in zip(values, keep, strict=True) if counts and not np.isnan(value)]
            if len(left) > 1:
                own[(sum(keep) - len(left)) * num_bins // sum(keep)].append(np.var(left))
        for index, variances in enumerate(own):
            bins[index] += [np.mean(variances)] if variances else []
    return [mean_or_nan(variances) for variances in bins]


def test_value_by_hand():
    step_entropy = torch.tensor([[[1.0, 3.0, 8.0], [NAN, 2.0, 6.0], [NAN, NAN, 5.0]]])
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    curve = [((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 3, ((2 - 4) ** 2 + (6 - 4) ** 2) / 2]
    expected = pytest.approx([*curve, NAN, sum(curve) / 2], nan_ok=True)
    assert computed(metric_of(3, (step_entropy, everywhere))) == expected


def test_positions_after_the_end_are_left_out():
    step_entropy = torch.tensor([[[1.0, 3.0, 50.0], [NAN, 2.0, 60.0]]])
    metric = metric_of(2, (step_entropy, torch.tensor([[True, True, False]])))
    assert computed(metric) == pytest.approx([1.0, NAN, 1.0], nan_ok=True)


def test_a_single_position_says_nothing():
    """It is not a variance of 0, which would pull the mean down."""
    step_entropy = torch.tensor([[[1.0, 3.0, 9.0]], [[NAN, 4.0, NAN]]])
    metric = metric_of(1, (step_entropy[:, :, :2], torch.ones(2, 2, dtype=torch.bool)))
    assert metric.compute()["score"].item() == 1.0


ENDS = [[5, 2, 7, 2, 6], [5, 5, 5, 5, 5], [2, 5, 5, 5, 2]]
STEPS = [[4, 3, 0, 1, 2], [0, 1, 2, 3, 4], [3, 0, 1, 2, 4]]


@pytest.mark.parametrize("end", ["so_far", "final"])
def test_where_a_response_ends(end):
    """In plain loops; 2 is the end of sequence."""
    counted = counted_positions(torch.tensor(ENDS), torch.tensor(STEPS), num_steps=5, eos_token_id=2, end=end)
    for row, (ids, steps) in enumerate(zip(ENDS, STEPS, strict=True)):
        for step in range(5):
            if end == "final":
                num_counted = ids.index(2) + 1 if 2 in ids else 5
            else:
                seen = [n for n in range(5) if ids[n] == 2 and steps[n] < step]
                num_counted = min(seen, default=5)
            assert counted[row, step].tolist() == [n < num_counted for n in range(5)]


def test_steps_with_nothing_left_are_nan_in_the_curve_and_left_out_of_the_score():
    step_entropy = torch.tensor([[[1.0, 3.0], [2.0, 2.0], [NAN, NAN]]])
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    assert computed(metric_of(3, (step_entropy, everywhere))) == pytest.approx([1.0, 0.0, NAN, 0.5], nan_ok=True)


def test_each_step_averages_over_the_trajectories_that_have_something_left():
    step_entropy = torch.tensor([[[1.0, 3.0], [NAN, NAN]], [[1.0, 5.0], [2.0, 8.0]]])
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    curve = [(1.0 + 4.0) / 2, 9.0]
    assert computed(metric_of(2, (step_entropy, everywhere))) == pytest.approx([*curve, sum(curve) / 2])


def test_variance_and_where_it_is_defined():
    step_entropy = torch.tensor([[[1.0, 3.0], [NAN, 2.0]], [[4.0, 4.0], [NAN, NAN]]])
    variance, is_defined = entropy_variance(step_entropy, torch.ones(2, 2, 2, dtype=torch.bool))
    assert is_defined.tolist() == [[True, False], [True, False]]
    assert variance[is_defined].tolist() == [1.0, 0.0]


@given(decodings())
def test_class_equals_function_equals_numpy(decoding):
    step_entropy, where = arguments(decoding)
    expected = reference(decoding)
    variance, is_defined = entropy_variance(step_entropy, where)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        curve = np.nanmean(np.where(is_defined.numpy(), variance.numpy(), NAN), axis=0)
    assert curve.tolist() == pytest.approx(expected[:-1], nan_ok=True)
    assert computed(metric_of(step_entropy.shape[1], (step_entropy, where))) == pytest.approx(expected, nan_ok=True)


@given(decodings(min_rows=2), st.data())
def test_two_updates_in_any_split_and_merged_states_equal_one_update(decoding, data):
    step_entropy, where = arguments(decoding)
    num_rows, num_steps, _ = step_entropy.shape
    split = data.draw(st.integers(1, num_rows - 1))
    first, second = (step_entropy[:split], where[:split]), (step_entropy[split:], where[split:])
    together = metric_of(num_steps, (step_entropy, where))
    expected = pytest.approx([*computed(together), *by_share(together)], nan_ok=True, abs=1e-12)
    twice = metric_of(num_steps, first, second)
    assert [*computed(twice), *by_share(twice)] == expected
    merged = metric_of(num_steps, first)
    merged.merge_state(metric_of(num_steps, second))
    assert [*computed(merged), *by_share(merged)] == expected


@given(decodings(), st.integers(1, 7))
def test_curve_by_share_equals_numpy(decoding, num_bins):
    metric = metric_of(len(decoding[0][0]), arguments(decoding), num_bins=num_bins)
    curve = metric.compute()["curve_by_share"].reshape(-1).tolist()
    assert curve == pytest.approx(share_reference(decoding, num_bins), nan_ok=True)


def test_curve_by_share_by_hand():
    """A row that decodes one position a step, and one that takes half of them at once and waits a step before."""
    step_entropy = torch.tensor(
        [
            [[0.0, 2.0, 4.0, 6.0], [NAN, 2.0, 4.0, 6.0], [NAN, NAN, 4.0, 6.0], [NAN, NAN, NAN, 6.0]],
            [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 8.0, 8.0], [NAN, NAN, 8.0, 2.0], [NAN, NAN, NAN, NAN]],
        ]
    )
    metric = metric_of(4, (step_entropy, torch.ones(2, 4, dtype=torch.bool)), num_bins=8)
    first, second = [5.0, 8 / 3, 1.0], [(4.0 + 16.0) / 2, 9.0]
    expected = [(first[0] + second[0]) / 2, NAN, first[1], NAN, (first[2] + second[1]) / 2, NAN, NAN, NAN]
    assert by_share(metric) == pytest.approx(expected, nan_ok=True)


def test_steps_that_reveal_nothing_change_no_curve_by_share():
    """Samplers whose rows need different numbers of steps are compared at the same share."""
    step_entropy = torch.tensor([[[1.0, 3.0, 8.0], [NAN, 2.0, 6.0], [NAN, NAN, 5.0]]])
    longer = torch.cat([step_entropy.repeat_interleave(2, 1), torch.full((1, 3, 3), NAN)], 1)
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    short, long = metric_of(3, (step_entropy, everywhere)), metric_of(9, (longer, everywhere))
    assert by_share(long) == pytest.approx(by_share(short), nan_ok=True)
    assert len(long.compute()["curve"]) == 9


def test_share_counts_no_position_after_the_end_and_ends_outside_the_bins():
    step_entropy = torch.tensor([[[1.0] * 4, [NAN, 1.0, 1.0, NAN], [NAN, NAN, 1.0, 1.0]], [[1.0] * 4] * 3])
    where = at_every_step(torch.tensor([[True, True, True, False], [False] * 4]), 3)
    assert decoded_share_bin(step_entropy, where, 10).tolist() == [[0, 3, 10], [10, 10, 10]]


def test_shares_are_compared_in_whole_numbers():
    """In single precision 7 / 12 * 108 is below 63."""
    step_entropy = torch.ones(1, 1, 12)
    step_entropy[..., :7] = NAN
    assert decoded_share_bin(step_entropy, torch.ones(1, 1, 12, dtype=torch.bool), 108).item() == 63


def test_wrong_arguments_are_named():
    with pytest.raises(TabomError, match=r"^num_bins: expected at least 1, got 0$"):
        TrajectoryDiscriminationScore(2, 0)
    with pytest.raises(ValueError, match=r"^expected 2 steps, got 3$"):
        metric_of(2, (torch.ones(1, 3, 4), torch.ones(1, 4, dtype=torch.bool)))


@pytest.mark.parametrize(
    "name", ["llada_g32_b32_s32", "llada_leftpad_g16_b8_s16", "dream_topk_margin_s16"], ids=lambda name: name
)
def test_scores_that_the_official_code_recorded(golden, name):
    """Its score maps of every step instead of entropies; what is not eligible has none."""
    tensors = load_file(golden / f"decode_{name.split('_')[0]}.safetensors")
    length = tensors[f"{name}/unmask_step"].shape[1]
    scores = tensors[f"{name}/confidence"][:, :, -length:].transpose(0, 1).double()
    scores = scores.masked_fill(scores.isinf(), NAN)
    where = torch.arange(length).expand(len(scores), length) < torch.tensor([[length], [length // 2]])
    metric, decoding = metric_of(scores.shape[1], (scores, where)), (scores.tolist(), where.tolist())
    expected = reference(decoding)
    assert expected[-1] > 1e-5
    assert computed(metric) == pytest.approx(expected, nan_ok=True, rel=1e-9)
    assert by_share(metric) == pytest.approx(share_reference(decoding, 20), nan_ok=True, rel=1e-9)


def test_entropies_of_a_decoding_that_the_official_code_recorded(golden):
    """Eq. 10-11 in numpy on the recorded states, against our sampler and class."""
    name, length = "dream_entropy_s32", 32
    mask_id = json.loads((golden / "decode_dream.json").read_text())[name]["mask_id"]
    tensors = load_file(golden / "decode_dream.safetensors")
    backbone = DreamBackbone.from_pretrained(golden / "dream_tiny").eval()
    backbone.config["mask_token_id"] = mask_id
    prompt = tensors[f"{name}/prompt_ids"]
    start = torch.cat([prompt, prompt.new_full((len(prompt), length), mask_id)], 1)
    everywhere = torch.ones_like(start, dtype=torch.bool)
    states = torch.stack([start, *tensors[f"{name}/x_history"][:-1]], 1)
    with torch.no_grad():
        logits = backbone.logits(backbone(states.flatten(0, 1), everywhere.repeat_interleave(length, 0)))
    logits = logits.unflatten(0, states.shape[:2])[:, :, -length:].double().numpy()
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    entropy = np.where((states[:, :, -length:] == mask_id).numpy(), -(probs * np.log(probs)).sum(-1), NAN)
    step = tensors[f"{name}/unmask_step"].numpy()
    revealed = np.take_along_axis(entropy, step[:, None, :], 1)[:, 0]
    np.testing.assert_allclose(revealed, -tensors[f"{name}/unmask_confidence"].numpy(), atol=1e-5)

    batch = PromptBatch(
        start,
        everywhere,
        torch.arange(start.shape[1]).expand_as(start) >= prompt.shape[1],
        tuple(Example(str(row), "", "") for row in range(len(prompt))),
    )
    decoded = Sampler(score="entropy", schedule=LinearTimesteps(32)).decode(backbone, batch, record_steps=True)
    where = torch.ones(len(prompt), length, dtype=torch.bool)
    metric, decoding = metric_of(32, (decoded.step_entropy, where)), (entropy.tolist(), where.tolist())
    assert computed(metric) == pytest.approx(reference(decoding), rel=1e-4, abs=1e-9)
    assert by_share(metric) == pytest.approx(share_reference(decoding, 20), rel=1e-4, abs=1e-9, nan_ok=True)


@given(decodings(), st.integers(-8, 8))
def test_adding_a_constant_to_all_entropies_changes_nothing(decoding, constant):
    step_entropy, where = arguments(decoding)
    torch.testing.assert_close(entropy_variance(step_entropy + constant, where), entropy_variance(step_entropy, where))


def test_arguments_are_not_changed():
    step_entropy, where = torch.tensor([[[1.0, NAN]]]), torch.tensor([[[True, False]]])
    before = step_entropy.clone(), where.clone()
    metric_of(1, (step_entropy, where))
    torch.testing.assert_close((step_entropy, where), before, rtol=0, atol=0, equal_nan=True)


def test_reset_forgets():
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    metric = metric_of(2, (torch.tensor([[[1.0, 9.0], [2.0, 9.0]]]), everywhere))
    metric.reset()
    metric.update(torch.tensor([[[1.0, 3.0], [2.0, 2.0]]]), at_every_step(everywhere, 2))
    assert computed(metric) == [1.0, 0.0, 0.5]
