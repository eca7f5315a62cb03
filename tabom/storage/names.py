"""Names that files give are names, never paths."""

from tabom.errors import require

_LONGEST = 200


def plain_name(name: object, where: str) -> str:
    """A name that a file or a configuration gives, from which the name of another file is made.

    Args:
        name: As it was read.
        where: File and key, for the message.

    Raises:
        TabomError: If it is no text, empty or too long, begins with a dot, or holds a slash or what cannot be printed.
    """
    text = name if isinstance(name, str) else ""
    is_plain = text.isprintable() and not set(text) & set("/\\") and not text.startswith(".")
    require(0 < len(text) <= _LONGEST and is_plain, f"{where}: expected a plain name and no path, got {name!r:.60}")
    return text
