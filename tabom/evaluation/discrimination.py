"""Trajectory discrimination score of the responses to a benchmark.

Axes: B responses, S denoising steps, N positions.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import get_args

import torch

from tabom.evaluation.responses import Response
from tabom.functional.discrimination import End, counted_positions, entropy_variance
from tabom.storage.run_record import Discrimination
from tabom.types import DecodedBatch


def step_variances(decoded: DecodedBatch, eos_token_id: int) -> list[dict[str, list[float | None]] | None]:
    """``step_variance`` of each :class:`~tabom.evaluation.responses.Response`; None where no entropy was recorded."""
    num_rows, entropy = len(decoded.response_ids), decoded.step_entropy
    if entropy is None:
        return [None] * num_rows
    curves: dict[str, list[list[float]]] = {}
    for end in get_args(End):
        where = counted_positions(
            decoded.response_ids, decoded.unmask_step, num_steps=entropy.shape[1], eos_token_id=eos_token_id, end=end
        )
        variance, is_defined = entropy_variance(entropy.double(), where)
        curves[end] = variance.where(is_defined, torch.nan).tolist()
    return [
        {end: [None if math.isnan(value) else value for value in rows[row]] for end, rows in curves.items()}
        for row in range(num_rows)
    ]


def discrimination_of(responses: Iterable[Response | None]) -> Discrimination | None:
    """Means over the responses whose variances were measured (Eq. 11); None without any."""
    measured = [one.step_variance for one in responses if one is not None and one.step_variance is not None]
    if not measured:
        return None
    curves = {end: list(map(_mean, zip(*(one[end] for one in measured), strict=True))) for end in measured[0]}
    return Discrimination(len(measured), curves)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
