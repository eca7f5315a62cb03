import pytest

from tabom.cli import help as verb_help
from tabom.cli.main import main

VERBS = ("fit", "validate", "test", "predict", "evaluate", "export")


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_one_screen_about_tabom(verb, capsys):
    main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) < 150
    text = "\n".join(lines)
    assert "--print_config=skip_default" in text
    assert "--help=all" in text
    assert "demo" in text


def test_every_class_that_a_configuration_can_name_has_its_line(repository):
    import tabom.objectives

    lines = dict(verb_help.classes("objectives", "Objective"))
    public = {name for name in tabom.objectives.__all__ if name.endswith("Objective") and name != "Objective"}
    assert set(lines) == public
    assert all(lines.values())
    tasks = dict(verb_help.classes("tasks", "ExampleSource"))
    assert {"Sudoku4x4", "QuestionFile", "PythonSource"} <= set(tasks)
    assert "Task" not in tasks


def test_all_options_are_listed_by_choice(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help=all"])
    assert end.value.code == 0
    assert "--trainer.max_steps" in capsys.readouterr().out


def test_the_configurations_of_a_verb_are_those_that_it_can_run(repository):
    for verb in ("fit", "predict", "evaluate"):
        for line in verb_help.configs(verb):
            folders, files = line.split(": ")
            for folder in folders.split(", "):
                for file in files.split(", "):
                    assert (repository / "configs" / folder / f"{file}.yaml").is_file()
    fit, predict, evaluate = map(str, map(verb_help.configs, ("fit", "predict", "evaluate")))
    assert "distill" not in fit + evaluate
    assert "distill" in predict
    assert "llada_gsm8k" in evaluate
    assert "llada_gsm8k" not in fit + predict
