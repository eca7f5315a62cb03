import json

import pytest
import torch

from tabom.backbones import PretrainedBackbone
from tabom.data.encoding import collate_prompts
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.samplers import Sampler
from tabom.tasks import Sudoku4x4
from tabom.trajectories import read_trajectories


def callbacks(directory="new", rows_per_shard=1000):
    settings = {"output_dir": directory, "rows_per_shard": rows_per_shard}
    return f"--trainer.callbacks={json.dumps([{'class_path': 'TrajectoryWriter', 'init_args': settings}])}"


def read(path, tokenizer):
    return read_trajectories(path, tokenizer_fingerprint=tokenizer_fingerprint(tokenizer), response_length=19)


def test_shards_hold_what_the_sampler_did(stage, tmp_path, tokenizer, checkpoint):
    stage("predict", "distill", callbacks(rows_per_shard=7), "--data.init_args.num_queries=20")
    table = read(tmp_path / "new", tokenizer)
    assert [shard.num_rows for shard in table.manifest.shards] == [7, 7, 6]
    assert table.manifest.sampler == Sampler().settings()
    assert table.manifest.schema["unmask_step"] == "fixed_size_list<item: int16>[19]"

    backbone = PretrainedBackbone(str(checkpoint)).load(tokenizer).eval()
    assert table.manifest.model_fingerprint == backbone.fingerprint()
    examples = Sudoku4x4(answer_layout="rows").examples("train", 20)
    assert table.query_ids == [example.query_id for example in examples]
    assert table.references == [example.reference for example in examples]
    batch = collate_prompts(
        [(example, tokenizer(example.prompt)["input_ids"]) for example in examples],
        pad_token_id=0,
        mask_token_id=1,
        response_length=19,
    )
    decoded = Sampler().decode(backbone, batch)
    assert table.response_ids.tolist() == decoded.response_ids.tolist()
    assert table.unmask_step.tolist() == decoded.unmask_step.tolist()
    torch.testing.assert_close(torch.tensor(table.unmask_entropy), decoded.unmask_entropy, rtol=1e-4, atol=1e-5)
    assert table.prompt_ids == [tokenizer(example.prompt)["input_ids"] for example in examples]


def test_verdicts_are_the_tasks(stage, tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: example.prompt[7] == "0")
    stage("predict", "distill", callbacks(), "--data.init_args.num_queries=20")
    expected = [example.prompt[7] == "0" for example in Sudoku4x4().examples("train", 20)]
    assert read(tmp_path / "new", tokenizer).is_verified.tolist() == expected
    share = f"{sum(expected)} of 20 trajectories verified ({100 * sum(expected) / 20:.1f} %)"
    assert f"new: {share}" in capsys.readouterr().out


def test_finished_trajectories_are_kept(stage, tmp_path):
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs/demo/trajectories").iterdir()}
    with pytest.raises(TabomError, match=r"^runs/demo/trajectories: expected no trajectories yet, found 4 files"):
        stage("predict", "distill")
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs/demo/trajectories").iterdir()} == before


def test_what_was_written_before_a_crash_is_kept_but_not_called_finished(stage, tmp_path, tokenizer, monkeypatch):
    calls = iter(range(100))
    verdict = Sudoku4x4.is_correct

    def crashes(self, example, response):
        if next(calls) == 17:
            raise RuntimeError("power cut")
        return verdict(self, example, response)

    monkeypatch.setattr(Sudoku4x4, "is_correct", crashes)
    with pytest.raises(RuntimeError, match="power cut"):
        stage("predict", "distill", callbacks(rows_per_shard=8), "--data.init_args.num_queries=20")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "shard-000-00000.parquet",
        "shard-000-00001.parquet",
    ]
    with pytest.raises(TabomError, match=r"manifest\.json: expected the manifest of a finished distillation"):
        read(tmp_path / "new", tokenizer)


def test_a_module_that_does_not_decode(stage):
    with pytest.raises(TabomError, match=r"^`Trainer\.predict` requires `forward` method to run\.$"):
        stage("predict", "tabom", callbacks())


def test_trained_on_what_was_distilled(stage, monkeypatch):
    """From decoding to a training step: the files of one stage are the input of the next."""
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: True)
    stage("predict", "distill", callbacks(), "--data.init_args.num_queries=30")
    cli = stage("fit", "tabom", "--data.init_args.path=new")
    assert cli.trainer.global_step == 6


def test_steps_that_reveal_nothing_are_not_counted(stage, tmp_path, tokenizer):
    """Dream's official schedule reveals nothing in its first step and two tokens in its last."""
    schedule = {"class_path": "tabom.samplers.LinearTimesteps", "init_args": {"num_steps": 19}}
    options = [f"--model.init_args.sampler.init_args.schedule={json.dumps(schedule)}", "--data.init_args.num_queries=3"]
    stage("predict", "distill", callbacks(), *options)
    table = read(tmp_path / "new", tokenizer)
    assert sorted(table.unmask_step[0].tolist()) == [*range(18), 17]
    assert table.manifest.sampler["schedule"]["init_args"]["num_steps"] == 19
