"""Commands that are started as copies of a process that has imported what they need."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import wait_for

from tabom.jobs.job import Job
from tabom.jobs.template import IMPORTED, Template, has_devices

FAKE = """
import json, os, signal, sys, tempfile, time

import made_once

def stop(number, frame):
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
words = sys.argv[1:]
facts = {
    "words": words,
    "variable": os.environ.get("VARIABLE"),
    "made": made_once.PID == os.getpid(),
    "name": sys.modules["__main__"].__spec__.name,
    "group": os.getpgid(0),
    "input": sys.stdin.read(),
    "random": tempfile._RandomNameSequence().rng.random(),
}
print(json.dumps(facts), flush=True)
if "wait" in words:
    open("waiting", "w").close()
    time.sleep(60)
if "die" in words:
    os.kill(os.getpid(), signal.SIGKILL)
if "fail" in words:
    sys.exit("it burns")
"""


@pytest.fixture
def here(monkeypatch, tmp_path, repository):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    Path("fake.py").write_text(FAKE)
    Path("made_once.py").write_text("import os, time\nPID = os.getpid()\n")


@pytest.fixture
def template(here):
    made = Template(["made_once"])
    yield made
    made.close()


def begin(template, *words, name="job", **variables):
    job = Job(Path(f"{name}.lock"), Path(f"{name}.log"), Path(f"{name}.exit"))
    job.begin([sys.executable, "-m", "fake", *words], {**os.environ, **variables}, template)
    assert job.is_begun
    return job


def facts(job):
    wait_for(lambda: not job.is_running())
    return json.loads(job.last_lines(9)[0])


def test_it_runs_as_a_process_started_afresh(template):
    """The same words, variables, log and exit code, though what it imports is there already."""
    copy = begin(template, "a", "b c", name="copy", VARIABLE="x")
    fresh = begin(None, "a", "b c", name="fresh", VARIABLE="x")
    found, expected = facts(copy), facts(fresh)
    assert (found.pop("made"), expected.pop("made")) == (False, True)
    assert found.pop("group") == int(Path("copy.lock").read_text())
    assert found.pop("random") != expected.pop("random")
    del expected["group"]
    assert found == expected
    assert copy.exit_code() == fresh.exit_code() == 0


def test_the_next_ones_share_nothing(template):
    """Neither variables nor draws."""
    jobs = [begin(template, name=name, VARIABLE=name) for name in ("one", "two")]
    one, two = map(facts, jobs)
    assert (one["variable"], two["variable"]) == ("one", "two")
    assert one["random"] != two["random"]
    assert one["group"] != two["group"]


@pytest.mark.parametrize(("word", "code", "line"), [("fail", 1, "it burns"), ("die", 137, None)])
def test_how_it_ended(template, word, code, line):
    job = begin(template, word)
    facts(job)
    assert job.exit_code() == code
    assert line is None or job.last_lines(1) == [line]


def test_it_is_asked_to_stop(template):
    job = begin(template, "wait")
    wait_for(Path("waiting").exists)
    assert job.is_running()
    assert job.exit_code() is None
    job.stop()
    facts(job)
    assert job.exit_code() == 75


def test_it_goes_on_without_the_one_that_started_it(template):
    begin(template, "wait")
    wait_for(Path("waiting").exists)
    template.close()
    other = Job(Path("job.lock"), Path("job.log"), Path("job.exit"))
    assert other.is_running()
    os.killpg(int(Path("job.lock").read_text()), signal.SIGTERM)
    facts(other)
    assert other.exit_code() == 75


def test_a_module_that_cannot_be_imported(here):
    """Whatever keeps the copies from being made, the command is run."""
    job = begin(Template(["no_such_module"]), "a")
    wait_for(lambda: not job.is_running())
    assert "No module named 'no_such_module'" in job.log.read_text()
    assert json.loads(job.last_lines(1)[0])["words"] == ["a"]
    assert job.exit_code() == 0


def test_what_is_imported_can_be_copied(repository):
    """A copy has none of the threads, and none of the temporary files may be removed at its end."""
    code = f"""
import importlib, os, tempfile
def refuse(*arguments):
    raise AssertionError("a temporary directory")
tempfile.mkdtemp = refuse
for name in {IMPORTED}:
    importlib.import_module(name)
print(len(os.listdir("/proc/self/task")))
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("1\n", 0), found.stderr


def test_no_copies_beside_a_device(monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0")]))
    assert has_devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_devices()
