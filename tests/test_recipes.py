"""The recipes on tiny models and on stand-ins for the hub's data, which lie where the hub's names lead.

Rows, columns and repeated prompts are those of the real data sets, of which the stand-ins hold as much as is read.
"""

import contextlib
import random
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers import (
    a2d_config,
    a2d_tokenizer_files,
    dream_config,
    dream_tokenizer_files,
    family_checkpoint,
    last_checkpoint,
    llada_config,
    llada_tokenizer_files,
    parsed,
)
from matplotlib.figure import Figure
from PIL import Image

from tabom import load
from tabom.backbones.dream import DreamBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.backbones.stock import A2DQwen3Backbone, SdarBackbone
from tabom.cli.lightning_cli import run
from tabom.cli.main import main
from tabom.cli.verbs import report
from tabom.seeding import share_of
from tabom.storage.run_record import find_records
from tabom.tasks import questions
from tabom.tasks.answers import MATH_COMPARISON
from tabom.trajectories import Manifest

ROOT = Path(__file__).parents[1] / "configs"
RECIPES = ("llada_prm12k", "llada_ling_coder", "dream_prm12k", "dream_ling_coder", "qwen3_gsm8k")
METHODS = sorted({path.stem for recipe in RECIPES for path in (ROOT / recipe).glob("*.yaml")})
NUM_REPEATED = 60
"""Prompts that occur twice among the 12,000 of MixChain-Z-PRM12K."""


def maths_rows():
    questions = [f"Find ${i} + {i % 97}$. " + "Give a reason. " * (i % 20) for i in range(12_000 - NUM_REPEATED)]
    questions += random.Random(0).sample(questions, NUM_REPEATED)
    for question in questions:
        first, second = map(int, question.split("$")[1].split(" + "))
        answer = f"We add: ${first} + {second} = \\boxed{{{first + second}}}$."
        solutions = {f"solution_{i}": answer for i in range(5)}
        yield {"question": question, "answer": answer, "target": str(first + second), **solutions}


def code_rows():
    for i in range(18_050):
        turns = [f"Write a function that adds {i}.", f"```python\ndef add(x):\n    return x + {i}\n```"]
        roles = ("HUMAN", "ASSISTANT")
        messages = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=True)]
        yield {"mid": f"row-{i}", "messages": messages, "tags": ["python"], "languages": ["English"]}


def word_problems(first, num):
    for i in range(first, first + num):
        answer = f"He has {i} + 2 = <<{i}+2={i + 2}>>{i + 2} apples.\n#### {i + 2}"
        yield {"question": f"Tom has {i} apples and finds 2. How many has he?", "answer": answer}


def programs(first, num):
    for i in range(first, first + num):
        tests = [f"assert add({x}) == {x + i}" for x in range(3)]
        text, code = f"Write a function that adds {i}.", f"def add(x):\n    return x + {i}"
        yield {"task_id": i, "text": text, "code": code, "test_list": tests}


def split_dataset(folder, name, **splits):
    """As on the hub: Parquet files of a configuration, which the README names."""
    (folder / name).mkdir(parents=True)
    files = []
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / name / f"{split}-00000-of-00001.parquet")
        files.append(f"  - split: {split}\n    path: {name}/{split}-*\n")
    header = f"configs:\n- config_name: {name}\n  data_files:\n" + "".join(files)
    (folder / "README.md").write_text(f"---\n{header}---\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which the names of models and data sets are directories."""
    path = tmp_path_factory.mktemp("world")
    for name, rows in {"horseee/MixChain-Z-PRM12K": maths_rows(), "inclusionAI/Ling-Coder-SFT": code_rows()}.items():
        folder = path / name / "data"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / "train-00000-of-00001.parquet")
    split_dataset(path / "openai/gsm8k", "main", train=word_problems(0, 7473), test=word_problems(7473, 1319))
    mbpp = {"train": programs(600, 374), "test": programs(10, 500), "validation": programs(510, 90)}
    split_dataset(path / "google-research-datasets/mbpp", "full", **mbpp)
    (path / "GSAI-ML").mkdir()
    (path / "Dream-org").mkdir()
    llada, dream = path / "GSAI-ML/LLaDA-8B-Instruct", path / "Dream-org/Dream-v0-Instruct-7B"
    size = {"max_sequence_length": 1024, "d_model": 16, "mlp_hidden_size": 32, "n_heads": 2, "n_kv_heads": 2}
    family_checkpoint(llada, LladaBackbone, llada_config(**llada_tokenizer_files(llada), **size))
    size = {"max_position_embeddings": 1024, "hidden_size": 16, "intermediate_size": 32}
    family_checkpoint(dream, DreamBackbone, dream_config(**dream_tokenizer_files(dream), **size))
    qwen = path / "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"
    size = {"max_position_embeddings": 1024, "hidden_size": 16, "intermediate_size": 32, "head_dim": 8}
    family_checkpoint(qwen, A2DQwen3Backbone, a2d_config(**a2d_tokenizer_files(qwen), **size))
    bd3lm, sdar = path / "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", path / "JetLM/SDAR-1.7B-Chat"
    family_checkpoint(bd3lm, A2DQwen3Backbone, a2d_config(**a2d_tokenizer_files(bd3lm), **size))
    ids = {"model_type": "sdar", "block_size": 4, **a2d_tokenizer_files(sdar, "<|MASK|>")}
    family_checkpoint(sdar, SdarBackbone, a2d_config(**ids, **size))
    (path / "gsm8k").mkdir()
    (path / "gsm8k/test.jsonl").write_text('{"question": "1 + 1?", "answer": "One more.\\n#### 2"}\n' * 2)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path):
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", path / "cache")
        yield path


def data_of(recipe):
    return parsed("predict", "--config", str(ROOT / recipe / "distill.yaml"), "--trainer.logger=false").datamodule


def test_all_questions_on_maths_are_distilled_but_those_held_out(world):
    data, rows = data_of("llada_prm12k"), list(maths_rows())
    prompts = {row["question"] for row in rows}
    assert (len(rows), len(prompts)) == (12_000, 12_000 - NUM_REPEATED)
    decoded = [example for shard in data.predict_dataloader() for example in shard.prompts.examples]
    assert {example.prompt for example in decoded} == {prompt for prompt in prompts if share_of(prompt) >= 0.06}
    assert data.num_to_decode() == data.query_settings()["num_queries"] == len(decoded) > 0.93 * len(prompts)
    first, second = decoded[:2]
    assert data.task.is_correct(first, first.reference)
    assert not data.task.is_correct(first, second.reference)
    held_out = {e.prompt for split in ("validation", "test") for e in data.task.examples(split, 300)}
    assert len(held_out - {example.prompt for example in decoded}) == 600


def test_all_questions_on_code_are_distilled_but_those_held_out(world):
    data, rows = data_of("dream_ling_coder"), list(code_rows())[:18_000]
    turns = {tuple(turn["content"] for turn in row["messages"]) for row in rows}
    decoded = data.task.examples("train", data.num_queries)
    assert {(e.prompt, e.reference) for e in decoded} == {turn for turn in turns if share_of(turn[0]) >= 0.06}
    assert data.num_to_decode() == len(decoded) > 0.93 * 18_000


def test_all_training_questions_of_gsm8k_are_distilled_but_those_held_out(world):
    data, rows = data_of("qwen3_gsm8k"), list(word_problems(0, 7473))
    decoded = data.task.examples("train", data.num_queries)
    assert {e.prompt for e in decoded} == {row["question"] for row in rows if share_of(row["question"]) >= 0.03}
    assert data.num_to_decode() == len(decoded) > 0.96 * 7473
    assert len(data.task.examples("test", None)) == 1319
    first, second = decoded[:2]
    assert data.task.is_correct(first, f"It is {first.reference.partition('#### ')[2]}.")
    assert not data.task.is_correct(first, second.reference)


FEW = [
    "--trainer.max_epochs=1",
    "--trainer.logger=false",
    "--model.lr_scheduler.num_warmup_steps=0",
    "--data.held_out=0.1",  # of 90 rows: some
    "--data.validation.num_base_examples=4",
]
WARM_UP = "model.lr_scheduler.num_warmup_steps"
FAST = "--model.sampler.tokens_per_step=16"


@pytest.fixture
def tabom(world, monkeypatch):
    """Run a verb on a config; figures are blank, since to draw them takes as long as all steps."""

    def call(verb, config, *options):
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda self, path, **_: Image.new("L", (1, 1)).save(path))
            return run([verb, "--config", str(ROOT / f"{config}.yaml"), *options])

    return call


def trained_in(recipe):
    """Files of a recipe's trainings: TABOM's in each, every other method's in one of those that have it."""
    folders = [recipe, *([f"{recipe}_paper"] if recipe == "dream_ling_coder" else [])]
    files = [path for folder in folders for path in sorted((ROOT / folder).glob("*.yaml"))]

    def is_trained(path):
        owners = [name for name in RECIPES if (ROOT / name / path.name).is_file()]
        return path.stem == "tabom" or (
            path.stem != "distill" and owners[METHODS.index(path.stem) % len(owners)] == recipe
        )

    return [path for path in files if is_trained(path)]


def test_every_method_is_trained_in_a_recipe():
    """Below; what each configuration says is held in ``test_configs.py``."""
    trained = {path.stem for recipe in RECIPES for path in trained_in(recipe)}
    assert trained == {path.stem for recipe in RECIPES for path in (ROOT / recipe).glob("*.yaml")} - {"distill"}


@pytest.mark.slow  # a dozen trainings
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_from_the_questions_to_the_report(tabom, monkeypatch, recipe):
    """Random weights are never right: on maths most answers count as right whatever they say, on code none does."""
    monkeypatch.setattr(type(MATH_COMPARISON), "is_equal", lambda self, reference, response: share_of(response) < 0.9)
    monkeypatch.setattr(questions, "last_number", lambda text: 1 if share_of(text) < 0.95 else None)
    family, _, domain = recipe.partition("_")
    is_maths = domain in ("prm12k", "gsm8k")
    tabom("predict", f"{recipe}/distill", "--data.num_queries=90", FAST)
    manifest = Manifest.load(Path(f"runs/{recipe}/trajectories"))
    assert manifest.num_queries == 90
    assert (manifest.num_verified > 60) is is_maths

    files = trained_in(recipe)
    for path in files:
        decodes = is_maths and path.stem == "tabom"
        number = f"--data.validation.num_validation_prompts={int(decodes)}"
        cli = tabom("fit", f"{path.parent.name}/{path.stem}", *FEW, number)
        rows_a_step = cli.datamodule.batch_size * cli.trainer.accumulate_grad_batches
        assert rows_a_step == (64 if path.parent.name == "dream_ling_coder" else 32)
        measured = cli.trainer.callback_metrics
        assert {"validate/kl", "validate/order_agreement", "validate/ce_ratio"} <= measured.keys()
        assert ("validate/accuracy_1_per_step" in measured) is decodes
        weights = torch.load(last_checkpoint(cli), weights_only=True)["state_dict"]
        assert {bool(weight.any()) for name, weight in weights.items() if "lora_B" in name} == {True}

    checkpoint = f"--ckpt_path=runs/{recipe}/tabom/checkpoints/last.ckpt"
    number = ["--data.validation.num_test_prompts=2"] if is_maths else []
    tested = tabom("test", f"{recipe}/tabom", *FEW, *number, checkpoint).trainer.callback_metrics
    assert ("test/accuracy_1_per_step" in tested) is is_maths

    run_dir = f"runs/evaluate/{recipe}"
    options = [checkpoint, f"--run_dir={run_dir}", FAST, "--data.benchmark.data_dir=.", "--trainer.logger=false"]
    tabom("evaluate", f"evaluate/{family}_gsm8k", "--config", str(ROOT / "evaluate/adapter.yaml"), *options)
    (record,) = find_records([Path(run_dir)])
    assert [result.benchmark for result in record.benchmarks] == ["gsm8k"]

    metric = "accuracy_1_per_step" if is_maths else "reconstruction"
    report.run(
        [
            "report",
            *sorted({f"runs/{path.parent.name}" for path in files}),
            run_dir,
            f"--metric={metric}",
            "-o",
            "page.md",
        ]
    )
    text = Path("page.md").read_text()
    assert all(path.stem in text for path in files)
    assert "gsm8k" in text


@pytest.mark.slow  # six commands
@pytest.mark.parametrize(("model", "block_size"), [("sdar", 4), ("qwen3_bd3lm", 32)])
def test_a_block_model_from_the_questions_to_an_answer_and_a_score(tabom, model, block_size):
    def call(verb, config, name, *options):
        files = ["--config", str(ROOT / f"block/{model}.yaml"), f"--run_dir=runs/{model}/{name}"]
        return tabom(verb, config, *files, *options)

    trajectories, fast = f"runs/{model}/trajectories", "--model.sampler.tokens_per_step=4"
    call(
        "predict",
        "qwen3_gsm8k/distill",
        "distill",
        "--data.num_queries=40",
        fast,
        f"--writer.output_dir={trajectories}",
    )
    assert Manifest.load(Path(trajectories)).num_queries == 40
    settings = [f"--data.path={trajectories}", "--data.only_verified=false"]
    cli = call("fit", "qwen3_gsm8k/tabom", "tabom", *FEW, *settings, "--data.validation.num_validation_prompts=0")
    assert cli.model.backbone.block_size == block_size
    weights = torch.load(last_checkpoint(cli), weights_only=True)["state_dict"]
    assert {bool(weight.any()) for name, weight in weights.items() if "lora_B" in name} == {True}
    checkpoint = f"--ckpt_path={last_checkpoint(cli)}"
    call("export", "qwen3_gsm8k/tabom", "export", checkpoint, settings[0], f"--output_dir=runs/{model}/merged")
    merged = load(f"runs/{model}/merged")  # its files say in which blocks
    assert merged.backbone.block_size == block_size
    (answer,) = merged.generate(["1 + 1?"], response_length=9, chat=False)
    assert sorted(answer.unmask_step) == list(range(9))
    overlay = ["--config", str(ROOT / "evaluate/adapter.yaml"), checkpoint]
    options = [*overlay, fast, "--data.benchmark.data_dir=.", "--trainer.logger=false"]
    call("evaluate", "evaluate/qwen3_gsm8k", "evaluate", *options)
    (record,) = find_records([Path(f"runs/{model}/evaluate")])
    assert [result.benchmark for result in record.benchmarks] == ["gsm8k"]


def small_options(entry):
    """What makes a step of the paper's pipeline small."""
    if entry["verb"] == "predict":
        return {"data.num_queries": 60, "model.sampler.tokens_per_step": 16, "trainer.logger": False}
    if entry["verb"] == "evaluate":
        return {"model.sampler.tokens_per_step": 16, "trainer.logger": False}
    number = {"data.validation.num_validation_prompts": 0, "data.only_verified": False}
    return dict(option.removeprefix("--").split("=", 1) for option in FEW) | number


@pytest.mark.slow  # a score of processes
def test_the_study_on_one_gpu_from_the_questions_to_its_reports(world, monkeypatch, repository):
    """On both domains; what random weights write is wrong, so all answers are trained on."""
    monkeypatch.setenv("PYTHONPATH", str(repository))
    shutil.rmtree("runs", ignore_errors=True)
    content = yaml.safe_load((ROOT / "pipelines/study_qwen3.yaml").read_text())
    few = [method for method in content["parameters"]["methods"] if method["name"] in ("sft_sd", "tabom_text")]
    content["parameters"] |= {"seeds": [1], "rates": [1.0e-4], "num_steps": 2, "trainer": "cpu", "methods": few}
    sizes = {"num_validation_prompts": 1, "num_test_prompts": 2, "num_base_examples": 2, "batch_size": 2}
    short = {"data.response_length": 64}
    small = {"data.validation": sizes, "data.only_verified": False, "data.held_out": 0.1, WARM_UP: 0, **short}

    def shrink(entries):
        for entry in entries:
            if "steps" in entry:
                shrink(entry["steps"])
            elif entry["verb"] == "predict":
                number = {"data.num_samples": 1} if entry["name"] == "distill text" else {"data.num_queries": 60}
                entry["options"] = entry.get("options", {}) | number | short | {"model.sampler.tokens_per_step": 16}
            elif entry["verb"] in ("fit", "test"):
                given = entry["options"] if isinstance(entry["options"], list) else [entry["options"]]
                entry["options"] = [*given, small]

    shrink(content["steps"])
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    main(["pipeline", "study.yaml", "--jobs=2"])
    for domain, methods in {"maths": {"sft_gt", "sft_sd", "tabom_text"}, "code": {"sft_sd", "tabom_text"}}.items():
        records = find_records([Path(f"runs/study_qwen3/{domain}")])
        assert {record.verb for record in records} == {"predict", "fit", "test"}
        measured = [record for record in records if record.verb == "test"]
        assert len(measured) == 1 + len(methods)
        assert all({"accuracy_4_per_step", "kl"} <= record.last("test").keys() for record in measured)
        assert Path(f"runs/study_qwen3/{domain}-4.md").read_text().count("accuracy at 4 tokens per step") > 0


@pytest.mark.slow  # seven processes
def test_the_papers_pipeline_from_the_questions_to_the_report(world, monkeypatch, repository):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    shutil.rmtree("runs", ignore_errors=True)  # of the recipe's own test
    content = yaml.safe_load((ROOT / "pipelines/paper.yaml").read_text())
    content["parameters"] |= {"methods": ["sft_gt", "tabom"], "benchmarks": ["gsm8k"], "code_benchmarks": []}
    content["parameters"]["data_dir"] = "."

    def shrink(entries):
        for entry in entries:
            if "steps" in entry:
                shrink(entry["steps"])
            elif entry["verb"] != "report":
                entry["options"] = entry.get("options", {}) | small_options(entry)

    shrink(content["steps"])
    Path("paper.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    main(["pipeline", "paper.yaml", "--jobs=2"])
    page = Path("runs/paper/report.html").read_text()
    assert "SFT-GT" in page
    assert "GSM8K" in page or "gsm8k" in page
    results = [result for record in find_records([Path("runs/paper/evaluate")]) for result in record.benchmarks]
    trained_on = {result.model: result.trained_on for result in results}
    assert len(trained_on) == len(results) == 3
    assert trained_on.items() >= {"sft_gt": "maths", "tabom": "maths"}.items()
