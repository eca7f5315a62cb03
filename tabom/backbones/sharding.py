"""Weights that are spread over the processes that train together (FSDP2)."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from tabom.backbones.base import Denoiser
from tabom.backbones.layers import layers_of
from tabom.errors import require


def shard(backbone: Denoiser, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Keep on each process its share of every weight, in place; names of modules and weights stay.

    Each transformer block is gathered when it runs and given back after it. What is outside of the blocks, embeddings
    and head, stays gathered from the forward pass until the backward pass has ended, so that the head's tensors are
    whole when they are read in between, and their gradients are averaged over the processes like all others.

    Args:
        backbone: With its adapter, if there is one; moved to the device of the mesh.
        mesh: The processes. Each of them sees other data, whatever the mesh's shape: there is no tensor parallelism.
        dtype: Weights are gathered and multiplied in it; None is as stored. Gradients are averaged in float32.

    Raises:
        TabomError: If weights are quantised.
    """
    require(
        all(parameter.is_floating_point() for parameter in backbone.parameters()),
        "strategy: expected weights that are not quantised with FSDP2, got quantised ones; train these with ddp",
    )
    everyone = init_device_mesh(mesh.device_type, (mesh.size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in layers_of(backbone):
        fully_shard(block, mesh=everyone, mp_policy=policy)
    fully_shard(backbone, mesh=everyone, mp_policy=policy, reshard_after_forward=False)
    others = [] if backbone.block_size is None else ["denoise"]  # with full attention it is the forward pass itself
    for name in ("forward_with_cache", "forward_from_cache", *others):
        register_fsdp_forward_method(backbone, name)


def gather(backbone: nn.Module) -> None:
    """Hold all weights on every process, until :func:`release`; all processes have to call it.

    Forward passes need no communication then, so that processes may have different numbers of them. Nothing happens
    where nothing is sharded.
    """
    with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode could not be trained later
        for part in _sharded(backbone):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()


def release(backbone: nn.Module) -> None:
    """Go back to each process's share; without communication."""
    for part in _sharded(backbone):
        part.reshard()
        part.set_reshard_after_forward(part is not backbone, recurse=False)


def _sharded(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))
