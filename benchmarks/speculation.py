"""Speculative decoding, one token per step, verified by the model itself: does it pay, and at which batch?

A pass over the canvas gives the most confident masked token, which is revealed, and guesses for the steps after it: the
next most confident ones. The next pass takes k canvases a row, with 1 to k of these tokens revealed, and says of each
guess whether the step before it would have chosen it. What is right is kept (Self Speculative Decoding, arXiv
2510.04147): the responses are those of plain decoding, in fewer passes that are k times as large.

The base of the demo decodes its puzzles, since how often guesses are right depends on what a model has learnt:

    make demo
    python benchmarks/speculation.py --json benchmarks/results/FILE.json
"""

import statistics
import time
from pathlib import Path

import common
import torch
from torch import Tensor

import tabom
from tabom.data.encoding import collate_prompts, encode_prompts
from tabom.generation import Model
from tabom.tasks import Sudoku4x4
from tabom.types import PromptBatch, SpecialIds


def guesses(model: Model, logits: Tensor, is_masked: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Positions (rows, number) by falling confidence, and the likeliest token of every position."""
    logits = logits.float()
    logits[..., model.backbone.mask_token_id] = -torch.inf
    confidence, tokens = logits.softmax(-1).max(-1)
    confidence = confidence.masked_fill(~is_masked, -torch.inf)
    return confidence.topk(number, dim=1).indices, tokens


@torch.inference_mode()
def decode(model: Model, batch: PromptBatch, num_guesses: int) -> tuple[Tensor, int]:
    """Responses, and the passes that they took; one guess is plain decoding.

    A row whose guesses were right runs ahead; a finished one stays in the batch, with nothing left to reveal.
    """
    canvas, length = batch.noisy_ids.clone(), int(batch.is_response[0].sum())
    num_rows, rows = len(canvas), torch.arange(len(canvas))
    response = canvas[:, -length:]
    logits = model.backbone.logits(model.backbone(canvas, batch.attention_mask)[:, -length:])
    num_passes = 1
    while bool((is_masked := response == model.backbone.mask_token_id).any()):
        number = min(num_guesses, int(is_masked.sum(1).max()))
        places, tokens = guesses(model, logits, is_masked, number)
        ahead = response[:, None].repeat(1, number, 1)  # (rows, number, N): the first 1 to number guesses revealed
        for step in range(number):
            place = places[:, step]
            may_reveal = is_masked[rows, place]
            value = torch.where(may_reveal, tokens[rows, place], response[rows, place])
            ahead[rows, step:, place] = value[:, None]
        wide = canvas.repeat_interleave(number, 0)
        wide[:, -length:] = ahead.flatten(0, 1)
        hidden = model.backbone(wide, batch.attention_mask.repeat_interleave(number, 0))[:, -length:]
        after = model.backbone.logits(hidden).unflatten(0, (num_rows, number))
        num_passes += 1
        kept = torch.zeros(num_rows, dtype=torch.long)  # number of guesses beyond the first that were right
        is_right = torch.ones(num_rows, dtype=torch.bool)
        for step in range(1, number):
            left = ahead[:, step - 1] == model.backbone.mask_token_id
            chosen, said = guesses(model, after[:, step - 1], left, 1)
            place = places[:, step]
            is_right &= left.any(1) & (chosen[:, 0] == place) & (said[rows, place] == tokens[rows, place])
            kept += is_right
        response.copy_(ahead[rows, kept])
        logits = after[rows, kept]
    return response, num_passes


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--base", type=Path, default=Path("runs/demo/base"), help="a tiny model that make demo leaves")
    parser.add_argument("--response", type=int, default=19)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--guesses", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5, help="batches of each size, all different")
    arguments = parser.parse_args()
    record = common.record("speculation", arguments) | {"cases": []}
    record["settings"]["base"] = str(arguments.base)
    model = tabom.load(str(arguments.base))
    special = SpecialIds.of(model.tokenizer)
    print(f"{'batch':>6}{'guesses':>9}{'tokens a pass':>15}{'time of plain / this':>22}{'same':>7}")
    for size in arguments.batches:
        examples = Sudoku4x4().examples("test", size * (arguments.rounds + 1))
        ids = encode_prompts(model.tokenizer, [e.prompt for e in examples], [e.query_id for e in examples], chat=False)
        for number in arguments.guesses:
            ratios, speeds, same = [], [], 0
            for start in range(0, len(examples), size):
                rows = list(zip(examples, ids, strict=True))[start : start + size]
                batch = collate_prompts(
                    rows, pad_token_id=special.pad, mask_token_id=special.mask, response_length=arguments.response
                )
                began = time.perf_counter()
                plain, _ = decode(model, batch, 1)
                middle = time.perf_counter()
                found, num_passes = decode(model, batch, number)
                end = time.perf_counter()
                same += int((plain == found).all(1).sum())
                if start:  # the first round warms up
                    ratios.append((middle - began) / (end - middle))
                    speeds.append(arguments.response / (num_passes - 1))
            case = {"batch": size, "guesses": number, "tokens_per_pass": speeds, "ratio": sorted(ratios)}
            record["cases"].append(case | {"same_text": same / len(examples)})
            line = f"{size:6}{number:9}{statistics.median(speeds):15.2f}{statistics.median(ratios):22.2f}"
            print(f"{line}{same / len(examples):7.1%}", flush=True)
    common.save(record, arguments)


if __name__ == "__main__":
    main()
