"""Turn released trajectories (JSON Lines) into shards that `tabom fit` reads."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.errors import TabomError, check_range, require

if TYPE_CHECKING:
    from rich.table import Table

    from tabom.trajectories import ShardInfo
    from tabom.trajectories.released import Rejection, ReleasedRow

METHODS = ("entropy", "default", "credit")
REPORT_NAME = "import_report.json"


@dataclass
class ImportReport:
    """What became of the lines of a file.

    Attributes:
        file: Its path.
        sha256: Of the file.
        num_kept: Rows that are in the shards.
        num_prompts: Of these, distinct prompts.
        num_without_reference: Rows that have no reference answer, or their own decoded text as one, which is dropped.
        num_listed: Those that list ``non_ltr_positions``.
        num_agreeing: Those whose list is what follows from their order.
        block_length: Response positions that were decoded before any to their right; None if it is not known.
        rejections: Lines that were left out.
    """

    file: str
    sha256: str
    num_kept: int = 0
    num_prompts: int = 0
    num_without_reference: int = 0
    num_listed: int = 0
    num_agreeing: int = 0
    block_length: int | None = None
    rejections: "list[Rejection]" = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Lines that are not blank, or objects of an array."""
        return self.num_kept + len(self.rejections)

    def reasons(self) -> list[tuple[str, int, "Rejection"]]:
        """Reason, how often, and the first line, most frequent first."""
        first = {rejection.reason: rejection for rejection in reversed(self.rejections)}
        counts = Counter(rejection.reason for rejection in self.rejections)
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]

    def content(self) -> dict[str, Any]:
        """As it is written to ``import_report.json``."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "num_rows": self.num_rows,
            "num_kept": self.num_kept,
            "num_prompts": self.num_prompts,
            "num_without_reference": self.num_without_reference,
            "num_rejected": {reason: count for reason, count, _ in self.reasons()},
            "non_ltr_positions": {"num_listed": self.num_listed, "num_agreeing": self.num_agreeing},
            "block_length": self.block_length,
            "rejected_lines": [dataclasses.asdict(rejection) for rejection in self.rejections],
        }

    def table(self) -> "Table":
        """For a terminal."""
        from rich.table import Table

        table = Table(title=f"Import of {self.file}")
        table.add_column("")
        table.add_column("rows", justify="right")
        table.add_column("first line", justify="right")
        table.add_row("read", str(self.num_rows))
        table.add_row("kept", str(self.num_kept))
        table.add_row("... of these, with a prompt of their own", str(self.num_prompts))
        table.add_row("... of these, without a reference answer", str(self.num_without_reference))
        table.add_row("... of these, with non_ltr_positions", str(self.num_listed))
        table.add_row("... of these, as they follow from the order", str(self.num_agreeing), end_section=True)
        for reason, count, first in self.reasons():
            table.add_row(reason, str(count), str(first.line))
        if self.block_length is None:
            table.caption = "--block_length is not given: all positions of a response count as compared"
        return table


def import_released(
    file: Path,
    output_dir: Path,
    *,
    tokenizer: str,
    methods: Sequence[str] = (),
    is_chat: bool = True,
    rows_per_shard: int = 1000,
    block_length: int | None = None,
) -> ImportReport:
    """Write the usable rows of ``file`` as shards, ``import_report.json`` and, last, the manifest.

    Args:
        file: JSON Lines or a JSON array; see :mod:`tabom.trajectories.released`. It is read once more for its checksum.
        output_dir: Directory; must not hold trajectories yet.
        tokenizer: Of the model that decoded: ``characters``, a directory or a hub id.
        methods: Values of ``method`` that are wanted; empty if all are.
        is_chat: Whether prompts stand in the tokenizer's chat template, as the released recipes have them.
        rows_per_shard: Trajectories a file, and how many are held in memory.
        block_length: Response positions that were decoded before any to their right, which the file does not say; the
            length of the response if there were no blocks. None if it is not known.

    Raises:
        TabomError: If the file is missing, nothing of it can be kept, or ``output_dir`` holds trajectories.
    """
    import rich.progress

    from tabom.data.encoding import encode_prompts
    from tabom.data.tokenizer import load_tokenizer, tokenizer_fingerprint
    from tabom.storage.files import file_sha256, whole_file
    from tabom.trajectories import Manifest, Origin, check_output_dir, shard_name
    from tabom.trajectories.released import read_released
    from tabom.types import SpecialIds

    require(rows_per_shard >= 1, f"rows_per_shard: expected at least 1, got {rows_per_shard}")
    check_range("block_length", block_length, least=1)
    require(file.is_file(), f"{file}: expected a JSON Lines file of trajectories, found no such file")
    check_output_dir(output_dir)
    loaded = load_tokenizer(tokenizer)
    report = ImportReport(str(file), file_sha256(file), block_length=block_length)
    shards = []
    response_length = 0
    with rich.progress.open(file, "rb", description=file.name) as lines:
        released = read_released(
            lines,
            vocabulary_size=max(loaded.get_vocab().values()) + 1,
            methods=methods,
            encode_prompt=lambda prompt, query_id: encode_prompts(loaded, [prompt], [query_id], chat=is_chat)[0],
        )
        rows = _kept(released, report, SpecialIds.of(loaded).mask)
        while chunk := list(itertools.islice(rows, rows_per_shard)):
            response_length = len(chunk[0].response_ids)
            path = output_dir / shard_name(len(shards))
            shards.append(_write_chunk(chunk, path, loaded, report, is_chat=is_chat))
    _require_rows(report)
    with whole_file(output_dir / REPORT_NAME) as written:
        written.write((json.dumps(report.content(), indent=2) + "\n").encode())
    origin = Origin(
        response_length=response_length,
        mask_token_id=SpecialIds.of(loaded).mask,
        tokenizer_fingerprint=tokenizer_fingerprint(loaded),
        model_fingerprint="unknown (imported)",
        query_fingerprint="",
        num_shards=len(shards),
        settings={
            "imported_from": file.name,
            "sha256": report.sha256,
            **({} if block_length is None else {"block_length": block_length}),
        },
    )
    Manifest(origin=origin, shards=tuple(shards)).save(output_dir)
    return report


def _kept(
    released: "Iterable[ReleasedRow | Rejection]", report: ImportReport, mask_token_id: int
) -> "Iterator[ReleasedRow]":
    from tabom.trajectories.released import Rejection

    for row in released:
        if isinstance(row, Rejection):
            report.rejections.append(row)
        elif mask_token_id in row.response_ids:
            detail = f"got {mask_token_id} at position {row.response_ids.index(mask_token_id)}"
            report.rejections.append(Rejection(row.line, "mask token in the response", detail))
        else:
            report.num_kept += 1
            report.num_prompts += row.sample == 0
            yield row


def _write_chunk(
    rows: "Sequence[ReleasedRow]", path: Path, tokenizer: Any, report: ImportReport, *, is_chat: bool
) -> "ShardInfo":
    """Steps without gaps, text up to the end-of-sequence token; counts the rows whose positions agree."""
    import torch

    from tabom.data.encoding import decode_responses
    from tabom.functional.end_of_sequence import until_eos
    from tabom.functional.unmasking import dense_steps, non_left_to_right
    from tabom.trajectories import write_shard
    from tabom.types import NEVER, SpecialIds, TrajectoryRow

    response_ids = torch.tensor([row.response_ids for row in rows])
    is_decoded = until_eos(response_ids, SpecialIds.of(tokenizer).eos)
    everywhere = torch.ones_like(is_decoded)
    step = dense_steps(torch.tensor([row.decoding_order for row in rows]), where=everywhere)
    is_out_of_order = non_left_to_right(step, is_revealed=step != NEVER, where=everywhere)
    for row, positions in zip(rows, is_out_of_order, strict=True):
        if row.non_ltr_positions is not None:
            report.num_listed += 1
            report.num_agreeing += set(row.non_ltr_positions) == set(positions.nonzero().flatten().tolist())
    num_rejected = sum(not row.is_verified for row in rows)
    responses = decode_responses(tokenizer, response_ids, chat=is_chat)
    references = [
        "" if row.reference.strip() == response.strip() else row.reference
        for row, response in zip(rows, responses, strict=True)
    ]
    report.num_without_reference += references.count("")
    return write_shard(
        [
            TrajectoryRow(
                query_id=row.query_id,
                sample=row.sample,
                is_verified=row.is_verified,
                prompt_ids=row.prompt_ids,
                response_ids=row.response_ids,
                unmask_step=step[i].tolist(),
                unmask_entropy=[float("nan")] * len(row.response_ids),
                prompt=row.prompt,
                response=responses[i],
                reference=references[i],
            )
            for i, row in enumerate(rows)
        ],
        path,
        len(rows[0].response_ids),
        num_queries=len(rows),
        num_tokens=int(is_decoded.sum()),
        rejected={"not correct, as the file says": num_rejected} if num_rejected else {},
    )


def _require_rows(report: ImportReport) -> None:
    if report.num_kept == 0:
        message = f"{report.file}: expected at least one usable row, found none among {report.num_rows}"
        for reason, count, first in report.reasons()[:1]:
            message += f"; {count} x {reason}, such as line {first.line}: {first.detail}"
        raise TabomError(message)
