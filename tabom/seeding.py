"""Hashes and random streams that are the same on every machine and after a restart."""

import hashlib
import os
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Constants of SplitMix64, as signed numbers."""


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone: splits data the same way everywhere."""
    return _hash64(text) / 2**64


def run_seed() -> int:
    """The seed that ``seed_everything`` set for this process; torch's generator is seeded anew while training."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))


def stream_key(*parts: int | str) -> int:
    """Key of the random stream that belongs to all ``parts``: a signed 64-bit number, for :func:`branch`."""
    return _hash64(repr(parts)) - 2**63


def branch(keys: Tensor, index: Tensor) -> Tensor:
    """Key of each stream's branch number ``index``; both int64, broadcast.

    A generator without a state (SplitMix64, whose n-th output this is): draws depend on their keys, and neither on the
    device, nor on what else is drawn together with them.

    References:
        Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    bits = keys + (index + 1) * _GOLDEN
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def uniform(keys: Tensor) -> Tensor:
    """One draw from [0, 1) for each key that :func:`branch` gave, in float64."""
    return _shifted(keys, 11).double() * 2.0**-53


def permutation(length: int, *parts: int | str) -> Tensor:
    """Numbers below ``length`` in an order that depends on ``parts`` alone: keys of a stream, all different, sorted."""
    return branch(torch.tensor(stream_key(*parts)), torch.arange(length)).argsort()


class RowDraws:
    """Random numbers for the rows of a batch, each row's from a stream of its own.

    A row's numbers depend on its key and on how many calls came before: neither on the other rows, nor on padding.

    Args:
        keys: One a row (B,), int64.
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys = keys
        self._num_calls = 0

    @classmethod
    def of_numbers(cls, key: int, numbers: Tensor) -> "RowDraws":
        """For rows (B,) by number, in the stream of ``key`` (see :func:`stream_key`)."""
        return cls(branch(torch.full_like(numbers, key, dtype=torch.int64), numbers))

    @classmethod
    def of_ids(cls, query_ids: Sequence[str], *parts: int | str, device: torch.device | str = "cpu") -> "RowDraws":
        """For rows by their query, in the stream of ``parts``."""
        return cls(torch.tensor([stream_key(*parts, query_id) for query_id in query_ids], device=device))

    def per_row(self) -> Tensor:
        """One number a row in [0, 1), (B,) in float64."""
        return uniform(self._next())

    def per_position(self, where: Tensor) -> Tensor:
        """One number a position (B, L) in [0, 1), in float64, by its place among those where ``where`` is true."""
        return uniform(branch(self._next()[:, None], where.long().cumsum(1)))

    def _next(self) -> Tensor:
        number = torch.full_like(self._keys, self._num_calls)
        self._num_calls += 1
        return branch(self._keys, number)


def _shifted(bits: Tensor, num: int) -> Tensor:
    """Shift to the right, filled with zeros."""
    return (bits >> num) & (2 ** (64 - num) - 1)


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
