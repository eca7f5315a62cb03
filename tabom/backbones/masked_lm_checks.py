"""Whether a masked language model is what decoding takes it for, tried on a few tokens when it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tabom.errors import TabomError, require

if TYPE_CHECKING:  # model classes take seconds to import
    from tabom.backbones.base import Backbone

_NUM_TOKENS, _NUM_LEFT, _NUM_RIGHT = 24, 8, 32
"""Of a row that is tried, and of the padding on its sides."""
_TOLERANCE = {"whole": 1e-3, "half": 5e-2}
"""Largest difference beside the largest number, by precision."""


def outer_bias(model: Any, kind: str) -> str | None:
    """Name of a weight that the model adds to its logits behind the last matrix; None if there is none.

    Args:
        model: Of transformers, with a last matrix.
        kind: Of model, for error messages.

    Raises:
        TabomError: If the logits are not that matrix' product with what comes to it, and biases.
    """
    head, ids = model.get_output_embeddings(), _ids(model, 8)
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with _trying(model, kind):
        logits = model(input_ids=ids).logits
        handle.remove()
        others = {
            name: tensor
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if tensor.numel() == tensor.shape[-1:].numel() == len(head.weight)
            and tensor.is_floating_point()
            and tensor is not head.bias
        }
        found = [name for name, tensor in others.items() if _is_added(model, ids, logits, tensor)]
        expected = head(seen[0]) if len(seen) == 1 else logits + 1
        for name in found:
            expected = expected + others[name]
    require(
        len(found) <= 1 and expected.shape == logits.shape and _is_close(expected, logits),
        f"{kind}: expected a head that ends with a matrix and a bias, got one that computes something else",
    )
    return found[0] if found else None


def check_masked_lm(backbone: "Backbone", model: Any, kind: str) -> None:
    """Raise ``TabomError`` for a family in which padding changes other tokens, or tokens do not see what follows.

    Args:
        backbone: Which has been read.
        model: Of transformers, inside of it.
        kind: Of model, for error messages.
    """
    limit = backbone.max_length or _NUM_TOKENS + _NUM_LEFT + _NUM_RIGHT
    ids = _ids(model, min(_NUM_TOKENS, limit))
    length = ids.shape[1]
    right = min(_NUM_RIGHT, limit - length)
    left = min(_NUM_LEFT, limit - length - right)
    sides = left, right
    is_there = torch.ones_like(ids, dtype=torch.bool)
    others = ids.clone()
    others[:, -1] = ids[:, 0]
    with _trying(model, kind):
        alone = backbone(ids, is_there)
        padded = backbone(
            torch.nn.functional.pad(ids, sides, value=int(ids[0, 0])), torch.nn.functional.pad(is_there, sides)
        )
        changed = backbone(others, is_there)
    require(
        _is_close(padded[:, left : left + length], alone),
        f"{kind}: expected a model in which padding changes no other token, got one in which it does; rows of several "
        "lengths could not be computed together",
    )
    require(
        not torch.equal(changed[:, -2], alone[:, -2]),
        f"{kind}: expected a model in which tokens see what follows them, got one in which they do not (is_decoder?)",
    )


def _ids(model: Any, number: int) -> Tensor:
    """The last ids of the vocabulary, but for that of the padding."""
    size, pad = len(model.get_output_embeddings().weight), model.config.pad_token_id
    chosen = [token_id for token_id in range(size - 1, -1, -1) if token_id != pad]
    ids = [chosen[i % len(chosen)] for i in range(number)]
    return torch.tensor([ids], device=model.device)


def _is_added(model: Any, ids: Tensor, logits: Tensor, tensor: Tensor) -> bool:
    """Whether logits move by as much as the tensor does."""
    before = tensor.clone()
    shift = torch.linspace(-1, 1, tensor.shape[-1], device=tensor.device, dtype=tensor.dtype)
    tensor.add_(shift)
    moved = model(input_ids=ids).logits
    tensor.copy_(before)
    return moved.shape == logits.shape and not torch.equal(moved, logits) and _is_close(moved, logits + shift)


def _is_close(got: Tensor, expected: Tensor) -> bool:
    tolerance = _TOLERANCE["whole" if expected.dtype == torch.float32 else "half"]
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())


@contextmanager
def _trying(model: Any, kind: str) -> Iterator[None]:
    """Without gradients and dropout, by an attention that needs no GPU; what goes wrong is an error of the model.

    Raises:
        TabomError: If the model cannot compute a row of tokens.
    """
    attention, was_training = model.config._attn_implementation, model.training
    model.eval()
    if attention not in ("sdpa", "eager"):
        model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    except Exception as error:  # a family may fail in any way
        reason = " ".join(str(error).split())[:200]
        raise TabomError(
            f"{kind}: expected a model that computes logits from ids and an attention mask, got {type(error).__name__} "
            f"({reason})"
        ) from error
    finally:
        if attention not in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
        model.train(was_training)
