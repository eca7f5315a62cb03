"""What a pipeline file says becomes steps, or one sentence."""

from pathlib import Path

import pytest
import yaml

from tabom.errors import TabomError
from tabom.pipelines.file import read_pipeline

VERBS = ("fit", "test", "predict", "report", "export")


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(f"run_dir: runs/{name}\nwriter: {{output_dir: out/{name}}}\n")


def read(*steps, parameters=None, given=None, **content):
    text = yaml.safe_dump({"parameters": parameters or {}, "steps": list(steps), **content}, sort_keys=False)
    Path("p.yaml").write_text(text)
    return read_pipeline(Path("p.yaml"), given or {}, VERBS)


def step(name, verb="fit", **content):
    return {"name": name, "verb": verb, **content}


def commands(pipeline):
    return {name: " ".join(pipeline.command(step)) for name, step in pipeline.steps.items()}


def needs(pipeline):
    return {name: step.needs for name, step in pipeline.steps.items()}


def test_a_command():
    first, second = (
        step("one", config=["a.yaml", "b.yaml"], options={"x": None, "lr": 1e-5}),
        step("two", words=["w", 1, ["x", 2]]),
    )
    assert commands(read(first, second)) == {
        "one": "fit --config a.yaml --config b.yaml --x=null --lr=1.0e-05",
        "two": "fit w 1 x 2",
    }


def test_loops_go_over_all_combinations_and_over_lists_of_values():
    product = {"for": {"m": ["a", "b"], "s": "${seeds}"}, "steps": [step("${m} ${s}", options={"seed": "${s}"})]}
    listed = {"for": [{"m": "c", "s": 1}, {"m": "d", "s": 2}], "steps": [step("${m} ${s}")]}
    outer = {"for": {"o": ["x", "y"]}, "steps": [{"for": {"i": [1, 2]}, "steps": [step("${o}${i}")]}]}
    pipeline = read(product, listed, outer, parameters={"seeds": [1, 2]})
    assert list(pipeline.steps) == ["a 1", "a 2", "b 1", "b 2", "c 1", "d 2", "x1", "x2", "y1", "y2"]
    assert pipeline.steps["b 2"].options == {"seed": 2}
    assert list(read(product, parameters={"seeds": [1]}, given={"seeds": [7]}).steps) == ["a 7", "b 7"]
    assert list(read(product, step("z"), parameters={"seeds": []}).steps) == ["z"]


def test_options_of_a_loop_beside_those_that_all_share():
    """The later of a list of options win; what a loop gives may name values of the loops around it."""
    methods = [{"m": "a", "own": {}}, {"m": "b", "own": {"x": 2, "data.path": "${make ${base}.output_dir}"}}]
    pipeline = read(
        {
            "for": {"base": [1]},
            "steps": [
                step("make ${base}", "predict", config="b.yaml"),
                {"for": "${methods}", "steps": [step("fit ${m}", options=[{"x": 1, "y": 1}, "${own}"])]},
            ],
        },
        parameters={"methods": methods},
    )
    assert commands(pipeline)["fit a"] == "fit --x=1 --y=1"
    assert commands(pipeline)["fit b"] == "fit --x=2 --y=1 --data.path=out/b"
    assert needs(pipeline) == {"make 1": [], "fit a": [], "fit b": ["make 1"]}


def test_references_become_values_and_needs():
    pipeline = read(
        step("look", "test", options={"ckpt_path": "${fit lr0.1.checkpoint}", "x": "${fit lr0.1.optimizer.lr}"}),
        step("best", "test", options={"ckpt_path": "${fit lr0.1.best_checkpoint}"}),
        step("fit lr0.1", config="a.yaml", options={"optimizer.lr": 0.1, "data.path": "${make.output_dir}/x"}),
        step("make", "predict", config="b.yaml"),
        step("again", options={"run_dir": "${copy.run_dir}"}),
        step("copy", options={"run_dir": "${make.run_dir}-copy"}),
    )
    assert commands(pipeline)["look"] == "test --ckpt_path=runs/a/checkpoints/last.ckpt --x=0.1"
    assert commands(pipeline)["best"] == "test --ckpt_path=${fit lr0.1.best_checkpoint}"
    assert commands(pipeline)["fit lr0.1"] == "fit --config a.yaml --optimizer.lr=0.1 --data.path=out/b/x"
    assert commands(pipeline)["again"] == "fit --run_dir=runs/b-copy"
    found = pipeline.command(pipeline.steps["best"], best=lambda step: f"found of {step.name}")
    assert found == ["test", "--ckpt_path=found of fit lr0.1"]
    assert needs(pipeline) == {
        "look": ["fit lr0.1"], "best": ["fit lr0.1"], "fit lr0.1": ["make"], "make": [], "again": ["copy"],
        "copy": ["make"],
    }  # fmt: skip


def test_a_reference_within_a_loop():
    loop = {
        "for": {"m": ["a", "b"]},
        "steps": [step("fit ${m}", config="${m}.yaml"), step("test ${m}", "test", words=["${fit ${m}.run_dir}"])],
    }
    assert commands(read(loop))["test b"] == "test runs/b"


def test_patterns():
    pipeline = read(
        step("fit a", config="a.yaml"),
        step("fit b", config="b.yaml"),
        step("page", "report", words=["${fit *.run_dir}", "--output=x.md"]),
        step("after", needs=["fit *"]),
    )
    page = pipeline.steps["page"]
    assert commands(pipeline)["page"] == "report runs/a runs/b --output=x.md"
    assert pipeline.command(page, without=["fit a"]) == ["report", "runs/b", "--output=x.md"]
    assert needs(pipeline)["page"] == needs(pipeline)["after"] == ["fit a", "fit b"]
    assert page.may_lack == {"fit a", "fit b"}


def test_rounds_have_rules():
    rule = {"metric": "validate/score", "from": "base", "steps": "fit ${r}"}
    loop = {"for": {"r": [1, 2]}, "while_rises": rule, "steps": [step("fit ${r}"), step("test ${r}", "test")]}
    pipeline = read(step("base"), loop)
    assert [rule.steps for rule in pipeline.steps["test 2"].rules] == [("base", "fit 1")]
    both = ["base", "fit 1"]  # a single value cannot have risen
    assert needs(pipeline) == {"base": [], "fit 1": [], "test 1": [], "fit 2": both, "test 2": both}
    assert pipeline.steps["test 2"].may_lack == set()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("a", needs="tow"), step("two")], "a: needs: expected the name of a step, got tow; did you mean two?"),
        (
            [step("a", needs="b"), step("b", needs="c"), step("c", needs="a")],
            "expected steps that need earlier ones, got a circle: ",
        ),
        ([step("a", needs="a")], "expected steps that need earlier ones, got a circle: a <- a"),
        ([step("a", "fti")], f"a: verb: expected one of {', '.join(VERBS)}, got fti; did you mean fit?"),
        (
            [step("a", optoins={})],
            "steps[0]: optoins: expected one of name, verb, config, options, words, needs; did you mean options?",
        ),
        (
            [{"for": {"x": [1]}, "steps": [step("a"), {"verb": "fit"}]}],
            "steps[0].steps[1]: expected the key name, found none",
        ),
        ([step("a", options={"x": "${b.c}"})], "a: ${b.c}: expected a parameter, or STEP.OPTION"),
        ([step("a", options={"x": "${seed}"})], "a: ${seed}: expected a parameter, or STEP.OPTION"),
        ([step("a ${seed}")], "steps[0].name: expected known parameters alone, got a ${seed}"),
        (
            [step("a", options={"x": "${b.run_dri}"}), step("b", config="b.yaml")],
            "a: ${b.run_dri}: expected checkpoint, best_checkpoint or an option of the step; did you mean b.run_dir?",
        ),
        (
            [step("a", options={"x": "${b.checkpoint}"}), step("b", "test", config="b.yaml")],
            "a: ${b.checkpoint}: expected a step of the verb fit with a run_dir",
        ),
        (
            [step("a", options={"x": "${b*.run_dir}"}), step("b", config="b.yaml")],
            "a: ${b*.run_dir}: expected a pattern of names in words alone, as a whole word",
        ),
        ([step("a"), step("a")], "a: expected different names of steps, got two with this one"),
        ([step("a b"), step("a-b")], "a-b: expected different names of steps, got two with this one"),
        ([step("../a")], "steps[0].name: expected a plain name and no path, got '../a'"),
        ([step("a", config="none.yaml")], "a: config: none.yaml: expected a file, or the name of one in configs"),
        (
            [step("a", options={"config": "a.yaml"})],
            "a: options.config: expected the key config of the step, got an option",
        ),
        ([step("a", options="x")], "steps[0]: options: expected a dict or list, got 'x'"),
        ([step("a", options=[1])], "a: options: expected options by name, got 1"),
        (["a"], "steps[0]: expected a step or a loop, got 'a'"),
        ([{"for": {"x": 1}, "steps": []}], "steps[0]: for.x: expected a list, got 1"),
        ([{"for": [1], "steps": []}], "steps[0]: for: expected values by name, got 1"),
        ([{"steps": []}], "steps[0]: for: expected a dict or list, got None"),
        (
            [{"for": {"x": [1]}, "while_rises": {"metric": "m"}, "steps": []}],
            "steps[0]: while_rises: expected the key steps, found none",
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be(steps, message):
    with pytest.raises(TabomError) as error:
        read(*steps)
    assert str(error.value).startswith(f"p.yaml: {message}")


def test_other_keys_and_parameters():
    with pytest.raises(TabomError, match=r"^p.yaml: setps: expected one of output_dir, show, parameters, steps; "):
        read(setps=[])
    with pytest.raises(TabomError, match=r"^p.yaml: parameters.sedes: expected one of seeds; did you mean seeds\?$"):
        read(parameters={"seeds": [1]}, given={"sedes": [1]})


def test_a_shipped_configuration_is_found_by_its_name(repository):
    command = commands(read(step("a", config="demo/tabom")))["a"]
    assert command == f"fit --config {repository}/configs/demo/tabom.yaml"
