"""The format ``prophet``: files ``question_0000_steps_128.pt`` as DLM-Decoding-Analysis has them, one a question.

Each holds ``x0_history`` (of each block the likeliest tokens of the whole canvas at every step),
``true_indices_history`` (of each block and step the places on the canvas that were revealed), ``prompt_token_len`` and
``gen_ids``. Neither the prompt nor its tokens are there.

References:
    The data set YefanZhou98/DLM-Decoding-Analysis; pixeli99/Prophet, ``analysis/generate.py``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tabom.trajectories.formats.decoding import (
    Decoding,
    Options,
    UnusableError,
    check,
    check_steps,
    integers,
    text,
    verdict,
)
from tabom.types import NEVER

NAME = re.compile(r"question_(\d+)_steps_\d+\.pt")


def read_file(path: Path) -> object:
    """Tensors and plain values of a file, with the number of the question; a ``ValueError`` in place of any other."""
    match = NAME.fullmatch(path.name)
    if match is None:
        return ValueError(f"expected a file named like question_0000_steps_128.pt, got {path.name}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the pickle module, zipfile and torch raise many kinds
        return ValueError(f"expected tensors and plain values as torch.save writes them ({str(error).splitlines()[0]})")
    return content | {"question": int(match[1])} if isinstance(content, dict) else content


def decodings(content: Mapping[str, Any], options: Options) -> list[Decoding]:
    """The decoding of a file: a token is the likeliest one of the step that revealed its position.

    Steps are counted over all blocks. A position that two steps reveal is refused; one that none does has the token of
    ``gen_ids`` and no step.
    """
    number, num_prompt, ids = content["question"], content.get("prompt_token_len"), integers(content, "gen_ids")
    if type(num_prompt) is not int or num_prompt < 1:
        raise UnusableError("no prompt_token_len", f"expected a number, got {num_prompt!r:.80}")
    check(number in options.prompts, "no prompt", f"expected row {number} in the file of --prompts, found none")
    order = [NEVER] * len(ids)
    step = 0
    for tokens, places in _blocks(content):
        for likeliest, revealed in zip(tokens, places, strict=True):
            for column in _columns(revealed):
                position = column - num_prompt
                check(
                    0 <= position < len(ids) and column < len(likeliest),
                    "place outside of the response",
                    f"expected {num_prompt} to {num_prompt + len(ids) - 1}, got {column}",
                )
                check(
                    order[position] == NEVER,
                    "position revealed more than once",
                    f"position {position} of the response in steps {order[position]} and {step}",
                )
                check(
                    likeliest[column].item() == ids[position],
                    "gen_ids differ from what was revealed",
                    f"position {position}: expected {likeliest[column].item()}, got {ids[position]}",
                )
                order[position] = step
            step += 1
    check_steps(order, "true_indices_history")
    return [
        Decoding(
            prompt=options.prompts[number],
            num_prompt_tokens=num_prompt,
            response=ids,
            order=order,
            is_verified=verdict(content, "correct"),
            reference=text(content, "gt_text"),
            query_id=f"question_{number:04d}",
        )
    ]


def _blocks(content: Mapping[str, Any]) -> list[tuple[torch.Tensor, list[Any]]]:
    """Of each block the likeliest tokens (steps, L) and the places that each step revealed."""
    tokens, places = content.get("x0_history"), content.get("true_indices_history")
    for name, value in {"x0_history": tokens, "true_indices_history": places}.items():
        check(isinstance(value, list), f"{name} is no list", f"got {type(value).__name__}")
    assert isinstance(tokens, list)
    assert isinstance(places, list)
    check(len(tokens) == len(places), "blocks that differ in number", f"got {len(tokens)} and {len(places)}")
    for block, revealed in zip(tokens, places, strict=True):
        is_matrix = isinstance(block, torch.Tensor) and block.dim() == 2 and isinstance(revealed, list)
        check(is_matrix, "x0_history holds no matrices", "expected one of steps and positions for each block")
        check(len(block) == len(revealed), "steps that differ in number", f"got {len(block)} and {len(revealed)}")
    return list(zip(tokens, places, strict=True))


def _columns(revealed: object) -> list[int]:
    """Places on the canvas: the second column of pairs (0, place)."""
    is_pairs = isinstance(revealed, torch.Tensor) and revealed.dim() == 2 and revealed.shape[1] == 2
    check(is_pairs, "true_indices_history holds no pairs", "expected pairs of row and place for each step")
    assert isinstance(revealed, torch.Tensor)
    return revealed[:, 1].tolist()
