"""Rows in the formats of others: recorded examples with what they say, and rows that contradict themselves."""

import json
import re
import shutil

import pytest
import torch

from tabom.errors import TabomError
from tabom.trajectories.formats import Codec, ImportedRow, ImportRequest, Rejection, source_rows, usable_rows
from tabom.trajectories.formats.sources import checksum

MASK, EOS = 126336, 126081


def ids_of(text, query_id=""):
    if "?" in text:
        raise TabomError(f"{query_id}: expected text that the tokenizer knows")
    return [int(number) for number in re.findall(r"<(\d+)>", text)]


CODEC = Codec(126464, MASK, EOS, encode_prompt=lambda text, _: [1, *ids_of(text), 2], encode_text=ids_of)


@pytest.fixture
def examples(golden_v2):
    return golden_v2 / "trajectory_formats"


def expected(path):
    return json.loads((path / "expected.json").read_text())


def parsed(name, *sources, **options):
    """Decodings of all rows."""
    parse = ImportRequest([], "", format=name, **options).parser(MASK)
    return [decoding for source in sources for _, row, _ in source_rows(str(source)) for decoding in parse(row)]


def judged(name, *rows, response_length=None, **options):
    parse = ImportRequest([], "", format=name, **options).parser(MASK)
    found = ((f"file:{line}", row) for line, row in enumerate(rows, 1))
    return list(usable_rows(found, parse, CODEC, response_length=response_length))


def refused(name, row, **options):
    """Reason and detail."""
    (rejection,) = judged(name, row, **options)
    assert isinstance(rejection, Rejection)
    assert rejection.place == "file:1"
    return rejection.reason, rejection.detail


@pytest.mark.parametrize("model", ["llada", "dream"])
@pytest.mark.parametrize("source", ["trajectory_part_0.json", "trajectory_dataset", "rows.parquet", "hub"])
def test_d3llm(examples, tmp_path, model, source):
    """As files of JSON, as ``save_to_disk`` and ``to_parquet`` of datasets write it, and in the layout of the hub."""
    import datasets

    folder = examples / f"d3llm_{model}"
    path = folder / source
    if not path.exists():
        path = tmp_path / source
        data = datasets.load_from_disk(str(folder / "trajectory_dataset"))
        data.to_parquet(path / "data/train-00000-of-00001.parquet" if source == "hub" else path)
    found = parsed("d3llm", path)
    wanted = expected(folder)
    for key, values in {
        "prompt_ids": [one.prompt_ids for one in found],
        "response_ids": [one.response for one in found],
        "unmask_step": [one.order for one in found],
        "kept_by_is_correct": [one.is_verified for one in found],
    }.items():
        assert values == [row[key] for row in wanted], key
    assert [(one.prompt, one.reference, one.query_id) for one in found] == [
        (f"question {number}", str(number), str(number)) for number in range(3)
    ]


@pytest.mark.parametrize(
    ("file", "first_step"),
    [
        ("outputs-llada_dream.json", 0),
        ("optimization-llada_dream.json", 0),
        ("outputs-sdar_jetengine.json", 1),
        ("optimization-sdar_jetengine.json", 1),
        ("t3d-train.json", 1),
    ],
)
def test_step_map(examples, file, first_step):
    folder = examples / "step_map"
    found, wanted = parsed("step_map", folder / file, first_step=first_step), expected(folder)
    assert [ids_of(one.response) for one in found] == [row["response_ids"] for row in wanted]
    steps = [
        [0 if first_step == 0 and unknown else step for step, unknown in zip(*parts, strict=True)]
        for parts in ((row["unmask_step"], row["ambiguous_zero"]) for row in wanted)
    ]
    assert [one.order for one in found] == steps
    prompts = [one.prompt if file.startswith("t3d") else one.model_prompt for one in found]
    assert [ids_of(prompt) for prompt in prompts] == [row["prompt_ids"] for row in wanted]
    assert [one.is_verified for one in found] == ([True, False, True] if "optimization" in file else [True] * 3)


def prompts_file(path, prompts):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


def test_prophet(examples, tmp_path):
    folder = examples / "prophet"
    prompts = prompts_file(tmp_path / "prompts.jsonl", ["first", "second", "third"])
    found, wanted = parsed("prophet", folder, prompts=prompts), expected(folder)
    for key, values in {
        "prompt_token_len": [one.num_prompt_tokens for one in found],
        "response_ids": [one.response for one in found],
        "unmask_step": [one.order for one in found],
    }.items():
        assert values == [row[key] for row in wanted], key
    assert [(one.prompt, one.is_verified, one.reference) for one in found] == [
        ("first", True, "0"),
        ("second", False, "1"),
        ("third", True, "2"),
    ]


def test_dmax_holds_no_trajectories(examples):
    with pytest.raises(TabomError, match=r"^--format dmax: expected trajectories, got questions and answers without"):
        ImportRequest([], "", format="dmax").check()
    for file in ("built_train.jsonl", "dataset_rows.jsonl"):
        for name, options in {"tabom": {}, "d3llm": {}, "step_map": {"first_step": 1}}.items():
            rows = [row for _, row, _ in source_rows(str(examples / "dmax" / file))]
            assert {type(one) for one in judged(name, *rows, **options)} == {Rejection}


D3LLM = {
    "idx": 7,
    "question": "q",
    "prompt_ids": [5, 6],
    "trajectory": [[5, 6, MASK, 8], [5, 6, 7, 8]],
    "final_output": [5, 6, 7, 8],
    "gt_answer": "4",
    "is_correct": False,
}


def test_a_row_of_d3llm():
    (row,) = judged("d3llm", D3LLM)
    assert row == ImportedRow("file:1", "7", 0, False, "q", [5, 6], "4", [7, 8], [1, 0], None)


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"question": None}, "no prompt", "expected text in question"),
        ({"question": ["q"]}, "question is no text", "expected text or a number, got list"),
        ({"prompt_ids": None}, "prompt_ids is no list of integers", "got nothing"),
        (
            {"prompt_ids": [], "trajectory": [[5, 6]], "final_output": [5, 6]},
            "no prompt",
            "expected at least one token",
        ),
        ({"final_output": "5 6 7 8"}, "final_output is no list of integers", "got str"),
        ({"trajectory": []}, "trajectory is no list of integers", "got nothing"),
        ({"trajectory": [5, 6]}, "canvas of trajectory is no list of integers", "got int"),
        (
            {"trajectory": [[5, 6, 7], [5, 6, 7, 8]]},
            "canvas of another length than final_output",
            "expected 4 tokens, got 3",
        ),
        (
            {"trajectory": [[5, 9, 7, 8], [5, 6, 7, 8]]},
            "canvas that does not begin with prompt_ids",
            "expected [5, 6 ..., got [5, 9, 7, 8 ...",
        ),
        ({"prompt_ids": [5, 6, 7, 8]}, "no response", "got 4 tokens, all of the prompt"),
        ({"final_output": [5, 6, 7, 9]}, "final_output is not the last canvas", "expected the same tokens in both"),
        (
            {"trajectory": [[5, 6, 9, 8], [5, 6, MASK, 8], [5, 6, 7, 8]]},
            "position revealed more than once",
            f"position 0 of the response became {MASK} in canvas 1, from 9",
        ),
        (
            {"trajectory": [[5, 6, MASK, 9], [5, 6, 7, 8]]},
            "position revealed more than once",
            "position 1 of the response became 8 in canvas 1, from 9",
        ),
        (
            {"trajectory": [[5, 6, MASK, MASK]], "final_output": [5, 6, MASK, MASK]},
            "no position decoded",
            "every step is -1",
        ),
        (
            {"trajectory": [[5, 6, MASK, 8]], "final_output": [5, 6, MASK, 8]},
            "mask token in the response",
            f"got {MASK} at position 0",
        ),
        (
            {"prompt_ids": [MASK], "trajectory": [[MASK, 8]], "final_output": [MASK, 8]},
            "mask token in the prompt",
            f"got {MASK} at position 0",
        ),
        (
            {"trajectory": [[5, 6, 7, 126464]], "final_output": [5, 6, 7, 126464]},
            "token outside the tokenizer",
            "expected ids from 0 to 126463, got [126464]",
        ),
        ({"is_correct": "yes"}, "is_correct is neither true nor false", "got 'yes'"),
    ],
    ids=str,
)
def test_a_row_of_d3llm_that_is_left_out(changes, reason, detail):
    assert refused("d3llm", {**D3LLM, **changes}) == (reason, detail)


FLAT = {"prompt": "<5><6>", "response": "<7><8>", "step_map": [2, 1], "reward": 1.0}
SAMPLES = {
    "question": "q",
    "prompt": "<5><6>",
    "full_output": ["<7><8>", "<7><9>"],
    "step_map": [[2, 1], [1, 1]],
    "extracted_output": ["4", "5"],
    "ground_truth_answer": " 4",
}


def test_rows_of_step_map():
    rows = judged(
        "step_map", SAMPLES, FLAT, {"question": "<5>", "answer": "<7><8>", "step_map": [[1, 2]]}, first_step=1
    )
    assert [(row.prompt, row.prompt_ids, row.response_ids, row.decoding_order) for row in rows] == [
        ("q", [5, 6], [7, 8], [1, 0]),
        ("q", [5, 6], [7, 9], [0, 0]),
        ("<5><6>", [5, 6], [7, 8], [1, 0]),
        ("<5>", [1, 5, 2], [7, 8], [0, 1]),
    ]
    assert [(row.is_verified, row.sample, row.reference) for row in rows] == [
        (True, 0, " 4"),
        (False, 1, " 4"),
        (True, 0, ""),
        (True, 0, ""),
    ]
    assert rows[0].query_id == rows[1].query_id


@pytest.mark.parametrize(
    ("changes", "is_verified"),
    [
        ({"correctness": [False, True]}, [False, True]),
        ({"reward": -0.1}, [False, False]),
        ({"reward": 0.1, "correctness": [False, False]}, [True, True]),
        ({"ground_truth_answer": ""}, [True, True]),
    ],
    ids=str,
)
def test_verdicts_of_step_map(changes, is_verified):
    assert [row.is_verified for row in judged("step_map", {**SAMPLES, **changes}, first_step=1)] == is_verified


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (
            {"text": "a", "steps": [1]},
            "keys of no known layout",
            "expected step_map with response or others, got text, steps",
        ),
        ({**FLAT, "prompt": " "}, "no prompt", "expected text in prompt"),
        ({**FLAT, "prompt": "?"}, "prompt cannot be encoded", None),
        ({**FLAT, "response": "<7>?"}, "response cannot be encoded", None),
        ({**FLAT, "response": {}}, "response is no text", "expected text or a number, got dict"),
        (
            {**FLAT, "response": "<7>"},
            "response is not as many tokens as it has steps",
            "got 1 tokens and 2 steps",
        ),
        ({**FLAT, "response": f"<{MASK}><8>"}, "mask token in the response", f"got {MASK} at position 0"),
        ({**FLAT, "step_map": None}, "response and step_map differ in number", "got 1 and NoneType"),
        ({**FLAT, "step_map": [1, "2"]}, "response and step_map differ in number", "got 1 and 2"),
        ({**SAMPLES, "step_map": [[1, 2]]}, "full_output and step_map differ in number", "got 2 and 1"),
        ({**SAMPLES, "step_map": [1, 2]}, "step_map is no list of integers", "got int"),
        (
            {**FLAT, "step_map": [3, 2]},
            "step_map does not begin with step 1",
            "got [2, 3]; --first_step says which number the first step has",
        ),
        ({**FLAT, "step_map": [0, 0]}, "no position decoded", "every step is -1"),
        ({**FLAT, "step_map": [-1, 1]}, "step_map holds no step", "expected -1 or a step from 0, got [-2]"),
        (
            {**SAMPLES, "correctness": [True]},
            "correctness does not say true or false for each response",
            "got [True]",
        ),
        ({**SAMPLES, "extracted_output": ["4"]}, "extracted_output and responses differ in number", "got 1 and 2"),
    ],
    ids=str,
)
def test_a_row_of_step_map_that_is_left_out(row, reason, detail):
    found = refused("step_map", row, first_step=1)
    assert found[0] == reason
    assert detail in (None, found[1])


def test_steps_from_1_are_no_steps_from_0():
    reason, detail = refused("step_map", FLAT, first_step=0)
    assert reason == "step_map does not begin with step 0"
    assert detail == "got [1, 2]; --first_step says which number the first step has"


def test_responses_are_of_one_length_or_filled_up_to_it():
    rows = [FLAT, {**FLAT, "response": "<7>", "step_map": [1]}, {**FLAT, "response": "<7>" * 3, "step_map": [1] * 3}]
    found = judged("step_map", *rows, first_step=1)
    assert [one.reason for one in found[1:]] == ["response of another length than the first"] * 2
    found = judged("step_map", *rows, first_step=1, response_length=2)
    assert [one.response_ids for one in found[:2]] == [[7, 8], [7, EOS]]
    assert [one.decoding_order for one in found[:2]] == [[1, 0], [0, -1]]
    assert (found[2].reason, found[2].detail) == ("response longer than --response_length", "expected 2 tokens, got 3")


def question(**changes):
    """Two blocks of one and two steps, over a prompt of one token and a response of three."""
    tokens = [torch.tensor([[9, 5, 6, 7]]), torch.tensor([[9, 4, 6, 7], [9, 4, 4, 7]])]
    places = [[torch.tensor([[0, 1]])], [torch.tensor([[0, 2]]), torch.tensor([[0, 3]])]]
    history = {"x0_history": tokens, "true_indices_history": places}
    return {"question": 0, "prompt_token_len": 1, "gen_ids": [5, 6, 7], "correct": True, **history, **changes}


def prophet(row, tmp_path):
    prompts = prompts_file(tmp_path / "prompts.jsonl", ["<3>"])
    parse = ImportRequest([], "", format="prophet", prompts=prompts).parser(MASK)
    codec = Codec(126464, MASK, EOS, encode_prompt=ids_of, encode_text=ids_of)
    (found,) = usable_rows([("file:1", row)], parse, codec)
    return found


def test_a_question_of_prophet(tmp_path):
    row = prophet(question(), tmp_path)
    assert (row.prompt_ids, row.response_ids, row.decoding_order) == ([3], [5, 6, 7], [0, 1, 2])
    assert (row.query_id, row.is_verified) == ("question_0000", True)


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"question": 1}, "no prompt", "expected row 1 in the file of --prompts, found none"),
        ({"prompt_token_len": None}, "no prompt_token_len", "expected a number, got None"),
        ({"gen_ids": [5, 6]}, "place outside of the response", "expected 1 to 2, got 3"),
        ({"gen_ids": [5, 6, 8]}, "gen_ids differ from what was revealed", "position 2: expected 7, got 8"),
        ({"gen_ids": None}, "gen_ids is no list of integers", "got nothing"),
        ({"x0_history": None}, "x0_history is no list", "got NoneType"),
        ({"x0_history": [torch.tensor([[9, 5, 6, 7]])]}, "blocks that differ in number", "got 1 and 2"),
        ({"x0_history": [torch.zeros(4), torch.zeros(4)]}, "x0_history holds no matrices", None),
        ({"x0_history": [torch.zeros(2, 4), torch.zeros(2, 4)]}, "steps that differ in number", "got 2 and 1"),
        (
            {"true_indices_history": [[torch.tensor([1])], [torch.zeros(0, 2).long()] * 2]},
            "true_indices_history holds no pairs",
            None,
        ),
        (
            {"true_indices_history": [[torch.tensor([[0, 3]])], [torch.tensor([[0, 2]]), torch.tensor([[0, 3]])]]},
            "position revealed more than once",
            "position 2 of the response in steps 0 and 2",
        ),
        (
            {"true_indices_history": [[torch.zeros(0, 2).long()], [torch.zeros(0, 2).long()] * 2]},
            "no position decoded",
            None,
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_question_of_prophet_that_is_left_out(changes, reason, detail, tmp_path):
    rejection = prophet(question(**changes), tmp_path)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
    assert detail in (None, rejection.detail)


def test_a_prompt_of_another_length_than_the_model_saw(tmp_path):
    tokens = [torch.cat([block[:, :1], block], 1) for block in question()["x0_history"]]
    places = [[place + torch.tensor([0, 1]) for place in block] for block in question()["true_indices_history"]]
    row = question(prompt_token_len=2, x0_history=tokens, true_indices_history=places)
    found = prophet(row, tmp_path)
    assert (found.reason, found.detail) == ("prompt of another length than the row says", "expected 2 tokens, got 1")


class TestSources:
    def test_no_pickle_is_run(self, tmp_path):
        class Program:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        path = tmp_path / "question_0000_steps_001.pt"
        torch.save({"gen_ids": Program()}, path)
        ((place, error, share),) = source_rows(str(path))
        assert (place, share) == (str(path), 1.0)
        assert str(error).startswith("expected tensors and plain values as torch.save writes them (")
        assert not (tmp_path / "ran").exists()

    def test_a_file_of_torch_by_another_name(self, tmp_path):
        torch.save({}, tmp_path / "other.pt")
        ((_, error, _),) = source_rows(str(tmp_path / "other.pt"))
        assert str(error) == "expected a file named like question_0000_steps_128.pt, got other.pt"

    def test_shares_grow_to_1(self, examples, tmp_path):
        lines = [json.dumps({"a": number}) for number in range(3)]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
        found = list(source_rows(str(tmp_path / "rows.jsonl")))
        assert [one.place for one in found] == [f"{tmp_path}/rows.jsonl:{line}" for line in (1, 2, 3)]
        assert [round(one.share, 2) for one in found] == [0.35, 0.69, 1.0]
        folder = examples / "d3llm_llada/trajectory_dataset"
        found = list(source_rows(str(folder)))
        assert [one.place for one in found] == [f"{folder}: row {row}" for row in range(3)]
        assert found[-1].share == 1.0

    def test_a_damaged_source_is_named(self, examples, tmp_path):
        (tmp_path / "rows.parquet").write_bytes(b"no")
        with pytest.raises(TabomError, match=r"rows.parquet: expected a Parquet file \(Parquet"):
            list(source_rows(str(tmp_path / "rows.parquet")))
        copy = tmp_path / "copy"
        shutil.copytree(examples / "d3llm_llada/trajectory_dataset", copy)
        copy.chmod(0o755)
        (copy / "data-00000-of-00001.arrow").chmod(0o644)
        (copy / "data-00000-of-00001.arrow").write_bytes(b"no")
        with pytest.raises(TabomError, match=r"copy: expected what save_to_disk of datasets wrote \("):
            list(source_rows(str(copy)))

    def test_checksums_of_folders(self, tmp_path):
        (tmp_path / "a").write_text("1")
        first = checksum(str(tmp_path))
        assert re.fullmatch("[0-9a-f]{64}", first)
        (tmp_path / "a").write_text("2")
        second = checksum(str(tmp_path))
        (tmp_path / "a").rename(tmp_path / "b")
        assert len({first, second, checksum(str(tmp_path))}) == 3
        assert checksum("owner/none") == ""
