"""Hashes and random streams that are the same on every machine and after a restart."""

import hashlib

import torch


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone: splits data the same way everywhere."""
    return _hash64(text) / 2**64


def run_seed() -> int:
    """The seed that ``seed_everything`` set for this process."""
    return torch.initial_seed()


def seeded_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on all ``parts`` and on nothing else, such as how often it was asked before."""
    return torch.Generator(device).manual_seed(_hash64(repr(parts)) >> 1)


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
