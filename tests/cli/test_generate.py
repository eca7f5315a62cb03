"""`tabom generate` and `tabom chat`: which model they take, how it decodes, and what they write."""

import io
import json
import re
import subprocess
import sys

import pytest
from helpers import (
    a2d_config,
    a2d_tokenizer_files,
    family_checkpoint,
    illada_config,
    illada_tokenizer_files,
    llada_config,
    llada_tokenizer_files,
)
from rich.console import Console

import tabom
from tabom.backbones import Lora, PretrainedBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.backbones.stock import A2DQwen3Backbone, IlladaBackbone
from tabom.cli.main import main
from tabom.data.tokenizer import load_tokenizer
from tabom.samplers import EvenSplit, Sampler

FAMILIES = {
    "a2d": (A2DQwen3Backbone, a2d_config, a2d_tokenizer_files),
    "illada": (IlladaBackbone, illada_config, illada_tokenizer_files),
    "llada": (LladaBackbone, llada_config, llada_tokenizer_files),
}


@pytest.fixture
def family(tmp_path):
    """Write a tiny checkpoint of a family."""

    def write(name, **changes):
        kind, config, files = FAMILIES[name]
        ids = files(tmp_path / name)
        return family_checkpoint(tmp_path / name, kind, config(**ids, **changes))

    return write


@pytest.fixture
def decoded(capsys):
    """The objects that a command writes."""

    def call(*words):
        main([*map(str, words), "--json"])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.fixture
def fails(capsys):
    """What a command says against its input."""

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([*map(str, words)])
        assert end.value.code == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = said(printed.err)
        return line.removeprefix("tabom: error: ")

    return call


def said(errors):
    """Without the bar for the weights."""
    return [line for line in errors.splitlines() if line.startswith("tabom: ")]


def same(row, answer):
    entropy = [None if value != value else value for value in answer.unmask_entropy]
    found = row["response"], row["tokens"], row["unmask_step"], row["unmask_entropy"], row["steps"]
    assert found == (answer.text, answer.response_ids, answer.unmask_step, entropy, answer.num_steps)
    assert row["seconds"] >= 0


class TestGenerate:
    def test_a_path_is_enough(self, family, decoded):
        """What is decoded is what Python gives, with the sampler of the family."""
        path = family("illada")
        prompts = ["What is 2 + 2?", "b"]
        rows = decoded("generate", "--model", path, "--prompt", *prompts)
        answers = tabom.load(str(path)).generate(prompts, names=["prompt 1", "prompt 2"])
        assert [row["prompt"] for row in rows] == prompts
        for row, answer in zip(rows, answers, strict=True):
            same(row, answer)
        assert len(rows[0]["tokens"]) == 128
        assert all(sorted(row["unmask_step"][:32]) < [32] for row in rows)

    @pytest.mark.parametrize(
        ("options", "changes"),
        [
            (["--steps", "4"], {"schedule": EvenSplit(4)}),
            (["--tokens_per_step", "3"], {"tokens_per_step": 3}),
            (["--block_length", "4"], {"block_length": 4}),
            (["--temperature", "2", "--seed", "5"], {"temperature": 2.0, "seed": 5}),
            (["--temperature", "2"], {"temperature": 2.0}),
        ],
        ids=["steps", "tokens_per_step", "block_length", "seed", "temperature"],
    )
    def test_options_are_the_samplers(self, checkpoint, decoded, options, changes):
        words = ["generate", "--model", checkpoint, "--max_new_tokens", 8, "--prompt", "abc"]
        model = tabom.load(str(checkpoint))
        expected, plain = (
            model.generate(["abc"], response_length=8, names=["prompt 1"], sampler=Sampler(**settings))[0]
            for settings in (changes, {})
        )
        (row,) = decoded(*words, *options)
        same(row, expected)
        assert (row["tokens"], row["unmask_step"]) != (plain.response_ids, plain.unmask_step)

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_the_batch_changes_nothing(self, checkpoint, decoded, tmp_path, batch_size):
        (tmp_path / "prompts.txt").write_text("abc\n\nx\ndef f(x):\n")
        words = ["generate", "--model", checkpoint, "--file", tmp_path / "prompts.txt", "--max_new_tokens", 6]
        rows, others = (
            decoded(*words, "--temperature", 3),
            decoded(*words, "--temperature", 3, "--batch_size", batch_size),
        )
        assert [row["prompt"] for row in rows] == ["abc", "x", "def f(x):"]
        for row, other in zip(rows, others, strict=True):
            assert (row["tokens"], row["unmask_step"]) == (other["tokens"], other["unmask_step"])

    def test_rows_of_a_table_and_conversations(self, family, decoded, tmp_path):
        path = family("a2d")
        turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
        (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, [{"prompt": "x\ny"}, {"messages": turns}])))
        rows = decoded("generate", "--model", path, "--file", tmp_path / "p.jsonl", "--max_new_tokens", 6)
        answers = tabom.load(str(path)).generate(["x\ny", turns], response_length=6)
        assert [row["prompt"] for row in rows] == ["x\ny", turns]
        for row, answer in zip(rows, answers, strict=True):
            same(row, answer)

    def test_standard_input(self, checkpoint, decoded, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO("abc\nx\n"))
        rows = decoded("generate", "--model", checkpoint, "--file", "-", "--max_new_tokens", 3)
        assert [row["prompt"] for row in rows] == ["abc", "x"]

    def test_text_where_there_is_no_terminal(self, checkpoint, capsys):
        main(["generate", "--model", str(checkpoint), "--prompt", "abc", "--max_new_tokens", "6"])
        (answer,) = tabom.load(str(checkpoint)).generate(["abc"], response_length=6)
        assert capsys.readouterr().out == f"{answer.text}\n"

    def test_the_steps_are_seen_on_a_terminal(self, checkpoint, capsys, monkeypatch):
        """The canvas fills in; at the end the text and what it took are left."""
        terminal = Console(force_terminal=True, width=60, color_system="truecolor", highlight=False, markup=False)
        monkeypatch.setattr("rich.console.Console", lambda **_: terminal)
        monkeypatch.setattr("tabom.cli.verbs.answers._REFRESHES_PER_SECOND", 1e9)
        main(["generate", "--model", str(checkpoint), "--prompt", "abc", "--max_new_tokens", "6"])
        (answer,) = tabom.load(str(checkpoint)).generate(["abc"], response_length=6)
        out = capsys.readouterr().out
        states = [re.sub(r"\x1b\[[^m]*m", "", part) for part in re.split(r"\x1b\[2K|\r|\n", out)]
        num_masked = [state.count("·") for state in states if re.search(r"·", state)]
        assert num_masked == [5, 4, 3, 2, 1]
        assert "\x1b[7;38;2;70;110;255m" in out
        assert "6 tokens in 6 steps" in states[-2]
        assert answer.text in states

    def test_a_terminal_gets_no_commands_from_a_model(self):
        from tabom.cli.verbs.answers import _printable

        assert _printable("a\x1b[2J\n\tü\x07") == "a\ufffd[2J\n\tü\ufffd"


class TestModels:
    def test_a_configuration_names_backbone_sampler_and_length(self, checkpoint, decoded, tmp_path):
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts/base.yaml").write_text(
            f"class_path: PretrainedBackbone\ninit_args: {{path: {checkpoint}}}\n"
        )
        (tmp_path / "evaluate.yaml").write_text(
            "model:\n  backbone: parts/base.yaml\n"
            "  sampler: {class_path: Sampler, init_args: {score: confidence, tokens_per_step: 2}}\n"
            "data: {benchmark: GSM8K, response_length: 6}\ntrainer: {accelerator: cpu}\n"
        )
        (tmp_path / "later.yaml").write_text("model: {sampler: {init_args: {tokens_per_step: 3}}}\n")
        files = ["--config", tmp_path / "evaluate.yaml", "--config", tmp_path / "later.yaml"]
        (row,) = decoded("generate", *files, "--prompt", "abc")
        (expected,) = tabom.load(str(checkpoint)).generate(
            ["abc"], response_length=6, sampler=Sampler("confidence", tokens_per_step=3)
        )
        same(row, expected)

    def test_a_shipped_configuration_with_another_model(self, checkpoint, decoded):
        (row,) = decoded("generate", "--config", "demo/evaluate", "--model", checkpoint, "--prompt", "abc")
        (expected,) = tabom.load(str(checkpoint)).generate(["abc"], response_length=19)
        same(row, expected)

    def test_checkpoint_of_a_training(self, trained, decoded):
        """Beside its configuration; the weights are those that were trained."""
        path = trained.config.fit.model.init_args.backbone.init_args.path
        out = trained.trainer.default_root_dir
        words = ["generate", "--config", "demo/tabom", "--model", f"{out}/../{path}", "--prompt", "abc"]
        (row,) = decoded(*words, "--ckpt_path", f"{out}/checkpoints/last.ckpt")
        (base,) = decoded(*words)
        expected = tabom.Model(trained.model.backbone.eval(), trained.trainer.datamodule.tokenizer)
        same(row, expected.generate(["abc"], response_length=19)[0])
        assert row["unmask_entropy"] != base["unmask_entropy"]

    def test_an_adapter_with_its_base_or_by_itself(self, family, decoded, tmp_path):
        path = family("a2d")
        import torch

        tokenizer = load_tokenizer(str(path))
        backbone = PretrainedBackbone(str(path), lora=Lora(r=2)).load(tokenizer)
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        backbone.save_adapter(tmp_path / "adapter")
        words = ["--prompt", "abc", "--max_new_tokens", 6]
        both = decoded("generate", "--model", path, "--adapter", tmp_path / "adapter", *words)
        alone = decoded("generate", "--model", tmp_path / "adapter", *words)
        base = decoded("generate", "--model", path, *words)
        (expected,) = tabom.Model(backbone.eval(), tokenizer, Sampler("confidence")).generate(
            ["abc"], response_length=6
        )
        for (row,) in (both, alone):
            same(row, expected)
        assert tabom.load(str(tmp_path / "adapter")).generate(["abc"], response_length=6) == [expected]
        assert base[0]["unmask_entropy"] != both[0]["unmask_entropy"]


class TestChat:
    @pytest.fixture
    def talk(self, monkeypatch, capsys):
        def call(path, *lines, options=()):
            monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
            main(["chat", "--model", str(path), "--max_new_tokens", "12", "--json", *options])
            printed = capsys.readouterr()
            return [json.loads(line) for line in printed.out.splitlines()], said(printed.err)

        return call

    def test_a_conversation_goes_on_until_it_is_reset(self, family, talk):
        path = family("a2d")
        rows, errors = talk(path, "hello", "", "and then?", "/reset", "/help", "hello", "/quit", "never")
        first = [{"role": "user", "content": "hello"}]
        said = [*first, {"role": "assistant", "content": rows[0]["response"]}, {"role": "user", "content": "and then?"}]
        assert [row["prompt"] for row in rows] == [first, said, first]
        assert errors == ["tabom: /help: expected one of /reset, /quit"]
        model = tabom.load(str(path))
        for row, turns in zip(rows, (first, said, first), strict=True):
            same(row, model.generate([turns], response_length=12)[0])

    def test_without_a_template_each_turn_is_alone(self, checkpoint, talk):
        rows, errors = talk(checkpoint, "abc", "abc")
        assert [row["prompt"] for row in rows] == ["abc", "abc"]
        assert rows[0]["tokens"] == rows[1]["tokens"]
        assert errors == [
            "tabom: each turn is answered alone, since the tokenizer has no chat template or none is asked for"
        ]

    def test_a_history_that_is_too_long_is_told_and_left(self, family, talk):
        path = family("a2d", max_position_embeddings=80)
        rows, errors = talk(path, "hello", "x" * 60, "/reset", "again")
        assert len(rows) == 2
        (error,) = errors
        assert re.fullmatch(
            r"tabom: turn 2: expected at most 80 tokens of prompt and response together, which the model has positions "
            r"for \(max_position_embeddings\), got \d+; /reset begins a new conversation",
            error,
        )

    def test_an_interrupt_ends_it(self, checkpoint, monkeypatch, capsys):
        def interrupted(prompt=""):
            raise KeyboardInterrupt

        monkeypatch.setattr("builtins.input", interrupted)
        main(["chat", "--model", str(checkpoint)])
        assert capsys.readouterr().out == ""


class TestBadInput:
    def test_no_model(self, fails):
        assert fails("generate", "--prompt", "a") == (
            "--model: expected a directory or hub id of a model, or --config FILE, got neither"
        )

    def test_no_such_path(self, fails):
        assert fails("chat", "--model", "runs/none").startswith(
            "runs/none: expected the directory of a checkpoint or a hub id ("
        )

    def test_no_checkpoint(self, fails, tmp_path):
        assert fails("generate", "--model", tmp_path, "--prompt", "a") == (
            f"{tmp_path}/config.json: expected the configuration of a saved model, found no such file"
        )

    def test_a_file_in_the_place_of_a_model(self, fails, tmp_path):
        (tmp_path / "last.ckpt").touch()
        assert fails("generate", "--model", tmp_path / "last.ckpt", "--prompt", "a") == (
            f"--model: expected a directory or hub id of a model, got the file {tmp_path}/last.ckpt; for the "
            "checkpoint of a training give its --config and --ckpt_path"
        )

    def test_a_causal_checkpoint(self, fails, family):
        path = family("a2d")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "model_type": "qwen3"}))
        message = fails("generate", "--model", path, "--prompt", "a")
        assert message.startswith(f"{path}/config.json: expected model_type to be one of ['Dream', 'a2d-llama', ")
        assert message.endswith("by the backbone's keys attention: full, shift (true or false) and mask_token")

    def test_empty_prompts(self, fails, tmp_path):
        (tmp_path / "empty.txt").write_text("\n \n")
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"question": "b"}\n')
        (tmp_path / "turns.jsonl").write_text('{"messages": [{"role": "user"}]}\n')
        for words, message in (
            (["--prompt", "a", " "], "--prompt: expected text, got ' '"),
            (["--file", "none.txt"], "none.txt: expected a file of prompts, found no such file"),
            (["--file", tmp_path / "empty.txt"], f"{tmp_path}/empty.txt: expected at least one prompt, found none"),
            (
                ["--file", tmp_path / "rows.jsonl"],
                f"{tmp_path}/rows.jsonl:2: expected text under the key prompt, or turns under messages, got None",
            ),
            (
                ["--file", tmp_path / "turns.jsonl"],
                f"{tmp_path}/turns.jsonl:1: messages: expected a list of turns with role and content as text, got "
                "[{'role': 'user'}]",
            ),
        ):
            assert fails("generate", "--model", tmp_path, *words) == message

    def test_numbers(self, fails, checkpoint):
        words = ["generate", "--model", checkpoint, "--prompt", "a"]
        for options, message in (
            (["--max_new_tokens", 0], "--max_new_tokens: expected at least 1, got 0"),
            (["--temperature", -1], "--temperature: expected at least 0, got -1.0"),
            (["--batch_size", 0], "--batch_size: expected at least 1, got 0"),
            (["--max_new_tokens", 4, "--tokens_per_step", 5], "tokens_per_step: expected at most 4, got 5"),
            (
                ["--max_new_tokens", 8, "--block_length", 4, "--steps", 3],
                "num_steps: expected a multiple of 2, the number of blocks, got 3",
            ),
        ):
            assert fails(*words, *options) == message

    def test_a_prompt_that_cannot_be_decoded_is_named(self, fails, checkpoint, tmp_path):
        (tmp_path / "p.txt").write_text("abc\nü\n")
        assert fails("generate", "--model", checkpoint, "--file", tmp_path / "p.txt").startswith(
            "p.txt:2: expected text that the tokenizer knows, got 'ü'"
        )

    def test_a_configuration_without_a_backbone_or_with_a_wrong_one(self, fails, tmp_path):
        file = tmp_path / "c.yaml"
        for text, message in (
            ("model: {sampler: Sampler}", f"{file}: expected model.backbone, found none"),
            (
                "model: {backbone: {class_path: PretrainedBackbone, init_args: {paht: x}}}",
                f"{file}: model.backbone.paht: PretrainedBackbone has no such option (did you mean path?)",
            ),
            (
                "model: {backbone: Pretrained}",
                f"{file}: model.backbone: expected the name of a class, got Pretrained (did you mean "
                "PretrainedBackbone?)",
            ),
            ("model: 3", f"{file}: model: expected options by name, got 3"),
        ):
            file.write_text(text)
            assert fails("generate", "--config", file, "--prompt", "a") == message

    def test_a_device_that_is_not_there(self, fails, checkpoint):
        message = fails("generate", "--model", checkpoint, "--prompt", "a", "--device", "gpu")
        assert message.startswith("--device: gpu: Expected one of cpu, cuda")


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_help_takes_no_library(verb):
    code = (
        "import sys\nfrom tabom.cli.main import main\n"
        f"try:\n    main([{verb!r}, '--help'])\nexcept SystemExit:\n"
        "    sys.exit(len({'torch', 'lightning', 'transformers', 'jsonargparse', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--max_new_tokens" in done.stdout
