"""The layers of a transformer."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of all transformers of transformers within a module, in their order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return (part for part in list(module.modules()) if isinstance(part, GradientCheckpointingLayer))


@contextmanager
def layer_states(module: nn.Module) -> Generator[list[Tensor]]:
    """Collect what the layers give, in the order in which they are computed."""
    states: list[Tensor] = []

    def keep(layer: nn.Module, inputs: Any, output: Any) -> None:
        del layer, inputs
        states.append(output if isinstance(output, Tensor) else output[0])

    handles = [layer.register_forward_hook(keep) for layer in layers_of(module)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
