"""Trajectories of several directories in one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tabom.errors import require
from tabom.storage.files import file_sha256
from tabom.storage.settings import check_same
from tabom.trajectories.manifest import MANIFEST_NAME, Manifest, Origin, ShardInfo, shard_name
from tabom.trajectories.reader import read_rows, stream_shards
from tabom.trajectories.writer import write_shard


def mix_trajectories(directories: Sequence[Path], output_dir: Path) -> Manifest:
    """Write the shards of some directories one after the other; the manifest names the directories.

    A query that several of them have keeps all its decodings: those of a later directory are counted on after those of
    the earlier ones.

    Args:
        directories: With a manifest each.
        output_dir: Holds no trajectories yet.

    Raises:
        TabomError: If they are of different tokenizers, response lengths or settings, or one is damaged.
    """
    manifests = [Manifest.load(directory) for directory in directories]
    first = manifests[0].origin
    for directory, manifest in zip(directories, manifests, strict=True):
        there, advice = _decoding(first), "decode them alike"
        check_same(directory / MANIFEST_NAME, there, _decoding(manifest.origin), f"{directories[0]}", advice)
    shards: list[ShardInfo] = []
    num_samples = 0
    for directory in directories:
        num_before, row = num_samples, 0
        for info, table in stream_shards(directory, with_texts=True):
            rows = read_rows(directory, range(row, row + info.num_rows)).values()
            row += info.num_rows
            num_samples = max(num_samples, num_before + 1 + max(table.samples.tolist(), default=-1))
            require(num_samples < 2**15, f"{directory}: expected at most {2**15 - 1} decodings of a query in all")
            shards.append(
                write_shard(
                    [replace(one, sample=one.sample + num_before) for one in rows],
                    output_dir / shard_name(len(shards)),
                    first.response_length,
                    num_queries=info.num_queries,
                    num_tokens=info.num_tokens,
                    rejected=info.rejected,
                )
            )
    parts = [
        {
            "directory": str(directory),
            "manifest_sha256": file_sha256(directory / MANIFEST_NAME),
            "model_fingerprint": manifest.origin.model_fingerprint,
        }
        for directory, manifest in zip(directories, manifests, strict=True)
    ]
    models = {manifest.origin.model_fingerprint for manifest in manifests}
    origin = replace(
        first,
        model_fingerprint=first.model_fingerprint if len(models) == 1 else "several (mixed)",
        query_fingerprint="",
        num_shards=len(shards),
        settings=first.settings | {"mixed_from": parts},
    )
    manifest = Manifest(origin, tuple(shards))
    manifest.save(output_dir)
    return manifest


def _decoding(origin: Origin) -> dict[str, object]:
    """What has to be the same, so that one manifest can say it of all rows."""
    return {
        "response_length": origin.response_length,
        "mask_token_id": origin.mask_token_id,
        "tokenizer_fingerprint": origin.tokenizer_fingerprint,
        "settings": {key: value for key, value in origin.settings.items() if key != "mixed_from"},
    }
