"""Recorded trajectories as rows of a training."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from tabom.data.encoding import Row, Tokens, encode_prompts, encode_text
from tabom.errors import require
from tabom.trajectories import TrajectoryTable


class TrajectoryRows(Sequence[Row]):
    """Some rows of a table, each made when it is asked for.

    Args:
        table: Trajectories.
        indices: Of the rows, in their order.
        row_weight: Of each of ``indices``, as :class:`tabom.data.encoding.Row` has it; None for none.
        advantage: Of each of ``indices``; None for none.
        teacher_prompt_ids: Of each of ``indices``; empty for none.
    """

    def __init__(
        self,
        table: TrajectoryTable,
        indices: Sequence[int],
        *,
        row_weight: npt.NDArray[np.float32] | None = None,
        advantage: npt.NDArray[np.float32] | None = None,
        teacher_prompt_ids: Sequence[Tokens] = (),
    ) -> None:
        self._table = table
        self._indices = indices
        self._row_weight = row_weight
        self._advantage = advantage
        self._teacher_prompt_ids = teacher_prompt_ids

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._indices)

    def __getitem__(self, position: int) -> Row:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Row whose response, steps and entropies are views of the table."""
        table, index = self._table, self._indices[position]
        origin, prompt_ids = table.manifest.origin, table.prompt_ids[index]
        return Row(
            table.query_ids[index],
            prompt_ids,
            table.response_ids[index],
            table.unmask_step[index],
            table.unmask_entropy[index],
            block_length=origin.block_length,
            num_in_block=len(prompt_ids) % origin.block_size if origin.block_size else 0,
            row_weight=None if self._row_weight is None else float(self._row_weight[position]),
            advantage=None if self._advantage is None else float(self._advantage[position]),
            teacher_prompt_ids=self._teacher_prompt_ids[position] if self._teacher_prompt_ids else (),
        )


def tell_answers(
    tokenizer: PreTrainedTokenizerBase, table: TrajectoryTable, indices: Sequence[int], wording: str, *, chat: bool
) -> list[list[int]]:
    """Prompts for a teacher that is told the answer, in front of what the student is asked.

    Args:
        tokenizer: Gives ids and the chat template.
        table: Trajectories.
        indices: Of the rows that are wanted, in their order; each has a reference answer.
        wording: Text with ``{answer}`` in the place of the answer.
        chat: Whether the text is a system's turn, with which the chat begins; otherwise it is a line.

    Raises:
        TabomError: If the template leaves a system's turn out, or a prompt does not begin as the template does.
    """
    texts = [wording.replace("{answer}", table.references[i]) for i in indices]
    query_ids, prompts = [table.query_ids[i] for i in indices], [table.prompt_ids[i] for i in indices]
    if not chat:
        fronts = encode_text(tokenizer, [text + "\n" for text in texts], query_ids)
        return [front + ids for front, ids in zip(fronts, prompts, strict=True)]
    (plain,) = encode_prompts(tokenizer, ["-"], ["-"], chat=True)
    told: list[list[int]] = []
    chats = [[{"role": "system", "content": text}, {"role": "user", "content": "-"}] for text in texts]
    with_answers = encode_prompts(tokenizer, chats, query_ids, chat=True)
    for query_id, ids, with_answer in zip(query_ids, prompts, with_answers, strict=True):
        require(with_answer != plain, "chat_template: expected one with a system's turn, got one that leaves it out")
        pairs = zip(reversed(plain), reversed(with_answer), strict=False)
        num_shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        opening = plain[: len(plain) - num_shared]
        is_known = ids[: len(opening)] == opening
        require(is_known, f"{query_id}: expected a prompt that begins as the chat template does, got one that does not")
        told.append(with_answer[: len(with_answer) - num_shared] + ids[len(opening) :])
    return told
