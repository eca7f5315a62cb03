"""The import of released trajectories, from the command line to what training reads."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tabom.cli.main import main
from tabom.cli.verbs import trajectory_import
from tabom.data import TrajectoryDataModule
from tabom.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from tabom.tasks import Sudoku4x4
from tabom.trajectories import Manifest, read_rows, read_trajectories

LENGTH = 6
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"


@pytest.fixture
def released(tmp_path, tokenizer):
    """Write a file of rows whose answers are texts; the order is from right to left unless it is given."""

    def write(*rows, name="released.jsonl"):
        path = tmp_path / name
        with path.open("w") as file:
            for row in rows:
                if isinstance(row, str):
                    file.write(row + "\n")
                    continue
                ids = tokenizer(row.pop("text"))["input_ids"]
                ids += [tokenizer.eos_token_id] * (LENGTH - len(ids))
                order = list(range(LENGTH, 0, -1))
                file.write(json.dumps({"response_token_ids": ids, "decoding_order": order, **row}) + "\n")
        return path

    return write


@pytest.fixture
def output_dir(tmp_path):
    return tmp_path / "trajectories"


@pytest.fixture
def chatting(tmp_path):
    """A tokenizer with a chat template, saved under its name_or_path."""
    tokenizer = load_tokenizer("characters")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return load_tokenizer(str(tmp_path / "tokenizer"))


def run(path, output_dir, *options, tokenizer="characters", chat="--no_chat_template"):
    main(
        ["trajectories", "import", str(path), f"--output_dir={output_dir}", f"--tokenizer={tokenizer}", chat, *options]
    )


def table_of(output_dir, tokenizer):
    fingerprint = tokenizer_fingerprint(tokenizer)
    return read_trajectories(output_dir, tokenizer_fingerprint=fingerprint, response_length=LENGTH)


def failure(capsys, *arguments, **options):
    with pytest.raises(SystemExit) as error:
        run(*arguments, **options)
    assert error.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tabom: error: ")]
    return line.removeprefix("tabom: error: ")


def test_what_is_imported_is_read(released, output_dir, tokenizer):
    path = released(
        {"prompt": "one?", "text": "1", "id": "first", "response": "uno", "decoding_order": [3, -1, 9, 9, 1, 5]},
        {"question": "two?", "text": "2 two", "id": "second", "correct": False},
    )
    run(path, output_dir)
    table = table_of(output_dir, tokenizer)
    assert table.query_ids == ["first", "second"]
    assert table.is_verified.tolist() == [True, False]
    assert [tokenizer.decode(ids) for ids in table.prompt_ids] == ["one?", "two?"]
    assert [tokenizer.decode(ids.tolist()) for ids in table.response_ids] == ["1" + "<eos>" * 5, "2 two<eos>"]
    assert table.unmask_step.tolist() == [[1, -1, 3, 3, 0, 2], [5, 4, 3, 2, 1, 0]]
    assert np.isnan(table.unmask_entropy).all()
    assert table.references == ["uno", ""]


def test_a_conversation_is_left_out_and_counted(released, output_dir, tokenizer):
    """In one array, as an editor saves it."""
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant")]
    parts = [turns[3:], turns, turns[:3]]
    path = released(*({"messages": part, "text": str(number)} for number, part in enumerate(parts)))
    path.write_bytes(b"\xef\xbb\xbf[" + path.read_bytes().strip().replace(b"\n", b",\r\n") + b"]")
    run(path, output_dir)
    table = table_of(output_dir, tokenizer)
    assert [tokenizer.decode(ids) for ids in table.prompt_ids] == ["user"]
    assert table.references == ["assistant"]
    report = json.loads((output_dir / "import_report.json").read_text())
    assert (report["num_rows"], report["num_kept"]) == (3, 1)
    assert report["num_rejected"] == {"messages are more than a question and an answer": 2}
    assert [row["place"] for row in report["rejected_rows"]] == [f"{path}:{line}" for line in (2, 3)]


@pytest.mark.parametrize(("chat", "response"), [("--no_chat_template", "1<pad>2"), ("--chat_template", "12")])
def test_the_response_is_the_text_up_to_the_end(released, output_dir, chatting, chat, response):
    eos, pad, one, two = chatting.convert_tokens_to_ids(["<eos>", "<pad>", "1", "2"])
    row = {"prompt": "one?", "text": "", "response_token_ids": [one, pad, two, eos, one, eos]}
    run(released(row), output_dir, tokenizer=chatting.name_or_path, chat=chat)
    table = pq.read_table(output_dir / "shard-00000.parquet")
    assert table["response"].to_pylist() == [response]
    assert table["prompt"].to_pylist() == ["one?"]


def test_the_manifest_says_where_they_come_from(released, output_dir, tokenizer):
    path = released({"prompt": "one?", "text": "1"})
    run(path, output_dir)
    manifest = Manifest.load(output_dir)
    assert manifest.origin.settings == {
        "imported_from": [{"source": "released.jsonl", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "format": "tabom",
    }
    origin = manifest.origin
    assert (origin.model_fingerprint, origin.query_fingerprint, origin.num_shards) == ("unknown (imported)", "", 1)
    assert (origin.response_length, origin.mask_token_id) == (LENGTH, tokenizer.mask_token_id)


def test_shards_hold_so_many_rows(released, output_dir, tokenizer):
    path = released(*({"prompt": f"{i}?", "text": str(i), "id": f"{i}"} for i in range(7)))
    run(path, output_dir, "--rows_per_shard=3")
    shards = Manifest.load(output_dir).shards
    assert [(shard.file, shard.num_rows) for shard in shards] == [
        ("shard-00000.parquet", 3),
        ("shard-00001.parquet", 3),
        ("shard-00002.parquet", 1),
    ]
    assert table_of(output_dir, tokenizer).query_ids == [str(i) for i in range(7)]
    assert len(list(output_dir.iterdir())) == 5


def test_the_manifest_counts(released, output_dir):
    rows = [("a", "12", True), ("b", "345", False), ("c", "6", False), ("d", "7", True)]
    path = released(*({"prompt": prompt, "text": text, "correct": verdict} for prompt, text, verdict in rows))
    run(path, output_dir, "--rows_per_shard=2")
    shards = Manifest.load(output_dir).shards
    assert [(shard.num_queries, shard.num_verified, shard.num_tokens) for shard in shards] == [(2, 1, 7), (2, 1, 4)]
    assert [shard.rejected for shard in shards] == [{"not correct, as the file says": 1}] * 2


def test_a_response_with_a_mask_token_is_left_out(released, output_dir, tokenizer):
    masked = [5, 5, tokenizer.mask_token_id, 2, 2, 2]
    path = released({"prompt": "a", "text": "", "response_token_ids": masked}, {"prompt": "b", "text": "1", "id": "b"})
    run(path, output_dir)
    assert table_of(output_dir, tokenizer).query_ids == ["b"]
    (line,) = json.loads((output_dir / "import_report.json").read_text())["rejected_rows"]
    assert line == {"place": f"{path}:1", "reason": "mask token in the response", "detail": "got 1 at position 2"}


def test_prompts_stand_in_the_chat_template(released, output_dir, chatting):
    run(released({"prompt": "one?", "text": "1"}), output_dir, tokenizer=chatting.name_or_path, chat="--chat_template")
    assert chatting.decode(table_of(output_dir, chatting).prompt_ids[0]) == "<user>one?<bot>"


def test_decodings_of_one_question_are_samples_of_one_query(released, output_dir):
    """And a reference that is the row's own decoded text is none."""
    path = released(
        {"prompt": "a", "text": "1", "response": "1"},
        {"prompt": "b", "text": "2", "response": "4"},
        {"prompt": "a", "text": "3", "response": " 3"},
        {"prompt": "a", "text": "5", "response": "1"},
    )
    run(path, output_dir)
    rows = read_rows(output_dir, range(4)).values()
    assert [row.sample for row in rows] == [0, 0, 1, 2]
    assert len({row.query_id for row in rows}) == 2
    assert [row.reference for row in rows] == ["", "4", "", "1"]
    report = json.loads((output_dir / "import_report.json").read_text())
    assert (report["num_prompts"], report["num_without_reference"]) == (2, 2)


def test_the_report_counts_and_names_lines(released, output_dir, capsys):
    path = released(
        {"prompt": "a", "text": "1", "method": "entropy", "non_ltr_positions": [1, 2, 3, 4, 5]},
        "{",
        {"prompt": "b", "text": "2", "method": "entropy", "non_ltr_positions": [2, 3]},
        {"text": "3", "method": "entropy"},
        {"prompt": "d", "text": "4", "method": "credit"},
        "",
        {"prompt": "e", "text": "5", "method": "default"},
        {"prompt": "é", "text": "6", "method": "entropy"},
        {
            "prompt": "g",
            "text": "7",
            "method": "entropy",
            "decoding_order": [1, 2, 3, 4, 4, 5],
            "non_ltr_positions": [],
        },
        {"prompt": "h", "text": "8", "method": "entropy"},
    )
    run(path, output_dir, "--method", "entropy")
    report = json.loads((output_dir / "import_report.json").read_text())
    lines = report.pop("rejected_rows")
    assert report == {
        "format": "tabom",
        "sources": [{"source": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "num_rows": 9,
        "num_kept": 4,
        "num_prompts": 4,
        "num_without_reference": 4,
        "num_rejected": {
            "method not asked for": 2,
            "no JSON object": 1,
            "no prompt": 1,
            "prompt cannot be encoded": 1,
        },
        "non_ltr_positions": {"num_listed": 3, "num_agreeing": 2},
        "block_length": None,
    }
    assert [(int(line["place"].rpartition(":")[2]), line["reason"]) for line in lines] == [
        (2, "no JSON object"),
        (4, "no prompt"),
        (5, "method not asked for"),
        (7, "method not asked for"),
        (8, "prompt cannot be encoded"),
    ]
    assert lines[2]["detail"] == "got 'credit'"
    cells = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["read", "9", ""],
        ["kept", "4", ""],
        ["... of these, with a prompt of their own", "4", ""],
        ["... of these, without a reference answer", "4", ""],
        ["... of these, with non_ltr_positions", "3", ""],
        ["... of these, as they follow from the order", "2", ""],
        ["method not asked for", "2", "released.jsonl:5"],
        ["no JSON object", "1", "released.jsonl:2"],
        ["no prompt", "1", "released.jsonl:4"],
        ["prompt cannot be encoded", "1", "released.jsonl:8"],
    ]


def test_several_methods(released, output_dir, tokenizer):
    names = ("entropy", "default", "credit")
    path = released(*({"prompt": name, "text": "1", "method": name, "id": name} for name in names))
    run(path, output_dir, "--method", "credit", "entropy")
    assert table_of(output_dir, tokenizer).query_ids == ["entropy", "credit"]


@pytest.mark.parametrize(("options", "block_length"), [((), None), (("--block_length=4",), 4)])
def test_the_blocks_in_which_it_was_decoded(released, output_dir, capsys, options, block_length):
    run(released({"prompt": "a", "text": "1"}), output_dir, *options)
    assert Manifest.load(output_dir).origin.block_length == block_length
    assert json.loads((output_dir / "import_report.json").read_text())["block_length"] == block_length
    assert ("--block_length is not given" in capsys.readouterr().out) == (block_length is None)


def test_a_block_of_no_tokens(released, output_dir, capsys):
    path = released({"prompt": "a", "text": "1"})
    assert failure(capsys, path, output_dir, "--block_length=0") == "block_length: expected at least 1, got 0"
    assert not output_dir.exists()


def test_nothing_usable(released, output_dir, capsys):
    path = released("{}", {"prompt": "a", "text": "1"}, {"prompt": "b", "text": "2"})
    assert failure(capsys, path, output_dir, chat="--chat_template") == (
        f"{path}: expected at least one usable row, found none among 3; 2 x prompt cannot be encoded, such as "
        f"{path}:2: chat_template: expected a tokenizer that has one, got one without"
    )
    assert not output_dir.exists()
    empty = released("", name="empty.jsonl")
    assert failure(capsys, empty, output_dir) == f"{empty}: expected at least one usable row, found none among 0"


def test_no_file(output_dir, tmp_path, capsys):
    path = tmp_path / "none.jsonl"
    assert failure(capsys, path, output_dir) == (
        f"{path}: expected a file of trajectories, a folder of them or a data set of the hub, found no such file"
    )
    assert failure(capsys, tmp_path, output_dir).startswith(
        f"{tmp_path}: expected a file, a data set of the hub or a directory in its layout (No (supported) data files"
    )


def test_nothing_is_written_over(released, output_dir, capsys):
    path = released({"prompt": "a", "text": "1"})
    run(path, output_dir)
    before = {file.name: file.read_bytes() for file in output_dir.iterdir()}
    assert failure(capsys, path, output_dir) == (
        f"{output_dir}: expected no trajectories yet, found 2 files such as manifest.json; "
        "give another output_dir or move them away"
    )
    assert {file.name: file.read_bytes() for file in output_dir.iterdir()} == before


def test_an_import_that_fails_leaves_nothing_behind(released, output_dir, monkeypatch):
    path = released({"prompt": "a", "text": "1"}, {"prompt": "b", "text": "2"})
    write_chunk, calls = trajectory_import._write_chunk, []

    def fails(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return write_chunk(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trajectory_import, "_write_chunk", fails)
        with pytest.raises(RuntimeError, match="power cut"):
            run(path, output_dir, "--rows_per_shard=1")
    assert not output_dir.exists()
    (output_dir / "new.partial").mkdir(parents=True)  # of one that was killed
    (output_dir / "new.partial/shard-00007.parquet").write_bytes(b"half")
    run(path, output_dir, "--rows_per_shard=1")
    assert "new.partial" not in {path.name for path in output_dir.iterdir()}


def test_a_shard_of_no_rows(released, output_dir, capsys):
    path = released({"prompt": "a", "text": "1"})
    assert failure(capsys, path, output_dir, "--rows_per_shard=0") == "rows_per_shard: expected at least 1, got 0"


def test_training_reads_them(released, output_dir):
    path = released(*({"prompt": f"{i}?", "text": str(i), "decoding_order": [2, 2, 4, -1, 3, 9]} for i in range(4)))
    run(path, output_dir)
    data = TrajectoryDataModule(
        path=str(output_dir),
        task=Sudoku4x4(),
        base_domains={"sudoku": Sudoku4x4()},
        tokenizer="characters",
        response_length=LENGTH,
        batch_size=4,
        held_out=0.0,
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.unmask_step.tolist() == [[-1, -1, 0, 0, 2, -1, 1, 3]] * 4
    assert batch.unmask_entropy.isnan().all()


@pytest.mark.parametrize("action", ["import", "annotate", "export", "check", "stats", "show"])
def test_help_loads_nothing_heavy(action):
    code = (
        "import sys\nfrom tabom.cli.main import main\n"
        f"try:\n    main(['trajectories', '{action}', '--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'datasets', 'transformers', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=900)
