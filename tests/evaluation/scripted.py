"""A model whose answers are known, and a way to ask it."""

import functools
from unittest import mock

import lm_eval
import lm_eval.utils
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class ScriptedLM(LM):
    """Answers each request for text by a function of it, and each one for a likelihood by another."""

    tokenizer_name = "scripted"

    def __init__(self, answer=None, likelihood=None):
        super().__init__()
        self.answer = answer
        self.score = likelihood
        self.requests = []

    def generate_until(self, requests, disable_tqdm=False):
        self.requests += requests
        return [self.answer(request) for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        self.requests += requests
        return [self.score(request) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        turns = "".join(f"<{turn['role']}>{turn['content']}" for turn in chat_history)
        return turns + "<assistant>" * add_generation_prompt


def ask(benchmark, answer=None, likelihood=None, **options):
    """The results of stock lm-eval, and the model that was asked."""
    lm = ScriptedLM(answer, likelihood)
    task = benchmark.load()
    templates = functools.cache(lm_eval.utils.env.from_string)  # lm-eval compiles each one for every row, six times
    with (
        mock.patch.object(lm_eval.utils.env, "from_string", templates),
        mock.patch("lm_eval.evaluator.add_env_info"),  # asks pip and the machine for seconds
    ):
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=[task],
            num_fewshot=benchmark.num_fewshot,
            confirm_run_unsafe_code=benchmark.runs_code,
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=1,
            **options,
        )
    return results["results"][task.task_name], results["samples"][task.task_name], lm


def prompts_of(benchmark, limit=1):
    """What the model is shown, as chat."""
    _, _, lm = ask(benchmark, lambda _: "", limit=limit, apply_chat_template=True, fewshot_as_multiturn=True)
    return [request.args[0] for request in lm.requests], lm.requests[0].args[1]
