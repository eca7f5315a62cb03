"""Blocks that grow over a training."""

import json
from types import SimpleNamespace

import pytest
import torch

from tabom.backbones import PretrainedBackbone
from tabom.callbacks import GrowingBlocks
from tabom.errors import TabomError
from tabom.modules import TrainingModule

FAST = ("--trainer.max_steps=2", "--model.validation=null")
BLOCKS = ("--model.backbone.attention=block_causal", "--model.backbone.block_size=4")


def callbacks(sizes, every_n_steps, *others):
    own = {"class_path": "GrowingBlocks", "init_args": {"sizes": sizes, "every_n_steps": every_n_steps}}
    return f"--trainer.callbacks={json.dumps([own, *others])}"


def test_sizes_by_optimizer_step_and_the_models_own_for_all_else(stage, tmp_path, tokenizer, monkeypatch):
    """Accumulated batches belong to one step; validations and what is saved have the model's own blocks."""
    seen = {"training_step": [], "validation_step": []}
    for name, sizes in seen.items():
        original = getattr(TrainingModule, name)

        def watched(self, batch, batch_idx, *rest, original=original, sizes=sizes):
            sizes.append(self.backbone.block_size)
            return original(self, batch, batch_idx, *rest)

        monkeypatch.setattr(TrainingModule, name, watched)
    save = {"class_path": "SaveBackbone", "init_args": {"output_dir": "out/model"}}
    steps = ("--trainer.max_steps=4", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=2")
    stage("fit", "sft_sd", callbacks([1, 2, 4], 1, save), *BLOCKS, *steps)
    assert seen["training_step"] == [1, 1, 2, 2, 4, 4, 4, 4]
    assert set(seen["validation_step"]) == {4}
    assert json.loads((tmp_path / "out/model/config.json").read_text())["block_size"] == 4
    assert PretrainedBackbone(str(tmp_path / "out/model")).load(tokenizer).block_size == 4


def test_it_changes_what_is_learnt(stage):
    """Only while the blocks differ from the model's own."""
    run = {sizes: stage("fit", "sft_sd", callbacks(list(sizes), 2), *BLOCKS, *FAST) for sizes in ((4,), (1, 4))}
    one, other = (list(cli.model.backbone.parameters()) for cli in run.values())
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("sizes", "every_n_steps", "message"),
    [
        ([], 1, "sizes: expected growing numbers from 1, got []"),
        ([0, 4], 1, "sizes: expected growing numbers from 1, got [0, 4]"),
        ([4, 2], 1, "sizes: expected growing numbers from 1, got [4, 2]"),
        ([1, 4], 0, "every_n_steps: expected at least 1, got 0"),
    ],
)
def test_bad_sizes(sizes, every_n_steps, message):
    with pytest.raises(TabomError) as error:
        GrowingBlocks(sizes, every_n_steps)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (None, "GrowingBlocks: expected attention block_causal of the backbone, got another one"),
        (8, "sizes: expected 8, the backbone's block_size, at the end, got 4"),
    ],
)
def test_sizes_end_with_the_models_own(own, message):
    with pytest.raises(TabomError) as error:
        GrowingBlocks([1, 4], 1).on_fit_start(None, SimpleNamespace(backbone=SimpleNamespace(block_size=own)))
    assert str(error.value) == message
