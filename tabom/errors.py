"""The one exception whose message is meant for the user as it stands."""

import textwrap
from math import isfinite, isinf
from operator import ge, gt, le, lt

_MAX_REASON_LENGTH = 400  # characters


class TabomError(ValueError):
    """Bad input: the message names the file, row or key and what was expected; the command line prints it alone."""


def require(condition: bool, message: str) -> None:
    """Raise ``TabomError(message)`` unless ``condition`` holds."""
    if not condition:
        raise TabomError(message)


def short_reason(error: Exception) -> str:
    """What a library says went wrong, its cause where it names one, as a part of a sentence of ours."""
    return textwrap.shorten(str(error.__cause__ or error), _MAX_REASON_LENGTH)


def check_range(
    name: str,
    value: float | None,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ``TabomError`` unless a setting is a finite number within its bounds.

    Args:
        name: Of the option.
        value: What it was set to; None, where the option may be null, has no bounds.
        least: Smallest value.
        above: Largest value that is too small.
        most: Largest value.
        below: Smallest value that is too large.
    """
    if value is None:
        return
    bounds = {"at least": (least, ge), "above": (above, gt), "at most": (most, le), "below": (below, lt)}
    given = [(word, bound, compare) for word, (bound, compare) in bounds.items() if bound is not None]
    expected = " and ".join(f"{word} {bound}" for word, bound, _ in given) + (" and finite" if isinf(value) else "")
    is_inside = isfinite(value) and all(compare(value, bound) for _, bound, compare in given)
    require(is_inside, f"{name}: expected {expected}, got {value}")


def check_used(name: str, value: object, default: object, *, is_used: bool, owner: str) -> None:
    """Raise ``TabomError`` if an option is set where nothing reads it.

    Args:
        name: Of the option.
        value: What it was set to.
        default: What it is where nobody sets it.
        is_used: Whether something reads it.
        owner: What ignores it otherwise.
    """
    require(is_used or value == default, f"{name}: expected {default} with {owner}, which ignores it, got {value}")
