"""One living process has a claim; what a dead one had is free, at once on its machine and after a while elsewhere."""

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest

from tabom.errors import TabomError
from tabom.storage import claims as module
from tabom.storage.claims import CLAIMS, Claims, Holder, alone


@pytest.fixture
def one(tmp_path):
    return Claims(tmp_path)


@pytest.fixture
def other(tmp_path):
    return Claims(tmp_path)


def claim_of(directory, name="shard-00001", generation=0):
    return directory / CLAIMS / f"{name}.{generation}"


def change(path, **values):
    """Make a claim look like another process's."""
    holder = replace(Holder(**json.loads(path.read_bytes())), token="ff", **values)
    path.write_text(json.dumps(asdict(holder)))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_one_has_it_and_gives_it_back(one, other, tmp_path):
    assert one.take("shard-00001") is None
    assert one.take("shard-00001") is None
    holder = other.take("shard-00001")
    assert (holder.pid, holder.run) == (os.getpid(), one.token)
    assert str(holder).startswith(f"process {os.getpid()} on ")
    assert other.take("shard-00002") is None
    assert (one.holds("shard-00001"), other.holds("shard-00001")) == (True, False)
    one.close()
    assert other.take("shard-00001") is None
    assert other.taken_over == {}
    other.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_zombie", [False, True])
def test_what_a_dead_process_of_this_machine_had_is_free_at_once(one, other, tmp_path, is_zombie):
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    if not is_zombie:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    one.take("shard-00001")
    change(claim_of(tmp_path), pid=process.pid)
    assert other.take("shard-00001") is None
    assert other.taken_over["shard-00001"].pid == process.pid
    assert [path.name for path in (tmp_path / CLAIMS).iterdir()] == ["shard-00001.1"]
    assert not one.holds("shard-00001")
    one.close()  # takes nothing from the new holder
    assert other.holds("shard-00001")
    process.wait()


def test_a_later_process_of_the_same_number_is_another_one(one, other, tmp_path):
    one.take("shard-00001")
    change(claim_of(tmp_path), started="1")
    assert other.take("shard-00001") is None


@pytest.mark.parametrize("content", [None, b"", b'{"token": "a'], ids=["another machine", "nothing yet", "half"])
def test_seen_from_another_machine_it_is_free_when_its_time_stands_still(one, other, tmp_path, monkeypatch, content):
    one.take("shard-00001")
    path = claim_of(tmp_path)
    change(path, machine="elsewhere", pid=dead_pid())
    if content is not None:
        path.write_bytes(content)
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    assert other.take("shard-00001") is not None
    now += module.EXPIRY_SECONDS - 1
    assert other.take("shard-00001") is not None
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # it was renewed
    now += module.EXPIRY_SECONDS - 1
    assert other.take("shard-00001") is not None
    now += module.EXPIRY_SECONDS
    assert other.take("shard-00001") is None
    assert other.holds("shard-00001")


def test_claims_are_renewed_until_they_are_given_back(one, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    one.take("shard-00001")
    path = claim_of(tmp_path)
    os.utime(path, ns=(0, 0))
    for _ in range(500):
        if path.stat().st_mtime_ns:
            break
        threading.Event().wait(0.01)
    assert path.stat().st_mtime_ns > 0
    heart = one._heart
    one.close()
    heart.join(timeout=10)
    assert not heart.is_alive()


def test_a_child_that_was_forked_gives_nothing_back(one, tmp_path, monkeypatch):
    one.take("shard-00001")
    monkeypatch.setattr(module.os, "getpid", lambda: -1)
    one.close()
    assert claim_of(tmp_path).is_file()


def test_of_many_at_once_one_gets_it(tmp_path):
    """Also while they take over what a dead process had."""
    for round_ in range(20):
        first = Claims(tmp_path)
        if round_ % 2:
            first.take("shard-00001")
            change(claim_of(tmp_path), pid=dead_pid() if round_ == 1 else 2**22 + 1)
        takers, got = [Claims(tmp_path) for _ in range(8)], []
        start = threading.Barrier(8)

        def take(taker, start=start, got=got):
            start.wait()
            if taker.take("shard-00001") is None:
                got.append(taker)

        threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert got[0].holds("shard-00001")
        got[0].close()
        assert not (tmp_path / CLAIMS).exists()


@pytest.mark.parametrize("verb", ["fit", "evaluate", "sweep"])
def test_alone_in_a_directory(tmp_path, verb):
    directory = tmp_path / "a" / "b"
    message = f"{directory}: expected no other tabom {verb} here, but one is running (process {os.getpid()} on "
    with alone(directory, verb), pytest.raises(TabomError, match=re.escape(message)):
        alone(directory, verb).__enter__()
    assert list(tmp_path.iterdir()) == []  # neither left anything behind
    with alone(directory, verb):
        (directory / "result").touch()
    assert [path.name for path in directory.iterdir()] == ["result"]


def test_two_verbs_may_share_a_directory(tmp_path):
    with alone(tmp_path, "fit"), alone(tmp_path, "evaluate"):
        assert len(list((tmp_path / CLAIMS).iterdir())) == 2
