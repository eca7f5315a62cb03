"""LLaDA written afresh from its description, with the original module names: an oracle, and what plain peft adapts."""

import torch
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config["d_model"], config["mlp_hidden_size"]
        self.num_heads, self.theta = config["n_heads"], config["rope_theta"]
        self.attn_norm, self.ff_norm = (RMSNorm(width, config["rms_norm_eps"]) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.ff_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(inner, width, bias=False)

    def heads(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def rotate(self, x):
        half = x.shape[-1] // 2
        frequency = self.theta ** (-torch.arange(half) / half)
        angle = torch.arange(x.shape[-2])[:, None] * frequency
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    def forward(self, x):
        n = self.attn_norm(x)
        q, k, v = self.rotate(self.heads(self.q_proj(n))), self.rotate(self.heads(self.k_proj(n))), self.v_proj(n)
        weight = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.attn_out((weight @ self.heads(v)).transpose(1, 2).flatten(-2))
        n = self.ff_norm(x)
        return x + self.ff_out(nn.functional.silu(self.ff_proj(n)) * self.up_proj(n))


class OriginalLlada(nn.Module):
    """``forward(input_ids)`` gives logits (B, L, V) of rows without padding."""

    def __init__(self, config):
        super().__init__()
        width, vocabulary = config["d_model"], config["embedding_size"]
        self.config = {"model_type": "llada"}
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "blocks": nn.ModuleList(Block(config) for _ in range(config["n_layers"])),
                "ln_f": RMSNorm(width, config["rms_norm_eps"]),
                "ff_out": nn.Linear(width, vocabulary, bias=False),
            }
        )

    def forward(self, input_ids):
        parts = self.model.transformer
        x = parts["wte"](input_ids)
        for block in parts["blocks"]:
            x = block(x)
        return parts["ff_out"](parts["ln_f"](x))
