"""The trajectory discrimination score of a benchmark's responses, measured while they are decoded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_checkpoint

from tabom.backbones import PretrainedBackbone
from tabom.cli.lightning_cli import run
from tabom.data.encoding import collate_prompts, encode_prompts
from tabom.evaluation.discrimination import discrimination_of
from tabom.evaluation.responses import Response
from tabom.samplers import Sampler
from tabom.storage.run_record import Discrimination, find_records
from tabom.tasks import Sudoku4x4

LENGTH, QUESTIONS = 19, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    """A model some of whose responses end early."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), tokenizer, seed=2)


@pytest.fixture
def evaluate(repository, tmp_path, monkeypatch, model):
    """Run the demo's evaluation in a directory, and return its record's benchmark and its answers by key."""
    monkeypatch.chdir(tmp_path)

    def call(directory, *options):
        base = [f"--model.backbone.path={model}", f"--data.tokenizer={model}", "--trainer.logger=false"]
        size = [f"--data.benchmark.num_examples={QUESTIONS}", "--trainer.enable_model_summary=false"]
        config = str(repository / "configs/demo/evaluate.yaml")
        run(["evaluate", "--config", config, *base, *size, f"--run_dir={directory}", *options])
        lines = map(json.loads, Path(directory, "responses-0.jsonl").read_text().splitlines())
        answers = {line["key"]: line for line in lines if line["kind"] == "response"}
        return find_records([Path(directory)])[-1].benchmarks[-1], answers

    return call


def reference(model, tokenizer, num, end):
    """The curve of the first questions, from a plain loop over the states of each full decoding."""
    backbone = PretrainedBackbone(str(model)).load(tokenizer).eval()
    examples = Sudoku4x4().examples("test", num)
    prompts = encode_prompts(
        tokenizer, [one.prompt for one in examples], [one.query_id for one in examples], chat=False
    )
    curves = np.full((num, LENGTH), np.nan)
    for row, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        batch = collate_prompts(
            [(example, prompt)],
            pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.mask_token_id,
            response_length=LENGTH,
        )
        decoded = Sampler().decode(backbone, batch)
        ids, steps = decoded.response_ids[0].tolist(), decoded.unmask_step[0].tolist()
        for step in range(LENGTH):
            known = [
                n for n in range(LENGTH) if ids[n] == tokenizer.eos_token_id and (end == "final" or steps[n] < step)
            ]
            first_end = min(known, default=LENGTH) + (end == "final")
            masked = [n for n in range(min(first_end, LENGTH)) if steps[n] >= step]
            state = [token if n < step else tokenizer.mask_token_id for token, n in zip(ids, steps, strict=True)]
            canvas = torch.tensor([[*prompt, *state]])
            with torch.no_grad():
                log_p = backbone.logits(backbone(canvas, torch.ones_like(canvas, dtype=torch.bool))).log_softmax(-1)
            entropy = -(log_p.exp() * log_p).sum(-1)[0, -LENGTH:].double().numpy()
            if len(masked) >= 2:
                curves[row, step] = entropy[masked].var()
    points = [column[~np.isnan(column)] for column in curves.T]
    return np.array([column.mean() if len(column) else np.nan for column in points])


@pytest.mark.parametrize("early_finish", ["true", "false"])
def test_the_curves_are_those_of_a_plain_loop(evaluate, model, tokenizer, early_finish, capsys):
    """A row that is finished early has no further step that counts, so that finishing early changes nothing."""
    options = ["--model.num_discriminated=4", "--model.batch_size=3", f"--model.early_finish={early_finish}"]
    result, answers = evaluate("out", *options)
    measured = result.discrimination
    assert measured.num_responses == 4
    for end in ("so_far", "final"):
        expected = reference(model, tokenizer, 4, end)
        np.testing.assert_allclose(np.array(measured.curves[end], dtype=float), expected, rtol=1e-4, atol=1e-7)
        assert measured.scores[end] == pytest.approx(np.nanmean(expected), rel=1e-4)
    assert measured.curves["so_far"] != measured.curves["final"]
    assert [answer["step_variance"] is not None for answer in answers.values()].count(True) == 4
    assert f"  tds_so_far                {measured.scores['so_far']:.4f}\n" in capsys.readouterr().out


def test_it_changes_no_response_and_no_score(evaluate):
    without, plain = evaluate("plain")
    result, answers = evaluate("measured", "--model.num_discriminated=6", "--model.batch_size=4")
    assert without.discrimination is None
    assert result.scores == without.scores
    assert {key: answer | {"step_variance": None} for key, answer in answers.items()} == plain
    assert set(without.cost) - set(result.cost) == {"tokens_per_second"}  # recording takes longer


def test_only_the_rows_of_one_batch_hold_all_entropies(evaluate, monkeypatch):
    decode, calls = Sampler.decode, []

    def noted(self, backbone, batch, **options):
        calls.append((len(batch.queries), options["record_steps"]))
        return decode(self, backbone, batch, **options)

    monkeypatch.setattr(Sampler, "decode", noted)
    evaluate("out", "--model.num_discriminated=5", "--model.batch_size=2")
    assert calls == [(1, False), (2, True), (2, True), (1, True)]


def test_what_was_answered_without_it_is_decoded_again_and_then_kept(evaluate):
    _, before = evaluate("out")
    result, after = evaluate("out", "--model.num_discriminated=4")
    assert (result.cost["num_decoded"], result.discrimination.num_responses) == (4, 4)
    assert {key: answer["response_ids"] for key, answer in after.items()} == {
        key: answer["response_ids"] for key, answer in before.items()
    }
    again, _ = evaluate("out", "--model.num_discriminated=2")
    assert (again.cost["num_decoded"], again.discrimination) == (0, result.discrimination)


def test_means_leave_out_steps_that_do_not_count():
    rows = [[1.0, 3.0, None], [2.0, None, None]]
    responses = [Response("", [], [], 1, 1, {"final": row}) for row in rows]
    found = discrimination_of([*responses, None, Response("", [], [], 1, 1)])
    assert found == Discrimination(2, {"final": [1.5, 3.0, None]})
    assert found.scores == {"final": 2.25}
    assert Discrimination(1, {"so_far": [None]}).scores == {}
    assert discrimination_of([None, Response("", [], [], 1, 1)]) is None
