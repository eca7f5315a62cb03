"""``tabom evaluate``: from the command line to scores, files, record and W&B."""

import functools
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lm_eval.utils
import oracle
import pytest
from helpers import llada_tokenizer_files, tiny_checkpoint
from lightning import LightningDataModule, LightningModule
from wandb_records import records

from tabom.callbacks import Interrupted
from tabom.cli.lightning_cli import run
from tabom.cli.trainer import TabomTrainer
from tabom.errors import TabomError
from tabom.evaluation.language_model import DiffusionLM
from tabom.storage.run_record import find_records
from tabom.tasks import Sudoku4x4

CONFIG = "configs/demo/evaluate.yaml"
BENCHMARK = "--data.benchmark"


@pytest.fixture
def evaluate(repository, tmp_path, monkeypatch, checkpoint):
    """Run the demo's evaluation on a tiny model of random weights; later options win."""
    monkeypatch.chdir(tmp_path)

    def call(*options, directory="out", questions=6):
        small = [
            f"--trainer.default_root_dir={directory}",
            "--trainer.logger=false",
            "--trainer.enable_model_summary=false",
            f"--model.backbone.path={checkpoint}",
            f"--data.tokenizer={checkpoint}",
            f"{BENCHMARK}.num_examples={questions}",
        ]
        return run(["evaluate", "--config", str(repository / CONFIG), *small, *options])

    return call


def answers(directory):
    """By key, from the file on the disk."""
    lines = map(json.loads, (Path(directory) / "responses-0.jsonl").read_text().splitlines())
    return {line["key"]: line for line in lines if line["kind"] != "origin"}


def benchmark_of(directory):
    return find_records([Path(directory)])[-1].benchmarks[-1]


def test_record_and_files_say_the_same(evaluate, capsys):
    evaluate()
    result = benchmark_of("out")
    samples = list(map(json.loads, Path("out/samples.jsonl").read_text().splitlines()))
    task = Sudoku4x4()
    examples = task.examples("test", 6)
    assert [sample["doc"]["query_id"] for sample in samples] == [example.query_id for example in examples]
    verdicts = [task.is_correct(e, s["resps"][0][0]) for e, s in zip(examples, samples, strict=True)]
    assert list(result.scores.values()) == list(map(float, verdicts))
    assert list(result.scores) == [sample["doc_hash"] for sample in samples]
    report = json.loads(Path("out/results.json").read_text())
    assert report["results"]["sudoku"]["accuracy,none"] == result.values["accuracy,none"] == result.score
    assert (result.benchmark, result.metric, result.trained_on) == ("sudoku", "accuracy,none", None)
    assert set(result.values) == {"accuracy,none", "accuracy_stderr,none"}
    assert result.cost["num_decoded"] == 6
    assert 1 <= result.cost["num_tokens"] <= result.cost["num_steps"] <= 19
    assert result.cost["tokens_per_second"] > 0
    assert result.settings["response_length"] == 19
    assert result.settings["sampler"]["score"] == "entropy"
    said = f"out: sudoku\n  questions                 6\n  accuracy,none, %          {100 * result.score:.2f} ± "
    assert said in capsys.readouterr().out


def test_each_answer_is_what_the_sampler_decodes(evaluate, tokenizer):
    cli = evaluate("--model.early_finish=false")
    stored = answers("out").values()
    assert len(stored) == 6
    for line in stored:
        ids = line["response_ids"]
        end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else 19
        assert line["text"] == tokenizer.decode(ids[:end])
        assert sorted(line["unmask_step"]) == list(range(19))
        assert (line["num_steps"], line["num_tokens"]) == (19, min(end + 1, 19))
    decoded = cli.model.sampler.with_tokens_per_step(2)
    evaluate("--model.early_finish=false", "--model.sampler.tokens_per_step=2", directory="two")
    assert decoded.tokens_per_step == 2
    assert {line["num_steps"] for line in answers("two").values()} == {10}


def test_finished_answers_are_not_decoded_twice(evaluate, monkeypatch):
    evaluate(directory="whole")
    keep, calls = DiffusionLM._responses, []

    def crashing(self, decoded):
        calls.append(len(decoded.response_ids))
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return keep(self, decoded)

    with monkeypatch.context() as patched:
        patched.setattr(DiffusionLM, "_responses", crashing)
        with pytest.raises(RuntimeError, match="power cut"):
            evaluate("--model.batch_size=1")
    assert len(answers("out")) == 2
    evaluate("--model.batch_size=1")
    assert benchmark_of("out").cost["num_decoded"] == 4
    assert benchmark_of("out").scores == benchmark_of("whole").scores
    assert answers("out") == answers("whole")
    before = Path("out/responses-0.jsonl").read_bytes()
    evaluate("--data.limit=4")
    assert list(benchmark_of("out").scores.items()) == list(benchmark_of("whole").scores.items())[:4]
    assert benchmark_of("out").cost["num_decoded"] == 0
    assert Path("out/responses-0.jsonl").read_bytes() == before


@pytest.mark.slow
def test_killed_and_started_again(repository, evaluate, checkpoint, tmp_path):
    options = [
        f"--model.backbone.path={checkpoint}",
        f"--data.tokenizer={checkpoint}",
        f"{BENCHMARK}.num_examples=60",
        "--model.batch_size=2",
        "--trainer.logger=false",
        "--run_dir=killed",
    ]
    command = [sys.executable, "-m", "tabom", "evaluate", "--config", str(repository / CONFIG), *options]
    path = tmp_path / "killed/responses-0.jsonl"
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 10):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = path.read_bytes().count(b"\n") - 1
    assert 9 <= kept < 60
    evaluate("--model.batch_size=2", directory="killed", questions=60)
    evaluate("--model.batch_size=2", directory="whole", questions=60)
    assert benchmark_of("killed").cost["num_decoded"] == 60 - kept
    assert benchmark_of("killed").scores == benchmark_of("whole").scores
    assert answers("killed") == answers("whole")


def test_a_signal_stops_it_and_keeps_the_answers(evaluate, monkeypatch):
    keep, calls = DiffusionLM._responses, []

    def stopped(self, decoded):
        calls.append(decoded)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return keep(self, decoded)

    with monkeypatch.context() as patched:
        patched.setattr(DiffusionLM, "_responses", stopped)
        with pytest.raises(Interrupted) as stop:
            evaluate("--model.batch_size=1")
    assert stop.value.code == 75
    assert len(answers("out")) == 3
    assert find_records([Path("out")])[-1].state == "stopped"
    evaluate("--model.batch_size=1")
    assert benchmark_of("out").cost["num_decoded"] == 3


def test_another_model_or_sampler_is_refused(evaluate, tmp_path, tokenizer):
    evaluate()
    before = Path("out/responses-0.jsonl").read_bytes()
    with pytest.raises(
        TabomError, match=r"expected settings\.sampler\.score \"entropy\", of the answers that are there"
    ):
        evaluate("--model.sampler.score=confidence")
    other = tiny_checkpoint(tmp_path / "other", tokenizer, seed=1)
    with pytest.raises(TabomError, match="expected model_fingerprint"):
        evaluate(f"--model.backbone.path={other}")
    assert Path("out/responses-0.jsonl").read_bytes() == before


@pytest.mark.slow
def test_two_processes_score_as_one(repository, evaluate, checkpoint):
    evaluate(directory="one", questions=7)
    options = [
        f"--model.backbone.path={checkpoint}",
        f"--data.tokenizer={checkpoint}",
        f"{BENCHMARK}.num_examples=7",
        "--trainer.default_root_dir=two",
        "--trainer.logger=false",
    ]
    two = ("--trainer.strategy=ddp", "--trainer.devices=2")
    command = [sys.executable, "-m", "tabom", "evaluate", "--config", str(repository / CONFIG), *options, *two]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    one, both = benchmark_of("one"), benchmark_of("two")
    assert both.scores == one.scores
    assert both.values == pytest.approx(one.values)
    assert (both.cost["num_decoded"], both.cost["num_steps"]) == (7, one.cost["num_steps"])
    lines = [path.read_text().count("\n") - 1 for path in sorted(Path("two").glob("responses-*.jsonl"))]
    assert lines == [4, 3]
    assert Path("two/samples.jsonl").read_text().count("\n") == 7


def test_checkpoint_of_a_training(stage, evaluate, tmp_path):
    trained = stage("fit", "tabom", "--model.optimizer.lr=0.05")
    trained.trainer.save_checkpoint(tmp_path / "trained.ckpt")
    evaluate("--ckpt_path=trained.ckpt", "--model.trained_on=maths")
    evaluate(directory="base")
    assert answers("out") != answers("base")
    record, base = find_records([Path("out")])[-1], find_records([Path("base")])[-1]
    assert record.parent == find_records([Path(trained.trainer.default_root_dir)])[-1].run_id
    assert (record.benchmarks[0].model, record.benchmarks[0].trained_on) == ("trained.ckpt", "maths")
    assert (base.parent, base.benchmarks[0].trained_on) == (None, None)
    run_export = ["--ckpt_path=trained.ckpt", "--output_dir=merged", f"--trainer.default_root_dir={tmp_path / 'x'}"]
    stage("export", "tabom", *run_export)
    evaluate("--model.backbone.path=merged", "--model.name=TABOM", directory="exported")
    assert answers("exported") == answers("out")
    assert benchmark_of("exported").model == "TABOM"


LORA = '--model.backbone.lora={"r": 2, "target_modules": ["q_proj", "v_proj"]}'


@pytest.mark.slow
def test_checkpoint_of_an_adapter(stage, evaluate, tmp_path):
    trained = stage("fit", "tabom", LORA, "--model.optimizer.lr=0.5")
    trained.trainer.save_checkpoint(tmp_path / "adapter.ckpt")
    evaluate("--ckpt_path=adapter.ckpt", LORA)
    evaluate(directory="base")
    assert answers("out") != answers("base")
    stage("export", "tabom", LORA, "--ckpt_path=adapter.ckpt", "--output_dir=adapter", "--kind=adapter")
    evaluate("--model.backbone.adapter=adapter", directory="exported")
    assert answers("exported") == answers("out")
    with pytest.raises(TabomError, match=r"ckpt_path: expected the settings of its adapter .*lora"):
        evaluate("--ckpt_path=adapter.ckpt", directory="without")
    other = LORA.replace('"r": 2, "target_modules": ["q_proj", ', '"r": 2, "target_modules": ["k_proj", ')
    with pytest.raises(TabomError, match="ckpt_path: expected the weights of the configured adapter, differing"):
        evaluate("--ckpt_path=adapter.ckpt", other, directory="without")
    with pytest.raises(
        TabomError, match=r"^nothing\.ckpt: expected a checkpoint, found no such file; tabom fit makes it$"
    ):
        evaluate("--ckpt_path=nothing.ckpt", directory="without")


def test_wandb_holds_every_question(evaluate, tmp_path):
    settings = {"save_dir": str(tmp_path / "out"), "offline": True}
    evaluate(
        f"--trainer.logger={json.dumps({'class_path': 'lightning.pytorch.loggers.WandbLogger', 'init_args': settings})}"
    )
    (run_file,) = Path("out/wandb").glob("offline-run-*/run-*.wandb")
    summary = {}
    for record in records(run_file, "summary"):
        summary |= record["summary"]["update"]
    result = benchmark_of("out")
    assert summary["benchmark/sudoku/score"] == pytest.approx(result.score)
    (path,) = Path("out/wandb").glob("offline-run-*/files/media/table/benchmark/*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == [
        "prompt",
        "response",
        "answer",
        "target",
        "score",
        "num_steps",
        "num_tokens",
        "unmask_step",
    ]
    assert [row[4] for row in table["data"]] == list(result.scores.values())
    stored = {line["text"]: line for line in answers("out").values()}
    for prompt, response, answer, target, _, num_steps, _, unmask_step in table["data"]:
        assert prompt.startswith("sudoku ")
        assert len(target) == 16
        assert answer == response
        assert str(stored[response]["unmask_step"]) == unmask_step
        assert stored[response]["num_steps"] == num_steps


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.batch_size=0", "batch_size: expected at least 1, got 0"),
        ("--data.limit=0", "limit: expected at least 1, got 0"),
        ("--data.response_length=0", "response_length: expected at least 1, got 0"),
    ],
)
def test_bad_numbers(evaluate, option, message):
    with pytest.raises(TabomError, match=message):
        evaluate(option)


def test_a_module_of_another_kind(stage, capsys):
    with pytest.raises(SystemExit):
        stage("evaluate", "tabom")
    assert capsys.readouterr().err == "tabom: error: model.objective.window: BenchmarkModule has no such option\n"
    with pytest.raises(TabomError, match="model: expected BenchmarkModule, got LightningModule"):
        TabomTrainer(accelerator="cpu", logger=False).evaluate(LightningModule(), LightningDataModule())


CHOICES = """
task: choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def named(task, metric, folder):
    settings = {"task": task, "metric": metric, "include_path": str(folder)}
    benchmark = {"class_path": "LmEvalBenchmark", "init_args": settings}
    return f"--data.benchmark={json.dumps(benchmark)}"


def run_named(repository, checkpoint, option, *options):
    """A benchmark in the place of the demo's."""
    base = [f"--model.backbone.path={checkpoint}", f"--data.tokenizer={checkpoint}"]
    off = ["--trainer.logger=false", "--trainer.default_root_dir=out", "--trainer.enable_model_summary=false"]
    return run(["evaluate", "--config", str(repository / CONFIG), *base, *off, option, *options])


def test_given_answers_are_compared_by_their_likelihood(repository, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions = [{"question": f"{n}+{n}=", "choices": [str(2 * n), "no"], "answer": n % 2} for n in range(1, 5)]
    path = tmp_path / "tasks" / "questions.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    (path.parent / "choices.yaml").write_text(CHOICES.format(path=path))
    option = named("choices", "acc,none", path.parent)
    monkeypatch.setattr("tabom.evaluation.likelihood._is_greedy", None)  # the task does not ask
    run_named(repository, checkpoint, option, "--model.monte_carlo.num_samples=16")
    result = benchmark_of("out")
    samples = list(map(json.loads, Path("out/samples.jsonl").read_text().splitlines()))
    likeliest = [max((0, 1), key=lambda n: float(sample["resps"][n][0][0])) for sample in samples]
    assert list(result.scores.values()) == [float(a == q["answer"]) for a, q in zip(likeliest, questions, strict=True)]
    stored = answers("out")
    assert {line["kind"] for line in stored.values()} == {"likelihood"}
    assert {line["log_likelihood"] for line in stored.values()} == {
        float(answer[0][0]) for sample in samples for answer in sample["resps"]
    }
    assert result.cost == {}


@pytest.fixture
def ask_oracle(repository, tmp_path, monkeypatch, shared_data):
    """Run one of the paper's benchmarks on a model that answers with known strings."""
    monkeypatch.chdir(tmp_path)
    llada_tokenizer_files(tmp_path / "tokenizer")
    (tmp_path / "tokenizer/config.json").write_text(
        json.dumps({"mask_token_id": load_mask(tmp_path / "tokenizer/tokenizer.json")})
    )

    def ask(name, known, response_length, *options):
        oracle.ANSWERS.clear()
        oracle.ANSWERS.update(known, response_length=response_length)
        config = yaml_config(name, shared_data, tmp_path / "tokenizer", response_length)
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(config))
        return run(["evaluate", "--config", str(path), *options])

    yield ask
    oracle.ANSWERS.clear()


def load_mask(path):
    added = json.loads(path.read_text())["added_tokens"]
    return next(token["id"] for token in added if token["content"] == "<|mdm_mask|>")


def yaml_config(name, data_dir, tokenizer, response_length):
    benchmark = {"name": name, "data_dir": str(data_dir)}
    if name in ("humaneval", "mbpp"):
        benchmark["allow_code_execution"] = True
    return {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "logger": False, "default_root_dir": "out", "enable_model_summary": False},
        "model": {
            "class_path": "BenchmarkModule",
            "init_args": {
                "backbone": {"class_path": "oracle.OracleSource"},
                "sampler": {"class_path": "Sampler", "init_args": {"tokens_per_step": 64}},
            },
        },
        "data": {
            "class_path": "BenchmarkDataModule",
            "init_args": {
                "benchmark": {"class_path": "PaperBenchmark", "init_args": benchmark},
                "tokenizer": str(tokenizer),
                "response_length": response_length,
                "chat_template": True,
            },
        },
    }


def rows(path):
    content = path.read_bytes()
    return list(map(json.loads, (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()))


def test_all_of_gsm8k(ask_oracle, shared_data, monkeypatch):
    """Every third answer is wrong; the others are written in four ways, of which one counts for one filter only."""
    compiled = functools.cache(lm_eval.utils.env.from_string)  # lm-eval compiles its templates for every row
    monkeypatch.setattr(lm_eval.utils.env, "from_string", compiled)
    known, right, strict = {}, [], []
    for number, row in enumerate(rows(shared_data / "gsm8k/test.jsonl")):
        value = row["answer"].split("####")[-1].strip()
        forms = [f"The answer is {value}.", f"The answer is ${value}.", f"So there are {value}"]
        form = number % 4
        text = "I do not know 7 of it" if form == 3 else forms[form]
        known[row["question"]] = text
        right.append(form != 3 or value == "7")
        strict.append(form == 0)
    ask_oracle("gsm8k", known, 64)
    result = benchmark_of("out")
    assert len(right) == len(result.scores) == 1319
    assert list(result.scores.values()) == list(map(float, right))
    assert result.values["exact_match,flexible-extract"] == pytest.approx(sum(right) / 1319)
    assert result.values["exact_match,strict-match"] == pytest.approx(sum(strict) / 1319)
    share = sum(right) / 1319
    assert result.standard_error == pytest.approx((share * (1 - share) / 1318) ** 0.5)
    assert (result.cost["num_decoded"], result.cost["num_steps"]) == (1319, 1.0)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_code(ask_oracle, shared_data, name):
    if name == "humaneval":
        tasks = rows(shared_data / "humaneval/HumanEval.jsonl.gz")[:12]
        known = {row["prompt"].strip(): row["canonical_solution"] + "\n```" for row in tasks}
    else:
        tasks = [row for row in rows(shared_data / "mbpp/mbpp.jsonl") if row["task_id"] > 10][:12]
        known = {row["text"]: "\n" + row["code"].replace("\r\n", "\n") + "\n```" for row in tasks}
    for piece in list(known)[::3]:
        known[piece] = "\n    return 1/0\n```"
    ask_oracle(name, known, 832, "--data.limit=12")
    result = benchmark_of("out")
    assert list(result.scores.values()) == [0.0, 1.0, 1.0] * 4
    assert result.score == pytest.approx(8 / 12)


def test_ifeval(ask_oracle, shared_data):
    tasks = rows(shared_data / "ifeval/input_data.jsonl")
    only = {"punctuation:no_comma", "change_case:english_lowercase"}
    known = {row["prompt"].strip(): "the river runs slowly through the green valley" for row in tasks}
    ask_oracle("ifeval", known, 64, "--data.limit=60")
    result = benchmark_of("out")
    scores = list(result.scores.values())
    assert len(scores) == 60
    judged = [
        (row, score) for row, score in zip(tasks[:60], scores, strict=True) if set(row["instruction_id_list"]) <= only
    ]
    assert judged
    assert all(score == 1.0 for _, score in judged)
    needs = {"keywords:existence", "detectable_content:postscript", "detectable_format:title", "startend:quotation"}
    refused = [score for row, score in zip(tasks[:60], scores, strict=True) if needs & set(row["instruction_id_list"])]
    assert refused
    assert not any(refused)


@pytest.mark.parametrize(("variant", "end"), [("lm_eval", ""), ("released", "<|eot|>")])
def test_math500(ask_oracle, tmp_path, variant, end):
    problems = [("What is $1+1$?", "2"), ("Halve one.", r"\frac{1}{2}"), ("Name a root.", "3"), ("Root?", r"\sqrt{2}")]
    path = tmp_path / "data/math500/test.jsonl"
    path.parent.mkdir(parents=True)
    keys = {"subject": "Algebra", "level": 1}
    path.write_text(
        "".join(
            json.dumps({"problem": p, "solution": rf"It is $\boxed{{{a}}}$.", "answer": a, "unique_id": str(n), **keys})
            + "\n"
            for n, (p, a) in enumerate(problems)
        )
    )
    texts = [r"So $\boxed{2}$.", r"It is $\boxed{0.5}$", r"$\boxed{4}$", r"$\boxed{\sqrt{2}}$"]
    known = {problem: f"{text}<|eot|>" for (problem, _), text in zip(problems, texts, strict=True)}
    data = [f"--data.benchmark.data_dir={tmp_path / 'data'}", f"--data.benchmark.variant={variant}"]
    ask_oracle("math500", known, 64, *data)
    assert list(benchmark_of("out").scores.values()) == [1.0, 1.0, 0.0, float(variant == "lm_eval")]
    samples = map(json.loads, Path("out/samples.jsonl").read_text().splitlines())
    assert [sample["resps"][0][0] for sample in samples] == [text + end for text in texts]
