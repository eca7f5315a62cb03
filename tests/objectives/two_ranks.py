"""Loss and gradients of every objective on two processes and on one, for the same rows; started by ``test_ranks.py``.

The second process gets the rows that have no pair.
"""

import copy
import dataclasses
import os
import sys

import torch
import torch.distributed as dist
from helpers import TINY, trajectory_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tabom.backbones import NewTinyDLM
from tabom.data.tokenizer import load_tokenizer
from tabom.modules.reference import Reference, measure
from tabom.objectives import (
    DInferObjective,
    DOpsdObjective,
    DParallelObjective,
    ExactOrderObjective,
    GiftObjective,
    LiftObjective,
    NelboObjective,
    PaplObjective,
    Ranking,
    T3DObjective,
    TabomObjective,
    TadObjective,
)
from tabom.seeding import RowDraws, stream_key
from tabom.types import NEVER, NO_TOKEN

NUM_FIRST = 3  # rows of the first process
WINDOW = {"window": 4, "truncated_windows": True}
OBJECTIVES = {
    "nelbo": NelboObjective(),
    "inverse_ratio": NelboObjective(weighting="inverse_ratio"),
    "cart": NelboObjective(weighting="cart"),
    "papl": PaplObjective(),
    "dparallel": DParallelObjective(block_length=3),
    "dinfer": DInferObjective(),
    "t3d": T3DObjective(block_length=3),
    "t3d_released": T3DObjective(block_length=4, path="prefix_levels", states="one_block"),
    "tabom": TabomObjective(**WINDOW),
    "released": TabomObjective(**WINDOW, window_unit="steps", ties="positional", reduction="batch_tokens"),
    **{
        surrogate: TabomObjective(**WINDOW, ranking=Ranking(surrogate=surrogate))
        for surrogate in ("logistic", "plackett_luce", "boltzmann_kl", "entropy_bonus")
    },
    "tilted": TabomObjective(**WINDOW, tilt=1.5),
    "exact_order": ExactOrderObjective(**WINDOW),
    "tilted_order": ExactOrderObjective(**WINDOW, rank_tilt=1.0, energy="log_odds"),
    "skip_inverted": TabomObjective(**WINDOW, ranking=Ranking(skip_inverted=True)),
    "tad": TadObjective(window=2),
    "tad_released": TadObjective(window=2, reduction="batch_tokens"),
    "lift": LiftObjective(),
    "lift_random": LiftObjective("random", tilt=1.0),
    "gift": GiftObjective(),
    "d_opsd": DOpsdObjective("later_steps", 0.5),
    "d_opsd_current": DOpsdObjective("later_steps", 0.5, "student", "current", "forward", clip=None),
}


class Step(nn.Module):
    """What a training step computes, as a module that DDP can wrap."""

    def __init__(self, backbone, base, objective):
        super().__init__()
        self.backbone, self.objective, self.base = backbone, objective, [base]

    def forward(self, batch):
        draws = RowDraws.of_numbers(stream_key(1), batch.row_numbers)
        options = {"backbone": self.backbone, "reference": Reference(), "base": self.base[0], "step": 0}
        return self.objective.terms(*measure(self.objective, batch, draws=draws, **options))


def gradients(module):
    return {name.removeprefix("module."): p.grad.clone() for name, p in module.named_parameters()}


def work(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = NewTinyDLM(**TINY, initializer_range=0.5).load(load_tokenizer("characters")).double()
    base = copy.deepcopy(backbone)
    for parameter in backbone.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    orders = torch.stack([torch.randperm(6) for _ in range(NUM_FIRST)]).tolist()
    batch = trajectory_batch([*orders, *[[0, *[NEVER] * 5]] * 2], entropy=torch.rand(5, 6).double().tolist())
    teacher_prompt_ids = torch.tensor([[NO_TOKEN] * row + [20 + row] * (6 - row) for row in range(5)])
    batch = dataclasses.replace(batch, row_numbers=torch.arange(5), teacher_prompt_ids=teacher_prompt_ids)
    rows = batch.select(range(NUM_FIRST) if rank == 0 else range(NUM_FIRST, 5))
    results = {}
    for name, objective in OBJECTIVES.items():
        backbone.zero_grad()
        alone = Step(backbone, base, objective)
        terms = alone(batch)
        terms["loss"].backward()
        expected = {"terms": {k: v.detach() for k, v in terms.items()}, "gradients": gradients(alone)}
        backbone.zero_grad()
        objective.mean_over_ranks = mean
        together = DistributedDataParallel(Step(backbone, base, objective))
        terms = together(rows)
        terms["loss"].backward()
        got = {"terms": {k: mean(v.detach()) for k, v in terms.items()}, "gradients": gradients(together)}
        results[name] = {"one": expected, "two": got}
    if rank == 0:
        torch.save(results, path)
    dist.barrier()
    os._exit(0)  # gloo's threads can keep a process that is done from ending


def mean(values):
    total = values.clone()
    dist.all_reduce(total)
    return total / 2


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, args=(sys.argv[1],), nprocs=2)
