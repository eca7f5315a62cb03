"""Write trajectories in a format that others read: step_map, of dLLM-RL and T3D."""

import json
from pathlib import Path

from tabom.errors import TabomError, require

EXPORTS = ("step_map",)


def export(directory: Path, output: Path, *, tokenizer: str, kind: str = "step_map") -> None:
    """Write a JSON array, whole or not at all, and say how many rows are in it.

    The format holds texts, and whoever reads it makes tokens of them again. So rows whose texts do not give their own
    tokens again are left out and counted.

    Args:
        directory: With a manifest.
        output: New file.
        tokenizer: Of the token ids.
        kind: Format.

    Raises:
        TabomError: If the format is another one, the file is there, the tokenizer is another one, or no row can be
            written.
    """
    from rich.console import Console
    from rich.progress import track

    from tabom.cli.verbs.trajectory_show import load_matching
    from tabom.data.encoding import encode_text
    from tabom.storage.files import whole_file
    from tabom.trajectories import read_rows, stream_shards
    from tabom.trajectories.formats.step_map import row_of

    require(kind in EXPORTS, f"--format: expected {', '.join(EXPORTS)}, got {kind}")
    require(not output.exists(), f"{output}: expected a new file, found one; give another --output or move it away")
    manifest, loaded = load_matching(directory, tokenizer)
    console = Console(stderr=True)
    shards = track(
        stream_shards(directory, with_texts=True),
        directory.name,
        len(manifest.shards),
        console=console,
        disable=not console.is_terminal,
    )
    num_written, first, left_out = 0, 0, ""
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as file:
        for info, _ in shards:
            for number, row in read_rows(directory, range(first, first + info.num_rows)).items():
                ids = [row.prompt_ids, row.response_ids]
                texts = [loaded.decode(part, clean_up_tokenization_spaces=False) for part in ids]
                try:
                    is_same = encode_text(loaded, texts, [row.query_id] * 2) == ids
                except TabomError:
                    is_same = False
                if not is_same:
                    left_out = left_out or f"{info.file}, row {number - first} ({row.query_id}, sample {row.sample})"
                    continue
                file.write(b",\n" if num_written else b"[\n")
                file.write(json.dumps(row_of(row, *texts), ensure_ascii=False).encode())
                num_written += 1
            first += info.num_rows
        require(
            num_written > 0,
            f"{directory}: expected a row whose texts give its tokens again, found none among {manifest.num_rows}"
            + (f", such as {left_out}" if left_out else ""),
        )
        file.write(b"\n]\n")
    print(f"{output}: {num_written:,} of {manifest.num_rows:,} trajectories; the first step is 1, and 0 is never")
    if left_out:
        num_left = manifest.num_rows - num_written
        print(f"{num_left:,} rows are left out, as their texts do not give their tokens again; the first: {left_out}")
