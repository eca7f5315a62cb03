"""Weights spread over two processes: the same training, measurements and files as in one."""

import copy
import json
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from helpers import TINY, illada_config, llada2_config, tiny_checkpoint, write_trajectories
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tabom.backbones import Lora, NewTinyDLM
from tabom.backbones.llada2 import Llada2Backbone
from tabom.backbones.sharding import gather, release, shard
from tabom.backbones.stock import IlladaBackbone
from tabom.cli.lightning_cli import run
from tabom.errors import TabomError

CONFIGS = Path(__file__).parents[2] / "configs"
TILT = "--model.objective.tilt=2.0"
LORA = '--model.backbone.lora={"r": 4}'
CHECKPOINTING = "--model.backbone.gradient_checkpointing=true"
IN_BFLOAT16 = "--model.backbone.dtype=bfloat16"
MIXED = "--trainer.precision=bf16-mixed"
ACCUMULATED = ("--trainer.accumulate_grad_batches=2", "--trainer.max_steps=4")
UNCHECKED = "--trainer.limit_val_batches=0"
IN_ONE_FILE = "--trainer.strategy.init_args.save_distributed_checkpoint=false"
HALF = "--model.interpolation=0.5"

FSDP = ("--config", str(CONFIGS / "trainer/fsdp.yaml"), "--trainer.accelerator=cpu", "--trainer.precision=32-true")
"""The overlay, on this machine."""


def words(verb, *options, config="tabom", num_devices=2, batch_size=4):
    """Of a command line: uneven numbers of rows for evaluation, six steps with a check after three and six."""
    common = ["--config", str(CONFIGS / f"demo/{config}.yaml"), "--trainer.logger=false"]
    common += ["--trainer.enable_progress_bar=false"]
    if not any(option.startswith("--trainer.callbacks=") for option in options):
        common += ["--trainer.enable_checkpointing=false"]
    if verb != "predict":
        common += [
            f"--data.batch_size={batch_size}",
            "--data.validation.batch_size=2",
            "--data.validation.num_validation_prompts=5",
            "--data.validation.num_test_prompts=5",
            "--data.validation.num_base_examples=7",
            "--trainer.max_steps=6",
            "--trainer.val_check_interval=3",
            "--trainer.log_every_n_steps=3",
            "--model.lr_scheduler.num_warmup_steps=2",
            "--model.lr_scheduler.num_training_steps=6",
        ]
    return [verb, *common, *options, f"--trainer.devices={num_devices}"]


def replay(batch_size):
    return f'--data.replay={{"batch_size": {batch_size}, "source": "PythonSource", "num_examples": 30}}'


def checkpoints(directory):
    """After every third step."""
    init = {"dirpath": directory, "filename": "{step}", "every_n_train_steps": 3, "save_top_k": -1}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": init}
    return f"--trainer.callbacks={json.dumps([callback])}"


def writer(directory):
    return f'--trainer.callbacks=[{{"class_path": "TrajectoryWriter", "init_args": {{"output_dir": "{directory}"}}}}]'


DISTIL = (
    "--data.num_queries=11",
    "--data.queries_per_shard=4",
    "--model.batch_size=3",
)
JOBS = {
    "ddp": words("fit", "--trainer.strategy=ddp"),
    "fsdp": words("fit", *FSDP, checkpoints("full")),
}
CURRENT = "--model.objective.teacher=current"
NEWER = {
    "tad": ((*FSDP, LORA), ()),
    "lift": (FSDP, ()),
    "gift": (("--trainer.strategy=ddp",), ()),
    "d_opsd": (FSDP, (CURRENT,)),
}
"""Objectives by their configuration: the strategy, and options of the training in one process as well."""
FURTHER_JOBS = {
    **{name: words("fit", *strategy, *options, UNCHECKED, config=name) for name, (strategy, options) in NEWER.items()},
    "lora": words("fit", *FSDP, UNCHECKED, LORA, CHECKPOINTING, checkpoints("lora")),
    "lora_resumed": words("fit", *FSDP, UNCHECKED, LORA, CHECKPOINTING, "--ckpt_path=lora/step=3.ckpt"),
    "one_file": words("fit", *FSDP, UNCHECKED, LORA, CHECKPOINTING, IN_BFLOAT16, IN_ONE_FILE, checkpoints("one_file")),
    "resumed": words("fit", *FSDP, UNCHECKED, "--ckpt_path=full/step=3.ckpt"),
    "accumulated": words("fit", *FSDP, UNCHECKED, *ACCUMULATED, batch_size=2),
    "tilted": words("fit", *FSDP, UNCHECKED, TILT),
    "tilted_adapter": words("fit", *FSDP, UNCHECKED, TILT, LORA),
    "ddp_mixed": words("fit", "--trainer.strategy=ddp", UNCHECKED, MIXED, LORA),
    "mixed": words("fit", *FSDP, UNCHECKED, MIXED, LORA, CHECKPOINTING),
    "half_way": words("test", *FSDP, "--trainer.limit_test_batches=1", "--ckpt_path=full/step=6.ckpt", HALF),
    "replay_ddp": words("fit", "--trainer.strategy=ddp", UNCHECKED, replay(3)),
    "replay_fsdp": words("fit", *FSDP, UNCHECKED, replay(3)),
    "replay_fsdp_lora": words("fit", *FSDP, UNCHECKED, replay(3), LORA, CHECKPOINTING),
    "predict": words("predict", *FSDP, *DISTIL, writer("two"), config="distill"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tokenizer):
    """Where the jobs run: a base model and trajectories."""
    path = tmp_path_factory.mktemp("sharding")
    tiny_checkpoint(path / "runs/demo/base", tokenizer)
    write_trajectories(path / "runs/demo/trajectories", tokenizer)
    return path


@pytest.fixture(scope="module")
def results(directory):
    """Of the first jobs, by name."""
    return in_two_processes(directory, JOBS)


@pytest.fixture(scope="module")
def further_results(directory, results):
    """Of those that follow them."""
    return results | in_two_processes(directory, FURTHER_JOBS)


def in_two_processes(directory, jobs):
    (directory / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parent / "two_processes.py"
    command = [sys.executable, str(script), str(directory / "jobs.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return {name: torch.load(directory / f"{name}.pt") for name in jobs}


@pytest.fixture(scope="module")
def alone(directory):
    """Run a command line in this process, where the jobs ran."""

    def call(*arguments, **changes):
        with chdir(directory):
            return run(words(*arguments, num_devices=1, **changes))

    return call


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max((first[name].float() - second[name].float()).abs().max().item() for name in first)


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one_does(results, alone):
    cli = alone("fit", batch_size=8)
    expected = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    assert {"loss", "train/gradient_norm", "validate/nelbo", "validate/kl", "validate/tds"} <= expected.keys()
    for strategy in ("ddp", "fsdp"):
        result = results[strategy]
        assert result["num_steps"] == cli.trainer.global_step == 6
        assert largest_difference(result["weights"], cli.model.backbone.state_dict()) < 1e-6
        assert result["metrics"] == pytest.approx(expected, rel=0, abs=1e-5)


def test_each_process_holds_its_share(results):
    whole = results["ddp"]["num_numbers"]
    assert whole / 2 <= results["fsdp"]["num_numbers"] < 0.51 * whole


@pytest.mark.slow
def test_an_adapter_is_trained_alone_with_checkpointing(further_results, alone):
    cli = alone("fit", UNCHECKED, LORA, batch_size=8)
    assert largest_difference(further_results["lora"]["weights"], cli.model.backbone.state_dict()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("tilted", ()), ("tilted_adapter", (LORA,))])
def test_targets_are_tilted_from_a_sharded_base(further_results, alone, name, options):
    """A copy with its own shards, or the same weights with the adapter off: its head is whole when it is read."""
    cli = alone("fit", UNCHECKED, TILT, *options, batch_size=8)
    assert largest_difference(further_results[name]["weights"], cli.model.backbone.state_dict()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", NEWER)
def test_a_look_before_and_a_teacher_in_two_processes(further_results, alone, name):
    strategy, options = NEWER[name]
    adapter = [option for option in strategy if option == LORA]
    cli = alone("fit", UNCHECKED, *options, *adapter, batch_size=8, config=name)
    assert largest_difference(further_results[name]["weights"], cli.model.backbone.state_dict()) < 1e-6


@pytest.mark.slow
def test_batches_are_accumulated(further_results, alone):
    cli = alone("fit", UNCHECKED, *ACCUMULATED)
    assert further_results["accumulated"]["num_steps"] == cli.trainer.global_step == 4
    assert largest_difference(further_results["accumulated"]["weights"], cli.model.backbone.state_dict()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), (LORA,)], ids=["all weights", "adapter"])
def test_replay_in_two_processes_is_that_of_one(further_results, alone, options):
    """The rows beside the step are shared out as those of the step are."""
    cli = alone("fit", UNCHECKED, replay(6), *options, batch_size=8)
    plain = alone("fit", UNCHECKED, *options, batch_size=8)
    expected = {name: value.clone() for name, value in cli.model.backbone.state_dict().items()}
    for job in ("replay_fsdp_lora",) if options else ("replay_ddp", "replay_fsdp"):
        result = further_results[job]
        assert largest_difference(result["weights"], expected) < 1e-6
        assert result["metrics"]["train/replay_kl"] == pytest.approx(
            cli.trainer.callback_metrics["train/replay_kl"].item(), rel=1e-4
        )
    assert largest_difference(plain.model.backbone.state_dict(), expected) > 1e-5


@pytest.mark.slow
def test_a_resumed_adapter_ends_where_an_uninterrupted_one_does(further_results):
    assert further_results["lora_resumed"]["num_steps"] == 6
    assert largest_difference(further_results["lora_resumed"]["weights"], further_results["lora"]["weights"]) == 0


@pytest.mark.slow
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(further_results):
    assert further_results["resumed"]["num_steps"] == 6
    assert largest_difference(further_results["resumed"]["weights"], further_results["fsdp"]["weights"]) == 0


@pytest.mark.slow
def test_in_mixed_precision_weights_move_as_without_shards(further_results):
    """Rounding differs: with shards the residual stream is in bfloat16 too."""
    mixed, ddp = (
        {name: value for name, value in further_results[job]["weights"].items() if ".lora_B." in name}
        for job in ("mixed", "ddp_mixed")
    )
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    moved, expected = (torch.cat([value.flatten() for value in values.values()]) for values in (mixed, ddp))
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.95
    assert (moved - expected).abs().max() > 1e-4


@pytest.mark.slow
def test_weights_in_bfloat16_carry_an_adapter_in_float32(further_results):
    weights = further_results["one_file"]["weights"]
    assert {value.dtype for name, value in weights.items() if ".lora_" in name} == {torch.float32}
    assert {value.dtype for name, value in weights.items() if ".lora_" not in name} == {torch.bfloat16}
    assert further_results["one_file"]["num_steps"] == 6


def stored_weights(path):
    """Names of the weights in a checkpoint."""
    if path.is_file():
        return torch.load(path)["state_dict"].keys()
    names = FileSystemReader(path).read_metadata().state_dict_metadata
    return {name.removeprefix("state_dict.") for name in names if name.startswith("state_dict.")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "one_file"])
def test_checkpoints_hold_the_adapter_alone(further_results, directory, alone, name):
    path = directory / f"{name}/step=6.ckpt"
    assert path.is_dir() == (name == "lora")
    assert stored_weights(path) == {f"backbone.{key}" for key in further_results[name]["weights"] if ".lora_" in key}
    alone("export", LORA, f"--ckpt_path={path}", f"--output_dir=adapter_{name}", "--kind=adapter")
    exported = load_file(directory / f"adapter_{name}/adapter_model.safetensors")
    trained = {key: value for key, value in further_results[name]["weights"].items() if ".lora_" in key}
    assert len(exported) == len(trained) == 8
    prefix = "base_model.model."
    renamed = {
        prefix + key.removeprefix("transformer.").replace(".default", ""): value for key, value in trained.items()
    }
    assert largest_difference(exported, renamed) == 0


def test_a_whole_model_is_exported_from_shards(results, directory, alone):
    alone("export", "--ckpt_path=full/step=6.ckpt", "--output_dir=merged")
    weights = {name.removeprefix("transformer."): value for name, value in results["fsdp"]["weights"].items()}
    assert largest_difference(load_file(directory / "merged/model.safetensors"), weights) == 0


@pytest.mark.slow
def test_an_adapter_from_shards_is_merged(further_results, directory, alone):
    alone("export", LORA, "--ckpt_path=lora/step=6.ckpt", "--output_dir=merged_lora")
    name = "model.layers.0.self_attn.q_proj"
    weights = {key.removeprefix("transformer."): value for key, value in further_results["lora"]["weights"].items()}
    low, high = (weights[f"{name}.lora_{part}.default.weight"] for part in "AB")
    expected = weights[f"{name}.base_layer.weight"] + 16 / 4 * high @ low
    merged = load_file(directory / "merged_lora/model.safetensors")[f"{name}.weight"]
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_shards_of_another_adapter_are_refused(further_results, alone):
    other = '--model.backbone.lora={"r": 4, "target_modules": ["q_proj"]}'
    message = r"^ckpt_path: expected the weights of the configured adapter, differing: \['backbone.*v_proj"
    with pytest.raises(TabomError, match=message):
        alone("export", other, "--ckpt_path=lora/step=6.ckpt", "--output_dir=other")


def test_a_directory_that_is_no_checkpoint_is_refused(directory, alone):
    (directory / "empty").mkdir()
    message = r"^empty: expected the directory of a sharded checkpoint, found no meta\.pt in it$"
    with pytest.raises(TabomError, match=message):
        alone("export", "--ckpt_path=empty", "--output_dir=other")


@pytest.mark.slow
def test_shards_are_averaged_with_the_base(further_results, directory):
    base = load_file(directory / "runs/demo/base/model.safetensors")
    for name, half in further_results["half_way"]["weights"].items():
        expected = (base[name.removeprefix("transformer.")] + further_results["fsdp"]["weights"][name]) / 2
        torch.testing.assert_close(half, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_processes_distil_the_same_bytes(further_results, directory, alone):
    alone("predict", *DISTIL, writer("one"), config="distill")
    one, two = (
        {path.name: path.read_bytes() for path in (directory / name).iterdir() if path.name != "timings.jsonl"}
        for name in ("one", "two")
    )
    assert len(one) == 4
    assert one == two


@pytest.fixture
def mesh():
    """Of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_gathered_weights_can_be_trained_after_they_were_used_in_inference_mode(mesh, tokenizer):
    backbone = NewTinyDLM(**TINY).load(tokenizer)
    backbone.add_adapter(Lora(r=2), "base")
    shard(backbone, mesh)
    ids, mask = torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool)
    gathered = []
    with torch.inference_mode():
        gather(backbone)
        for _ in range(2):
            backbone.forward_with_cache(ids, mask)
            gathered.append(not any(isinstance(parameter, DTensor) for parameter in backbone.parameters()))
        release(backbone)
    assert gathered == [True, True]
    assert all(isinstance(parameter, DTensor) for parameter in backbone.parameters())
    backbone.logits(backbone(ids, mask)).square().sum().backward()
    gradients = [parameter.grad for parameter in backbone.parameters() if parameter.requires_grad]
    assert len(gradients) == 8
    assert all(isinstance(gradient, DTensor) for gradient in gradients)


@pytest.mark.parametrize("is_gathered", [False, True], ids=["never gathered", "gathered before"])
def test_the_head_is_whole_between_forward_and_backward(mesh, tokenizer, is_gathered):
    whole = NewTinyDLM(**TINY).load(tokenizer)
    backbone = copy.deepcopy(whole)
    shard(backbone, mesh)
    ids, mask = torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool)
    if is_gathered:
        gather(backbone)
        release(backbone)
    hidden = backbone(ids, mask)
    block = backbone.transformer.model.layers[0]
    assert all(isinstance(parameter, DTensor) for parameter in block.parameters())
    assert not isinstance(backbone.head.weight, DTensor)
    backbone.logits(hidden).square().sum().backward()
    whole.logits(whole(ids, mask)).square().sum().backward()
    assert isinstance(backbone.head.weight, DTensor)
    torch.testing.assert_close(backbone.head.weight.grad.full_tensor(), whole.head.weight.grad)


def whole_and_sharded(family, config, mesh):
    """A model and its shards, each after a step on the same rows, and these rows."""
    whole = family.from_config(config)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sharded = copy.deepcopy(whole)
    shard(sharded, mesh)
    ids, mask = torch.arange(10, 22).view(2, 6), torch.ones(2, 6, dtype=torch.bool)
    for model in (whole, sharded):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.logits(model(ids, mask)).square().mean().backward()
        optimizer.step()
    return whole, sharded, (ids, mask)


def test_a_tied_head_is_one_weight_in_shards_too(mesh):
    """Its gradient is that of both, and a step moves both."""
    whole, backbone, rows = whole_and_sharded(IlladaBackbone, illada_config(), mesh)
    named = [name for name, _ in backbone.named_parameters() if "lm_head" in name or "embed_tokens" in name]
    assert len(named) == 1
    assert backbone.transformer.lm_head.weight is backbone.transformer.get_input_embeddings().weight
    moved, alone = backbone.transformer.lm_head.weight, whole.head.weight
    torch.testing.assert_close(moved.grad.full_tensor(), alone.grad)
    torch.testing.assert_close(moved.full_tensor(), alone)
    torch.testing.assert_close(backbone.logits(backbone(*rows)), whole.logits(whole(*rows)))


def test_experts_are_sharded_with_their_block(mesh):
    whole, backbone, rows = whole_and_sharded(Llada2Backbone, llada2_config(), mesh)
    moved, alone = (model.transformer.model.layers[1].mlp.experts.down_proj for model in (backbone, whole))
    torch.testing.assert_close(moved.full_tensor(), alone)
    torch.testing.assert_close(backbone.logits(backbone(*rows)), whole.logits(whole(*rows)))


def test_quantised_shards_are_refused(mesh, tokenizer):
    backbone = NewTinyDLM(**TINY).load(tokenizer)
    backbone.register_parameter("packed", torch.nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False))
    message = "^strategy: expected weights that are not quantised with FSDP2, got quantised ones; train these with ddp$"
    with pytest.raises(TabomError, match=message):
        shard(backbone, mesh)


@pytest.mark.parametrize(("interval", "reference"), [(2, "base"), (None, "start")])
def test_a_snapshot_of_shards_is_refused(mesh, stage, interval, reference):
    objective = json.dumps({"class_path": "T3DObjective", "init_args": {"reference_interval": interval}})
    message = (
        "objective: T3DObjective compares with a snapshot of the model, which sharded weights cannot give: expected "
        f"reference_interval null and reference base, or the strategy ddp, got reference_interval {interval} and "
        f"reference {reference}"
    )
    options = (f"--model.objective={objective}", f"--model.reference={reference}", "--trainer.devices=1")
    with pytest.raises(TabomError) as caught:
        stage("fit", "sft_sd", *FSDP, *options)
    assert str(caught.value) == message


def test_a_precision_that_rounds_the_data_is_refused(stage):
    with pytest.raises(TabomError) as caught:
        stage("fit", "tabom", "--trainer.precision=bf16-true")
    assert str(caught.value) == (
        "precision: expected 32-true (with dtype bfloat16 of the backbone, if its weights are to be bfloat16) or "
        "bf16-mixed, got bf16-true, which would round the entropies that the data records"
    )


def test_a_block_causal_model_learns_from_shards(mesh, tokenizer):
    """Noisy and clean copies go through in one pass, which is not the forward pass of the module."""
    torch.manual_seed(0)
    backbone = NewTinyDLM(**TINY, block_size=3).load(tokenizer)
    noisy, clean = torch.randint(3, 20, (2, 2, 8))
    gradients = []
    for is_sharded in (False, True):
        if is_sharded:
            shard(backbone, mesh)
            backbone.zero_grad()
        backbone.denoise(noisy, clean, torch.ones_like(clean, dtype=torch.bool)).square().mean().backward()
        gradient = next(backbone.transformer.model.layers[0].parameters()).grad
        gradients.append(gradient.full_tensor() if is_sharded else gradient.clone())
    torch.testing.assert_close(*gradients)
