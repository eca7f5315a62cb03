"""Whatever happens to a file of a finished directory is noticed, and a shard is no larger than it has to be."""

import json
import random
import re
import shutil

import numpy as np
import pytest

from tabom.cli.verbs.trajectories import check
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.trajectories import read_trajectories, write_shard
from tabom.types import TrajectoryRow

KINDS = ("flip", "truncate", "remove", "foreign", "swap")


def damage(path, kind, generator):
    """Change one thing in a directory; returns names one of which an error has to give."""
    files = sorted(path.iterdir())
    shards = [file for file in files if file.suffix == ".parquet"]
    if kind == "flip":
        file = generator.choice(files)
        data = bytearray(file.read_bytes())
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        file.write_bytes(data)
        return [file.name]
    if kind == "truncate":
        file = generator.choice(files)
        data = file.read_bytes()
        file.write_bytes(data[: generator.randrange(len(data))])
        return [file.name]
    if kind == "remove":
        file = generator.choice(files)
        file.unlink()
        return [file.name]
    if kind == "foreign":
        file = path / f"shard-{generator.randrange(3, 99999):05d}.parquet"
        file.write_bytes(generator.choice(shards).read_bytes())
        return [file.name]
    one, other = generator.sample(shards, 2)
    (path / "aside").write_bytes(one.read_bytes())
    other.replace(one)
    (path / "aside").replace(other)
    return [one.name, other.name]


def check_damages(whole, tmp_path, tokenizer, num_damages):
    generator = random.Random(0)
    fingerprint = tokenizer_fingerprint(tokenizer)
    for number in range(num_damages):
        kind = KINDS[number % len(KINDS)]
        path = tmp_path / f"damaged{number}"
        shutil.copytree(whole, path)
        names = damage(path, kind, generator)
        with pytest.raises(TabomError) as checked:
            check(path)
        with pytest.raises(TabomError) as refused:
            read_trajectories(path, tokenizer_fingerprint=fingerprint, response_length=19)
        assert str(checked.value) == str(refused.value)
        assert re.match(rf"{re.escape(str(path))}/({'|'.join(names)}): ", str(checked.value)), (
            kind,
            str(checked.value),
        )
        shutil.rmtree(path)


def test_damages(make_trajectories, tmp_path, tokenizer):
    check_damages(make_trajectories(), tmp_path, tokenizer, 40)


@pytest.mark.slow
def test_a_thousand_damages(make_trajectories, tmp_path, tokenizer):
    check_damages(make_trajectories(), tmp_path, tokenizer, 1000)


def rows_of_256(shared_data):
    """1,000 rows of GSM8K, cut into words whose ids lie anywhere in a vocabulary of 152k; entropies at full precision,
    positions decoded roughly from left to right."""
    generator = np.random.default_rng(0)
    lines = (shared_data / "gsm8k/train.jsonl").read_text().splitlines()
    examples = [json.loads(line) for line in lines]
    words_of = re.compile(r" ?[A-Za-z]+| ?\d|\s|\S").findall
    ids = {}
    vocabulary = generator.permutation(152_000).tolist()

    def encode(words):
        return [ids.setdefault(word, vocabulary[len(ids)]) for word in words]

    words = words_of("\n".join(example["answer"] for example in examples))
    rows = []
    for i, example in enumerate(examples[:1000]):
        response = words[256 * i : 256 * i + 256]
        entropy = generator.exponential(0.5, 256) * 10.0 ** -generator.integers(0, 5, 256)
        rows.append(
            TrajectoryRow(
                query_id=f"gsm8k/train/{i}",
                sample=0,
                is_verified=bool(generator.random() < 0.6),
                prompt_ids=encode(words_of(example["question"])),
                response_ids=encode(response),
                unmask_step=np.argsort(np.argsort(np.arange(256) + generator.normal(0, 20, 256))).tolist(),
                unmask_entropy=entropy.tolist(),
                prompt=example["question"],
                response="".join(response),
                reference=example["answer"],
            )
        )
    return rows


@pytest.mark.slow
def test_two_kilobytes_a_trajectory(shared_data, tmp_path):
    rows = rows_of_256(shared_data)
    for name in ("one", "two"):
        write_shard(rows, tmp_path / name, 256, num_queries=1000, num_tokens=256_000, rejected={})
    data = (tmp_path / "one").read_bytes()
    assert 1300 < len(data) / 1000 < 1600
    assert data == (tmp_path / "two").read_bytes()
