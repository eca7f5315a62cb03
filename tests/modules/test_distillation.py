import json
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.testing import assert_close

from tabom.backbones import PretrainedBackbone
from tabom.cli.lightning_cli import run
from tabom.data.encoding import collate_prompts
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.modules import DistillationModule
from tabom.samplers import Sampler
from tabom.tasks import Sudoku4x4
from tabom.trajectories import read_trajectories
from tabom.trajectories.timings import TIMINGS_NAME, tokens_per_second


def callbacks(directory="new"):
    writer = {"class_path": "TrajectoryWriter", "init_args": {"output_dir": str(directory)}}
    return f"--trainer.callbacks={json.dumps([writer])}"


BLOCKS = ("--model.backbone.attention=block_causal", "--model.backbone.block_size=7")


def sizes(num_queries=20, queries_per_shard=8):
    return f"--data.num_queries={num_queries}", f"--data.queries_per_shard={queries_per_shard}"


def read(path, tokenizer):
    return read_trajectories(path, tokenizer_fingerprint=tokenizer_fingerprint(tokenizer), response_length=19)


def files(directory):
    """Shards, records and manifest."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != TIMINGS_NAME}


@pytest.fixture
def predict(stage):
    """Distil into a directory, with more options."""

    def call(*options, directory="new"):
        return stage("predict", "distill", callbacks(directory), *sizes(), *options)

    return call


def test_shards_hold_what_the_sampler_did(predict, tmp_path, tokenizer, checkpoint):
    predict("--data.queries_per_shard=7", "--model.batch_size=3")
    table = read(tmp_path / "new", tokenizer)
    assert [shard.num_rows for shard in table.manifest.shards] == [7, 7, 6]
    origin = table.manifest.origin
    assert origin.settings == {
        "sampler": Sampler().settings(),
        "batch_size": 3,
        "keep": "all",
        "early_finish": True,
        "compile": False,
        "precision": "32-true",
        "task": "tabom.tasks.sudoku.Sudoku4x4",
        "verifier": None,
        "chat_template": False,
        "num_queries": 20,
        "num_samples": 1,
        "queries_per_shard": 7,
    }

    backbone = PretrainedBackbone(str(checkpoint)).load(tokenizer).eval()
    assert origin.model_fingerprint == backbone.fingerprint()
    examples = Sudoku4x4(answer_layout="rows").examples("train", 20)
    assert table.query_ids == [example.query_id for example in examples]
    assert table.references == [example.reference for example in examples]
    batch = collate_prompts(
        [(example, tokenizer(example.prompt)["input_ids"]) for example in examples],
        pad_token_id=0,
        mask_token_id=1,
        response_length=19,
    )
    decoded = Sampler().decode(backbone, batch, eos_token_id=tokenizer.eos_token_id)
    assert table.response_ids.tolist() == decoded.response_ids.tolist()
    assert table.unmask_step.tolist() == decoded.unmask_step.tolist()
    entropies = torch.tensor(table.unmask_entropy)
    torch.testing.assert_close(entropies, decoded.unmask_entropy, rtol=1e-3, atol=1e-5, equal_nan=True)
    assert table.prompt_ids == [tokenizer(example.prompt)["input_ids"] for example in examples]


def test_shards_of_a_block_causal_model_say_so(predict, tmp_path, tokenizer, checkpoint):
    predict(*BLOCKS, *sizes(5, 3), "--model.batch_size=2")
    table = read(tmp_path / "new", tokenizer)
    origin = table.manifest.origin
    assert (origin.block_size, origin.block_length) == (7, 7)
    backbone = PretrainedBackbone(str(checkpoint), attention="block_causal", block_size=7).load(tokenizer).eval()
    assert origin.model_fingerprint == backbone.fingerprint()
    for index, prompt_ids in enumerate(table.prompt_ids):
        steps, num_prompt = table.unmask_step[index], len(prompt_ids)
        assert num_prompt % 7 != 0
        first = 7 - num_prompt % 7
        assert steps[:first].max() < steps[first:].min()
        assert steps[first : first + 7].max() < steps[first + 7 :].min()


def test_verdicts_are_the_tasks(predict, tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: example.prompt[7] == "0")
    predict()
    expected = [example.prompt[7] == "0" for example in Sudoku4x4().examples("train", 20)]
    assert read(tmp_path / "new", tokenizer).is_verified.tolist() == expected
    lines = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    statistics = {name.strip(): float(value.replace(",", "")) for name, value in lines.items()}
    assert statistics["trajectories"] == statistics["kept"] == statistics["decoded by this run"] == 20
    assert statistics["verified"] == sum(expected)
    assert statistics["verified, %"] == pytest.approx(5 * sum(expected))
    rejected = [value for name, value in statistics.items() if name.startswith("rejected")]
    assert sum(rejected) == 20 - sum(expected)
    assert 0 < statistics["mean response tokens"] <= 19
    assert statistics["tokens per second"] == pytest.approx(tokens_per_second(tmp_path / "new"), rel=0.02)


def test_only_verified_ones_are_kept_and_all_are_counted(predict, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: example.prompt[7] == "0")
    predict("--model.keep=verified", *sizes(20, 3))
    expected = [e.query_id for e in Sudoku4x4().examples("train", 20) if e.prompt[7] == "0"]
    table = read(tmp_path / "new", tokenizer)
    assert table.query_ids == expected
    assert table.manifest.num_queries == 20
    assert table.manifest.num_verified == table.manifest.num_rows == len(expected)
    assert sum(table.manifest.rejected.values()) == 20 - len(expected)


def test_reasons(stage, tmp_path, tokenizer, monkeypatch):
    """A response of end-of-sequence tokens, one without any, and one that is wrong."""
    answers = iter([[2] * 19, [9] * 19, [9, 2, *[9] * 17]])

    def decode(self, backbone, batch, **options):
        ids = torch.tensor([next(answers) for _ in batch.examples])
        steps = torch.arange(19).expand_as(ids)
        return type("Decoded", (), {"response_ids": ids, "unmask_step": steps, "unmask_entropy": torch.zeros(3, 19)})()

    assert tokenizer.eos_token_id == 2
    monkeypatch.setattr(Sampler, "decode", decode)
    stage("predict", "distill", callbacks(), *sizes(3))
    manifest = read(tmp_path / "new", tokenizer).manifest
    assert manifest.rejected == {"no answer": 1, "no end of sequence": 1, "wrong answer": 1}
    assert manifest.num_tokens == 1 + 19 + 2


def test_several_samples_of_a_query(predict, tmp_path, tokenizer):
    options = ("--model.sampler.temperature=1.5", "--data.num_samples=3", *sizes(4, 3))
    predict(*options)
    table = read(tmp_path / "new", tokenizer)
    assert table.samples.tolist() == [0, 1, 2] * 4
    assert len({(query, tuple(ids)) for query, ids in zip(table.query_ids, table.response_ids, strict=True)}) == 12
    predict(*options[::2], *sizes(4, 3), directory="one")
    predict(options[0], *sizes(4, 3), directory="first")
    first = read(tmp_path / "first", tokenizer)
    assert first.response_ids.tolist() == table.response_ids[::3].tolist()


def test_samples_that_would_be_the_same(predict):
    with pytest.raises(TabomError, match=r"^num_samples: expected 1 with a sampler that draws nothing .*, got 3$"):
        predict("--data.num_samples=3")


@pytest.mark.parametrize(("batch_size", "options"), [(1, ()), (7, ()), (3, BLOCKS)])
def test_batch_size_changes_no_trajectory(predict, tmp_path, tokenizer, batch_size, options):
    tables = []
    for size in (32, batch_size):
        predict(f"--model.batch_size={size}", *options, directory=f"by{size}")
        tables.append(read(tmp_path / f"by{size}", tokenizer))
    many, few = tables
    assert few.response_ids.tolist() == many.response_ids.tolist()
    assert few.unmask_step.tolist() == many.unmask_step.tolist()
    difference = abs(few.unmask_entropy - many.unmask_entropy)
    assert not difference[few.unmask_entropy == few.unmask_entropy].max() > 1e-5


def test_a_finished_run_has_nothing_to_do(predict, tmp_path, monkeypatch, capsys):
    predict()
    before = files(tmp_path / "new")
    monkeypatch.setattr(Sampler, "decode", None)
    predict()
    assert files(tmp_path / "new") == before
    assert re.findall(r"decoded by this run +(\d+)", capsys.readouterr().out) == ["20", "0"]


def test_another_run_is_refused(predict, tmp_path):
    predict()
    before = files(tmp_path / "new")
    for option, message in {
        "--model.sampler.tokens_per_step=2": "settings.sampler.tokens_per_step 1, .*, got 2",
        "--model.batch_size=5": "settings.batch_size 128, .*, got 5",
        "--data.num_queries=21": "query_fingerprint [0-9a-f]{12}, .*, got [0-9a-f]{12} \\(1 more differ\\)",
        "--data.task.answer_layout=flat": "query_fingerprint .*",
    }.items():
        with pytest.raises(TabomError, match=rf"^new: expected {message}; give another output_dir or move them away$"):
            predict(option)
    weights = tmp_path / "runs/demo/base/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(TabomError, match=r"^new: expected model_fingerprint [0-9a-f]{12}, "):
        predict()
    assert files(tmp_path / "new") == before


def test_what_was_there_is_not_decoded_again(predict, tmp_path, monkeypatch):
    """An error in the second shard of three; the first one is kept."""
    predict(directory="whole")
    calls = iter(range(100))
    verdict = Sudoku4x4.is_correct

    def crashes(self, example, response):
        if next(calls) == 11:
            raise RuntimeError("power cut")
        return verdict(self, example, response)

    with monkeypatch.context() as patched:
        patched.setattr(Sudoku4x4, "is_correct", crashes)
        with pytest.raises(RuntimeError, match="power cut"):
            predict()
    names = ["run.json", "shard-00000.json", "shard-00000.parquet"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    decoded = []
    decode = Sampler.decode

    def counted(self, backbone, batch, **options):
        decoded.append(len(batch.examples))
        return decode(self, backbone, batch, **options)

    monkeypatch.setattr(Sampler, "decode", counted)
    predict()
    assert decoded == [8, 4]
    assert files(tmp_path / "new") == files(tmp_path / "whole")


def test_a_shard_that_was_removed_is_decoded_again(predict, tmp_path):
    predict()
    before = files(tmp_path / "new")
    (tmp_path / "new/shard-00001.parquet").unlink()
    predict()
    assert files(tmp_path / "new") == before


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [(), BLOCKS], ids=["full", "block_causal"])
def test_killed_at_eight_random_moments_it_ends_with_the_same_files(repository, stage, start_copy, tmp_path, backbone):
    """Start the command again and again, and kill it a little after some shards were written.

    More kills, of five runs at once, are in ``test_sharing.py``.
    """
    num_kills, num_queries = 8, 100
    config = repository / "configs/demo/distill.yaml"
    options = (*sizes(num_queries, 4), "--trainer.default_root_dir=out", "--model.batch_size=3", *backbone)

    def start(directory):
        return start_copy("predict", "--config", str(config), *options, callbacks(directory))

    def finish(process):
        said = process.communicate()[1]
        assert process.returncode == 0, said

    finish(start("whole"))
    chance = random.Random(1)
    killed, num_shards = tmp_path / "killed", -(-num_queries // 4)
    for kill in range(num_kills):
        process = start("killed")
        target = num_shards * kill // num_kills + chance.randrange(2)
        while process.poll() is None and len(list(killed.glob("shard-*.json"))) < target:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start("killed"))
    assert files(killed) == files(tmp_path / "whole")


def test_what_the_sampler_is_asked_for(predict, tokenizer, monkeypatch):
    asked = []
    decode = Sampler.decode

    def noted(self, backbone, batch, *, num_slots, eos_token_id, on_finished):
        asked.append((len(batch.examples), num_slots, eos_token_id))
        return decode(self, backbone, batch, num_slots=num_slots, eos_token_id=eos_token_id, on_finished=on_finished)

    monkeypatch.setattr(Sampler, "decode", noted)
    predict("--model.batch_size=3", *sizes(5, 4), directory="early")
    predict("--model.early_finish=false", *sizes(5, 4), directory="whole")
    eos = tokenizer.eos_token_id
    assert asked == [(4, 3, eos), (1, 3, eos), (4, 128, None), (1, 128, None)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while it imports its compiler
def test_a_compiled_backbone_decodes_the_same(predict, tmp_path, tokenizer, caplog):
    """A shard of mixed prompt lengths: few graphs, and their number is logged."""
    words = ["--data.task.class_path=Countdown", "--data.task.init_args.num_numbers=4", "--model.batch_size=6"]
    predict(*words, *sizes(20, 20), directory="plain")
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with caplog.at_level("INFO"):
        predict("--model.compile=true", *words, *sizes(20, 20), directory="compiled")
    (said,) = re.findall(r"compiled for (\d+) shapes of canvases", caplog.text)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == int(said) <= 12
    assert int(said) > 1
    plain, other = read(tmp_path / "plain", tokenizer), read(tmp_path / "compiled", tokenizer)
    assert other.response_ids.tolist() == plain.response_ids.tolist()
    assert other.unmask_step.tolist() == plain.unmask_step.tolist()
    assert_close(other.unmask_entropy, plain.unmask_entropy, rtol=0, atol=1e-5, equal_nan=True)


def test_a_module_that_does_not_decode(stage, repository):
    text = (repository / "configs/demo/tabom.yaml").read_text().replace("../parts", f"{repository}/configs/parts")
    config = yaml.safe_load(text)
    config["model"] = {"class_path": "TrainingModule", "init_args": config["model"]}
    config["trainer"] = {"accelerator": "cpu"}
    Path("explicit.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(TabomError, match=r"^`Trainer\.predict` requires `forward` method to run\.$"):
        run(["predict", "--config", "explicit.yaml", "--trainer.logger=false"])


def test_trained_on_what_was_distilled(stage, monkeypatch):
    """From decoding to a training step: the files of one stage are the input of the next."""
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: True)
    stage("predict", "distill", callbacks(), "--data.num_queries=30")
    cli = stage("fit", "tabom", "--data.path=new")
    assert cli.trainer.global_step == 6


def test_steps_that_reveal_nothing_are_not_counted(stage, tmp_path, tokenizer):
    """Dream's official schedule reveals nothing in its first step and two tokens in its last."""
    schedule = {"class_path": "tabom.samplers.LinearTimesteps", "init_args": {"num_steps": 19}}
    options = [f"--model.sampler.schedule={json.dumps(schedule)}", "--data.num_queries=3"]
    stage("predict", "distill", callbacks(), *options, "--model.early_finish=false")
    table = read(tmp_path / "new", tokenizer)
    assert sorted(table.unmask_step[0].tolist()) == [*range(18), 17]
    assert table.manifest.origin.settings["sampler"]["schedule"]["init_args"]["num_steps"] == 19


def test_progress_counts_the_trajectories_that_are_left(stage, tmp_path, capsys):
    writer = {"class_path": "TrajectoryWriter", "init_args": {"output_dir": "new"}}
    bars = json.dumps([writer, {"class_path": "StepProgressBar"}])
    for num_left in (20, 8):
        stage("predict", "distill", f"--trainer.callbacks={bars}", *sizes(20, 8))
        seen = capsys.readouterr().out
        line = rf"^Decoding: {num_left} of {num_left} trajectories in .*, verified \d+\.\d %$"
        assert re.search(line, seen, re.MULTILINE)
        (tmp_path / "new/shard-00001.parquet").unlink()


def test_bad_batch_size():
    with pytest.raises(TabomError) as error:
        DistillationModule(None, Sampler(), batch_size=0)
    assert str(error.value) == "batch_size: expected at least 1, got 0"
