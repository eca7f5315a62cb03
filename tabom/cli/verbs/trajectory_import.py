"""Turn trajectories that others decoded into shards that `tabom fit` reads."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from tabom.trajectories import ShardInfo
    from tabom.trajectories.formats import Codec, ImportedRow, ImportReport, ImportRequest, Rejection

METHODS = ("entropy", "default", "credit")
REPORT_NAME = "import_report.json"


def summary(report: "ImportReport") -> "Table":
    """What became of the rows, for a terminal."""
    from rich.table import Table

    table = Table(title=f"Import of {report.title}")
    table.add_column("")
    table.add_column("rows", justify="right")
    table.add_column("first row", justify="right")
    table.add_row("read", str(report.num_rows))
    table.add_row("kept", str(report.num_kept))
    table.add_row("... of these, with a prompt of their own", str(report.num_prompts))
    table.add_row("... of these, without a reference answer", str(report.num_without_reference))
    if report.format == "tabom":
        table.add_row("... of these, with non_ltr_positions", str(report.num_listed))
        table.add_row("... of these, as they follow from the order", str(report.num_agreeing))
    table.add_section()
    for reason, count, first in report.reasons():
        table.add_row(reason, str(count), Path(first.place).name)
    if report.block_length is None:
        table.caption = "--block_length is not given: all positions of a response count as compared"
    return table


def import_trajectories(request: "ImportRequest", output_dir: Path) -> "ImportReport":
    """Write the usable rows as shards, ``import_report.json`` and, last, the manifest.

    Args:
        request: What is imported. Files are read once more for their checksum.
        output_dir: Directory; must not hold trajectories yet.

    Raises:
        TabomError: If a source is missing, nothing of it can be kept, a value of ``request`` is none, or ``output_dir``
            holds trajectories.
    """
    from tabom.data.tokenizer import load_tokenizer, tokenizer_fingerprint
    from tabom.storage.files import whole_file
    from tabom.trajectories import Manifest, Origin, check_output_dir, shard_name
    from tabom.trajectories.formats import ImportReport, checksum, usable_rows

    request.check()
    check_output_dir(output_dir)
    loaded = load_tokenizer(request.tokenizer, request.mask_token)
    codec = _codec(loaded, is_chat=request.is_chat)
    parse = request.parser(codec.mask_token_id)
    sources = [{"source": source, "sha256": checksum(source)} for source in request.sources]
    report = ImportReport(request.format, sources, block_length=request.block_length)
    rows = _kept(usable_rows(_found(request), parse, codec, response_length=request.response_length), report)
    shards, response_length = [], 0
    while chunk := list(itertools.islice(rows, request.rows_per_shard)):
        response_length = len(chunk[0].response_ids)
        path = output_dir / shard_name(len(shards))
        shards.append(_write_chunk(chunk, path, loaded, report, is_chat=request.is_chat))
    report.require_rows()
    with whole_file(output_dir / REPORT_NAME) as written:
        written.write((json.dumps(report.content(), indent=2) + "\n").encode())
    origin = Origin(
        response_length=response_length,
        mask_token_id=codec.mask_token_id,
        tokenizer_fingerprint=tokenizer_fingerprint(loaded),
        model_fingerprint="unknown (imported)",
        query_fingerprint="",
        num_shards=len(shards),
        settings=request.settings(sources),
    )
    Manifest(origin=origin, shards=tuple(shards)).save(output_dir)
    return report


def _codec(tokenizer: Any, *, is_chat: bool) -> "Codec":
    from tabom.data.encoding import encode_prompts, encode_text
    from tabom.trajectories.formats import Codec
    from tabom.types import SpecialIds

    special = SpecialIds.of(tokenizer)
    return Codec(
        vocabulary_size=max(tokenizer.get_vocab().values()) + 1,
        mask_token_id=special.mask,
        eos_token_id=special.eos,
        encode_prompt=lambda prompt, query_id: encode_prompts(tokenizer, [prompt], [query_id], chat=is_chat)[0],
        encode_text=lambda text, query_id: encode_text(tokenizer, [text], [query_id])[0],
    )


def _found(request: "ImportRequest") -> Iterator[tuple[str, object]]:
    """Rows of all sources, with a bar that has the rate and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from tabom.trajectories.formats import source_rows

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for source in request.sources:
            task = progress.add_task(Path(source).name, total=1.0, rate="")
            found = source_rows(source, name=request.name, split=request.split, revision=request.revision)
            for number, (place, row, share) in enumerate(found, 1):
                seconds = progress.tasks[task].elapsed or 0.0
                rate = f"{number / seconds:.0f} rows/s" if seconds > 1 else ""
                progress.update(task, completed=share, rate=rate)
                yield place, row


def _kept(found: "Iterable[ImportedRow | Rejection]", report: "ImportReport") -> "Iterator[ImportedRow]":
    from tabom.trajectories.formats import Rejection

    for row in found:
        if isinstance(row, Rejection):
            report.rejections.append(row)
        else:
            report.num_kept += 1
            report.num_prompts += row.sample == 0
            yield row


def _write_chunk(
    rows: "Sequence[ImportedRow]", path: Path, tokenizer: Any, report: "ImportReport", *, is_chat: bool
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
