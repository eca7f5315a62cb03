"""Every configuration is found by glob, parsed, linked and instantiated for real; only the run itself is left out."""

import re
from pathlib import Path

import pytest
import yaml
from helpers import parsed

from tabom.callbacks import TrajectoryWriter
from tabom.cli.run_directory import group_and_name
from tabom.errors import TabomError

ROOT = Path(__file__).parents[1] / "configs"
PARTS = sorted((ROOT / "parts").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "ablation").glob("*.yaml"))
TRAINERS = sorted((ROOT / "trainer").glob("*.yaml"))
EVALUATION_OVERLAYS = [ROOT / "evaluate" / f"{name}.yaml" for name in ("adapter", "two_per_step")]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))  # tests/test_demo.py reads what they hold
STUDY_OVERLAYS = sorted(set((ROOT / "study").glob("*.yaml")) - {ROOT / "study/distill_text.yaml"})
BLOCK_MODELS = sorted((ROOT / "block").glob("*.yaml"))
OTHERS = {*PARTS, *OVERLAYS, *STUDY_OVERLAYS, *TRAINERS, *EVALUATION_OVERLAYS, *BLOCK_MODELS, *PIPELINES}
CONFIGS = sorted(set(ROOT.rglob("*.yaml")) - OTHERS)
PAPER = ("llada_prm12k", "llada_ling_coder", "dream_prm12k", "dream_ling_coder")
DISTILLED = (*PAPER, "qwen3_gsm8k")
RECIPES = (*DISTILLED, "dream_ling_coder_paper")
METHODS = ("sft_gt", "sft_sd", "trajectory_masking", "tabom")
BASELINES = ("dinfer", "t3d")
FURTHER = (
    "tilted",
    "exact_order",
    "tabom_global",
    "dinfer",
    "t3d",
    "logistic",
    "plackett_luce",
    "boltzmann_kl",
    "shuffled_order",
    "tad",
    "lift",
    "gift",
    "d_opsd",
)


def verb_of(path):
    if path.stem.startswith("distill"):
        return "predict"
    return "evaluate" if "evaluate" in (path.stem, path.parent.name) else "fit"


def read(path):
    """What a file says, with its parts in their places."""
    return in_full(yaml.safe_load(path.read_text()), path.parent)


def in_full(node, folder):
    if isinstance(node, str) and node.endswith(".yaml"):
        return read(folder / node)
    if isinstance(node, list):
        return [in_full(item, folder) for item in node]
    return {key: in_full(item, folder) for key, item in node.items()} if isinstance(node, dict) else node


def test_there_are_configs():
    names = {str(path.relative_to(ROOT).with_suffix("")) for path in CONFIGS}
    assert {f"{recipe}/{method}" for recipe in ("demo", *RECIPES) for method in METHODS} <= names
    assert {f"demo/{method}" for method in FURTHER} <= names
    assert {f"{recipe}/{name}" for recipe in ("demo", *DISTILLED) for name in ("distill", *BASELINES)} <= names
    assert "dream_prm12k/dparallel" in names


def test_every_part_is_used():
    text = "".join(path.read_text() for path in CONFIGS + PARTS)
    assert PARTS
    unused = [path for path in PARTS if f"/{path.name}" not in text and f" {path.name}" not in text]
    assert [path.stem for path in unused] == ["demo_replay", "demo_replay_own", "dream_sampler", "smollm2_blocks"]


def test_the_overlay_that_makes_a_block_diffusion_model(tmp_path, monkeypatch):
    """On SmolLM2's adaptation, as docs/own_model.md says."""
    monkeypatch.chdir(ROOT.parent)
    overlay = f"--config={ROOT / 'parts/smollm2_blocks.yaml'}"
    cli = instantiate("fit", ROOT / "smollm2/adapt.yaml", overlay, f"--run_dir={tmp_path}")
    assert (cli.model.source.attention, cli.model.source.block_size, cli.model.source.shift) == (
        "block_causal",
        8,
        True,
    )
    grown, saved = cli.config.fit.trainer.callbacks[::-1]
    assert [grown.class_path.rpartition(".")[2], saved.class_path.rpartition(".")[2]] == [
        "GrowingBlocks",
        "SaveBackbone",
    ]
    assert grown.init_args.sizes[-1] == 8


def test_the_sampler_that_no_config_uses(tmp_path, monkeypatch):
    """Dream as the paper describes it, in place of its released decoder; the command is in docs/distillation.md."""
    monkeypatch.chdir(ROOT.parent)
    released, drawn = (
        instantiate("predict", ROOT / "dream_prm12k/distill.yaml", f"--run_dir={tmp_path}", *options).model.sampler
        for options in ((), ("--model.sampler=configs/parts/dream_sampler.yaml",))
    )
    assert (released.token_choice, released.score_distribution, released.is_random) == ("likeliest", "sampling", False)
    assert (drawn.token_choice, drawn.score_distribution, drawn.is_random) == ("drawn", "model", True)
    assert (drawn.temperature, drawn.top_p) == (released.temperature, released.top_p) == (0.1, 0.9)


@pytest.mark.parametrize("method", [*METHODS, *FURTHER])
def test_the_replay_follows_any_method_of_the_demo(method, tmp_path, monkeypatch):
    """The commands are in docs/objectives.md."""
    monkeypatch.chdir(ROOT.parent)
    path, run_dir = ROOT / "demo" / f"{method}.yaml", f"--run_dir={tmp_path}"
    text, own = (
        instantiate("fit", path, ROOT / "parts" / f"{name}.yaml", run_dir).datamodule
        for name in ("demo_replay", "demo_replay_own")
    )
    assert type(text.replay.source).__name__ == "PythonSource"
    assert (text.replay.batch_size, own.replay.batch_size) == (text.batch_size, text.batch_size // 2)
    written = instantiate("predict", ROOT / "demo/distill_own.yaml", f"--run_dir={tmp_path}")
    (writer,) = (callback for callback in written.trainer.callbacks if isinstance(callback, TrajectoryWriter))
    assert own.replay.trajectories == str(writer.output_dir)
    assert len(written.datamodule.task.examples("train", 20)) == written.datamodule.num_queries


def test_overlays_of_the_study(tmp_path, monkeypatch):
    """Replay of another source than the probe's, ground truth to all queries, replay of what Qwen3 wrote."""
    assert [path.stem for path in STUDY_OVERLAYS] == ["all_queries", "replay_of_manual", "replay_of_text"]
    monkeypatch.chdir(ROOT.parent)
    run_dir = f"--run_dir={tmp_path}"
    manual = instantiate("fit", ROOT / "demo/tabom.yaml", ROOT / "study/replay_of_manual.yaml", run_dir).datamodule
    (probed,) = manual.base_domains.values()
    assert (type(manual.replay.source).__name__, type(probed).__name__) == ("PythonManual", "PythonSource")
    everything = instantiate("fit", ROOT / "demo/sft_gt.yaml", ROOT / "study/all_queries.yaml", run_dir).datamodule
    assert (everything.answers, everything.only_verified) == ("ground_truth", False)
    text = instantiate("fit", ROOT / "qwen3_gsm8k/tabom.yaml", ROOT / "study/replay_of_text.yaml", run_dir).datamodule
    writing = instantiate("predict", ROOT / "study/distill_text.yaml", run_dir)
    (writer,) = (callback for callback in writing.trainer.callbacks if isinstance(callback, TrajectoryWriter))
    assert text.replay.trajectories == str(writer.output_dir)
    assert len(writing.datamodule.task.examples("train", 20)) == writing.datamodule.num_queries


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = instantiate(verb_of(path), path, *ALLOWED.get(path.stem.partition("_")[2], ()))
    if path.stem in ("pretrain", "tabom", "distill"):  # the others of a folder differ in a few values
        written = dump(cli)
        (tmp_path / "again.yaml").write_text(written)
        assert dump(instantiate(cli.subcommand, tmp_path / "again.yaml")) == written
    assert not (tmp_path / "runs").exists()
    config = cli.config[cli.subcommand]
    directory = yaml.safe_load(path.read_text())["run_dir"]
    name = (
        path.stem.replace("_", "/", 1)
        if path.parent.name == "evaluate"
        else path.stem.replace("evaluate", "evaluate/base")
    )
    assert directory == f"runs/{path.parent.name}/{name}"
    assert config.trainer.default_root_dir == cli.trainer.default_root_dir == directory
    assert config.data.init_args.tokenizer == config.model.init_args.backbone.init_args.get("path", "characters")


def instantiate(verb, *paths_and_options):
    words = [
        word for each in paths_and_options for word in (["--config", str(each)] if "=" not in str(each) else [each])
    ]
    return parsed(verb, *words, "--trainer.logger=false")


CODE = "--data.benchmark.allow_code_execution=true"
ALLOWED = {"humaneval": (CODE,), "mbpp": (CODE,)}
TABLE_8 = {
    "dream": {"gsm8k": (256, None), "math500": (512, None), "mbpp": (1024, None), "humaneval": (768, None)},
    "llada": {"gsm8k": (512, 8), "math500": (512, 64), "mbpp": (256, None), "humaneval": (512, None)},
}
"""New tokens, block length; one block where the paper's block is the whole response."""


@pytest.mark.parametrize("benchmark", ["gsm8k", "math500", "humaneval", "mbpp", "ifeval"])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_evaluation_of_the_paper(family, benchmark):
    """What the files say; each is instantiated above."""
    content = yaml.safe_load((ROOT / "evaluate" / f"{family}_{benchmark}.yaml").read_text())
    data, sampler = content["data"], content["model"]["sampler"]
    assert data["benchmark"] == {"class_path": "PaperBenchmark", "init_args": {"name": benchmark}}
    assert data["chat_template"] is True
    expected_length, expected_block = TABLE_8[family].get(benchmark, (512, None))
    assert data["response_length"] == expected_length
    assert content["run_dir"] == f"runs/evaluate/{family}/{benchmark}"
    assert group_and_name(content["run_dir"]) == ("evaluate", f"{family}_{benchmark}")
    if family == "dream":
        assert sampler == "../parts/dream_sampler_released.yaml"
        return
    settings = sampler["init_args"]
    assert settings.pop("block_length", None) == expected_block
    ends = {"humaneval": {"forbidden_token_ids": [126081]}, "mbpp": {"deferred_token_ids": [126081]}}
    assert settings == {"score": "entropy" if benchmark == "ifeval" else "confidence", **ends.get(benchmark, {})}


def test_recipes_keep_the_last_epoch():
    """As paper and release do; reconstruction of self-distilled segments would choose the least trained SFT-GT."""
    trainings = [path for path in CONFIGS if verb_of(path) == "fit" and path.parent.name in RECIPES]
    assert len(trainings) == 35
    for path in trainings:
        assert read(path)["checkpoint"] == {"monitor": None}


def test_generated_code_needs_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TabomError, match="allow_code_execution: humaneval runs the programs that the model writes"):
        instantiate("evaluate", ROOT / "evaluate/llada_humaneval.yaml")


@pytest.mark.parametrize("benchmark", ["gsm8k", "math500", "humaneval", "mbpp", "ifeval"])
def test_evaluation_of_the_small_model(benchmark):
    """As many tokens as dLLM reports its scores with, one per step in one block; it reports none on IFEval."""
    content = read(ROOT / "evaluate" / f"qwen3_{benchmark}.yaml")
    assert content["model"]["sampler"]["init_args"] == {"score": "confidence"}
    assert content["data"]["response_length"] == (512 if benchmark == "ifeval" else 256)
    assert content["data"]["benchmark"]["init_args"] == {"name": benchmark}
    assert content["data"]["chat_template"] is True


@pytest.mark.parametrize("family", ["llada", "dream", "qwen3"])
def test_overlays_of_an_evaluation(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter, two = EVALUATION_OVERLAYS
    cli = instantiate("evaluate", ROOT / "evaluate" / f"{family}_gsm8k.yaml", two, adapter)
    assert (cli.model.sampler.tokens_per_step, cli.model.sampler.temperature > 0) == (2, family == "dream")
    expected = yaml.safe_load((ROOT / "parts" / f"{family}_backbone.yaml").read_text())["init_args"]["lora"]
    lora = cli.model.source.lora
    assert (lora.r, lora.alpha, list(lora.target_modules)) == tuple(expected.values())
    assert "class_path" not in adapter.read_text() + two.read_text()


@pytest.mark.parametrize("name", ["qwen3_gsm8k/distill", "qwen3_gsm8k/tabom", "evaluate/qwen3_gsm8k"])
def test_block_models_follow_the_recipes_of_qwen3(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, expected = ROOT / f"{name}.yaml", {"sdar": (None, None), "qwen3_bd3lm": ("block_causal", 32)}
    assert {overlay.stem for overlay in BLOCK_MODELS} == expected.keys()
    for overlay in BLOCK_MODELS:
        cli = instantiate(verb_of(path), path, overlay)
        source = cli.model.source
        assert (source.attention, source.block_size) == expected[overlay.stem]
        assert cli.config[cli.subcommand].data.init_args.tokenizer == source.path
        assert "class_path" not in overlay.read_text()


@pytest.mark.parametrize("recipe", ["demo", *DISTILLED])
def test_where_trajectories_go_can_be_changed_on_the_command_line(recipe):
    path, option = ROOT / recipe / "distill.yaml", "--writer.output_dir=elsewhere"
    cli = parsed("predict", "--config", str(path), option)
    (writer,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, TrajectoryWriter))
    assert writer.output_dir == Path("elsewhere")


PAPER_ABLATIONS = {
    **{f"weight_{weight}_margin_0.{tenths}": (weight, tenths / 10, 8) for weight in (1, 2) for tenths in (1, 2, 3)},
    **{f"window_{window}": (1, 0.1, window) for window in (4, 8, 12, 16, 19)},
    "components_global_masking": (0, 0.1, 19),
    "components_global_ranking": (1, 0.1, 19),
    "components_local_masking": (0, 0.1, 8),
    "components_local_ranking": (1, 0.1, 8),
}
"""Tables 7, 9 and 5 at the demo's size: lambda, gamma, W."""


def test_there_is_an_overlay_for_each_cell_of_the_tables():
    assert {path.stem for path in OVERLAYS} == set(PAPER_ABLATIONS)


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlay(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = instantiate("fit", ROOT / "demo" / "tabom.yaml", path)
    objective = cli.model.objective
    assert (objective.rank_weight, objective.margin, objective.window) == PAPER_ABLATIONS[path.stem]
    assert cli.trainer.default_root_dir == f"runs/ablation/{path.stem}"
    assert group_and_name(cli.trainer.default_root_dir) == ("ablation", path.stem)
    assert "class_path" not in path.read_text()


@pytest.mark.parametrize("path", TRAINERS, ids=lambda path: path.stem)
def test_trainer_overlay(path, tmp_path, monkeypatch):
    """Any of them follows a config; only its accelerator is not here."""
    monkeypatch.chdir(tmp_path)
    files = ["--config", str(ROOT / "demo/tabom.yaml"), "--config", str(path)]
    cli = parsed("fit", *files, "--trainer.accelerator=cpu", "--trainer.logger=false")
    strategies = {"cpu": "SingleDevice", "one_gpu": "SingleDevice", "ddp": "DDP", "fsdp": "ModelParallel"}
    assert type(cli.trainer.strategy).__name__ == f"{strategies[path.stem]}Strategy"
    assert cli.trainer.precision == ("32-true" if path.stem == "cpu" else "bf16-mixed")
    content = yaml.safe_load(path.read_text())
    assert content["trainer"]["accelerator"] == ("cpu" if path.stem == "cpu" else "gpu")
    assert content.keys() == {"trainer"}


def test_every_kind_of_trainer_is_there():
    assert {path.stem for path in TRAINERS} == {"cpu", "one_gpu", "ddp", "fsdp"}


def dump(cli):
    return cli._parser(cli.subcommand).dump(cli.config[cli.subcommand], skip_unset=False)


@pytest.mark.parametrize("path", [*CONFIGS, *sorted(OTHERS)], ids=lambda path: str(path.relative_to(ROOT)))
def test_file_says_what_it_is_for_and_knows_no_foreign_path(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert "shared/" not in text
    assert path.stem == path.stem.lower().replace("-", "_")


def test_schedules_end_with_the_training():
    for path in CONFIGS:
        if verb_of(path) == "fit":
            assert read(path)["model"]["lr_scheduler"]["init_args"].keys() <= {"num_warmup_steps", "from_zero"}


def test_files_are_short():
    num_lines = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.*")}
    assert sum(num_lines.values()) - sum(num_lines[path] for path in PIPELINES) <= 1950
    assert all(num_lines[path] <= 120 for path in PIPELINES)
    assert all(num_lines[ROOT / f"demo/{name}.yaml"] <= 25 for name in (*METHODS, *FURTHER))
    assert all(num_lines[path] <= 35 for path in CONFIGS)


def test_readme_says_what_is_where():
    text = (ROOT / "README.md").read_text()
    rows = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    folders = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir()}
    assert rows == folders | {str(path.relative_to(ROOT)) for path in (ROOT / "demo").glob("*.yaml")}


RELEASED = {
    "llada_prm12k": {"rank_weight": 1.0, "margin": 0.2, "lr": 2e-5, "global_batch_size": 4 * 8},
    "llada_ling_coder": {"rank_weight": 1.0, "margin": 0.3, "lr": 2e-5, "global_batch_size": 4 * 8},
    "dream_prm12k": {"rank_weight": 1.0, "margin": 0.1, "lr": 2e-5, "global_batch_size": 4 * 8},
    "dream_ling_coder": {"rank_weight": 2.0, "margin": 0.1, "lr": 1e-4, "global_batch_size": 8 * 8},
}


@pytest.mark.parametrize("recipe", RELEASED)
def test_released_recipes(recipe, tmp_path, monkeypatch):
    """What the released scripts set for each data set."""
    monkeypatch.chdir(tmp_path)
    path = ROOT / recipe / "tabom.yaml"
    cli = instantiate("fit", path)
    objective, source = cli.model.objective, cli.model.source
    optimizer = cli.config["fit"]["model"]["init_args"]["optimizer"]["init_args"]
    assert {
        "rank_weight": objective.rank_weight,
        "margin": objective.margin,
        "lr": optimizer["lr"],
        "global_batch_size": cli.datamodule.global_batch_size,
    } == RELEASED[recipe]
    schedule = cli.config["fit"]["model"]["init_args"]["lr_scheduler"]["init_args"]
    assert (schedule["num_warmup_steps"], schedule["from_zero"]) == (50, True)
    assert (cli.datamodule.max_prompt_length, objective._reduction) == (256, "batch_tokens")
    assert (objective.window, optimizer["weight_decay"], cli.trainer.max_epochs) == (32, 0.01, 5)
    assert (cli.trainer.gradient_clip_val, cli.datamodule.batch_size, cli.datamodule.response_length) == (1.0, 8, 256)
    lora = source.lora
    assert (lora.r, lora.alpha, set(lora.target_modules), lora.dropout) == (16, 16, {"q_proj", "v_proj"}, 0.0)
    assert source.path == {"l": "GSAI-ML/LLaDA-8B-Instruct", "d": "Dream-org/Dream-v0-Instruct-7B"}[recipe[0]]


@pytest.mark.parametrize("recipe", ["demo", "smollm2", *RECIPES])
def test_methods_differ_in_objective_and_answers_alone(recipe):
    """What is compared is trained and evaluated alike."""

    def common(name):
        config = read(ROOT / recipe / f"{name}.yaml")
        config["model"].pop("objective")
        data = config["data"]
        config["data"] = data.pop("init_args", data)
        assert data.pop("class_path", "TrajectoryDataModule") == "TrajectoryDataModule"
        for key in ("answers", "truncate_answers"):
            config["data"].pop(key, None)
        assert config.pop("run_dir") == f"runs/{recipe}/{name}"
        return yaml.safe_dump(config)

    trainings = {path.stem for path in CONFIGS if path.parent.name == recipe and verb_of(path) == "fit"}
    compared = {*METHODS, *FURTHER} if recipe == "demo" else trainings - {"adapt"}
    assert len({common(name) for name in compared}) == 1


@pytest.mark.parametrize("recipe", RELEASED)
def test_distillation_as_released(recipe):
    """All queries there are, one token per step to the last; LLaDA in blocks of 32."""
    config = read(ROOT / recipe / "distill.yaml")
    assert config["data"]["num_queries"] is None
    assert config["model"]["early_finish"] is False
    sampler = config["model"]["sampler"]["init_args"]
    assert sampler.get("block_length") == (32 if recipe.startswith("llada") else None)
    assert "tokens_per_step" not in sampler
