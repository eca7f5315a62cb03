"""The model as lm-eval asks it: stop strings, repetitions, chats, texts that are scored."""

import oracle
import pytest
import torch
from helpers import DREAM_TEMPLATE, LLADA_TEMPLATE
from lm_eval.api.instance import Instance

from tabom.backbones import PretrainedBackbone
from tabom.errors import TabomError
from tabom.evaluation import MonteCarlo
from tabom.evaluation.language_model import Decoding, DiffusionLM
from tabom.evaluation.responses import ResponseStore
from tabom.samplers import Sampler


def request(context, number=0, until=(), repeats=1, kind="generate_until", arguments=None):
    arguments = arguments or (context, {"until": list(until)})
    return Instance(kind, {}, arguments, 0, metadata=("task", number, repeats))


@pytest.fixture
def make(tmp_path, tokenizer):
    def made(backbone, sampler=None, monte_carlo=None, directory="run", num_discriminated=0, **options):
        decoding = Decoding(
            sampler or Sampler(tokens_per_step=8),
            response_length=16,
            batch_size=2,
            early_finish=True,
            keeps_special_tokens=True,
            monte_carlo=monte_carlo or MonteCarlo(8),
            num_discriminated=num_discriminated,
        )
        options = {"on_started": lambda num: None, "on_finished": lambda num: None, **options}
        return DiffusionLM(backbone, tokenizer, decoding, ResponseStore(tmp_path / directory, {}), **options)

    return made


@pytest.fixture
def model(make, tokenizer):
    """Answers "a\\nb: c" to every prompt with an x, and nothing to others."""
    oracle.ANSWERS.update({"x": "a\nb: c", "response_length": 16})
    yield make(oracle.Oracle(tokenizer))
    oracle.ANSWERS.clear()


@pytest.fixture
def random_model(make, checkpoint, tokenizer):
    backbone = PretrainedBackbone(str(checkpoint)).load(tokenizer).eval()
    return lambda **options: make(backbone, **options)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ([], "a\nb: c"),
        (["\n"], "a"),
        ([":", "b"], "a\n"),
        (["b", ":"], "a\n"),
        ([""], "a\nb: c"),
        (["c", "z"], "a\nb: "),
    ],
)
def test_a_response_ends_before_its_first_stop_string(model, until, expected):
    assert model.generate_until([request("x", until=until)]) == [expected]


def test_one_stop_string(model):
    assert model.generate_until([request("x", arguments=("x", {"until": "b: "}))]) == ["a\n"]
    assert model.generate_until([request("x", arguments=("x", {"until": "zc"}))]) == ["a\nb: c"]
    assert model.generate_until([request("x", arguments=("x", {}))]) == ["a\nb: c"]


def test_the_whole_response_is_kept_before_it_is_cut(model):
    model.generate_until([request("x", until=["\n"])])
    response = model.first_response("task", "x")
    assert (response.text, response.num_tokens, response.num_steps) == ("a\nb: c", 7, 1)
    assert model.first_response("task", "y") is None


def test_answers_stand_in_the_order_of_the_requests(model):
    requests = [request(text, number) for number, text in enumerate(["y", "x longer", "x", "yy", "x"])]
    assert model.generate_until(requests) == ["", "a\nb: c", "a\nb: c", "", "a\nb: c"]
    assert model.num_decoded == 4  # the same prompt once


def test_repetitions_are_samples_and_what_fills_up_is_not(random_model):
    sampler = Sampler(temperature=2.0)
    again = request("x", repeats=3)
    lm = random_model(sampler=sampler)
    answers = lm.generate_until([again] * 3)
    assert len(set(answers)) == 3
    assert lm.num_decoded == 3
    filled = random_model(sampler=sampler, directory="filled")
    assert filled.generate_until([*[again] * 3, *[again] * 2]) == [*answers, answers[0], answers[0]]
    assert filled.num_decoded == 3


def test_progress_is_told(make, tokenizer):
    oracle.ANSWERS.update({"x": "a", "response_length": 16})
    told = []
    lm = make(
        oracle.Oracle(tokenizer),
        on_started=lambda num: told.append(("started", num)),
        on_finished=lambda num: told.append(("finished", num)),
    )
    lm.generate_until([request("x" * number, number) for number in range(1, 4)])
    lm.generate_until([request("x", 1)])
    oracle.ANSWERS.clear()
    assert told[0] == ("started", 3)
    assert sum(num for what, num in told if what == "finished") == 3
    assert told[-1] == ("started", 0)


@pytest.mark.parametrize("template", [LLADA_TEMPLATE, DREAM_TEMPLATE], ids=["LLaDA", "Dream"])
def test_an_answer_that_was_begun_goes_on_without_blanks(model, tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "\n```python\n"}]
    text = model.apply_chat_template(turns, add_generation_prompt=False)
    assert text.endswith("```python")
    opened = model.apply_chat_template(turns[:1])
    assert opened == str(tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True))
    assert text.startswith(opened)
    assert model.chat_template(True) == template
    assert model.chat_template(False) is None


def test_a_tokenizer_without_a_template(model):
    with pytest.raises(TabomError, match=r"^chat_template: expected a tokenizer that has one, got one without$"):
        model.apply_chat_template([{"role": "user", "content": "Q"}])


def score(lm, context, continuation):
    return lm.loglikelihood([request("", kind="loglikelihood", arguments=(context, continuation))])[0]


def test_blanks_between_context_and_continuation_belong_to_the_latter(random_model, monkeypatch):
    seen = []
    lm = random_model()
    estimate = MonteCarlo.estimate

    def noted(self, backbone, prompt_ids, continuation_ids, name, **options):
        seen.append((lm.tokenizer.decode(prompt_ids), lm.tokenizer.decode(continuation_ids)))
        return estimate(self, backbone, prompt_ids, continuation_ids, name, **options)

    monkeypatch.setattr(MonteCarlo, "estimate", noted)
    assert score(lm, "ab  ", "c") == score(lm, "ab", "  c")
    score(lm, "", "c")
    assert seen == [("ab", "  c"), ("", "c")]


def test_a_score_is_kept(random_model, monkeypatch):
    value, is_greedy = score(random_model(), "ab", "c")
    assert value < 0
    assert is_greedy is False
    monkeypatch.setattr(MonteCarlo, "estimate", None)
    assert score(random_model(), "ab", "c") == (value, is_greedy)


def test_whether_it_is_greedy_is_asked_for_if_the_task_asks(random_model, tokenizer):
    lm = random_model()
    ids = tokenizer("x")["input_ids"]
    backbone = lm._backbone
    canvas = torch.tensor([[*ids, tokenizer.mask_token_id]])
    logits = backbone.logits(backbone(canvas, torch.ones_like(canvas, dtype=torch.bool)))[0, -1]
    logits[tokenizer.mask_token_id] = -torch.inf
    token = tokenizer.decode([int(logits.argmax())])
    if len(tokenizer(token)["input_ids"]) != 1 or token.isspace():
        pytest.fail(f"another seed, please: {token!r}")
    assert score(lm, "x", token)[1] is True
    lm.needs_greedy = False
    assert score(lm, "x", token)[1] is False


def test_running_text_is_scored_in_pieces(random_model):
    lm = random_model(monte_carlo=MonteCarlo(8, context_length=3))
    lm.needs_greedy = False
    texts = [
        request("", n, kind="loglikelihood_rolling", arguments=(text,)) for n, text in enumerate(["abcdefg", "ab"])
    ]
    pieces = [score(lm, "", piece)[0] for piece in ("abc", "def", "g", "ab")]
    assert lm.loglikelihood_rolling(texts) == [sum(pieces[:3]), pieces[3]]
