"""Things that several tests make."""

import copy
import functools
import itertools
import json
import threading
import time
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tabom.backbones import NewTinyDLM
from tabom.cli.lightning_cli import run
from tabom.cli.trainer import TabomTrainer
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.functional.head import Head
from tabom.seeding import RowDraws, stream_key
from tabom.tasks import Sudoku4x4
from tabom.trajectories import Origin, TrajectoryStore
from tabom.types import NEVER, CorruptedBatch, TokenStatistics, TrajectoryBatch, TrajectoryRow

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}

SMALL = [
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1",
    "--model.lr_scheduler.num_warmup_steps=1",
    "--model.lr_scheduler.num_training_steps=4",
    "--data.batch_size=4",
    "--data.validation.batch_size=8",
    "--data.validation.num_validation_prompts=4",
    "--data.validation.num_test_prompts=4",
    "--data.validation.num_base_examples=6",
]
"""Options that make a training of the demo last four steps."""


def tiny_checkpoint(path, tokenizer, seed=0):
    torch.manual_seed(seed)
    backbone = NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer)
    backbone.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def llada_config(**changes):
    """``config.json`` of a LLaDA of two narrow layers, in the original fields."""
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "activation_type": "silu",
        "alibi": False,
        "block_type": "llama",
        "d_model": 32,
        "embedding_size": 128,
        "include_bias": False,
        "layer_norm_type": "rms",
        "mask_token_id": 127,
        "max_sequence_length": 256,
        "mlp_hidden_size": 64,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "eos_token_id": 125,
        "pad_token_id": 125,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 500000.0,
        "torch_dtype": "float32",
        "vocab_size": 128,
        "weight_tying": False,
        **changes,
    }


def dream_config(**changes):
    """``config.json`` of a Dream of two narrow layers, in the original fields."""
    return {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "mask_token_id": 127,
        "eos_token_id": 125,
        "pad_token_id": 125,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_sliding_window": False,
        "vocab_size": 128,
        **changes,
    }


def a2d_config(parent="qwen3", **changes):
    """``config.json`` of an A2D model of two narrow layers, as its class writes it: no mask token."""
    heads = {"qwen3": {"attention_bias": False, "head_dim": 16}, "qwen2": {}, "llama": {"mlp_bias": False}}[parent]
    sliding = {} if parent == "llama" else {"sliding_window": None, "use_sliding_window": False}
    return {
        "model_type": f"a2d-{parent}",
        "architectures": [f"A2D{parent.title()}LMHeadModel"],
        "bos_token_id": 124,
        "dtype": "float32",
        "eos_token_id": 125,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1e6,
        "tie_word_embeddings": parent != "llama",
        "use_cache": True,
        "vocab_size": 128,
        **heads,
        **sliding,
        **changes,
    }


def illada_config(**changes):
    """``config.json`` of an iLLaDA of two narrow layers: grouped queries, a tied head, no mask token."""
    return {
        "model_type": "illada",
        "architectures": ["ILLaDAForCausalLM"],
        "auto_map": {"AutoModel": "modeling_illada.ILLaDAForCausalLM"},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 72,
        "layer_norm_eps": None,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 5e5,
        "tie_word_embeddings": True,
        "vocab_size": 128,
        **changes,
    }


def llada2_config(**changes):
    """``config.json`` of a LLaDA2 of two narrow layers, the second with 8 experts in 4 groups."""
    return {
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "dtype": "float32",
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "moe_intermediate_size": 24,
        "n_group": 4,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_shared_experts": 1,
        "pad_token_id": 125,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 6e5,
        "rotary_dim": 8,
        "routed_scaling_factor": 2.5,
        "topk_group": 2,
        "vocab_size": 128,
        **changes,
    }


def family_checkpoint(path, family, config, seed=0):
    """Random weights of a family in its original layout; large enough that rounding decides no argmax."""
    torch.manual_seed(seed)
    backbone = family.from_config(config)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 1.0)
    backbone.save_pretrained(path)
    return path


LLADA_TEMPLATE = (
    "{% for m in messages %}{{ bos_token if loop.first }}<|head|>{{ m.role }}<|/head|>{{ m.content | trim }}<|eot|>"
    "{% endfor %}<|head|>assistant<|/head|>"
)
DREAM_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def llada_tokenizer_files(path):
    """As in LLaDA's checkpoints: a tokenizer.json, no mask token in the settings, a template that always opens a turn.

    Returns the special ids for ``llada_config``.
    """
    path.mkdir(exist_ok=True)
    special = ["<|startoftext|>", "<|endoftext|>", "<|head|>", "<|/head|>", "<|eot|>", "<|mdm_mask|>"]
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(_BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizer", "trust_remote_code": True, "chat_template": LLADA_TEMPLATE}
    tokens = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[1]}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | tokens))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    size = {"vocab_size": len(ids) + 256, "embedding_size": len(ids) + 256 + 10}
    return {"mask_token_id": ids["<|mdm_mask|>"], "eos_token_id": 257, "pad_token_id": 257, **size}


def dream_tokenizer_files(path):
    """As in Dream's checkpoints: vocab.json and merges.txt, and a class that only its own code has.

    Returns the special ids for ``dream_config``.
    """
    path.mkdir(exist_ok=True)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
    (path / "vocab.json").write_text(json.dumps({byte: i for i, byte in enumerate(_BYTES)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    settings = {
        "added_tokens_decoder": {str(256 + i): {"content": token, **flags} for i, token in enumerate(special)},
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "tokenizer_class": "DreamTokenizer",
        "chat_template": DREAM_TEMPLATE,
        **{"eos_token": special[0], "pad_token": special[0], "bos_token": special[3], "mask_token": special[4]},
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return {"mask_token_id": 260, "eos_token_id": 256, "pad_token_id": 256, "vocab_size": 270}


QWEN3_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def a2d_tokenizer_files(path, mask_token=None):
    """As a fresh conversion has them: the causal parent's tokenizer, without a mask token; SDAR's has one.

    Returns the special ids for ``a2d_config``.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *([mask_token] if mask_token else [])]
    ids = _byte_tokenizer(path, [], special, pad_token=special[0], eos_token=special[2], chat_template=QWEN3_TEMPLATE)
    end, _, turn, *mask = (ids[token] for token in special)
    return {
        "eos_token_id": turn,
        "bos_token_id": end,
        "vocab_size": 270,
        **({"mask_token_id": mask[0]} if mask else {}),
    }


def illada_tokenizer_files(path):
    """As in iLLaDA's checkpoint: the sixth token masks, and nothing says so.

    Returns the special ids for ``illada_config``.
    """
    special = ["<pad>", "<s>", "</s>", "<unk>", "<sep>", "<[MASK]>"]
    ids = _byte_tokenizer(path, special, [], pad_token="<pad>", eos_token="</s>", chat_template=DREAM_TEMPLATE)
    return {"pad_token_id": ids["<pad>"], "eos_token_id": ids["</s>"], "vocab_size": 270}


def _byte_tokenizer(path, first, last, **settings):
    """Write a tokenizer of bytes between special tokens; returns the ids of the special ones."""
    path.mkdir(exist_ok=True, parents=True)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*first, *_BYTES])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*first, *last])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}))
    return {token: tokenizer.token_to_id(token) for token in [*first, *last]}


def trajectory_batch(unmask_step, *, entropy=None, clean_ids=None, prompt_length=2, block_length=None):
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
        block=None
        if block_length is None
        else (torch.arange(prompt_length + length) - prompt_length)
        .clamp(min=0)
        .div(block_length, rounding_mode="floor")
        .expand(num_rows, -1),
    )


def row_draws(batch, seed=0):
    """Random numbers for the rows of a batch, as in training."""
    return RowDraws.of_numbers(stream_key(seed), torch.arange(len(batch.query_ids)))


def corrupted_batch(is_target, order=None, *, recorded_entropy=None, mask_token_id=99):
    """Rows in which every target is masked and nothing else is."""
    is_target = torch.tensor(is_target)
    ids = torch.ones(is_target.shape, dtype=torch.long)
    nowhere_recorded = torch.full(is_target.shape, torch.nan)
    return CorruptedBatch(
        clean_ids=ids,
        noisy_ids=ids.masked_fill(is_target, mask_token_id),
        attention_mask=torch.ones_like(is_target),
        is_masked=is_target,
        is_target=is_target,
        order=torch.zeros_like(ids) if order is None else torch.tensor(order),
        recorded_entropy=nowhere_recorded if recorded_entropy is None else torch.tensor(recorded_entropy),
        query_ids=tuple(f"query{row}" for row in range(len(ids))),
    )


def token_statistics_of(nll, entropy=None, confidence=None, *, requires_grad=False):
    """Statistics as an objective gets them; what is not given must not be read, so it is NaN."""
    nll = torch.as_tensor(nll)
    if requires_grad:
        nll = nll.detach().clone().requires_grad_()

    def column(values):
        result = torch.full_like(nll, torch.nan) if values is None else torch.as_tensor(values)
        return result.detach().clone().requires_grad_() if requires_grad else result

    return TokenStatistics(nll, column(entropy), column(confidence), torch.zeros(nll.shape, dtype=torch.bool))


class ScriptedDLM:
    """A model whose logits are a table (N, V), whatever it sees: the order of decoding is known by hand."""

    unused_ids = ()
    block_size = None

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

    def blocks(self, attention_mask):
        return None

    def denoise(self, noisy_ids, clean_ids, attention_mask, is_target=None):
        return self(noisy_ids, attention_mask)

    @property
    def head(self):
        return Head(torch.eye(self.table.shape[1]))

    def logits(self, hidden):
        return hidden


def decode_with_scores(sampler, backbone, batch, **options):
    """What a sampler decodes, and what each position was ranked by when it was revealed (B, N)."""
    scores = torch.full((len(batch.examples), int(batch.is_response[0].sum())), torch.nan)
    select = sampler._select

    def watched(choice, turn, *rest):
        is_revealed = select(choice, turn, *rest)
        scores[turn.rows] = turn.spread(choice.score, torch.nan).where(is_revealed, scores[turn.rows])
        return is_revealed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_select", watched)
        return sampler.decode(backbone, batch, **options), scores


def origin_of(tokenizer, **changes):
    values = {
        "response_length": 19,
        "mask_token_id": tokenizer.mask_token_id,
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "model_fingerprint": "0" * 64,
        "query_fingerprint": "1" * 64,
        "num_shards": 3,
        "settings": {"sampler": {"score": "entropy", "temperature": 0.0}, "batch_size": 8, "keep": "all"},
    }
    return Origin(**{**values, **changes})


def write_chunk(store, index, rows, tokenizer):
    """A shard with the numbers that belong to its rows."""
    num_wrong = sum(not row.is_verified for row in rows)
    num_tokens = sum(row.response_ids.index(tokenizer.eos_token_id) + 1 for row in rows)
    rejected = {"wrong answer": num_wrong} if num_wrong else {}
    return store.write(index, rows, num_queries=len(rows), num_tokens=num_tokens, rejected=rejected)


def write_trajectories(
    directory,
    tokenizer,
    *,
    num_rows=24,
    is_verified=None,
    unmask_step=None,
    response_length=19,
    num_samples=1,
    **origin,
):
    """Trajectories whose answers are the references, decoded in a random order; ``num_samples`` per query."""
    verified = [i % 3 != 2 for i in range(num_rows)] if is_verified is None else is_verified
    generator = torch.Generator().manual_seed(0)
    rows = []
    examples = Sudoku4x4(answer_layout="rows").examples("train", num_rows // num_samples)
    for i, (example, sample) in enumerate(itertools.product(examples, range(num_samples))):
        answer = tokenizer(example.reference.replace(" ", ""))["input_ids"]
        rows.append(
            TrajectoryRow(
                query_id=example.query_id,
                sample=sample,
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
    chunks = [rows[start : start + 10] for start in range(0, num_rows, 10)]
    store = TrajectoryStore(directory)
    store.open(origin_of(tokenizer, response_length=response_length, num_shards=len(chunks), **origin))
    for index, chunk in enumerate(chunks):
        write_chunk(store, index, chunk, tokenizer)
    store.finish()
    return directory


def save_word_tokenizer(path, num_words, **special_tokens):
    """A tokenizer of the words w0, w1 and so on, between blanks."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(num_words)}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens).save_pretrained(path)


def wait_for(is_there):
    """Until something holds; fails after 20 seconds."""
    stop = time.monotonic() + 20
    while not is_there():
        assert time.monotonic() < stop
        time.sleep(0.01)


def in_background(action):
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def slow(*cases):
    """Cases of a matrix that are left to the slow tests."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def last_checkpoint(cli):
    return f"{cli.trainer.default_root_dir}/checkpoints/last.ckpt"


class ParseOnlyTrainer(TabomTrainer):
    """Runs nothing; the signatures, from which the command line is made, stay."""

    @staticmethod
    def check_inputs(verb, config):
        """Nothing has to be there."""

    @functools.wraps(TabomTrainer.fit)
    def fit(self, *args, **kwargs):
        pass

    @functools.wraps(TabomTrainer.validate)
    def validate(self, *args, **kwargs):
        pass

    @functools.wraps(TabomTrainer.test)
    def test(self, *args, **kwargs):
        pass

    @functools.wraps(TabomTrainer.predict)
    def predict(self, *args, **kwargs):
        pass

    @functools.wraps(TabomTrainer.evaluate)
    def evaluate(self, *args, **kwargs):
        pass

    @functools.wraps(TabomTrainer.export)
    def export(self, *args, **kwargs):
        pass


@functools.cache
def _command_line_of(verb):
    config = {"predict": "distill", "evaluate": "evaluate"}.get(verb, "tabom")
    path = Path(__file__).parents[1] / "configs" / "demo" / f"{config}.yaml"
    words = [verb, "--config", str(path), "--trainer.logger=false", *["--output_dir=out"] * (verb == "export")]
    return run(words, trainer_class=ParseOnlyTrainer)


def parser_of(verb):
    """The parser of a verb; it is made once, since that takes longer than parsing with it."""
    return _command_line_of(verb)._parser(verb)


def parsed(verb, *words):
    """The command line with configuration, model, data and trainer, as ``run`` leaves it when nothing runs."""
    cli = copy.copy(_command_line_of(verb))
    cli.config = Namespace({"subcommand": verb, verb: parser_of(verb).parse_args(list(words))})
    cli.before_instantiate_classes()
    cli.instantiate_classes()
    return cli
