"""The reverse process: from a masked response to text, with a record of the order."""

from tabom.samplers.sampler import Sampler

__all__ = ["Sampler"]
