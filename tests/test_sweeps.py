"""Every value of every parameter in a sweep file goes through the real parser and arrives where the file says."""

import itertools
from pathlib import Path

import pytest
import yaml
from helpers import ParseOnlyTrainer

from tabom.lightning_cli import run

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def words_of(sweep, values):
    """What a W&B agent would type."""
    flags = [f"--{name}={value}" for name, value in values.items()]
    macros = {"${program}": [], "${args}": flags}
    return [word for part in sweep["command"] for word in macros.get(part, [part])]


def test_there_are_sweeps():
    assert SWEEPS


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_arrives(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    assert sweep["program"] == "tabom"
    parameters = {name: parameter["values"] for name, parameter in sweep["parameters"].items()}
    longest = max(map(len, parameters.values()))
    for index in range(longest):
        values = {name: choices[index % len(choices)] for name, choices in parameters.items()}
        cli = run([*words_of(sweep, values), "--trainer.logger=false"], trainer_class=ParseOnlyTrainer)
        config = cli.config[cli.subcommand]
        assert {name: config[name] for name in values} == values
    assert len(list(itertools.product(*parameters.values()))) > 1


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_metric_is_logged_by_the_evaluation(path):
    from tabom.modules import Evaluation
    from tabom.samplers import Sampler

    stage, _, name = yaml.safe_load(path.read_text())["metric"]["name"].partition("/")
    assert stage == "validate"
    others = {"kl", "nelbo", "nelbo_change", "tds", "accuracy_minus_forgetting"}
    assert name in others | set(Evaluation(Sampler()).accuracies)
