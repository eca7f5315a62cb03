"""The reference solutions of HumanEval and MBPP come to their end in the sandbox."""

import gzip
import json

import pytest

from tabom.sandbox import Sandbox


def human_eval(directory):
    with gzip.open(directory / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            solution = row["prompt"] + row["canonical_solution"]
            yield row["task_id"], f"{solution}\n{row['test']}\ncheck({row['entry_point']})\n"


def mbpp(directory):
    with (directory / "mbpp" / "mbpp.jsonl").open() as file:
        for row in map(json.loads, file):
            if 11 <= row["task_id"] <= 510:
                yield row["task_id"], "\n".join([row["code"], row["test_setup_code"], *row["test_list"]])


@pytest.mark.parametrize(("read", "num_programs"), [(human_eval, 164), pytest.param(mbpp, 500, marks=pytest.mark.slow)])
def test_all_references_pass(shared_data, read, num_programs):
    programs = dict(read(shared_data))
    outcomes = Sandbox().run_all([*programs.values()])
    failed = {name: outcome for name, outcome in zip(programs, outcomes, strict=True) if not outcome.is_passed}
    assert failed == {}
    assert len(outcomes) == num_programs
