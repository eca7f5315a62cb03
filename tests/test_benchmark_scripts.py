"""Benchmarks that no other test runs, at tiny sizes: they work, and ways that are compared do the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY

from tabom.backbones import NewTinyDLM

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow


def figures_of(name, tmp_path, *options, ends_well=True):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--json", str(tmp_path / "out.json"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode == 0) is ends_well, done.stderr
    return json.loads((tmp_path / "out.json").read_text()) if ends_well else done.stderr


SMALL = ["--vocabulary=500", "--hidden=64", "--layers=1", "--prompt=8", "--response=12", "--block=4", "--rounds=1"]


def test_peers(tmp_path):
    """A person's own function takes the place of a sampler."""
    (tmp_path / "mine.py").write_text(
        "import sys\n\n"
        "def generate(arguments, model, queries):\n"
        "    print('mine', file=sys.stderr)\n"
        "    return queries.noisy_ids[:, arguments.prompt:].clone()\n"
    )
    found = figures_of("peers", tmp_path, *SMALL, "--batch=2", "--queries=4")
    assert found["steps"].keys() == {"mdlm", "released"}
    assert {name: case["same_text"] for name, case in found["samplers"].items()} == {"llada": 1, "dream": 1, "dllm": 1}
    again = figures_of("peers", tmp_path, *SMALL, "--batch=2", "--queries=4", "--take=dream=mine:generate")
    assert (again["settings"]["take"], again["samplers"]["dream"]["same_text"]) == (["dream"], 0)
    assert "expected one of llada, dream, dllm=MODULE:FUNCTION, got other=mine:generate" in figures_of(
        "peers", tmp_path, "--take=other=mine:generate", ends_well=False
    )


def test_a_compiled_training_step(tmp_path):
    sizes = [
        "--vocabulary=100",
        "--hidden=32",
        "--head_size=16",
        "--layers=1",
        "--length=16",
        "--window=4",
        "--rounds=1",
    ]
    found = figures_of("train_step", tmp_path, *sizes, "--batch=2", "--kinds", "tabom", "compiled", "fused")
    assert found["ratios"].keys() == {"compiled / tabom", "fused / tabom"}


@pytest.mark.parametrize("batch", [1, 3])
def test_speculation_decodes_the_same(tmp_path, tokenizer, batch):
    torch.manual_seed(0)
    NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = ["--base=base", "--response=9", f"--batches={batch}", "--guesses", "2", "4", "--rounds=2"]
    for case in figures_of("speculation", tmp_path, *sizes)["cases"]:
        assert case["same_text"] == 1
        assert all(1 <= tokens <= case["guesses"] for tokens in case["tokens_per_pass"])
