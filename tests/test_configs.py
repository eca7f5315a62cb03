"""Every configuration is found by glob, parsed, linked and instantiated for real; only the run itself is left out."""

from pathlib import Path

import pytest
import yaml
from helpers import ParseOnlyTrainer

from tabom.lightning_cli import run

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(ROOT.rglob("*.yaml"))


def verb_of(path):
    return "predict" if "DistillationModule" in path.read_text() else "fit"


def test_there_are_configs():
    assert len(CONFIGS) >= 6


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = run([verb_of(path), "--config", str(path), "--trainer.logger=false"], trainer_class=ParseOnlyTrainer)
    written = cli._parser(cli.subcommand).dump(cli.config[cli.subcommand], skip_unset=False)
    again_path = tmp_path / "again.yaml"
    again_path.write_text(written)
    again = run([cli.subcommand, "--config", str(again_path)], trainer_class=ParseOnlyTrainer)
    assert again._parser(again.subcommand).dump(again.config[again.subcommand], skip_unset=False) == written
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_says_what_it_is_for_and_knows_no_foreign_path(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert "shared/" not in text
    assert path.stem == path.stem.lower().replace("-", "_")


def test_schedules_end_with_the_training():
    for path in CONFIGS:
        config = yaml.safe_load(path.read_text())
        scheduler = config["model"]["init_args"].get("lr_scheduler")
        if scheduler is not None:
            assert scheduler["init_args"]["num_training_steps"] == config["trainer"]["max_steps"]


def test_methods_differ_in_objective_and_answers_alone():
    """What the demo compares is trained and evaluated alike."""

    def common(name):
        config = yaml.safe_load((ROOT / "demo" / f"{name}.yaml").read_text())
        config["model"]["init_args"].pop("objective")
        config["data"]["init_args"].pop("answers", None)
        config["trainer"]["logger"]["init_args"].pop("name")
        return yaml.safe_dump(config).replace(f"runs/demo/{name}", "runs/demo/NAME")

    names = ("sft_gt", "sft_sd", "trajectory_masking", "tabom")
    assert len({common(name) for name in names}) == 1
