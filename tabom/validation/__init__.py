"""What ``validate`` and ``test`` measure, one file for each kind of held-out data."""

from tabom.validation.decoding import PassAt
from tabom.validation.validation import Validation

__all__ = ["PassAt", "Validation"]
