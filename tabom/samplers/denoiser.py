"""What a sampler needs of a model.

Axes: B rows, L canvas positions, D hidden size.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.head import Head


@runtime_checkable
class Denoiser(Protocol):
    """What a sampler needs of a backbone."""

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token."""
        ...

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """Ids without a token."""
        ...

    @property
    def block_size(self) -> int | None:
        """Tokens in a block of a block-causal model; None where every token sees every other."""
        ...

    def __call__(self, input_ids: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Hidden states; entry ``i`` predicts token ``i``."""
        ...

    @property
    def head(self) -> Head:
        """What turns hidden states into logits; read after a forward pass."""
        ...
