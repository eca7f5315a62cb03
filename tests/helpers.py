"""Things that several tests make."""

import functools

import torch
from lightning import Trainer

from tabom.backbones import NewTinyDLM
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.tasks import Sudoku4x4
from tabom.trajectories import Manifest, TrajectoryRow, write_shard
from tabom.types import NEVER, TrajectoryBatch

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}


def tiny_checkpoint(path, tokenizer, seed=0):
    torch.manual_seed(seed)
    backbone = NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer)
    backbone.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def trajectory_batch(unmask_step, *, entropy=None, clean_ids=None, prompt_length=2):
    """Rows with a prompt of ``prompt_length`` tokens before the response; NEVER positions are part of the response."""
    step = torch.tensor(unmask_step)
    num_rows, length = step.shape
    prompt = torch.full((num_rows, prompt_length), 5)
    response = torch.arange(10, 10 + length).expand(num_rows, length) if clean_ids is None else torch.tensor(clean_ids)
    nothing = torch.zeros(num_rows, prompt_length, dtype=torch.bool)
    everything = torch.ones(num_rows, length, dtype=torch.bool)
    recorded = torch.full((num_rows, length), torch.nan) if entropy is None else torch.tensor(entropy)
    return TrajectoryBatch(
        clean_ids=torch.cat([prompt, response], 1),
        attention_mask=torch.ones(num_rows, prompt_length + length, dtype=torch.bool),
        is_response=torch.cat([nothing, everything], 1),
        is_filler=torch.zeros(num_rows, prompt_length + length, dtype=torch.bool),
        unmask_step=torch.cat([torch.full_like(prompt, NEVER), step], 1),
        unmask_entropy=torch.cat([torch.full((num_rows, prompt_length), torch.nan), recorded], 1),
        query_ids=tuple(f"query{i}" for i in range(num_rows)),
    )


class ScriptedDLM:
    """A model whose logits are a table (N, V), whatever it sees: the order of decoding is known by hand."""

    def __init__(self, table, mask_token_id=0):
        self.table = torch.as_tensor(table)
        self.mask_token_id = mask_token_id
        self.num_calls = 0

    def __call__(self, input_ids, attention_mask):
        self.num_calls += 1
        num_rows, length = input_ids.shape
        hidden = torch.zeros(num_rows, length, self.table.shape[1])
        hidden[:, -len(self.table) :] = self.table
        return hidden

    def logits(self, hidden):
        return hidden


def write_trajectories(directory, tokenizer, *, num_rows=24, is_verified=None, unmask_step=None):
    """Trajectories whose answers are the references, decoded in a random order."""
    response_length = 19
    verified = [i % 3 != 2 for i in range(num_rows)] if is_verified is None else is_verified
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i, example in enumerate(Sudoku4x4(answer_layout="rows").examples("train", num_rows)):
        answer = tokenizer(example.reference.replace(" ", ""))["input_ids"]
        rows.append(
            TrajectoryRow(
                query_id=example.query_id,
                is_verified=verified[i],
                prompt_ids=tokenizer(example.prompt)["input_ids"],
                response_ids=answer + [tokenizer.eos_token_id] * (response_length - len(answer)),
                unmask_step=torch.randperm(response_length, generator=generator).tolist()
                if unmask_step is None
                else unmask_step[i],
                unmask_entropy=torch.rand(response_length, generator=generator).tolist(),
                prompt=example.prompt,
                response=example.reference.replace(" ", ""),
                reference=example.reference,
            )
        )
    shards = tuple(
        write_shard(rows[start : start + 10], directory / f"shard-{start}.parquet", response_length)
        for start in range(0, num_rows, 10)
    )
    Manifest(
        response_length=response_length,
        mask_token_id=tokenizer.mask_token_id,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        model_fingerprint="0" * 64,
        sampler={},
        schema={},
        shards=shards,
    ).save(directory)
    return directory


class ParseOnlyTrainer(Trainer):
    """Runs nothing; the signatures, from which the command line is made, stay."""

    @functools.wraps(Trainer.fit)
    def fit(self, *args, **kwargs):
        pass

    @functools.wraps(Trainer.test)
    def test(self, *args, **kwargs):
        pass

    @functools.wraps(Trainer.predict)
    def predict(self, *args, **kwargs):
        pass
