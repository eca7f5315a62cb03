"""A pipeline runs each step once, whatever happens to it meanwhile; a stand-in takes the place of ``tabom``."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import in_background, wait_for

from tabom.errors import TabomError
from tabom.jobs import side_by_side
from tabom.pipelines import command, step_job
from tabom.pipelines.runner import devices
from tabom.storage.claims import Claims, alone

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_verbs.py")))
OUT = Path("out")


@pytest.fixture(autouse=True)
def _fake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step_job, "PROGRAM", FAKE)
    monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0.01)
    for name in ("OMP_NUM_THREADS", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    Path("part.yaml").write_text("lr: 1\n")
    Path("a.yaml").write_text("model: part.yaml\n")


def step(name, verb="fit", options=None, **content):
    return {"name": name, "verb": verb, "options": {"step": name, **(options or {})}, **content}


def pipeline(*steps, words=(), **content):
    Path("p.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": list(steps), **content}, sort_keys=False))
    command.run(["pipeline", "p.yaml", *words])


def made():
    """Steps that began, in order."""
    lines = Path("made.jsonl").read_text().splitlines() if Path("made.jsonl").exists() else []
    options = [dict(word[2:].split("=", 1) for word in json.loads(line)[0] if "=" in word) for line in lines]
    return [one["step"] for one in options]


def words_of(number):
    return json.loads(Path("made.jsonl").read_text().splitlines()[number])


TWO = (step("one", options={"run_dir": "runs/one"}), step("two", options={"x": "${one.checkpoint}"}))


def test_steps_run_once_in_order(capsys):
    pipeline(*TWO[::-1])
    assert made() == ["one", "two"]
    words, environment = words_of(1)
    assert words == ["fit", "--step=two", "--x=runs/one/checkpoints/last.ckpt"]
    assert environment == {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_RUN_ID": None}
    assert (OUT / "steps/two.log").read_text() == "it says --step=two --x=runs/one/checkpoints/last.ckpt\n"
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["p.yaml: 2 steps, 0 of them done; logs: out/steps/", "[2/2] one ..."]
    assert out[2].startswith("[2/2] one: 0:00; about 0:0")
    assert out[3:] == ["[1/2] two: 0:00"]
    pipeline(*TWO[::-1])
    assert made() == ["one", "two"]
    assert capsys.readouterr().out == "p.yaml: 2 steps, 2 of them done; logs: out/steps/\n"


def test_a_name_may_have_spaces():
    pipeline(step("fit a"))
    assert (OUT / "steps/fit-a.log").is_file()


def test_side_by_side():
    pipeline(*(step(name, options={"together": 3}) for name in "abc"), words=["--jobs=3"])
    assert sorted(made()) == ["a", "b", "c"]


def test_what_most_steps_wait_for_comes_first():
    """Two at a time do not end with one alone; one at a time keep the order of the file."""
    steps = [step("a"), step("b"), step("c"), step("d", needs="c"), step("e", needs="d")]
    pipeline(*steps)
    assert made() == ["a", "b", "c", "d", "e"]
    shutil.rmtree(OUT)
    pipeline(*steps, words=["--jobs=2"])
    again = made()[5:]
    assert again.index("c") < 2
    assert again.index("b") > 1


def test_devices_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    both = [step(name, options={"device": f"device-{name}"}) for name in "ab"]
    pipeline(*both, words=["--jobs=2"])
    assert [Path(f"device-{name}").read_text() for name in "ab"] == ["4", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []


def test_variables_of_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    pipeline(step("a"))
    assert words_of(0)[1] == {"OMP_NUM_THREADS": "4", "WANDB_MODE": "online", "WANDB_RUN_ID": None}


def test_a_command_that_was_killed_before_its_step_began_anew(monkeypatch):
    """The exit code of the run before is not taken for that of the new one."""
    pipeline(step("a"))
    with monkeypatch.context() as patched:
        patched.setattr(step_job.StepJob, "begin", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            pipeline(step("a", options={"x": 1}), words=["--rerun_changed"])
    pipeline(step("a", options={"x": 1}))
    assert made() == ["a", "a"]


def test_what_a_page_says_is_shown(capsys):
    pipeline(step("page", "report", words=["a", "b"]))
    assert "\nit says a b --step=page\n" in capsys.readouterr().out


def test_metrics_are_shown(capsys):
    pipeline(step("one", options={"run_dir": "runs/one", "score": 0.12345}), show=["score", "validate/score", "none"])
    assert "[1/1] one: 0:00, score 0.123, validate/score 0.123\n" in capsys.readouterr().out


def test_a_failed_step_keeps_back_those_that_need_it_alone(capsys):
    steps = [
        step("bad", options={"crash": 1, "run_dir": "runs/bad"}),
        step("after", needs="bad"),
        step("later", needs="after"),
        step("other"),
    ]
    message = r"^1 steps failed \(bad\), 2 others need them; the same command tries them again$"
    with pytest.raises(TabomError, match=message):
        pipeline(*steps)
    assert made() == ["bad", "other"]
    out = capsys.readouterr().out
    assert (
        "[1/4] bad: exit code 1; out/steps/bad.log\n    it says --step=bad --crash=1 --run_dir=runs/bad\n    it burns\n"
        in out
    )
    Path("mended").touch()
    pipeline(*steps)
    assert made() == ["bad", "other", "bad", "after", "later"]
    assert words_of(2)[0][-1] == "--ckpt_path=last"


def test_a_failed_step_may_be_corrected():
    with pytest.raises(TabomError):
        pipeline(step("a", options={"crash": 1}))
    pipeline(step("a", options={"x": 1}))
    assert made() == ["a", "a"]


@pytest.mark.parametrize("changed", ["command", "config", "part", "need"])
def test_a_changed_step_is_refused_or_run_anew(changed):
    def run(*words, x=1, y=1):
        first = step("one", config="a.yaml", options={"run_dir": "runs/one", "x": x})
        pipeline(first, step("two", options={"y": y}, needs="one"), step("three"), words=words)

    run()
    Path("runs/one/mine").touch()
    advice = "--rerun_changed runs it anew"
    if changed == "config":
        Path("a.yaml").write_text("model: part.yaml\nx: 1\n")
    elif changed == "part":
        Path("part.yaml").write_text("lr: 2\n")
    elif changed == "need":
        (OUT / "steps/one.json").unlink()
    options = {"x": 2} if changed == "command" else {}
    what, name = ("two", "two.json") if changed == "need" else ("one", "one.json")
    with pytest.raises(TabomError) as error:
        run(**options)
    assert str(error.value).startswith(f"out/steps/{name}: expected ")
    assert str(error.value).endswith(f", of the step {what} that was run, {advice}".replace(", --", ", got")) or (
        f", of the step {what} that was run, got " in str(error.value) and str(error.value).endswith(advice)
    )
    assert made() == ["one", "two", "three"]
    run("--rerun_changed", **options)
    assert made() == ["one", "two", "three", "one", "two"]
    assert Path("runs/one/mine").exists() == (changed == "need")
    if changed != "need":
        assert len(list(OUT.glob("replaced/one-*/one/mine"))) == 1
    run(**options)
    assert len(made()) == 5


def test_a_page_is_made_anew_when_something_has_changed():
    pipeline(step("one"), step("page", "report", needs="*"))
    pipeline(step("one"), step("two"), step("page", "report", needs="*"))
    assert made() == ["one", "page", "two", "page"]


def test_what_others_write_stays_where_it_is():
    """A step within the directory of another one moves its own alone."""
    first = step("one", options={"run_dir": "runs/one"})
    pipeline(first, step("two", options={"run_dir": "runs/one", "x": 1}))
    pipeline(first, step("two", options={"run_dir": "runs/one", "x": 2}), words=["--rerun_changed"])
    assert Path("runs/one/checkpoints").is_dir()
    assert not (OUT / "replaced").exists()


def test_stopped_and_resumed(capsys):
    steps = [step(n, options={"gate": "gate", "run_dir": f"runs/{n}"}) for n in "ab"]
    steps += [step("c", needs="*", options={"run_dir": "runs/c"})]

    def stop():
        wait_for(lambda: len(list(Path().glob("runs/*/checkpoints/last.ckpt"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = in_background(stop)
    with pytest.raises(SystemExit) as error:
        pipeline(*steps, words=["--jobs=2"])
    thread.join()
    assert error.value.code == 75
    captured = capsys.readouterr()
    assert "tabom pipeline: SIGTERM, what runs is being stopped\n" in captured.err
    assert "tabom pipeline: stopped; the same command goes on\n" in captured.err
    assert "[1/3] a: stopped\n" in captured.out
    assert (OUT / "steps/a.log").read_text().endswith("tabom: stopped\n")
    Path("gate").touch()
    pipeline(*steps, words=["--jobs=2"])
    assert sorted(made()) == ["a", "a", "b", "b", "c"]
    assert [words_of(number)[0][-1] for number in (2, 3)] == ["--ckpt_path=last"] * 2
    assert words_of(4)[0][-1] == "--run_dir=runs/c"


def test_a_stopped_step_that_has_changed_is_refused():
    thread = in_background(lambda: (wait_for(lambda: made() == ["a"]), os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit):
        pipeline(step("a", options={"gate": "gate"}))
    thread.join()
    with pytest.raises(TabomError, match="of the step a that was run"):
        pipeline(step("a", options={"gate": "gate", "x": 1}))


def test_a_step_that_asks_to_be_started_again(capsys):
    with pytest.raises(SystemExit) as error:
        pipeline(step("a", options={"code": 75}), step("b"))
    assert error.value.code == 75
    assert made() == ["a", "b"]
    pipeline_of_both = [step("a", options={"code": 75}), step("b")]
    with pytest.raises(SystemExit):
        pipeline(*pipeline_of_both)
    assert made() == ["a", "b", "a"]


def test_a_killed_step(capsys):
    def kill():
        wait_for(lambda: Path("made.jsonl").exists() and (OUT / "steps/a.lock").read_text())
        os.killpg(int((OUT / "steps/a.lock").read_text()), signal.SIGKILL)

    steps = [step("a", "test", options={"gate": "gate", "run_dir": "runs/a"})]
    thread = in_background(kill)
    with pytest.raises(TabomError, match=r"^1 steps failed \(a\); the same command tries them again$"):
        pipeline(*steps)
    thread.join()
    assert "[1/1] a: its process was killed; out/steps/a.log" in capsys.readouterr().out
    Path("runs/a").mkdir(parents=True, exist_ok=True)
    Path("runs/a/rest").touch()
    Path("gate").touch()
    pipeline(*steps)
    assert not Path("runs/a/rest").exists()  # what a killed test has left is in nobody's way


@pytest.mark.parametrize("ends_before", [True, False])
def test_what_a_killed_command_had_started_goes_on(ends_before):
    """Whether it ends before the next command or while that runs."""
    steps = [step("a", options={"gate": "gate"}), step("b", needs="a")]
    Path("p.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": steps}, sort_keys=False))
    code = f"from tabom.pipelines import command, step_job; step_job.PROGRAM = {FAKE}; command.run"
    code += "(['pipeline', 'p.yaml'])"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        wait_for(lambda: made() == ["a"])
        process.kill()

    def open_gate():
        if not ends_before:
            wait_for(lambda: Claims(OUT).others("pipeline"))
        Path("gate").touch()

    thread = in_background(open_gate)
    if ends_before:
        wait_for(lambda: (OUT / "steps/a.exit").exists() and (OUT / "steps/a.exit").read_text() == "0\n")
    pipeline(*steps)
    thread.join()
    assert made() == ["a", "b"]


def test_no_two_commands_at_once():
    OUT.mkdir()
    with (
        alone(OUT, "pipeline"),
        pytest.raises(TabomError, match=r"^out: expected no other tabom pipeline here"),
    ):
        pipeline(step("a"))


def rounds(*scores):
    loop = {
        "for": [{"round": number, "score": score} for number, score in enumerate(scores, 1)],
        "while_rises": {"metric": "validate/score", "from": "base", "steps": "fit ${round}"},
        "steps": [
            step("fit ${round}", options={"run_dir": "runs/${round}", "score": "${score}"}),
            step("test ${round}", options={"x": "${fit ${round}.run_dir}"}),
        ],
    }
    base = step("base", options={"run_dir": "runs/base", "score": 1})
    page = step("page", "report", words=["${fit *.run_dir}"])
    return [base, loop, page, step("last", needs=f"test {len(scores)}")]


def test_rounds_end_when_nothing_rises_any_more(capsys):
    pipeline(*rounds(3, 2, 4, 5))
    assert made() == ["base", "fit 1", "test 1", "fit 2", "test 2", "page"]
    assert words_of(5)[0] == ["report", "runs/1", "runs/2", "--step=page"]
    out = capsys.readouterr().out
    assert "[6/11] fit 3: left out, since validate/score no longer rises\n" in out
    assert "[11/11] last: left out, since it needs test 4\n" in out
    pipeline(*rounds(3, 2, 4, 5))
    assert len(made()) == 6


def test_all_rounds_run_while_it_rises():
    pipeline(*rounds(2, 3))
    assert made() == ["base", "fit 1", "test 1", "fit 2", "test 2", "page", "last"]


def test_a_metric_that_is_not_measured():
    loop = {
        "for": {"r": [1, 2]},
        "while_rises": {"metric": "validate/score", "from": "base", "steps": "fit ${r}"},
        "steps": [step("fit ${r}", options={"run_dir": "runs/${r}"})],
    }
    message = r"^p.yaml: while_rises.metric: expected validate/score in the records of base, found none$"
    with pytest.raises(TabomError, match=message):
        pipeline(
            step("long", options={"gate": "gate"}), step("base", options={"together": 3}), loop, words=["--jobs=3"]
        )
    assert sorted(made()) == ["base", "fit 1", "long"]
    assert (OUT / "steps/long.log").read_text().endswith("tabom: stopped\n")  # an error stops what runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs=0"], r"^jobs: expected at least 1, got 0$"),
        (["--set=a"], r"^--set: expected NAME=VALUE, got a$"),
        (["--set=a=[1"], r"^--set a: expected YAML, got \[1$"),
        (["--set=a=1"], r"^p.yaml: parameters.a: expected one of none$"),
    ],
)
def test_options_that_do_not_fit(words, message):
    with pytest.raises(TabomError, match=message):
        pipeline(step("a"), words=words)


def test_parameters():
    pipeline(step("a", options={"x": "${x}"}), parameters={"x": 1}, words=["--set=x=[1, null]"])
    assert words_of(0)[0] == ["fit", "--step=a", "--x=[1, null]"]
