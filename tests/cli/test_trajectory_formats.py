"""Trajectories of others from the command line: imported, annotated with entropies, trained on, and exported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import a2d_config, a2d_tokenizer_files, family_checkpoint, write_trajectories
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tabom.backbones.stock import A2DQwen3Backbone
from tabom.cli.main import main
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.trajectories import Manifest, TrajectoryStore, read_rows

VOCABULARY = 126464


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """A tokenizer of as many words as LLaDA's has, each its number between angle brackets."""
    path = tmp_path_factory.mktemp("numbers")
    backend = Tokenizer(models.WordLevel({f"<{number}>": number for number in range(VOCABULARY)}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\d+>"), "isolated")
    backend.decoder = decoders.Fuse()
    special = {
        name: AddedToken(f"<{number}>", special=True, normalized=False)
        for name, number in {"mask_token": 126336, "eos_token": 126081, "pad_token": 126081}.items()
    }
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(path)
    return path


@pytest.fixture
def examples(golden_v2):
    return golden_v2 / "trajectory_formats"


def run(action, *options):
    main(["trajectories", action, *map(str, options)])


def failure(capsys, action, *options):
    with pytest.raises(SystemExit) as error:
        run(action, *options)
    assert error.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tabom: error: ")]
    return line.removeprefix("tabom: error: ")


def rows_of(directory):
    return list(read_rows(directory, range(Manifest.load(directory).num_rows)).values())


def report_of(directory):
    return json.loads((directory / "import_report.json").read_text())


def prompts_file(path, examples):
    rows = json.loads((examples / "d3llm_llada/expected.json").read_text())
    texts = ["".join(f"<{i}>" for i in row["prompt_ids"]) for row in rows]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize(
    ("name", "source", "options"),
    [
        ("d3llm", "d3llm_llada/trajectory_part_0.json", ()),
        ("d3llm", "d3llm_llada/trajectory_dataset", ()),
        ("step_map", "step_map/outputs-sdar_jetengine.json", ("--first_step=1",)),
        ("step_map", "step_map/optimization-llada_dream.json", ("--first_step=0",)),
        ("step_map", "step_map/t3d-train.json", ("--first_step=1", "--no_chat_template")),
        ("prophet", "prophet", ("--prompts=prompts.jsonl", "--no_chat_template")),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value,
)
def test_an_import(examples, numbers, tmp_path, monkeypatch, name, source, options):
    """Of each format the two rows without a mask; the third is counted, and named by file and row."""
    monkeypatch.chdir(tmp_path)
    prompts_file(tmp_path / "prompts.jsonl", examples)
    output = tmp_path / "out"
    run("import", examples / source, "--format", name, f"--tokenizer={numbers}", f"--output_dir={output}", *options)
    wanted = json.loads((examples / "d3llm_llada/expected.json").read_text())[:2]
    rows = rows_of(output)
    for key in ("prompt_ids", "response_ids", "unmask_step"):
        assert [getattr(row, key) for row in rows] == [row[key] for row in wanted], key
    assert [row.is_verified for row in rows] == [True, "outputs" in source or "t3d" in source]
    report = report_of(output)
    assert report["num_rejected"] == {"mask token in the response": 1}
    (rejected,) = report["rejected_rows"]
    assert rejected["place"].startswith(str(examples / source))
    assert re.search(r"(:\d+|row 2|question_0002_steps_004.pt)$", rejected["place"])
    origin = Manifest.load(output).origin
    assert origin.settings["format"] == name
    (file,) = origin.settings["imported_from"]
    assert (file["source"], len(file["sha256"])) == (source.rpartition("/")[2], 64)
    run("check", output)


def test_several_files_in_one_directory(examples, numbers, tmp_path):
    first = examples / "d3llm_llada/trajectory_part_0.json"
    rows = json.loads(first.read_text())
    for number, row in enumerate(rows):
        row["question"] = f"other {number}"
    second = tmp_path / "trajectory_part_1.json"
    second.write_text(json.dumps(rows))
    output = tmp_path / "out"
    run("import", first, second, "--format=d3llm", f"--tokenizer={numbers}", f"--output_dir={output}")
    assert [row.query_id for row in rows_of(output)] == ["0", "1", "0/4", "1/5"]
    assert [source["source"] for source in report_of(output)["sources"]] == [str(first), str(second)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format=none"], "--format: expected one of tabom, d3llm, step_map, prophet, got none"),
        (
            ["--format=dmax"],
            "--format dmax: expected trajectories, got questions and answers without tokens or steps, ",
        ),
        (["--format=step_map"], "--first_step: expected 0 (dLLM-RL's LLaDA and Dream) or 1 (SDAR, T3D, tabom trajec"),
        (["--format=step_map", "--first_step=2"], "--first_step: expected 0 (dLLM-RL's LLaDA and Dream) or 1 (SDA"),
        (["--first_step=1"], "--first_step: expected nothing with --format tabom, which ignores it, got 1"),
        (["--format=prophet"], "--prompts: expected a file with the prompt of each question, as the files have none"),
        (["--format=d3llm", "--prompts=x"], "--prompts: expected nothing with --format d3llm, which ignores it, got x"),
        (["--format=d3llm", "--method", "entropy"], "--method: expected nothing with --format d3llm, which ignores it"),
        (["--response_length=0"], "response_length: expected at least 1, got 0"),
        (["--format=prophet", "--prompts=none.jsonl"], "none.jsonl: expected a file that can be read ("),
        (["--format=d3llm"], "{file}: expected at least one usable row, found none among 2; 2 x no prompt, such as "),
    ],
    ids=str,
)
def test_what_cannot_be_imported(tmp_path, capsys, options, message):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n')
    output = tmp_path / "out"
    found = failure(capsys, "import", file, f"--output_dir={output}", "--tokenizer=characters", *options)
    assert found.startswith(message.format(file=file))
    assert not output.exists()


def test_a_file_of_prompts_without_a_prompt(examples, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    words = (
        examples / "prophet",
        "--format=prophet",
        f"--prompts={path}",
        "--tokenizer=characters",
        "--output_dir=out",
    )
    assert failure(capsys, "import", *words) == f"{path}:2: expected text in prompt or question, found text"


class TestExport:
    def test_there_and_back(self, make_trajectories, tmp_path, capsys):
        """What the format holds comes back as it was: also positions that nothing revealed, and two samples a query."""
        steps = [[*range(9), 2, 2, 0, *[-1] * 7], [0] * 19]
        source = make_trajectories(unmask_step=steps * 12, num_samples=2)
        file, back = tmp_path / "step_map.json", tmp_path / "back"
        run("export", source, "--output", file, "--tokenizer=characters")
        assert capsys.readouterr().out == f"{file}: 24 of 24 trajectories; the first step is 1, and 0 is never\n"
        assert json.loads(file.read_text())[0]["step_map"][:12] == [*range(1, 10), 3, 3, 1]
        words = ("--format=step_map", "--first_step=1", "--tokenizer=characters", f"--output_dir={back}")
        run("import", file, *words)
        for before, after in zip(rows_of(source), rows_of(back), strict=True):
            for key in ("query_id", "sample", "is_verified", "prompt_ids", "response_ids", "unmask_step", "prompt"):
                assert getattr(after, key) == getattr(before, key), key
            assert np.isnan(after.unmask_entropy).all()
        again = tmp_path / "again.json"
        run("export", back, "--output", again, "--tokenizer=characters")
        keys = ("prompt", "response", "step_map", "reward", "question", "query_id")
        first, second = (
            [{key: row[key] for key in keys} for row in json.loads(path.read_text())] for path in (file, again)
        )
        assert first == second

    def test_rows_whose_texts_are_other_tokens_are_left_out(self, tmp_path, capsys):
        """A tokenizer that joins two letters: the model wrote them apart, which a text cannot tell."""
        backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<m>": 3, "<e>": 4}, [("a", "b")]))
        backend.decoder = decoders.Fuse()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, mask_token="<m>", eos_token="<e>", pad_token="<e>"
        )
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        rows = [
            {"prompt": name, "response_token_ids": ids, "decoding_order": [0, 1, 2]}
            for name, ids in (("a", [2, 2, 4]), ("b", [0, 1, 4]), ("ab", [1, 0, 4]))
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        source, file = tmp_path / "source", tmp_path / "step_map.json"
        run(
            "import",
            tmp_path / "rows.jsonl",
            f"--tokenizer={tmp_path}/tokenizer",
            f"--output_dir={source}",
            "--no_chat_template",
        )
        capsys.readouterr()
        run("export", source, "--output", file, f"--tokenizer={tmp_path}/tokenizer")
        assert [row["prompt"] for row in json.loads(file.read_text())] == ["a", "ab"]
        name = rows_of(source)[1].query_id
        assert capsys.readouterr().out.splitlines()[1] == (
            "1 rows are left out, as their texts do not give their tokens again; the first: shard-00000.parquet, row 1 "
            f"({name}, sample 0)"
        )

    def test_bad_input(self, make_trajectories, tokenizer, numbers, tmp_path, capsys):
        source, file = make_trajectories(), tmp_path / "out.json"
        words = (source, "--output", file)
        assert failure(capsys, "export", *words, "--tokenizer=characters", "--format=d3llm") == (
            "--format: expected step_map, got d3llm"
        )
        assert failure(capsys, "export", *words, f"--tokenizer={numbers}").startswith(
            f"{source}: expected the tokenizer {tokenizer_fingerprint(tokenizer)[:12]}, got {numbers}"
        )
        file.write_text("kept")
        assert failure(capsys, "export", *words, "--tokenizer=characters") == (
            f"{file}: expected a new file, found one; give another --output or move it away"
        )
        assert file.read_text() == "kept"


def without_entropies(directory, **options):
    """Imported trajectories of the tokenizer of characters: six steps, two of them with two tokens."""
    rows = [
        {
            "prompt": f"{'x' * number}?",
            "response_token_ids": [9 + number, 40, 41, 42, 43, 44, 2, 2],
            "decoding_order": order,
        }
        for number, order in enumerate(
            [[5, 4, 3, 2, 1, 0, 0, -1], [0, 0, 1, 1, 2, 3, 4, 4], [0] * 8, [*range(8)], [1] * 8]
        )
    ]
    path = directory / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    output = directory / "imported"
    words = (f"--output_dir={output}", "--tokenizer=characters", "--no_chat_template", "--rows_per_shard=2")
    run("import", path, *words)
    return output


def annotate(source, output, checkpoint, *options):
    run("annotate", source, f"--output_dir={output}", f"--backbone={checkpoint}", *options)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class TestAnnotate:
    def test_entropies_and_nothing_else_change(self, tmp_path, checkpoint, capsys):
        source, output = without_entropies(tmp_path), tmp_path / "annotated"
        before = files(source)
        capsys.readouterr()
        annotate(source, output, checkpoint)
        assert files(source) == before
        assert capsys.readouterr().out == f"{output}: 5 trajectories with the entropies of {checkpoint}\n"
        for old, new in zip(rows_of(source), rows_of(output), strict=True):
            assert np.isnan(old.unmask_entropy).all()
            assert [np.isnan(value) for value in new.unmask_entropy] == [step == -1 for step in new.unmask_step]
            assert len({*new.unmask_entropy}) > 4
            assert {**vars(old), "unmask_entropy": 0} == {**vars(new), "unmask_entropy": 0}
        old, new = Manifest.load(source), Manifest.load(output)
        annotated = new.origin.settings["annotated"]
        assert new.origin.settings == old.origin.settings | {"annotated": annotated}
        assert annotated["batch_size"] == 32
        assert (len(annotated["model_fingerprint"]), len(annotated["manifest_sha256"])) == (64, 64)
        assert [vars(shard) | {"sha256": 0} for shard in new.shards] == [
            vars(shard) | {"sha256": 0} for shard in old.shards
        ]
        run("check", output)

    def test_a_configured_backbone_and_another_batch_size_give_the_same(self, tmp_path, checkpoint):
        source = without_entropies(tmp_path)
        annotate(source, tmp_path / "one", checkpoint, "--batch_size=1")
        (tmp_path / "backbone.yaml").write_text(f"class_path: PretrainedBackbone\ninit_args:\n  path: {checkpoint}\n")
        annotate(source, tmp_path / "seven", tmp_path / "backbone.yaml", "--batch_size=7")
        for one, seven in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "seven"), strict=True):
            np.testing.assert_allclose(one.unmask_entropy, seven.unmask_entropy, rtol=0, atol=2e-6)
            assert {**vars(one), "unmask_entropy": 0} == {**vars(seven), "unmask_entropy": 0}

    def test_it_goes_on_after_the_last_whole_shard(self, tmp_path, checkpoint, monkeypatch):
        source = without_entropies(tmp_path)
        annotate(source, tmp_path / "whole", checkpoint)
        write, written = TrajectoryStore.write, []

        def fails(self, index, *arguments, **options):
            written.append(index)
            if len(written) == 2:
                raise RuntimeError("power cut")
            return write(self, index, *arguments, **options)

        monkeypatch.setattr(TrajectoryStore, "write", fails)
        with pytest.raises(RuntimeError, match="power cut"):
            annotate(source, tmp_path / "parts", checkpoint)
        annotate(source, tmp_path / "parts", checkpoint)
        assert written == [0, 1, 1, 2]
        assert files(tmp_path / "parts") == files(tmp_path / "whole")

    def test_another_mask_token_than_the_familys(self, tmp_path, capsys):
        """Said at the import, where the manifest keeps it, and in the backbone's YAML file."""
        model = tmp_path / "model"
        family_checkpoint(model, A2DQwen3Backbone, a2d_config(**a2d_tokenizer_files(model)))
        rows = [{"prompt": "a", "response_token_ids": [9, 40, 41, 42], "decoding_order": [3, 2, 1, 0]}]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        options = (f"--output_dir={tmp_path}/imported", f"--tokenizer={model}", "--mask_token=<|im_start|>")
        run("import", tmp_path / "rows.jsonl", *options, "--no_chat_template")
        assert Manifest.load(tmp_path / "imported").origin.mask_token_id == 257

        def backbone(mask_token):
            content = {"class_path": "PretrainedBackbone", "init_args": {"path": str(model), "mask_token": mask_token}}
            (tmp_path / "backbone.yaml").write_text(json.dumps(content))
            return tmp_path / "backbone.yaml"

        annotate(tmp_path / "imported", tmp_path / "annotated", backbone("<|im_start|>"))
        (row,) = rows_of(tmp_path / "annotated")
        assert np.isfinite(row.unmask_entropy).all()
        words = (f"--output_dir={tmp_path}/other", f"--backbone={backbone('<|mask|>')}")
        assert "expected the tokenizer" in failure(capsys, "annotate", tmp_path / "imported", *words)

    def test_bad_input(self, tmp_path, checkpoint, numbers, capsys):
        source = without_entropies(tmp_path)
        before = files(source)
        for output in (source, source / "annotated", tmp_path / "other/../imported"):
            assert failure(capsys, "annotate", source, f"--output_dir={output}", f"--backbone={checkpoint}") == (
                f"--output_dir: expected a directory outside of that of the trajectories, got {output}"
            )
        link = tmp_path / "link"
        link.symlink_to(source)
        words = ("annotate", link, f"--output_dir={source}", f"--backbone={checkpoint}")
        assert failure(capsys, *words).startswith("--output_dir: expected a directory outside of that of the trajecto")
        words = ("annotate", source, f"--output_dir={tmp_path / 'out'}")
        assert failure(capsys, *words, f"--backbone={checkpoint}", "--batch_size=0") == (
            "batch_size: expected at least 1, got 0"
        )
        assert failure(capsys, *words, f"--backbone={checkpoint}", f"--tokenizer={numbers}").startswith(
            f"{source}: expected the tokenizer "
        )
        assert failure(capsys, *words, f"--backbone={checkpoint}", "--device=none").startswith(
            "--device: expected cpu, or a GPU that is there, got none ("
        )
        (tmp_path / "wrong.yaml").write_text("class_path: Sudoku4x4\n")
        assert failure(capsys, *words, f"--backbone={tmp_path}/wrong.yaml", "--tokenizer=characters").startswith(
            f"{tmp_path}/wrong.yaml: expected a backbone as model.backbone takes it ("
        )
        assert not (tmp_path / "out").exists()
        assert files(source) == before

    def test_other_settings_are_refused(self, tmp_path, checkpoint, capsys):
        source, output = without_entropies(tmp_path), tmp_path / "out"
        annotate(source, output, checkpoint)
        words = ("annotate", source, f"--output_dir={output}", f"--backbone={checkpoint}", "--batch_size=3")
        assert failure(capsys, *words).startswith(
            f"{output}: expected settings.annotated.batch_size 32, of the trajectories that are there, got 3; "
        )


def test_training_with_and_without_entropies(stage, tmp_path, checkpoint, tokenizer):
    """Imported trajectories train as they are; an objective that needs entropies says how to get them."""
    source = write_trajectories(tmp_path / "own", tokenizer)
    run("export", source, f"--output={tmp_path}/map.json", "--tokenizer=characters")
    words = ("--format=step_map", "--first_step=1", "--tokenizer=characters", f"--output_dir={tmp_path}/imported")
    run("import", tmp_path / "map.json", *words)
    options = ["--model.validation=null", "--trainer.max_steps=1", "--trainer.callbacks=null"]
    recorded = ["--model.objective.ranking.min_gap=0.1", "--model.objective.ranking.target=recorded"]
    cli = stage("fit", "tabom", *options, "--data.path=imported")
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    with pytest.raises(TabomError) as error:
        stage("fit", "tabom", *options, *recorded, "--data.path=imported")
    assert str(error.value) == (
        "imported: expected entropies recorded at unmasking, which model.objective.ranking.target recorded needs, "
        "found none in 24 of 24 rows; tabom trajectories annotate adds them"
    )
    annotate(tmp_path / "imported", tmp_path / "annotated", checkpoint)
    cli = stage("fit", "tabom", *options, *recorded, "--data.path=annotated")
    assert cli.trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, checkpoint, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_trajectories(tmp_path / "own", tokenizer, num_rows=24)
    words = ["trajectories", "annotate", str(source), f"--backbone={checkpoint}", "--batch_size=1", "--device=cpu"]
    jobs = [{"words": [[*words, "--output_dir=whole"]], "num_kills": 0, "seconds": 1.0, "seed": 0}]
    jobs += [
        {"words": [[*words, f"--output_dir=killed{seed}"]] * 2, "num_kills": 4, "seconds": 2.0, "seed": seed}
        for seed in range(3)
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parents[1] / "modules/many_runs.py"
    done = subprocess.run([sys.executable, script, "jobs.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[0], [0, 0], [0, 0], [0, 0]]
    for seed in range(3):
        assert files(tmp_path / f"killed{seed}") == files(tmp_path / "whole")
