"""Add the entropies that trajectories lack, by going through their states again with a model."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tabom.errors import TabomError, check_range, require

if TYPE_CHECKING:
    from rich.progress import Progress

    from tabom.backbones import Backbone, BackboneSource
    from tabom.trajectories import Origin
    from tabom.types import TrajectoryRow


def annotate(
    directory: Path,
    output_dir: Path,
    *,
    backbone: str,
    tokenizer: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Write the same trajectories with the entropy of every position just before it was revealed.

    Killed at any moment, the same command goes on after the last whole shard; several at once share the shards.

    Args:
        directory: With a manifest; nothing is written there.
        output_dir: Another one.
        backbone: Directory or hub id of a model, or a YAML file as ``model.backbone`` takes it.
        tokenizer: Directory or hub id; None is that of the backbone.
        batch_size: States of a trajectory in a forward pass.
        device: Where the model goes; None is a GPU where there is one.

    Raises:
        TabomError: If a directory or the model cannot be used, the tokenizer is another than that of the trajectories,
            a trajectory is longer than the model, or ``output_dir`` holds other trajectories.
    """
    from tabom.cli.verbs.trajectory_show import load_matching
    from tabom.trajectories import TrajectoryStore, read_rows, stream_shards

    check_range("batch_size", batch_size, least=1)
    require(
        directory.resolve() not in (output_dir.resolve(), *output_dir.resolve().parents),
        f"--output_dir: expected a directory outside of that of the trajectories, got {output_dir}",
    )
    source = _source(backbone)
    name, mask_token = (getattr(source, key, None) for key in ("path", "mask_token"))
    manifest, loaded = load_matching(directory, tokenizer or name or backbone, mask_token)
    num_states = [int((table.unmask_step.max(1, initial=-1) + 1).sum()) for _, table in stream_shards(directory)]
    model = _on(source.load(loaded).eval(), device)
    store = TrajectoryStore(output_dir)
    store.open(_origin(directory, manifest.origin, model, batch_size))
    try:
        with _bar() as progress:
            done = sum(num_states[index] for index in store.finished())
            task = progress.add_task(directory.name, total=sum(num_states), completed=done, rate="")

            def tell(number: int) -> None:
                progress.update(task, advance=number)
                speed = progress.tasks[task].speed
                progress.update(task, rate="" if speed is None else f"{speed:.1f} states/s")

            while (index := store.claim(_say)) is not None:
                info = manifest.shards[index]
                first = sum(shard.num_rows for shard in manifest.shards[:index])
                rows = read_rows(directory, range(first, first + info.num_rows)).values()
                store.write(
                    index,
                    [_annotated(row, model, batch_size, tell) for row in rows],
                    num_queries=info.num_queries,
                    num_tokens=info.num_tokens,
                    rejected=info.rejected,
                )
        finished = store.finish()
    except BaseException:
        store.close()
        raise
    print(f"{output_dir}: {finished.num_rows:,} trajectories with the entropies of {backbone}")


def _annotated(
    row: "TrajectoryRow", model: "Backbone", batch_size: int, tell: Callable[[int], None]
) -> "TrajectoryRow":
    import torch

    from tabom.data.encoding import check_length
    from tabom.samplers.replaying import replayed_entropies

    check_length(row.query_id, len(row.prompt_ids) + len(row.response_ids), model.max_length)
    device = next(model.parameters()).device
    parts = (torch.tensor(part, device=device) for part in (row.prompt_ids, row.response_ids, row.unmask_step))
    entropy = replayed_entropies(model, *parts, batch_size=batch_size, on_states=tell)
    return dataclasses.replace(row, unmask_entropy=entropy.tolist())


def _source(backbone: str) -> "BackboneSource":
    """What a YAML file says, which may be a shipped one, or the model of a directory or of the hub."""
    from jsonargparse import ArgumentError, ArgumentParser

    from tabom import shipped
    from tabom.backbones import BackboneSource, PretrainedBackbone

    if Path(backbone).suffix not in (".yaml", ".yml"):
        return PretrainedBackbone(backbone)
    path = shipped.find(backbone, "configs")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BackboneSource, "backbone")
    try:
        return parser.instantiate(parser.parse_args([f"--backbone={path}"]))["backbone"]
    except ArgumentError as error:
        raise TabomError(
            f"{backbone}: expected a backbone as model.backbone takes it ({' '.join(str(error).split())[:200]})"
        ) from error


def _on(model: "Backbone", device: str | None) -> "Backbone":
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(name)
    except (RuntimeError, AssertionError) as error:
        raise TabomError(f"--device: expected cpu, or a GPU that is there, got {name} ({error})") from error


def _origin(directory: Path, origin: "Origin", model: "Backbone", batch_size: int) -> "Origin":
    """That of the source, and what the entropies come from."""
    from tabom.storage.files import file_sha256
    from tabom.trajectories.manifest import MANIFEST_NAME

    annotated = {
        "manifest_sha256": file_sha256(directory / MANIFEST_NAME),
        "model_fingerprint": model.fingerprint(),
        "batch_size": batch_size,
        "device": next(model.parameters()).device.type,
    }
    return dataclasses.replace(origin, settings=origin.settings | {"annotated": annotated})


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("states {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _say(sentence: str) -> None:
    print(f"tabom: {sentence}", file=sys.stderr, flush=True)
