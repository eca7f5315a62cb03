"""The one exception whose message is meant for the user as it stands."""


class TabomError(ValueError):
    """Bad input: the message names the file, row or key and what was expected; the command line prints it alone."""


def require(condition: bool, message: str) -> None:
    """Raise ``TabomError(message)`` unless ``condition`` holds."""
    if not condition:
        raise TabomError(message)
