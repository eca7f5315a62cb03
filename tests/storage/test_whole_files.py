"""Files and directories that are there whole or not at all."""

import os
import threading

import pytest

from tabom.errors import TabomError
from tabom.storage.claims import alone
from tabom.storage.files import whole_directory, whole_file


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with whole_file(path) as file:
            file.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file", b"old")]


def test_two_may_write_a_file_at_once(tmp_path):
    path, barrier = tmp_path / "file", threading.Barrier(2)

    def write(content):
        with whole_file(path) as file:
            barrier.wait()
            file.write(content)
            barrier.wait()

    threads = [threading.Thread(target=write, args=(bytes([letter]) * 1000,)) for letter in b"ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "a/b"

    def write():
        with whole_directory(path, "export") as new:
            (new / "config.json").write_text("{}")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_gets_its_files_in_the_end(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    (path / "mine").touch()
    with whole_directory(path, "export") as new:
        (new / "one").touch()
        (new / "two").touch()
        assert not (path / "one").exists()
    assert sorted(one.name for one in path.iterdir()) == ["mine", "one", "two"]


def test_two_do_not_write_a_directory_at_once(tmp_path):
    message = "expected no other tabom export here, but one is running"
    with alone(tmp_path, "export"), pytest.raises(TabomError, match=message), whole_directory(tmp_path, "export"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Or a power cut could leave an empty file under it."""
    path, synced, sync = tmp_path / "file", [], os.fsync

    def noted(number):
        synced.append((os.fstat(number).st_size, path.exists()))
        sync(number)

    monkeypatch.setattr(os, "fsync", noted)
    with whole_file(path) as file:
        file.write(b"content")
    assert synced == [(7, False)]
    assert path.read_bytes() == b"content"
