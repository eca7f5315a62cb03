"""What a sweep file may hold, and what is said about one that does not."""

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tabom.errors import TabomError
from tabom.sweeping.file import identity, read_sweep

SWEEP = {
    "program": "tabom",
    "method": "grid",
    "metric": {"name": "validate/kl", "goal": "minimize"},
    "parameters": {
        "model.margin": {"values": [0.1, 0.2]},
        "model.weight": {"value": 2},
        "seed_everything": {"values": [1, 2]},
    },
    "command": ["${env}", "${program}", "fit", "--config", "a.yaml", "${args}", "--last=1"],
}
RANDOM = {"method": "random", "run_cap": 7}


@pytest.fixture
def write(tmp_path):
    def call(**changes):
        path = tmp_path / "margins.yaml"
        content = SWEEP | changes
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return call


def test_a_grid(write):
    sweep = read_sweep(write())
    assert (sweep.name, sweep.method, sweep.metric, sweep.goal) == ("margins", "grid", "validate/kl", "minimize")
    assert sweep.seeds == (1, 2)
    assert sweep.grid() == [{"model.margin": 0.1}, {"model.margin": 0.2}]
    assert sweep.words({"model.margin": 0.1}, 2) == [
        *("fit", "--config", "a.yaml"),
        *("--model.weight=2", "--model.margin=0.1", "--seed_everything=2", "--last=1"),
    ]
    assert sweep.words({"model.margin": 0.1}, None)[-2] == "--model.margin=0.1"


def test_what_follows(write, tmp_path):
    words = [["evaluate", "--ckpt_path=${run_dir}/last.ckpt", "--model.name=${setting} of ${run_dir}", 7], ["test"]]
    sweep = read_sweep(write(then=words))
    assert sweep.then(tmp_path, "x=1") == [
        ["evaluate", f"--ckpt_path={tmp_path}/last.ckpt", f"--model.name=x=1 of {tmp_path}", "7"],
        ["test"],
    ]
    assert read_sweep(write()).then(tmp_path, "x=1") == []
    assert identity(sweep) != identity(read_sweep(write(then=words[:1])))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_as_an_editor_saves_it(write, encoding):
    path = write()
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert read_sweep(path).grid() == [{"model.margin": 0.1}, {"model.margin": 0.2}]


@pytest.mark.parametrize("content", [b"method: \xff", b"a: b: c", b"[" * 5000, b"a: \0", b"{[1]: 2}"], ids=range(5))
def test_a_file_that_is_no_yaml(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(TabomError) as error:
        read_sweep(path)
    assert str(error.value).startswith(f"{path}: expected YAML, got ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("null", "null"),
        ("true", "true"),
        ("1e-5", "1.0e-05"),
        ("1.5e3", "1500.0"),
        (".inf", ".inf"),
        ("7", "7"),
        ("2020-01-01", "2020-01-01"),
        ("torch.optim.AdamW", "torch.optim.AdamW"),
        ("[1, null, abc]", "[1, null, abc]"),
        ("{lr: 1e-3, betas: [0.9, null]}", "{betas: [0.9, null], lr: 0.001}"),
    ],
)
def test_a_value_reaches_the_run_as_in_yaml(tmp_path, write, value, word):
    path = write(parameters={"x": {"value": "VALUE"}})
    path.write_text(path.read_text().replace("VALUE", value))
    assert f"--x={word}" in read_sweep(path).words({}, None)


def test_what_the_command_line_changes(write):
    path = write(name="given", **RANDOM)
    sweep = read_sweep(path, config="b.yaml", seeds=[5], run_cap=3, further=["--x=1"])
    assert sweep.content["command"] == [
        "${env}",
        "${program}",
        "fit",
        "--config",
        "b.yaml",
        "${args}",
        "--last=1",
        "--x=1",
    ]
    assert sweep.seeds == (5,)
    assert sweep.name == "given"
    assert sweep.content["run_cap"] == 3
    assert identity(sweep) == identity(read_sweep(path, config="b.yaml", seeds=[5], run_cap=9, further=["--x=1"]))
    assert identity(sweep) != identity(read_sweep(path, config="b.yaml", seeds=[6], run_cap=3, further=["--x=1"]))


@pytest.mark.parametrize(
    ("parameter", "axis"),
    [
        ({"min": 1, "max": 4}, IntDistribution(1, 4)),
        ({"min": 1, "max": 4.0}, FloatDistribution(1, 4)),
        ({"min": 1, "max": 4, "distribution": "uniform"}, FloatDistribution(1, 4)),
        ({"min": 1, "max": 4, "distribution": "int_uniform"}, IntDistribution(1, 4)),
        ({"min": 0.1, "max": 4.0, "distribution": "log_uniform_values"}, FloatDistribution(0.1, 4, log=True)),
        ({"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"}, FloatDistribution(0, 1, step=0.25)),
        ({"values": ["a", None, True]}, CategoricalDistribution(["a", None, True])),
    ],
)
def test_ranges(write, parameter, axis):
    assert read_sweep(write(parameters={"x": parameter}, **RANDOM)).axes == {"x": axis}


CHOICES = "constant, categorical, uniform, int_uniform, q_uniform, log_uniform_values"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methodd": "grid"}, "methodd: expected one of command, description, early_terminate, "),
        ({"metric": None}, "expected the key metric, found none"),
        ({"method": "tpe"}, "method: expected grid or random or bayes, got tpe"),
        ({"program": "train.py"}, "program: expected tabom, got train.py"),
        ({"metric": {"name": "kl"}}, "metric.name: expected STAGE/NAME, such as validate/kl, got kl"),
        ({"metric": {"name": "a/b", "goal": "max"}}, "metric.goal: expected maximize or minimize, got max"),
        ({"command": ["fit"]}, "command: expected ${args} in it, found none"),
        ({"parameters": [1]}, "parameters: expected a dict, got [1]"),
        ({"parameters": {"x": 3}}, "parameters.x: expected value, values, or min and max, got 3"),
        ({"parameters": {"x": {"values": []}}}, "parameters.x: values: expected a list of plain values, got []"),
        ({"parameters": {"x": {"values": [[1]]}}}, "parameters.x: values: expected a list of plain values, got [[1]]"),
        ({"parameters": {"x": {"min": 1}}}, "parameters.x: expected max, min with distribution uniform, got min"),
        (
            {"parameters": {"x": {"min": 0, "max": 1, "distribution": "normal"}}},
            f"parameters.x: distribution: expected one of {CHOICES}, got normal",
        ),
        (
            {"parameters": {"x": {"values": [1], "probabilities": [1]}}},
            "parameters.x: expected values with distribution categorical, got probabilities, values",
        ),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "parameters.x: expected numbers, min below max, got 2 and 1"),
        (
            {"parameters": {"x": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}},
            "parameters.x: min: expected a number above 0 for a logarithmic range, got 0",
        ),
        ({"parameters": {"x": {"min": 0, "max": 1}}}, "parameters.x: expected values, since the method is grid"),
        ({"parameters": {"seed_everything": {"min": 0, "max": 1}}}, "parameters.seed_everything: expected values"),
        ({"method": "bayes"}, "run_cap: expected a number of runs, or --num_runs, for method bayes, got None"),
        ({"run_cap": 0}, "run_cap: expected a number of runs, or --num_runs, for method grid, got 0"),
        ({"run_cap": "all"}, "run_cap: expected a number of runs, or --num_runs, for method grid, got all"),
        ({"metric": {"name": "a/b", "target": 1}}, "metric.target: expected one of goal, name"),
        ({"command": ["${args}", "${args_json}"]}, "command: expected no other macros than ${env}, ${interpreter}, "),
        ({"name": 5}, "name: expected a str, got 5"),
        ({"description": ["a"]}, "description: expected a str, got ['a']"),
        ({"parameters": {"x": {"values": [1, 1.0]}}}, "parameters.x: values: expected each of them once, got [1, 1.0]"),
        ({"parameters": {"x": {"value": 1, "distribution": ["a"]}}}, "parameters.x: distribution: expected one of"),
        (
            {"parameters": {"x": {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}, **RANDOM},
            "parameters.x: q: expected a number above 0, got 0",
        ),
        (
            {"parameters": {"x": {"min": 0.5, "max": 1, "distribution": "int_uniform"}}, **RANDOM},
            "parameters.x: expected whole numbers, got 0.5 and 1",
        ),
        (
            {"parameters": {"seed_everything": {"values": ["a"]}}},
            "parameters.seed_everything: expected whole numbers from 0 to 4294967295, got ['a']",
        ),
        ({"early_terminate": ["hyperband"]}, "early_terminate: expected a dict, got ['hyperband']"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": "1"}},
            "early_terminate.min_iter: expected a whole number from 1 on, got 1",
        ),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}},
            "early_terminate.eta: expected a whole number from 2 on, got 1",
        ),
        ({"early_terminate": {"type": "x"}}, "early_terminate.type: expected hyperband, got x"),
        (
            {"early_terminate": {"type": "hyperband", "max_iter": 9}},
            "early_terminate: expected min_iter, or max_iter and s, got max_iter",
        ),
        ({"then": "evaluate"}, "then: expected a list, got 'evaluate'"),
        ({"then": ["evaluate"]}, "then[0]: expected a list of words, got 'evaluate'"),
        ({"then": [["evaluate"], []]}, "then[1]: expected a list of words, got []"),
        (
            {"then": [["evaluate", "--a=${run_dir}", "--b=${args}"]]},
            "then[0]: expected no other macros than ${run_dir}, ${setting}, got ${args}",
        ),
        (
            {"then": [["evaluate"]], "early_terminate": {"type": "hyperband", "min_iter": 1}},
            "early_terminate: expected none beside then, got one",
        ),
    ],
)
def test_what_is_refused(write, changes, message):
    path = write(**changes)
    with pytest.raises(TabomError) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_no_file_no_yaml_no_config(tmp_path, write):
    with pytest.raises(TabomError, match=r"none.yaml: expected a sweep file, found none$"):
        read_sweep(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(TabomError, match=r"bad.yaml: expected YAML, got while parsing a flow node "):
        read_sweep(tmp_path / "bad.yaml")
    path = write(command=["${program}", "fit", "${args}"])
    with pytest.raises(TabomError, match=r"command: expected --config to be replaced by --config, found none$"):
        read_sweep(path, config="b.yaml")
