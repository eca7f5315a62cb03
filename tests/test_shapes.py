"""Shapes in signatures are checked while the tests run: in equations, corruptions, objectives, samplers and metrics."""

import pytest
import torch
from helpers import trajectory_batch
from jaxtyping import TypeCheckError

from tabom.corruption import TrajectorySegments
from tabom.functional.reduction import masked_mean
from tabom.metrics import AccuracyKept
from tabom.objectives import NelboObjective
from tabom.samplers.filtering import likely_tokens

TWO, THREE = torch.ones(2), torch.ones(3, dtype=torch.bool)


@pytest.mark.parametrize(
    "call",
    [
        lambda: masked_mean(TWO, THREE),
        lambda: TrajectorySegments(1).cut(trajectory_batch([[0, 1]]), torch.zeros(1, 1, dtype=torch.long), 99),
        lambda: NelboObjective().mean_where(TWO, THREE),
        lambda: likely_tokens(TWO, top_p=None, top_k=None),
        lambda: AccuracyKept().update(TWO.bool(), THREE),
    ],
    ids=["functional", "corruption", "objectives", "samplers", "metrics"],
)
def test_a_wrong_shape_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()
