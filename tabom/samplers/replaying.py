"""A recorded decoding gone through again, for what was not recorded.

Axes: L prompt positions, N response positions, S states, K positions that are revealed.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tabom.functional.token_statistics import token_statistics
from tabom.samplers.sampler import Denoiser
from tabom.types import NEVER


@torch.inference_mode()
def replayed_entropies(
    backbone: Denoiser,
    prompt_ids: Int[Tensor, " L"],
    response_ids: Int[Tensor, " N"],
    unmask_step: Int[Tensor, " N"],
    *,
    batch_size: int,
    on_states: Callable[[int], None],
) -> Float[Tensor, " N"]:
    """Compute how uncertain the model was of each position just before the step that revealed it.

    A state has the positions of all earlier steps, and masks elsewhere: also where decoding revealed nothing. It is
    what the decoder saw if that computed whole canvases without guidance.

    Args:
        backbone: In evaluation mode.
        prompt_ids: Tokens of the prompt, on the backbone's device.
        response_ids: Tokens of the response.
        unmask_step: Step that revealed each of them, without gaps from 0; ``NEVER`` where none did.
        batch_size: States in a forward pass.
        on_states: Told of how many states each forward pass was.

    Returns:
        Entropies in nats, float32, of the model's distribution at temperature 1; NaN where no step revealed a position.
    """
    entropy = torch.full_like(unmask_step, torch.nan, dtype=torch.float32)
    steps = torch.arange(int(unmask_step.max()) + 1, device=unmask_step.device)
    for some in steps.split(batch_size):
        is_masked = (unmask_step >= some[:, None]) | (unmask_step == NEVER)
        canvas = response_ids.masked_fill(is_masked, backbone.mask_token_id)
        ids = torch.cat([prompt_ids.expand(len(some), -1), canvas], 1)
        hidden = backbone(ids, torch.ones_like(ids, dtype=torch.bool))[:, -len(response_ids) :]
        state, position = (unmask_step == some[:, None]).nonzero(as_tuple=True)
        logits = backbone.head.logits(hidden[state, position]).float()
        entropy[position] = token_statistics(logits, response_ids[position]).entropy
        on_states(len(some))
    return entropy
