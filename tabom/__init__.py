"""Post-train diffusion language models on the decoding trajectories they produce themselves."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabom.generation import Model as Model
    from tabom.generation import load as load

_HOMES = {"Model": "generation", "load": "generation"}
# No class that a configuration names: jsonargparse would write the shorter of its two paths into every record.
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import at first use, so that the command line starts at once."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tabom")
    if name in _HOMES:
        return getattr(importlib.import_module(f"tabom.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tabom' has no attribute {name!r}")
