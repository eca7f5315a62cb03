"""The reverse process: from a masked response to text, with a record of the order."""

from tabom.samplers.sampler import Sampler
from tabom.samplers.schedules import (
    AncestralUnmasking,
    ConfidenceThreshold,
    EntropyBound,
    EvenSplit,
    FixedTokens,
    LinearTimesteps,
    RoundedTimesteps,
    Schedule,
    StepsPerBlock,
)
from tabom.samplers.trace_credit import TraceCredit

__all__ = [
    "AncestralUnmasking",
    "ConfidenceThreshold",
    "EntropyBound",
    "EvenSplit",
    "FixedTokens",
    "LinearTimesteps",
    "RoundedTimesteps",
    "Sampler",
    "Schedule",
    "StepsPerBlock",
    "TraceCredit",
]
