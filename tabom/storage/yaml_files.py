"""YAML as people write it, and values as the command line reads them."""

import codecs
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from tabom.errors import TabomError, require


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        TabomError: If it holds anything else.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        content = get_loader("yaml")(content.decode(encoding))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TabomError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    require(isinstance(content, dict), f"{path}: expected keys and values, got {type(content).__name__}")
    return content


def as_word(value: Any) -> str:
    """A value as the command line reads it."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("\n").removesuffix("\n...")
