"""Where a response ends.

Axes: B rows, N response positions.
"""

from jaxtyping import Bool, Int
from torch import Tensor


def until_eos(ids: Int[Tensor, "*B N"], eos_token_id: int) -> Bool[Tensor, "*B N"]:
    """Positions up to and with the first end-of-sequence token of each row; all of them where it has none.

    Example:
        >>> import torch
        >>> until_eos(torch.tensor([[5, 2, 5, 2]]), eos_token_id=2)
        tensor([[ True,  True, False, False]])
    """
    is_eos = ids == eos_token_id
    return is_eos.cumsum(-1) - is_eos.long() == 0
