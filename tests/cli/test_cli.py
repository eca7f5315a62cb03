import re
import shutil
import subprocess
import sys

import pytest
import yaml
from helpers import parsed, parser_of

from tabom.cli.main import main
from tabom.storage.settings import flat_config


def fails(capsys, *words):
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in words])
    assert error.value.code != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tabom: error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("tabom: error: ")


@pytest.fixture
def changed(repository, tmp_path):
    """A copy of the configs in which one text is replaced by another, in a demo config or a part that it names."""

    def change(name, old, new):
        configs = tmp_path / "configs"
        shutil.copytree(repository / "configs", configs)
        path = configs / "demo" / name
        parts = [configs / "parts" / part for part in re.findall(r"parts/(\w+\.yaml)", path.read_text())]
        faulty = next(file for file in (path, *parts) if old in file.read_text())
        faulty.write_text(faulty.read_text().replace(old, new, 1))
        return path

    return change


def test_help_lists_every_verb(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("fit", "validate", "test", "predict", "trajectories", "demo"))
    main([])
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_verbs_without_a_model_load_nothing_heavy(option):
    code = (
        "import sys; from tabom.cli.main import main; main([sys.argv[1]]); "
        "heavy = {'torch', 'lightning', 'transformers', 'wandb', 'rich', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code, option], check=True, capture_output=True, text=True, timeout=900)


def test_version_is_that_of_the_package(capsys, repository):
    main(["--version"])
    version = (repository / "pyproject.toml").read_text().partition('version = "')[2].partition('"')[0]
    assert capsys.readouterr().out == f"tabom {version}\n"


def test_unknown_verb(capsys):
    assert fails(capsys, "fti") == (
        "fti: expected one of fit, validate, test, predict, evaluate, chat, generate, export, convert, "
        "trajectories, view, report, sweep, init, pipeline, demo, --help or --version; did you mean fit?"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "max_steps: 150",
            "max_stepz: 150",
            "Subcommand 'fit' does not accept option 'trainer.max_stepz' (did you mean trainer.max_steps?)",
        ),
        (
            "margin: 0.1",
            "margn: 0.1",
            "model.objective.margn: TabomObjective has no such option (did you mean margin?)",
        ),
        (
            "num_warmup_steps: 15",
            "num_warmup: 15",
            "model.lr_scheduler.num_warmup: CosineWithWarmup has no such option (did you mean num_warmup_steps?)",
        ),
        (
            "task: Sudoku4x4",
            "task: Sodoku4x4",
            "data.task: expected the name of a class, got Sodoku4x4 (did you mean Sudoku4x4?)",
        ),
        ("batch_size: 48", "batch_size: many", "data.batch_size: expected a whole number, got many"),
        ("batch_size: 48", "batch_size: null", "data.batch_size: expected a whole number, got null"),
        (
            "batch_size: 48",
            "validation: {batch_size: null}",
            "data.validation.batch_size: expected a whole number, got null",
        ),
        (
            "../parts/demo_base.yaml",
            "NewTinyDLM",
            "data.tokenizer: expected characters, a directory or a hub id, got none, and model.backbone has no path "
            "whose tokenizer it could be",
        ),
        ("margin: 0.1,", "margin: null,", "model.objective.margin: expected a number, got null"),
        ("margin: 0.1,", "margin: -0.1,", "margin: expected at least 0, got -0.1"),
        ("rank_weight: 1.0", "rank_weight: -1.0", "rank_weight: expected at least 0, got -1.0"),
        ("window: 8", "window: 0", "window: expected at least 1, got 0"),
        (
            "accelerator: cpu",
            "fast_dev_run: null",
            "trainer.fast_dev_run: expected a whole number or true or false, got null",
        ),
    ],
)
def test_a_faulty_config_gives_one_sentence(
    capsys, changed, make_trajectories, tmp_path, monkeypatch, old, new, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/demo/base").mkdir(parents=True)
    make_trajectories("runs/demo/trajectories")
    assert fails(capsys, "fit", "--config", changed("tabom.yaml", old, new)) == message


@pytest.mark.parametrize(
    ("verb", "config", "option"),
    [
        ("fit", "llada_prm12k/tabom", "model.backbone.lora"),  # a class
        ("fit", "llada_prm12k/tabom", "model.backbone.revision"),
        ("fit", "demo/tabom", "model.optimizer.foreach"),  # of an optimizer
        ("fit", "demo/tabom", "model.lr_scheduler.num_training_steps"),  # of a schedule
        ("fit", "demo/tabom", "model.objective.ranking"),  # a dataclass
        ("fit", "demo/tabom", "model.objective.rank_weight_warmup"),
        ("fit", "demo/tabom", "model.validation.probe"),
        ("fit", "demo/tabom", "data.base_domains"),
        ("fit", "demo/tabom", "trainer.gradient_clip_val"),
        ("predict", "llada_prm12k/distill", "model.sampler.block_length"),
    ],
)
def test_null_on_the_command_line_is_as_in_yaml(repository, tmp_path, verb, config, option):
    content = None
    for name in reversed(option.split(".")):
        content = {name: content}
    (tmp_path / "null.yaml").write_text(yaml.safe_dump(content))
    words = ["--config", str(repository / "configs" / f"{config}.yaml")]
    parse = parser_of(verb).parse_args
    in_yaml = flat_config(parse([*words, "--config", str(tmp_path / "null.yaml")]).as_dict())
    for further in ([f"--{option}=null"], [f"--{option}", "null"], [f"--{option}=None"]):
        on_the_command_line = flat_config(parse([*words, *further]).as_dict())
        assert on_the_command_line[option] is None
        assert {**on_the_command_line, "config": None} == {**in_yaml, "config": None}


@pytest.mark.parametrize("text", ["{question} x", "{question}\nIt ends: {answer}", "[a, b: c", "- a\n'b"])
def test_a_text_that_is_no_yaml_is_still_a_text(monkeypatch, repository, text):
    monkeypatch.chdir(repository)
    task = yaml.safe_dump({"class_path": "QuestionFile", "init_args": {"train_file": "a.csv", "prompt_column": text}})
    words = ["--config", "configs/demo/distill.yaml", f"--data.task={task}", "--trainer.logger=false"]
    assert parsed("predict", *words).datamodule.task.prompt_column == text


def test_a_window_larger_than_the_response(capsys, changed, make_trajectories, checkpoint, tmp_path):
    config = changed("tabom.yaml", "window: 8", "window: 20")
    options = [
        f"--data.path={make_trajectories()}",
        "--data.tokenizer=characters",
        f"--model.backbone.path={checkpoint}",
        f"--run_dir={tmp_path}",
        "--trainer.logger=false",
    ]
    assert fails(capsys, "fit", "--config", config, *options) == (
        "window: expected at most the response length of 19 tokens, got 20"
    )


def test_misspelt_flag_and_missing_file(capsys, repository):
    config = repository / "configs" / "demo" / "tabom.yaml"
    assert fails(capsys, "fit", "--config", config, "--trainer.max_stepz=3") == (
        "unrecognized arguments: --trainer.max_stepz=3 (did you mean trainer.max_steps?)"
    )
    assert fails(capsys, "fit", "--config", "none.yaml") == (
        "none.yaml: expected a file, or the name of one in configs (tabom init DIR copies them)"
    )


@pytest.mark.parametrize(
    ("option", "whole"),
    [
        ("margin", "model.objective.margin"),
        ("surrogate", "model.objective.ranking.surrogate"),
        ("lr", "model.optimizer.lr"),
        ("batch_size", "data.batch_size"),
        ("num_test_prompts", "data.validation.num_test_prompts"),
    ],
)
def test_a_short_option_names_the_whole_one(capsys, repository, option, whole):
    config = repository / "configs" / "demo" / "tabom.yaml"
    assert fails(capsys, "fit", "--config", config, f"--{option}=1") == (
        f"unrecognized arguments: --{option}=1 (did you mean {whole}?)"
    )


def test_a_verb_without_a_configuration_names_those_there_are(capsys):
    text = fails(capsys, "predict")
    assert text.startswith(
        "predict: expected --config FILE, or FOLDER/NAME of one that comes with tabom: demo: distill"
    )
    assert "tabom_global" in fails(capsys, "fit")


def test_module_entry_point():
    command = [sys.executable, "-m", "tabom", "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("tabom ")
