"""The run that measures a GPU in one go: every part works at tiny sizes on a CPU, so that the hour is not lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture
def gpu_hour(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_hour

    return gpu_hour


def run(*words):
    command = [sys.executable, BENCHMARKS / "gpu_hour.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_part_runs_and_is_in_the_table(tmp_path, gpu_hour):
    done = run("--dry", "--output_dir", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in gpu_hour.PARTS:
        figures = json.loads((tmp_path / f"{part.name}.json").read_text())
        assert figures["benchmark"] == Path(part.script).stem
        assert figures["settings"]["device"] == "cpu"
    card = json.loads((tmp_path / "card.json").read_text())
    assert set(card["seconds"]) == {"pretrain", "distill", "fit-one-device", "fit-sharded", "report"}
    assert "kl" in card["measured"]["tabom-sharded"]
    table = run("--output_dir", tmp_path, "--table").stdout
    for part in gpu_hour.PARTS:
        assert (f"| {part.name} |" in table) == (part.script in ("train_step.py", "distill.py"))

    again = run("--dry", "--output_dir", tmp_path)
    assert again.stdout.count("was there") == len(gpu_hour.PARTS)


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path, gpu_hour, monkeypatch, capsys):
    parts = (
        gpu_hour.Part("absent", "no_such_script.py", (), (), 1),
        gpu_hour.Part("long", "environment.py", (), (), 0.001),
        gpu_hour.Part("environment", "environment.py", (), (), 5),
    )
    monkeypatch.setattr(gpu_hour, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["gpu_hour.py", "--dry", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        gpu_hour.main()
    assert ended.value.code
    summary = json.loads((tmp_path / "gpu_hour.json").read_text())
    assert [found["state"] for found in summary.values()] == ["exit code 2", "stopped after 0 s", "finished"]
    assert "no_such_script.py" in capsys.readouterr().out


def test_no_part_begins_after_the_time_is_over(tmp_path, gpu_hour, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_hour.py", "--dry", "--output_dir", str(tmp_path), "--minutes", "0"])
    with pytest.raises(SystemExit):
        gpu_hour.main()
    summary = json.loads((tmp_path / "gpu_hour.json").read_text())
    assert {found["state"] for found in summary.values()} == {"no time left"}
