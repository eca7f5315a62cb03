"""Every command and every Python block of the README and the pages is run, as small as it goes.

A page is run from top to bottom in a directory of its own, in which the names of the hub's models and data sets lead to
stand-ins. Models that learn nothing in one step would verify no answer, so here a verdict depends on the text alone.
"""

import contextlib
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
import yaml
from helpers import slow, write_trajectories
from matplotlib.figure import Figure
from pages import blocks, command_lines
from PIL import Image
from records import check, write_record
from test_recipes import world  # noqa: F401, a fixture

from tabom.cli.main import VERBS, main
from tabom.seeding import share_of
from tabom.shipped import find
from tabom.tasks import Task

ROOT = Path(__file__).parents[1]
LIGHTNING = {verb for verb, (module, _) in VERBS.items() if module == "tabom.cli.lightning_cli"}
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("configs/*.md"), *ROOT.glob("docs/*.md"))
    if any(language in ("bash", "python") for language, _, _ in blocks(path.read_text()))
)
HERE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
FEW = ["num_validation_prompts=1", "num_test_prompts=1", "num_base_examples=4"]
FEW = [f"--data.validation.{size}" for size in FEW]
FIT = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.check_val_every_n_epoch=null", *FEW]
FIT += ["--model.lr_scheduler.num_warmup_steps=0"]
SHORT = ["--data.response_length=32"]
HELD_OUT = [*SHORT, "--data.held_out=0.2"]
SIZES = {
    "demo": {
        "fit": [*FIT, "--data.batch_size=4"],
        "predict": ["--data.num_queries=20"],
        "validate": FEW,
        "test": FEW,
        "evaluate": ["--data.limit=4"],
    },
    "recipe": {
        "fit": [*FIT, *HELD_OUT, "--data.global_batch_size=8"],
        "predict": [*SHORT, "--data.num_queries=40", "--model.sampler.tokens_per_step=16"],
        "validate": [*FEW, *HELD_OUT],
        "test": [*FEW, *HELD_OUT],
        "evaluate": [*SHORT, "--data.limit=1", "--data.benchmark.data_dir=."],
    },
}
"""Options by which a verb takes little time: with the demo's configurations, and with those of the recipes."""
IN_PYTHON = {
    "=150": "=1",
    "num_warmup_steps=15": "num_warmup_steps=0",
    "batch_size=48": "batch_size=4",
    "base_domains={": "validation=ValidationSizes(4, 4, 4), base_domains={",
    "import TrajectoryDataModule": "import TrajectoryDataModule, ValidationSizes",
}


def has_then(words):
    path = ROOT / words[-1]
    return words[:2] == ["tabom", "sweep"] and path.is_file() and "\nthen:" in path.read_text()


OTHERS = ["trajectories", "import"]
NOT_RUN = {
    "installs from the network": lambda words: words[0] == "pip",
    "is a target of make, which test_readme.py looks up": lambda words: words[0] == "make",
    "needs a server of W&B": lambda words: words[0] == "wandb" or (words[1] == "sweep" and "--wandb" in words),
    "is a whole pipeline, which test_demo.py runs small": lambda words: (
        words[:2] in (["tabom", "pipeline"], ["tabom", "demo"])
    ),
    "evaluates on data of the hub after each training": has_then,
    "is a benchmark of speed": lambda words: words[0] == "python" and words[1].startswith("benchmarks/"),
    "reads a data set of the hub": lambda words: "LmEvalBenchmark" in " ".join(words),
    "works on SmolLM2 or another GGUF file, as test_smollm2.py does": lambda words: (
        words[0] == "unzip" or words[:2] == ["tabom", "convert"] or (words[0] == "tabom" and "smollm2" in str(words))
    ),
    "reads trajectories of others, as test_trajectory_formats.py does": lambda words: (
        words[:3] == ["tabom", "trajectories", "annotate"] or (words[1:3] == OTHERS and "--format" in words)
    ),
    "belongs to the shell or to SLURM": lambda words: words[0] in ("source", "if"),
}
"""Why a command is not run, and how to see that this is true of it."""


TRAINED = ["llada_prm12k", "dream_prm12k"]
PROGRAM = {"task_id": "x/0", "prompt": "def one():\n", "entry_point": "one", "test": "def check(one):\n    one()"}
FILES = {
    "prompts.txt": ["How many legs have two spiders?"],
    "train.jsonl": [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(200)],
    "math500/test.jsonl": [{"problem": "1 + 1?", "solution": "It is $\\boxed{2}$."}],
    "humaneval/HumanEval.jsonl": [PROGRAM | {"canonical_solution": "    return 1"}],
    "dream_prm12k.jsonl": [
        {"prompt": "one?", "response_token_ids": [5, 6], "decoding_order": [0, 1], "text": "", "method": "entropy"}
    ],
}
"""What the pages take for granted beside models, trajectories and data of the hub."""


@pytest.fixture(scope="module")
def prepared(world, tmp_path_factory, checkpoint, tokenizer):  # noqa: F811
    """A directory with what the pages take for granted."""
    path = tmp_path_factory.mktemp("prepared")
    for folder in world.iterdir():
        if folder.is_dir() and folder.name not in ("runs", "cache"):
            shutil.copytree(folder, path / folder.name)
    shutil.copytree(checkpoint, path / "runs/demo/base")
    for directory in ("demo/trajectories", "rounds/trajectories-1", "rounds/trajectories-2"):
        write_trajectories(path / "runs" / directory, tokenizer, num_rows=40)
    for name, rows in FILES.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_record(path / "runs/llada_ling_coder/tabom", lines=[check("validate", reconstruction=1.0)])
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path):
        patch.setattr(Task, "are_correct", verdicts)
        assert run(["fit", "--config", "demo/sft_sd"])
        shutil.copy("runs/demo/sft_sd/checkpoints/last.ckpt", "FILE.ckpt")
        for recipe in TRAINED:
            assert run(["predict", "--config", f"{recipe}/distill"])
            assert run(["fit", "--config", f"{recipe}/tabom"])
    return path


def verdicts(task, examples, responses):
    return [share_of(response) < 0.7 for response in responses]


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    """A copy of it to work in."""
    path = tmp_path / "here"
    shutil.copytree(prepared, path, symlinks=True)
    monkeypatch.chdir(path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(Task, "are_correct", verdicts)
    known = set(sys.modules)
    yield path
    for name in set(sys.modules) - known:
        if str(path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def small(words):
    """A command of tabom with options that make it small."""
    verb, text = words[0], " ".join(words)
    if "--help" in words:
        return words
    if verb == "sweep":
        fit = text if "--config" in words else Path(words[1]).read_text()
        options = [*HERE, *SIZES["demo" if "demo/" in fit else "recipe"]["fit"]]
        own = words[: words.index("--")] if "--" in words else words
        return [*own, "--num_runs=1", "--", *words[len(own) + 1 :], *options]
    if verb not in LIGHTNING:
        return words
    kind = "demo" if "demo/" in text else "recipe"
    further = [*HERE, *SIZES[kind].get(verb, [])]
    if "trainer.logger" not in text and "Artifacts" not in text:
        further.append("--trainer.logger=false")
    if "distill_own" in text or "distill_samples" in text:
        further.append("--data.num_samples=2")
    if verb == "fit" and "--ckpt_path" not in text and "--run_dir" not in text:
        place = Path(yaml.safe_load(find(Path(words[words.index("--config") + 1]), "configs").read_text())["run_dir"])
        if (place / "checkpoints").exists():  # of a command that the page has given before, in another form
            further.append(f"--run_dir={tempfile.mkdtemp(dir='runs')}")
    return [*words, *further]


def run(words):
    """Whether a command of tabom succeeds; figures are blank, since to draw them takes as long as all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO())  # a chat ends at once
        if words[0] in LIGHTNING:
            patch.setattr(Figure, "savefig", lambda self, path, **_: Image.new("L", (1, 1)).save(path))
        try:
            main(small(words))
        except SystemExit as end:
            return not end.code
    return True


def reasons(words):
    return [reason for reason, is_true in NOT_RUN.items() if is_true(words)]


def test_a_command_is_run_or_it_is_said_why_not():
    """No reason is there for nothing, and none is beside another."""
    found = set()
    for page in PAGES:
        for language, _, content in blocks((ROOT / page).read_text()):
            for words in command_lines(content) if language == "bash" else []:
                why = reasons(words)
                assert len(why) == 1 or (not why and "tabom" in words), (page, words, why)
                found.update(why)
    assert found == set(NOT_RUN)


MADE = {
    r"--config (configs/)?demo/pretrain(\.yaml)?": "demo/base",
    r"--config (configs/)?demo/distill(\.yaml)?": "demo/trajectories",
    "tabom trajectories import dream_prm12k.jsonl": "dream_prm12k/trajectories",
}
"""Commands that make what other pages take for granted."""


def arrange(here, text):
    """Put there what a page takes for granted, and take away what it makes itself."""
    if "tabom init" not in text:
        for folder in ("configs", "sweeps"):
            (here / folder).symlink_to(ROOT / folder)
    for archive in re.findall(r"docs/results/\S+?\.tar\.xz", text):
        with tarfile.open(ROOT / archive) as file:
            file.extractall(here, filter="data")
    for command, made in MADE.items():
        if re.search(rf"{command}\s", text):
            shutil.rmtree(here / "runs" / made)


# https://github.com/Lightning-AI/pytorch-lightning/issues/21438
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.parametrize("page", slow(*PAGES))
def test_a_page_is_run_from_top_to_bottom(page, here):
    text = (ROOT / page).read_text()
    arrange(here, text)
    names, refused = {"__name__": "page"}, []
    for language, title, content in blocks(text):
        if title:
            Path(title).write_text(content)
        elif language == "python":
            for long, short in IN_PYTHON.items():
                content = content.replace(long, short)
            exec(compile(content, page, "exec"), names)
        if language == "bash":
            commands = (words[words.index("tabom") + 1 :] for words in command_lines(content) if not reasons(words))
            refused += [words for words in commands if not run(words)]
    assert refused == []
