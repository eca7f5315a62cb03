"""Trajectories of several directories in one: what rounds of post-training are trained on."""

import dataclasses

import pytest
from helpers import write_trajectories

from tabom.cli.main import main
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.storage.files import file_sha256
from tabom.trajectories import Manifest, mix_trajectories, read_trajectories


@pytest.fixture
def two(tmp_path, tokenizer):
    """The same queries, more of them in the second directory, whose model is another one."""
    paths = [write_trajectories(tmp_path / str(n), tokenizer, num_rows=rows) for n, rows in enumerate((12, 24))]
    manifest = Manifest.load(paths[1])
    dataclasses.replace(manifest, origin=dataclasses.replace(manifest.origin, model_fingerprint="other")).save(paths[1])
    return paths


def read(path, tokenizer):
    return read_trajectories(path, tokenizer_fingerprint=tokenizer_fingerprint(tokenizer), response_length=19)


def test_all_rows_are_there_and_those_of_one_query_are_its_samples(two, tmp_path, tokenizer, capsys):
    main(["trajectories", "mix", *map(str, two), "--output_dir", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path}/out: 36 trajectories of 2 directories\n"
    first, second, mixed = (read(path, tokenizer) for path in (*two, tmp_path / "out"))
    assert mixed.query_ids == first.query_ids + second.query_ids
    assert mixed.samples.tolist() == [0] * 12 + [1] * 24
    assert (mixed.response_ids[12:] == second.response_ids).all()
    assert (mixed.unmask_step[:12] == first.unmask_step).all()
    assert mixed.references == first.references + second.references
    assert mixed.manifest.num_verified == first.manifest.num_verified + second.manifest.num_verified
    main(["trajectories", "check", str(tmp_path / "out")])


def test_a_mixture_of_mixtures_counts_samples_on(two, tmp_path, tokenizer):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    mix_trajectories(two, tmp_path / "a")
    mix_trajectories([tmp_path / "a", two[0]], tmp_path / "b")
    assert read(tmp_path / "b", tokenizer).samples.tolist() == [0] * 12 + [1] * 24 + [2] * 12


def test_the_manifest_names_the_parents(two, tmp_path):
    origin = mix_trajectories(two, tmp_path).origin
    assert origin.model_fingerprint == "several (mixed)"
    own = [Manifest.load(path).origin.model_fingerprint for path in two]
    assert [part["model_fingerprint"] for part in origin.settings["mixed_from"]] == own == [own[0], "other"]
    assert [part["directory"] for part in origin.settings["mixed_from"]] == [str(path) for path in two]
    hashes = [part["manifest_sha256"] for part in origin.settings["mixed_from"]]
    assert hashes == [file_sha256(path / "manifest.json") for path in two]
    one = tmp_path / "one"
    one.mkdir()
    assert mix_trajectories(two[:1], one).origin.model_fingerprint == own[0]


def test_what_was_decoded_in_another_way_is_refused(tmp_path, tokenizer):
    paths = [write_trajectories(tmp_path / str(n), tokenizer, response_length=n) for n in (19, 20)]
    message = rf"^{paths[1]}/manifest.json: expected response_length 19, of {paths[0]}, got 20; decode them alike$"
    with pytest.raises(TabomError, match=message):
        mix_trajectories(paths, tmp_path)


def test_nothing_is_written_over(two, capsys):
    with pytest.raises(SystemExit):
        main(["trajectories", "mix", str(two[0]), "--output_dir", str(two[1])])
    assert "expected no trajectories yet" in capsys.readouterr().err
