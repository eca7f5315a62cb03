"""Where the official numbers lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of official numbers, ``shared/golden`` beside the checkout."""
    folder = Path(__file__).parents[2].parent / "shared" / "golden"
    if not folder.is_dir():
        reason = f"the official numbers are not at {folder}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
