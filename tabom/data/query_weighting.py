"""What the verdicts on all decodings of a query say about each of them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

QueryWeighting = Literal["none", "failure_rate", "advantage"]


def pass_rates(query_ids: Sequence[str], is_verified: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Share of the decodings of each row's query that are verified.

    Args:
        query_ids: One per row; the rows of a query may lie anywhere.
        is_verified: Verdict on each row.

    Example:
        >>> pass_rates(["a", "b", "a"], np.array([True, True, False]))
        array([0.5, 1. , 0.5], dtype=float32)
    """
    _, group = np.unique(np.asarray(query_ids), return_inverse=True)
    rates = np.bincount(group, weights=is_verified) / np.bincount(group)
    return rates[group].astype(np.float32)
