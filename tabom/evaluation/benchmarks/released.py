"""Prompts and scoring of the paper's released evaluation, a changed copy of an older lm-eval.

It takes Dream's evaluation kit, in which MATH500, HumanEval and MBPP are other tasks than in lm-eval today. The facts
are those of tonyckc/TABOM (``dream_post/eval_tabom.sh``) and DreamLM/Dream (``eval_instruct``); the code is ours.
"""

import ast
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tabom.evaluation.benchmarks import code
from tabom.evaluation.benchmarks.harness import load_changed, stock_tasks

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_MAX_LINES = 100
_TAB = "    "
_FENCE = "```"

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign


def load_math500(changes: Mapping[str, Any]) -> "Task":
    r"""``minerva_math500`` with its former reference: the bare answer instead of the whole solution.

    math-verify finds no LaTeX in it without dollar signs: it reads ``2\sqrt{3}`` as 2 and ``\sqrt{3}`` not at all, so
    that right answers are marked wrong.
    """
    task = load_changed(stock_tasks("minerva_math"), "minerva_math500", changes)
    stock = task.get_config("process_results")

    def process_results(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, Any]:
        return stock({**doc, "solution": doc["answer"]}, responses)

    task.set_config("process_results", process_results)
    return task


def load_humaneval(changes: Mapping[str, Any]) -> "Task":
    """``humaneval_instruct`` in its version 2, whose question never closes its code block; programs are sanitized."""
    prompt = {
        "doc_to_text": "Write a solution to the following problem and make sure that it passes the tests:\n"
        "```{{prompt}}",
        "gen_prefix": "Here is the completed function:\n```python\n{{prompt}}\n",
    }
    return code.load_humaneval({**prompt, **changes}, sanitized_function)


def load_mbpp(changes: Mapping[str, Any]) -> "Task":
    """Dream's own ``mbpp_instruct``: another prompt, and the program is the response up to the first fence."""
    prompt = {
        "doc_to_text": "You are an expert Python programmer, and here is your task: {{text}} Your code should pass "
        "these tests:\n\n{{test_list[0]}}\n{{test_list[1]}}\n{{test_list[2]}}",
        "gen_prefix": "Here is the completed function:\n```python\n",
        "generation_kwargs": {"until": [_FENCE], "do_sample": False},
        "filter_list": [{"name": "none"}],
    }
    return code.load_mbpp({**prompt, **changes}, lambda response, _: response)


def sanitized_function(response: str, doc: code.Doc) -> str:
    """HumanEval's program: the prompt and the first code block of the response, sanitized."""
    body = response.split(f"{_FENCE}python\n", 1)[-1].split(_FENCE)[0]
    return sanitized(f"{doc['prompt']}\n{body}", doc["entry_point"])


def sanitized(text: str, entry_point: str) -> str:
    """What a function needs of the longest stretch of lines that is Python.

    Lines are counted without blank ones, the first 100 lines are looked at, and of several such stretches the first is
    taken. Of its statements all imports are kept, and those definitions that the function refers to, directly or by way
    of others: classes, assignments to a name, and functions with a ``return`` statement; the last one of a name counts.
    """
    lines = text.replace("\t", _TAB).replace("\r\n", "\n").replace("\r", "\n").strip().splitlines()
    statements = _longest_program(lines[:_MAX_LINES])
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    definitions = {name: node for node in statements for name in _defined_names(node)}
    needed, waiting = set[str](), [entry_point]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += _referred_names(definitions[name]) if name in definitions else []
    kept = [node for name, node in definitions.items() if name in needed]
    return "\n".join(map(ast.unparse, [*imports, *kept]))


def _longest_program(lines: Sequence[str]) -> list[ast.stmt]:
    stretches = itertools.combinations(range(len(lines) + 1), 2)
    num_filled = [0, *itertools.accumulate(bool(line.strip()) for line in lines)]
    for start, end in sorted(stretches, key=lambda ends: num_filled[ends[0]] - num_filled[ends[1]]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the model's code
                return ast.parse("\n".join(lines[start:end])).body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
    return []


def _defined_names(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.ClassDef(name=name):
            yield name
        case ast.FunctionDef(name=name) if any(isinstance(part, ast.Return) for part in ast.walk(node)):
            yield name
        case ast.Assign(targets=[ast.Name(id=name), *_]):
            yield name
        case _:
            pass


def _referred_names(node: ast.AST) -> Iterator[str]:
    """Names and attributes in a statement; what an attribute is taken of is not looked into, as in the release."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case _:
                yield from _referred_names(child)
