"""LLaDA2 written afresh from its description, with the original module names: an oracle, and what plain peft adapts."""

import torch
from backbones.original_llada import RMSNorm
from torch import nn


def linear(width, outer):
    return nn.Linear(width, outer, bias=False)


def rotate(x, theta, rotated):
    """The first ``rotated`` entries of each head, in halves."""
    half = rotated // 2
    angle = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half) / half)
    first, second, rest = x.split([half, half, x.shape[-1] - rotated], -1)
    turned = first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()
    return torch.cat([*turned, rest], -1)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width, dim, num_heads, self.num_kv = (
            config[key] for key in ("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads")
        )
        self.query_key_value = linear(width, (num_heads + 2 * self.num_kv) * dim)
        self.query_layernorm, self.key_layernorm = (RMSNorm(dim, config["rms_norm_eps"]) for _ in range(2))
        self.dense = linear(num_heads * dim, width)

    def forward(self, x):
        heads = self.query_key_value(x).unflatten(-1, (-1, self.config["head_dim"])).transpose(1, 2)
        q, k, v = heads[:, : -2 * self.num_kv], heads[:, -2 * self.num_kv : -self.num_kv], heads[:, -self.num_kv :]
        q, k = (
            rotate(each, self.config["rope_theta"], self.config["rotary_dim"])
            for each in (self.query_layernorm(q), self.key_layernorm(k))
        )
        k, v = (each.repeat_interleave(q.shape[1] // self.num_kv, 1) for each in (k, v))
        weight = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.dense((weight @ v).transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(width, inner), linear(width, inner), linear(inner, width)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width, inner = config["hidden_size"], config["moe_intermediate_size"]
        self.gate = linear(width, config["num_experts"])
        self.gate.register_buffer("expert_bias", torch.randn(config["num_experts"]))
        self.experts = nn.ModuleList(MLP(width, inner) for _ in range(config["num_experts"]))
        self.shared_experts = MLP(width, inner * config["num_shared_experts"])

    def choose(self, scores):
        """The best experts of the best groups, one token."""
        biased = (scores + self.gate.expert_bias).view(self.config["n_group"], -1)
        groups = biased.sort(-1).values[:, -2:].sum(-1).argsort()[-self.config["topk_group"] :]
        size = biased.shape[1]
        allowed = [int(group) * size + i for group in groups for i in range(size)]
        return sorted(allowed, key=lambda e: -biased.flatten()[e])[: self.config["num_experts_per_tok"]]

    def forward(self, x):
        tokens = x.flatten(0, 1)
        results = []
        for token, scores in zip(tokens, self.gate(tokens).sigmoid(), strict=True):
            chosen = self.choose(scores)
            total = sum(scores[e] for e in chosen)
            results.append(
                sum(self.config["routed_scaling_factor"] * scores[e] / total * self.experts[e](token) for e in chosen)
            )
        return torch.stack(results).view_as(x) + self.shared_experts(x)


class Block(nn.Module):
    def __init__(self, config, is_dense):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config["hidden_size"], config["intermediate_size"]) if is_dense else Mixture(config)
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(config["hidden_size"], config["rms_norm_eps"]) for _ in range(2)
        )

    def forward(self, x):
        x = x + self.attention(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class OriginalLlada2(nn.Module):
    """``forward(input_ids)`` gives logits (B, L, V) of rows that are one block and have no padding."""

    def __init__(self, config):
        super().__init__()
        width, vocabulary = config["hidden_size"], config["vocab_size"]
        self.config = {"model_type": "llada2_moe"}
        self.model = nn.Module()
        self.model.word_embeddings = nn.Embedding(vocabulary, width)
        self.model.layers = nn.ModuleList(
            Block(config, index < config["first_k_dense_replace"]) for index in range(config["num_hidden_layers"])
        )
        self.model.norm = RMSNorm(width, config["rms_norm_eps"])
        self.lm_head = linear(width, vocabulary)

    def forward(self, input_ids):
        x = self.model.word_embeddings(input_ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.lm_head(self.model.norm(x))
