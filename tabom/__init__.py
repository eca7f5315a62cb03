"""Post-train diffusion language models on the decoding trajectories they produce themselves."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabom.backbones import PretrainedBackbone as PretrainedBackbone
    from tabom.data import TrajectoryDataModule as TrajectoryDataModule
    from tabom.generation import Model as Model
    from tabom.generation import load as load
    from tabom.modules import TrainingModule as TrainingModule
    from tabom.objectives import NelboObjective as NelboObjective
    from tabom.objectives import TabomObjective as TabomObjective
    from tabom.samplers import Sampler as Sampler

_HOMES = {
    "Model": "generation",
    "NelboObjective": "objectives",
    "PretrainedBackbone": "backbones",
    "Sampler": "samplers",
    "TabomObjective": "objectives",
    "TrainingModule": "modules",
    "TrajectoryDataModule": "data",
    "load": "generation",
}
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import at first use, so that the command line starts at once."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tabom")
    if name in _HOMES:
        return getattr(importlib.import_module(f"tabom.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tabom' has no attribute {name!r}")
