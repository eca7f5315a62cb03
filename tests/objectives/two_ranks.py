"""Loss and gradients of every objective on two processes and on one, for the same rows; started by ``test_ranks.py``.

The second process gets the rows that have no pair.
"""

import copy
import os
import sys

import torch
import torch.distributed as dist
from helpers import TINY, row_draws, trajectory_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tabom.backbones import NewTinyDLM
from tabom.backbones.target_pass import TargetPass
from tabom.data.tokenizer import load_tokenizer
from tabom.objectives import (
    DInferObjective,
    DParallelObjective,
    ExactOrderObjective,
    NelboObjective,
    PaplObjective,
    Ranking,
    T3DObjective,
    TabomObjective,
)
from tabom.types import NEVER

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
}


class Step(nn.Module):
    """What a training step computes, as a module that DDP can wrap."""

    def __init__(self, backbone, base, objective):
        super().__init__()
        self.backbone, self.objective, self.base = backbone, objective, [base]

    def forward(self, corrupted):
        sampled_ids, reference = None, None
        if self.objective.needs_reference:
            with torch.no_grad():
                compared = TargetPass(self.base[0], corrupted)
                if self.objective.sample_temperature is not None:
                    sampled_ids = compared.sample(self.objective.sample_temperature, row_draws(corrupted))
                reference = compared.statistics(sampled_ids)
        temperature, seen = self.objective.entropy_temperature, TargetPass(self.backbone, corrupted)
        statistics = seen.statistics(sampled_ids, entropy_temperature=temperature)
        if self.objective.needs_divergence:
            statistics = statistics._replace(divergence=seen.divergence_from(compared))
        return self.objective.terms(statistics, corrupted, reference)


def rows_of(corrupted, rank):
    """Rows of one process; a row's complement goes with it."""
    num_rows = 5
    return corrupted.select([i for i in range(len(corrupted.clean_ids)) if (i % num_rows >= NUM_FIRST) == rank])


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
    results = {}
    for name, objective in OBJECTIVES.items():
        corrupted = objective.corrupt(batch, backbone.mask_token_id, row_draws(batch, 1))
        backbone.zero_grad()
        alone = Step(backbone, base, objective)
        terms = alone(corrupted)
        terms["loss"].backward()
        expected = {"terms": {k: v.detach() for k, v in terms.items()}, "gradients": gradients(alone)}
        backbone.zero_grad()
        objective.mean_over_ranks = mean
        together = DistributedDataParallel(Step(backbone, base, objective))
        terms = together(rows_of(corrupted, rank))
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
