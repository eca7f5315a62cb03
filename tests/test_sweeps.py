"""Every value of every parameter in a sweep file goes through the real parser and arrives where the file says."""

import csv
import functools
from pathlib import Path

import pytest
import yaml
from helpers import parser_of
from jsonargparse import Namespace

from tabom.cli.defaults import fill_in_tokenizer
from tabom.cli.lightning_cli import run
from tabom.cli.run_directory import fill_in_directory
from tabom.storage.run_record import find_records
from tabom.sweeping.file import read_sweep

ROOT = Path(__file__).parents[1]
SWEEPS = {str(path.relative_to(ROOT / "sweeps").with_suffix("")): path for path in (ROOT / "sweeps").rglob("*.yaml")}
OBJECTIVE = "model.objective"
AGENT = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}
MARGIN, WEIGHT, WINDOW = f"{OBJECTIVE}.margin", f"{OBJECTIVE}.rank_weight", f"{OBJECTIVE}.window"


def read(name):
    return yaml.safe_load(SWEEPS[name].read_text())


def settings(sweep):
    """As few as it takes for every value of every parameter; of a range its ends."""
    choices = {name: p.get("values") or [p["min"], p["max"]] for name, p in sweep["parameters"].items()}
    longest = max(map(len, choices.values()))
    return [{name: values[index % len(values)] for name, values in choices.items()} for index in range(longest)]


def words_of(sweep, values):
    """What a W&B agent would type."""
    flags = [f"--{name}={value}" for name, value in values.items()]
    macros = {"${program}": [], "${args}": flags}
    return [word for part in sweep["command"] for word in macros.get(part, [part])]


def value_of(config, key):
    """Under the short form of a key."""
    for name in key.split("."):
        config = config.init_args[name] if "init_args" in config else config[name]
    return config


@functools.cache
def parsed(name):
    """Values, configuration, model and data of each setting."""
    sweep = read(name)
    result = []
    for number, values in enumerate(settings(sweep)):
        ordered = dict(sorted(values.items())) if number % 2 else values  # W&B sorts them
        verb, *words = words_of(sweep, ordered)
        parser = parser_of(verb)
        config = parser.parse_args(words)
        fill_in_directory(config, AGENT)
        fill_in_tokenizer(config)
        without_trainer = config.clone()
        for key in ("trainer", *parser.callback_keys):
            without_trainer.pop(key)
        objects = parser.instantiate_classes(without_trainer)
        result.append((values, config, objects.model, objects.data))
    return result


def test_there_are_sweeps():
    demo = {"margin", "temperature", "decoding_temperature", "weight", "window", "margin_x_weight", "components"}
    paper = {"paper/margin_x_weight", "paper/window", "paper/components", "paper/table7", "paper/table9"}
    assert SWEEPS.keys() == demo | paper | {"frontier", "bayes"}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_value_arrives(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for values, config, model, data in parsed(name):
        files = [str(path) for path in config["config"]]
        assert files == [values["config"]] if "config" in values else len(files) == 1
        assert all(value_of(config, key) == value for key, value in values.items() if key != "config")
        logger = config["trainer.logger"]
        assert logger.class_path == "lightning.pytorch.loggers.WandbLogger"
        assert (logger.init_args.offline, logger.init_args.name) == (False, None)  # W&B gives each run a name
        assert logger.init_args.project == "tabom"
        assert logger.init_args.save_dir == config["trainer.default_root_dir"] == config.run_dir
        assert Path(config.run_dir).parts[-2:] == ("s1", "r1")
        stage, _, metric = read(name)["metric"]["name"].partition("/")
        if stage == "validate":
            assert metric in {"accuracy_minus_forgetting", *model.validation.accuracies}
            model.objective.check_response_length(data.response_length)


def test_each_objective_comes_with_its_learning_rates(monkeypatch):
    monkeypatch.chdir(ROOT)
    for values, config, model, _ in parsed("frontier"):
        written = yaml.safe_load(Path(values["config"]).read_text())["model"]["objective"]
        assert type(model.objective).__name__ == (written if isinstance(written, str) else written["class_path"])
        assert config.run_dir == f"runs/demo/{Path(values['config']).stem}/s1/r1"


def test_each_distillation_writes_and_logs_in_its_own_directory(stage, tmp_path):
    del stage  # a base where the config looks for it
    sweep = read("decoding_temperature")
    (*before, config, root) = sweep["command"][:5]
    assert root == "--run_dir=runs/sweeps/decoding_temperature"
    sweep["command"][:5] = [*before, str(ROOT / config), root]
    for number, values in enumerate(settings(sweep)[:2]):
        mode = [f"--run_dir=runs/{number}", "--trainer.logger.offline=true", "--data.num_queries=4"]
        run([*words_of(sweep, values), *mode])
        (record,) = find_records([tmp_path / f"runs/{number}"])
        assert record.last("distill")["verified"] == 0  # a model with random weights
        assert sweep["metric"]["name"] == "distill/verified"
        assert len(list((tmp_path / f"runs/{number}/trajectories").glob("*.parquet"))) == 1
        assert Path(record.wandb["directory"]).is_relative_to(f"runs/{number}")
    assert not (tmp_path / "runs/sweeps").exists()


@pytest.mark.parametrize("name", SWEEPS)
def test_file_has_the_keys_of_a_wandb_sweep(name):
    sweep = read(name)
    assert ("then" in sweep) == name.startswith("paper/table")  # which W&B does not know
    assert sweep.keys() - {"run_cap", "early_terminate", "then"} == {
        "name", "project", "program", "method", "metric", "parameters", "command",
    }  # fmt: skip
    assert sweep["metric"]["goal"] == "maximize"
    assert sweep["program"] == "tabom"
    assert sweep["project"] == "tabom"
    assert sweep["command"][0] == "${program}"
    assert sweep["command"].count("${args}") == 1
    ranges = [set(parameter) for parameter in sweep["parameters"].values() if "values" not in parameter]
    assert (sweep["method"] == "grid") == (ranges == [])
    assert all(keys in ({"min", "max"}, {"min", "max", "distribution"}) for keys in ranges)
    assert SWEEPS[name].read_text().startswith("# ")


@pytest.mark.parametrize("name", [name for name in SWEEPS if "then" in read(name)])
def test_what_follows_evaluates_what_was_trained(name, monkeypatch, tmp_path):
    """Each command is understood, with the adapter of the training, and the metric is of one of the benchmarks."""
    monkeypatch.chdir(ROOT)
    (_, _, model, _), *_ = parsed(name)
    names = []
    for verb, *words in read_sweep(SWEEPS[name]).then(tmp_path, "margin=0.1"):
        parser = parser_of(verb)
        config = parser.parse_args(words)
        fill_in_tokenizer(config)
        objects = parser.instantiate_classes(Namespace(model=config.model, data=config.data))
        assert verb == "evaluate"
        assert config.ckpt_path == str(tmp_path / "checkpoints/last.ckpt")
        evaluated, trained = objects.model.source, model.source
        assert (evaluated.path, evaluated.lora) == (trained.path, trained.lora)
        assert (objects.model.name, objects.model.trained_on) == ("margin=0.1", "maths")
        assert objects.data.benchmark.keeps_special_tokens  # the released variant
        names.append(objects.data.benchmark.name)
    assert read(name)["metric"]["name"] == f"benchmark/{names[0]}/score"


@pytest.fixture
def published(golden):
    """Tables of the paper, by name of the file."""
    folder = golden.parent / "spec" / "results"
    return lambda name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


def test_table_7(published):
    table = published("table7_lambda_gamma_llada_gsm8k")
    margins = [float(column.removeprefix("gamma_")) for column in table[0] if column.startswith("gamma_")]
    for name in ("margin_x_weight", "paper/margin_x_weight", "paper/table7"):
        parameters = read(name)["parameters"]
        assert parameters[WEIGHT]["values"] == [float(row["lambda"]) for row in table]
        assert parameters[MARGIN]["values"] == margins


def test_table_9(published):
    windows = [int(row["W"]) for row in published("table9_window_dream_math")]
    for name in ("paper/window", "paper/table9"):
        assert read(name)["parameters"][WINDOW]["values"] == windows
    response_length = 19  # of the demo, whose other windows are a quarter of the paper's
    assert read("window")["parameters"][WINDOW]["values"] == [*(w // 4 for w in windows[:-1]), response_length]


def test_table_5(published, monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = {row["window"] for row in published("table5_components_dream_math")} - {"-"}
    assert rows == {"local 32", "global"}
    for name, windows in (("components", [8, 19]), ("paper/components", [32, 256])):
        parameters = read(name)["parameters"]
        assert parameters[WINDOW]["values"] == windows
        assert parameters[WEIGHT]["values"] == [0.0, 1.0]
        for _, config, _, data in parsed(name):
            assert value_of(config, f"{OBJECTIVE}.truncated_windows")
            assert data.response_length == windows[1]
