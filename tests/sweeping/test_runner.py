"""A local sweep makes each run once, whatever happens to it meanwhile; a stand-in takes the place of ``tabom``."""

import fcntl
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
from journal import made_runs

from tabom.errors import TabomError
from tabom.jobs import side_by_side
from tabom.storage.claims import Claims, alone
from tabom.storage.run_record import read_record
from tabom.sweeping import command, run, search

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_tabom.py")))
OUT = Path("out")


@pytest.fixture(autouse=True)
def _fake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "PROGRAM", FAKE)
    monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0.01)


def write_sweep(x=(0.1, 0.3, 0.7), seeds=(1, 2), method="grid", words=(), **further):
    """A sweep over x; words become options of every run."""
    axis = {"values": list(x)} if isinstance(x, tuple | list) else x
    content = {
        "name": "group",
        "method": method,
        "metric": {"name": "validate/score", "goal": "maximize"},
        "parameters": {"x": axis, "seed_everything": {"values": list(seeds)}},
        "command": ["${program}", "fit", "${args}", *words],
        **further,
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(content))


def sweep(*options, **content):
    write_sweep(**content)
    command.run(["sweep", "sweep.yaml", "--output_dir=out", *options])


def runs(state=None):
    return [entry for entry in made_runs(OUT, "validate/score") if state in (None, entry.state)]


def found_records(directory):
    return [read_record(path) for path in sorted(directory.glob("records/*.jsonl"))]


def tried(state="finished"):
    return sorted((entry.values["x"], entry.seed) for entry in runs(state))


GRID = [(x, seed) for x in (0.1, 0.3, 0.7) for seed in (1, 2)]


def test_a_grid_runs_once(capsys):
    sweep("--jobs=2")
    assert tried() == GRID
    assert len(runs()) == len(list(OUT.glob("*/argv.json"))) == 6
    first = runs()[0]
    words, environment = json.loads((OUT / first.name / "argv.json").read_text())
    assert words == [
        *("fit", "--x=0.1", "--seed_everything=1", "--trainer.logger.offline=true"),
        *("--trainer.logger.group=group", "--trainer.logger.name=x=0.1-seed=1"),
        "--run_dir=out/x=0.1-seed=1",
    ]
    assert (environment["WANDB_RUN_ID"], environment["WANDB_MODE"]) == (first.records[0].run_id, "offline")
    assert "WANDB_SWEEP_ID" not in environment
    assert first.metric == pytest.approx(-0.04)
    sweep("--jobs=2")
    assert [len(entry.records) for entry in runs()] == [1] * 6


def test_names_of_runs():
    """They hold what a file's name may hold, and tell settings that look alike apart."""
    (OUT / "001-seed1").mkdir(parents=True)  # of an earlier version
    values = {"x": [0.1, 0.3], "kind": ["a/b", "a b"], "seed_everything": [1]}
    sweep(parameters={name: {"values": each} for name, each in values.items()})
    words = {path.parent.name: json.loads(path.read_text())[0][1:3] for path in OUT.glob("*/argv.json")}
    assert words == {
        "kind=a_b-x=0.1-seed=1": ["--kind=a/b", "--x=0.1"],
        "001-seed1": ["--kind=a/b", "--x=0.3"],
        "kind=a_b-x=0.1-seed=1-002": ["--kind=a b", "--x=0.1"],
        "kind=a_b-x=0.3-seed=1": ["--kind=a b", "--x=0.3"],
    }


def test_the_summary(capsys):
    sweep()
    text = (OUT / "summary.md").read_text()
    assert text.startswith("# group\n\n| x | seeds | validate/score |\n| --- | --- | --- |\n| 0.3 | 2 | ")
    assert "\n| 0.1 | 2 | -0.0400 (seeds ± 0.0000) |\n| 0.7 | 2 | -0.1600 (seeds ± 0.0000) |\n" in text
    assert "\nBest: `tabom fit --x=0.3`\n\nTo W&B: `wandb sync out/*/wandb/offline-run-*`\n" in text
    assert {path.name for path in OUT.glob("sensitivity.*")} == {"sensitivity.png", "sensitivity.svg"}
    shown = capsys.readouterr().out
    assert "group: 6 of 6 runs in 0:0" in shown
    assert "best validate/score " in shown


def test_a_metric_to_be_minimised():
    sweep(metric={"name": "validate/score", "goal": "minimize"}, seeds=(1,))
    assert "Best: `tabom fit --x=0.7`" in (OUT / "summary.md").read_text()


def test_runs_at_once():
    sweep("--jobs=3", words=["--together=3"])
    assert tried() == GRID


def test_w_and_b_can_be_disabled(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    sweep(x=[0.1], seeds=[1])
    _, environment = json.loads(next(OUT.glob("*/argv.json")).read_text())
    assert environment["WANDB_MODE"] == "disabled"


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    sweep("--jobs=2", x=[0.1], seeds=[1])
    _, environment = json.loads(next(OUT.glob("*/argv.json")).read_text())
    assert environment["OMP_NUM_THREADS"] == "3"


def test_a_failed_run_does_not_end_the_sweep_and_is_tried_again(capsys):
    message = r"^2 runs failed \(x=0.3-seed=1, x=0.3-seed=2\); the same command tries them again$"
    with pytest.raises(TabomError, match=message):
        sweep(words=["--crash=0.3"])
    assert tried() == [(x, seed) for x, seed in GRID if x != 0.3]
    assert "x=0.3-seed=1: it burns; out/x=0.3-seed=1/output.log" in capsys.readouterr().out
    Path("mended").touch()
    sweep(words=["--crash=0.3"])
    assert tried() == GRID
    assert [len(entry.records) for entry in runs()] == [1] * 6


def test_a_metric_that_is_not_logged_is_a_failure(capsys):
    with pytest.raises(TabomError, match=r"^1 runs failed"):
        sweep(metric={"name": "validate/other"}, x=[0.1], seeds=[1])
    (entry,) = runs()
    record = f"out/x=0.1-seed=1/records/fit-0-{entry.records[0].run_id}.jsonl"
    reason = f"expected the metric validate/other in {record}, found none"
    assert f"x=0.1-seed=1: {reason}; out/x=0.1-seed=1/output.log" in capsys.readouterr().out


def test_stopped_and_resumed(capsys):
    def stop():
        wait_for(lambda: len(list(OUT.glob("*/records/*.jsonl"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = in_background(stop)
    with pytest.raises(SystemExit) as error:
        sweep("--jobs=2", words=["--gate=gate"])
    thread.join()
    assert error.value.code == 75
    assert "tabom sweep: stopped; the same command goes on" in capsys.readouterr().err
    assert [(entry.state, entry.metric) for entry in runs()] == [("running", pytest.approx(-0.04))] * 2
    Path("gate").touch()
    sweep("--jobs=2", words=["--gate=gate"])
    assert tried() == GRID
    assert [len(entry.records) for entry in runs()] == [2, 2, 1, 1, 1, 1]
    assert "--ckpt_path=last" not in json.loads((OUT / "x=0.1-seed=1/argv.json").read_text())[0]


def test_a_stopped_run_goes_on_from_its_checkpoint():
    words = ["--gate=gate", "--checkpoint=yes"]

    def stop():
        wait_for(lambda: list(OUT.glob("*/checkpoints/last.ckpt")))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = in_background(stop)
    with pytest.raises(SystemExit):
        sweep(words=words)
    thread.join()
    (stopped,) = runs()
    Path("gate").touch()
    sweep(words=words)
    assert tried() == GRID
    assert len(runs()) == 6
    again, environment = json.loads((OUT / stopped.name / "argv.json").read_text())
    assert again[-2:] == [f"--run_dir=out/{stopped.name}", "--ckpt_path=last"]
    first, second = (record.run_id for record in runs()[0].records)
    assert environment["WANDB_RUN_ID"] == second != first  # a W&B run of its own, which names the other as its parent


def test_killed_and_resumed():
    """What the killed command had started goes on, and is waited for."""
    words = ["--gate=gate"]
    write_sweep(words=words)
    code = f"from tabom.sweeping import command, run; run.PROGRAM = {FAKE}; command.run"
    arguments = ["sweep", "sweep.yaml", "--output_dir=out", "--jobs=2"]
    with subprocess.Popen([sys.executable, "-c", f"{code}({arguments})"]) as process:
        wait_for(lambda: len(list(OUT.glob("*/records/*.jsonl"))) == 2)
        process.kill()
    assert len(runs("running")) == 2

    def open_gate():
        wait_for(lambda: Claims(OUT).others("sweep"))
        Path("gate").touch()

    thread = in_background(open_gate)
    sweep("--jobs=2", words=words)
    thread.join()
    assert tried() == GRID
    assert [len(entry.records) for entry in runs()] == [1] * 6


def test_runs_that_died_with_the_command_begin_anew():
    sweep(x=[0.1], seeds=[1])
    journal = OUT / "search.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:20])  # the command was killed before it had told the search
    journal.with_suffix(".journal.lock").touch()
    record = next(OUT.glob("*/records/*.jsonl"))
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:-1]))  # and the run was killed as well
    sweep(x=[0.1], seeds=[1])
    (entry,) = runs()
    assert [record.state for record in entry.records] == ["running", "finished"]


def test_a_run_that_is_killed_has_failed(capsys):
    def kill():
        wait_for(lambda: runs("running") and runs()[0].pid)
        os.kill(runs()[0].pid, signal.SIGKILL)

    thread = in_background(kill)
    with pytest.raises(TabomError, match=r"^1 runs failed \(x=0.1-seed=1\); the same command tries them again$"):
        sweep(x=[0.1], seeds=[1], words=["--gate=gate"])
    thread.join()
    assert "x=0.1-seed=1: its process was killed; " in capsys.readouterr().out


def test_a_setting_whose_end_was_not_told_is_told_without_a_run():
    sweep(x=[0.1], seeds=[1])
    journal = OUT / "search.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    sweep(x=[0.1], seeds=[1])
    assert len(journal.read_text().splitlines()) >= len(lines)
    assert [len(entry.records) for entry in runs()] == [1]


def test_no_two_commands_at_once():
    OUT.mkdir()
    message = r"^out: expected no other tabom sweep here, but one is running \(process \d+ on .*\)$"
    with alone(OUT, "sweep"), pytest.raises(TabomError, match=message):
        sweep()


def test_another_sweep_in_the_directory():
    sweep(seeds=(1,))
    with pytest.raises(TabomError) as caught:
        sweep(seeds=(1, 3))
    assert str(caught.value) == (
        "out/sweep.yaml: expected parameters.seed_everything.values [1], of the sweep that was begun here, got [1, 3] "
        "(1 more differ); give another --output_dir"
    )


def test_a_sweep_of_which_no_run_began_is_forgotten():
    """Its file had a mistake, say; the corrected one may use the same directory."""
    with pytest.raises(TabomError, match="1 runs failed"):
        sweep(x=[0.1], seeds=[1], words=["--crash=0.1"])
    sweep(x=[0.3], seeds=[2])
    assert tried() == [(0.3, 2)]
    assert [path.parent.name for path in OUT.glob("*/output.log")] == ["x=0.3-seed=2"]
    with pytest.raises(TabomError, match="of the sweep that was begun here"):
        sweep(x=[0.1], seeds=[1])


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"a: [1"])
def test_a_kept_sweep_that_is_no_yaml(content):
    sweep(x=[0.1], seeds=[1])
    (OUT / "sweep.yaml").write_bytes(content)
    with pytest.raises(TabomError, match=r"^out/sweep\.yaml: expected "):
        sweep(x=[0.1], seeds=[1])


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"op_code": "x"}', "\x00"])
def test_a_damaged_journal(line):
    sweep(x=[0.1], seeds=[1])
    journal = OUT / "search.journal"
    first, *others = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([first, f"{line}\n", *others]))
    with pytest.raises(TabomError, match=r"^out/search\.journal: expected the journal of a search \("):
        sweep(x=[0.1], seeds=[1])


def test_bayes_is_told_what_came_out():
    sweep("--num_runs=24", x={"min": 0.0, "max": 10.0}, seeds=(1,), method="bayes")
    found = [abs(entry.values["x"] - 0.3) for entry in runs("finished")]
    assert len(found) == 24
    assert min(found) < 0.1
    assert sum(found[12:]) < 0.7 * sum(found[:12])


def test_the_search_is_told_the_mean_over_the_seeds(monkeypatch):
    told = {}
    monkeypatch.setattr(search.Search, "tell", lambda self, number, metric: told.update({number: metric}))
    sweep(x=[0.1], seeds=[1, 2], words=["--by_seed=1"])
    metrics = [entry.metric for entry in runs("finished")]
    assert metrics[0] != metrics[1]
    assert told == {0: pytest.approx(sum(metrics) / 2)}


def test_random_search_counts_runs_and_draws_on_when_it_is_resumed():
    sweep("--num_runs=4", x={"min": 0.0, "max": 1.0}, seeds=(1, 2), method="random")
    assert len(tried()) == 4
    assert len({x for x, _ in tried()}) == 2
    sweep("--num_runs=7", x={"min": 0.0, "max": 1.0}, seeds=(1, 2), method="random")
    assert len(tried()) == 8  # a setting runs with all seeds
    assert len({x for x, _ in tried()}) == 4


def test_a_grid_is_capped():
    sweep(run_cap=1)
    assert tried() == GRID[:1]
    sweep("--num_runs=3", run_cap=1)
    assert tried() == GRID[:3]
    sweep()
    assert tried() == GRID


def test_what_else_the_file_says_reaches_the_runs():
    sweep(x=[0.1], seeds=[1], project="mine", entity="us", description="What it asks.")
    words, _ = json.loads(next(OUT.glob("*/argv.json")).read_text())
    assert {"--trainer.logger.project=mine", "--trainer.logger.entity=us"} <= set(words)
    assert (OUT / "summary.md").read_text().startswith("# group\n\nWhat it asks.\n\n| x |")


def test_hyperband_stops_what_is_behind():
    hyperband = {"type": "hyperband", "min_iter": 1, "eta": 2}
    sweep(x=(0.3, 0.9), seeds=(1, 2), words=["--checks=2", "--endless=0.9"], early_terminate=hyperband)
    assert tried() == [(0.3, 1), (0.3, 2)]
    assert [entry.values["x"] for entry in runs() if entry.is_pruned] == [0.9]
    sweep(x=(0.3, 0.9), seeds=(1, 2), words=["--checks=2", "--endless=0.9"], early_terminate=hyperband)
    assert len(runs()) == 3  # the second seed of what was stopped is not begun


def test_the_last_check_counts():
    sweep(x=(0.1,), seeds=(1,), words=["--checks=2", "--late=yes"])
    (entry,) = runs()
    assert entry.metric == pytest.approx(-0.04)


class TestThen:
    """Commands that follow the first one: here two evaluations of what it trained."""

    def sweep(self, *options, words=(), then=(), **content):
        """A sweep whose score on the benchmark b2 is the mean of x and 1."""
        last = "--ckpt_path=${run_dir}/checkpoints/last.ckpt"
        commands = [["evaluate", last, f"--name={name}", "--model=${setting}", *then] for name in ("b1", "b2")]
        metric = {"name": "benchmark/b2/score", "goal": "maximize"}
        sweep(*options, metric=metric, words=["--checkpoint=yes", *words], then=commands, **content)

    @staticmethod
    def records(name):
        """Verb and state of the runs in a setting's directory and in those of its evaluations."""
        return [
            [(record.verb, record.state) for record in found_records(OUT / name / place)]
            for place in ("", "then-1", "then-2")
        ]

    def test_each_is_run_after_the_one_before(self, capsys):
        self.sweep("--jobs=2")
        for name in ("x=0.1-seed=1", "x=0.7-seed=2"):
            done = [(verb, "finished") for verb in ("fit", "evaluate", "evaluate")]
            assert self.records(name) == [[one] for one in done]
        words, environment = json.loads((OUT / "x=0.7-seed=2/then-2/argv.json").read_text())
        assert words == [
            *("evaluate", "--ckpt_path=out/x=0.7-seed=2/checkpoints/last.ckpt", "--name=b2", "--model=x=0.7"),
            *("--trainer.logger.offline=true", "--trainer.logger.group=group"),
            *("--trainer.logger.name=x=0.7-seed=2", "--run_dir=out/x=0.7-seed=2/then-2"),
        ]
        assert environment["WANDB_MODE"] == "offline"
        summary = (OUT / "summary.md").read_text()
        assert "| 0.7 | 2 | 0.8500 (seeds ± 0.0000) " in summary
        assert "Best: `tabom fit --x=0.7 --checkpoint=yes`" in summary
        assert "`wandb sync out/*/wandb/offline-run-* out/*/then-*/wandb/offline-run-*`" in summary
        assert "group: 6 of 6 runs" in capsys.readouterr().out

    def test_any_number_of_a_benchmark_is_a_metric(self):
        self.sweep(x=[0.1], seeds=[1])
        (entry,) = made_runs(OUT, "validate/score")
        for name, expected in (("b1/score", 0.55), ("b2/m,f", 7.0)):
            found = run.Run(OUT / entry.name, 0, {}, 1, f"benchmark/{name}", num_commands=3)
            assert found.metric == pytest.approx(expected)

    def test_what_is_trained_is_not_trained_again(self):
        """The evaluation fails, is stopped, and is killed with the sweep; the training is made once."""
        with pytest.raises(TabomError, match=r"^1 runs failed \(x=0.1-seed=1\)"):
            self.sweep(x=[0.1], seeds=[1], then=["--crash=yes"])
        Path("mended").touch()
        trained = (OUT / "x=0.1-seed=1/argv.json").stat().st_mtime_ns
        self.sweep(x=[0.1], seeds=[1], then=["--crash=yes"])
        assert self.records("x=0.1-seed=1") == [
            [("fit", "finished")],
            [("evaluate", "running"), ("evaluate", "finished")],
            [("evaluate", "finished")],
        ]
        assert (OUT / "x=0.1-seed=1/argv.json").stat().st_mtime_ns == trained

    def test_stopped_in_an_evaluation(self):
        def stop():
            wait_for(lambda: list(OUT.glob("*/then-1/records/*.jsonl")))
            os.kill(os.getpid(), signal.SIGTERM)

        thread = in_background(stop)
        with pytest.raises(SystemExit):
            self.sweep(x=[0.1], seeds=[1], then=["--gate=gate"])
        thread.join()
        Path("gate").touch()
        self.sweep(x=[0.1], seeds=[1], then=["--gate=gate"])
        first, second, third = self.records("x=0.1-seed=1")
        assert (first, third) == ([("fit", "finished")], [("evaluate", "finished")])
        assert second == [("evaluate", "running"), ("evaluate", "finished")]

    def test_killed_in_an_evaluation(self):
        """The evaluation that the killed command had begun goes on and is waited for; then comes the next."""
        options = {"x": [0.1], "seeds": [1], "then": ["--gate=gate"]}
        with pytest.MonkeyPatch.context() as patched:  # writes the file only
            patched.setattr(command, "run", lambda words: None)
            self.sweep(**options)
        code = f"from tabom.sweeping import command, run; run.PROGRAM = {FAKE}; command.run"
        arguments = ["sweep", "sweep.yaml", "--output_dir=out"]
        with subprocess.Popen([sys.executable, "-c", f"{code}({arguments})"]) as process:
            wait_for(lambda: list(OUT.glob("*/then-1/records/*.jsonl")))
            process.kill()

        def open_gate():
            wait_for(lambda: Claims(OUT).others("sweep"))
            Path("gate").touch()

        thread = in_background(open_gate)
        self.sweep(**options)
        thread.join()
        done = [("fit", "finished"), ("evaluate", "finished"), ("evaluate", "finished")]
        assert self.records("x=0.1-seed=1") == [[one] for one in done]

    def test_a_command_that_has_written_its_end_but_lives_is_waited_for(self):
        """Then comes the next one, and it is not taken for the one that runs."""
        self.sweep(x=[0.1], seeds=[1], then=[])
        place = OUT / "x=0.1-seed=1"
        shutil.rmtree(place / "then-2")
        with (place / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = run.Run(place, 0, {}, 1, "validate/score", num_commands=3)
            assert found.is_tried
        assert found.finish() == ""
        assert not found.is_tried
        found.start([["fit"], ["evaluate"], ["evaluate", "--ckpt_path=none"]], 1)
        wait_for(lambda: not found.is_running())
        assert (place / "then-2").is_dir()

    def test_a_server_runs_one_command(self):
        write_sweep(then=[["evaluate"]])
        with pytest.raises(TabomError, match=r"^sweep\.yaml: then: expected none with --wandb, whose agents run one"):
            command.run(["sweep", "sweep.yaml", "--wandb"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs=0"], "jobs: expected at least 1, got 0"),
        (["--count=1"], "count: expected --wandb beside it"),
        (["--wandb", "--count=0"], "count: expected at least 1, got 0"),
        (["--wandb", "--jobs=1"], "jobs: expected no --wandb beside it"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(TabomError, match=f"^{message}$"):
        sweep(*options)


def test_without_optuna(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tabom.sweeping.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TabomError, match=r"expected the package optuna, found none; pip install 'tabom\[sweep\]'$"):
        sweep()
