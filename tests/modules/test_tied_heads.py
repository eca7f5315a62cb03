"""A model whose head is its embedding, trained by two processes: one weight, in both places, whole when it is read."""

import copy
import json

import pytest
import torch
from helpers import a2d_config, family_checkpoint, write_trajectories
from modules.test_sharding import (
    CHECKPOINTING,
    FSDP,
    LORA,
    UNCHECKED,
    checkpoints,
    in_two_processes,
    largest_difference,
    words,
)
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tabom.backbones.sharding import gather, release, shard
from tabom.backbones.stock import A2DQwen3Backbone
from tabom.cli.lightning_cli import run

HEAD, EMBEDDINGS = "transformer.lm_head.weight", "transformer.model.embed_tokens.weight"
JOBS = {
    "ddp": words("fit", "--trainer.strategy=ddp"),
    "fsdp": words("fit", *FSDP, checkpoints("full")),
    "resumed": words("fit", *FSDP, UNCHECKED, "--ckpt_path=full/step=3.ckpt"),
    "lora": words("fit", *FSDP, UNCHECKED, LORA, CHECKPOINTING, checkpoints("lora")),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tokenizer):
    """A base model with a tied head, and trajectories."""
    path = tmp_path_factory.mktemp("tied")
    config = a2d_config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    family_checkpoint(path / "runs/demo/base", A2DQwen3Backbone, config)
    tokenizer.save_pretrained(path / "runs/demo/base")
    write_trajectories(path / "runs/demo/trajectories", tokenizer)
    return path


@pytest.fixture(scope="module")
def results(directory):
    return in_two_processes(directory, JOBS)


@pytest.mark.slow
def test_two_processes_train_as_one_does(results, directory, monkeypatch):
    monkeypatch.chdir(directory)
    cli = run(words("fit", num_devices=1, batch_size=8))
    for strategy in ("ddp", "fsdp"):
        weights = results[strategy]["weights"]
        assert largest_difference(weights, cli.model.backbone.state_dict()) < 1e-6
        assert torch.equal(weights[HEAD], weights[EMBEDDINGS])
    assert largest_difference(results["resumed"]["weights"], results["fsdp"]["weights"]) == 0


@pytest.mark.slow
def test_each_process_holds_its_share_of_one_matrix(results, directory):
    stored = sum(tensor.numel() for tensor in load_file(directory / "runs/demo/base/model.safetensors").values())
    assert results["ddp"]["num_numbers"] == stored
    assert stored / 2 <= results["fsdp"]["num_numbers"] < 0.51 * stored


@pytest.mark.slow
def test_exports_from_shards_are_tied_again(results, directory, monkeypatch):
    monkeypatch.chdir(directory)
    base = load_file("runs/demo/base/model.safetensors")
    for name, options in (("full", []), ("lora", [LORA])):
        run(words("export", *options, f"--ckpt_path={name}/step=6.ckpt", f"--output_dir=merged_{name}", num_devices=1))
        merged = load_file(f"merged_{name}/model.safetensors")
        assert merged.keys() == base.keys()
        is_changed = not torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
        assert is_changed == (name == "full")
    trained = {key.removeprefix("transformer."): value for key, value in results["fsdp"]["weights"].items()}
    assert largest_difference(load_file("merged_full/model.safetensors"), {k: trained[k] for k in base}) == 0
    assert json.loads((directory / "merged_lora/config.json").read_text())["tie_word_embeddings"] is True


@pytest.fixture
def mesh():
    """Of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("is_gathered", [False, True], ids=["never gathered", "gathered before"])
def test_the_head_is_whole_between_forward_and_backward(mesh, is_gathered):
    whole = A2DQwen3Backbone.from_config(a2d_config())
    backbone = copy.deepcopy(whole)
    shard(backbone, mesh)
    ids, mask = torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool)
    if is_gathered:
        gather(backbone)
        release(backbone)
    hidden = backbone(ids, mask)
    assert not isinstance(backbone.head.weight, DTensor)
    backbone.logits(hidden).square().sum().backward()
    whole.logits(whole(ids, mask)).square().sum().backward()
    assert isinstance(backbone.head.weight, DTensor)
    assert backbone.head.weight is backbone.transformer.get_input_embeddings().weight
    torch.testing.assert_close(backbone.head.weight.grad.full_tensor(), whole.head.weight.grad)
