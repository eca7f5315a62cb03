"""Look at directories of trajectories, compare and mix them, import, annotate and export them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabom.cli.verbs import (
    trajectory_annotate,
    trajectory_compare,
    trajectory_export,
    trajectory_import,
    trajectory_show,
    trajectory_stats,
)
from tabom.cli.verbs.trajectory_import import METHODS, REPORT_NAME, import_trajectories


def check(directory: Path) -> None:
    """Read and validate every shard.

    Raises:
        TabomError: About the first file, and row, that is not as the manifest says.
    """
    from rich.console import Console
    from rich.progress import track

    from tabom.trajectories import Manifest, stream_shards

    manifest = Manifest.load(directory)
    console = Console(stderr=True)
    shards, num_shards = stream_shards(directory, with_texts=True), len(manifest.shards)
    for _ in track(shards, directory.name, num_shards, console=console, disable=not console.is_terminal):
        pass
    noun = "shard" if num_shards == 1 else "shards"
    print(f"{directory}: {manifest.num_rows:,} trajectories in {num_shards:,} {noun}, all as the manifest says")


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom trajectories``."""
    options = argparse.ArgumentParser("tabom trajectories", description=__doc__)
    options.add_argument("verb", help=argparse.SUPPRESS)
    actions = options.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    _add_import(actions)
    _add_export(actions)
    _add_annotate(actions)
    for action, text in (
        ("check", "Validate every file and row; the first bad one is named."),
        ("stats", trajectory_stats.__doc__),
        ("show", trajectory_show.__doc__),
    ):
        add = actions.add_parser(action, prog=f"tabom trajectories {action}", help=text, description=text)
        add.add_argument("path", type=Path, metavar="PATH", help="directory with a manifest.json")
        if action == "check":
            continue
        add.add_argument("--tokenizer", help="directory or hub id of the tokenizer that made the token ids")
        if action == "stats":
            add.add_argument("--json", action="store_true", dest="is_json", help="the figures as JSON")
        else:
            which = add.add_mutually_exclusive_group()
            which.add_argument("--row", type=int, default=0, help="number of the row in the whole directory (0)")
            which.add_argument("--query", metavar="ID", help="the row of this query")
            add.add_argument("--sample", type=int, default=0, help="which decoding of the query (0)")
    text = trajectory_compare.__doc__
    add = actions.add_parser("compare", prog="tabom trajectories compare", help=text, description=text)
    add.add_argument("first", type=Path, metavar="FIRST", help="directory with a manifest.json")
    add.add_argument("second", type=Path, metavar="SECOND", help="another one, of the same queries")
    add.add_argument("--json", action="store_true", dest="is_json", help="the figures as JSON")
    text = "Write the trajectories of several directories to a new one, as training on earlier rounds takes it."
    add = actions.add_parser("mix", prog="tabom trajectories mix", help=text, description=text)
    add.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="directory with a manifest.json")
    add.add_argument("--output_dir", type=Path, required=True, help="new directory for shards and manifest")
    return options


def _add_import(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = trajectory_import.__doc__
    add = actions.add_parser("import", prog="tabom trajectories import", help=text, description=text)
    add.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="JSON, Parquet or torch file, a folder of them or of datasets, or a data set of the hub",
    )
    add.add_argument("--output_dir", type=Path, required=True, help="new directory for shards, manifest and report")
    add.add_argument(
        "--tokenizer", required=True, help="directory or hub id of the tokenizer of the model that decoded"
    )
    add.add_argument("--mask_token", help="its mask token by the text, where its files have none")
    add.add_argument("--format", default="tabom", help="tabom, d3llm, step_map or prophet (tabom)")
    add.add_argument("--method", nargs="+", choices=METHODS, default=(), help="tabom: rows of these methods only (all)")
    add.add_argument("--first_step", type=int, help="step_map: number of the first step, 0 or 1")
    add.add_argument("--prompts", type=Path, help="prophet: JSON Lines with the prompt of question 0, 1, ...")
    add.add_argument(
        "--chat_template", action="store_true", default=True, help="prompts in the chat template (default)"
    )
    add.add_argument("--no_chat_template", dest="chat_template", action="store_false", help="prompts as they stand")
    add.add_argument("--rows_per_shard", type=int, default=1000, help="trajectories a file (1000)")
    add.add_argument(
        "--response_length",
        type=int,
        help="tokens to which shorter responses are filled (as the first)",
    )
    add.add_argument(
        "--block_length", type=int, help="tokens of the blocks in which responses were decoded (not known: one block)"
    )
    add.add_argument("--name", help="configuration of a data set")
    add.add_argument("--split", default="train", help="split of a data set (train)")
    add.add_argument("--revision", help="branch, tag or commit of a data set of the hub")


def _add_export(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = trajectory_export.__doc__
    add = actions.add_parser("export", prog="tabom trajectories export", help=text, description=text)
    add.add_argument("path", type=Path, metavar="PATH", help="directory with a manifest.json")
    add.add_argument("--output", type=Path, required=True, help="new file, such as step_map.json")
    add.add_argument("--tokenizer", required=True, help="directory or hub id of the tokenizer that made the token ids")
    add.add_argument("--format", default="step_map", help="step_map")


def _add_annotate(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = trajectory_annotate.__doc__
    add = actions.add_parser("annotate", prog="tabom trajectories annotate", help=text, description=text)
    add.add_argument("path", type=Path, metavar="PATH", help="directory with a manifest.json; it is left as it is")
    add.add_argument("--output_dir", type=Path, required=True, help="directory for the shards with entropies")
    add.add_argument(
        "--backbone", required=True, help="directory or hub id of the model that decoded, or a YAML file of a backbone"
    )
    add.add_argument("--tokenizer", help="directory or hub id of its tokenizer (that of the trajectories' model)")
    add.add_argument("--batch_size", type=int, default=32, help="states of a trajectory a forward pass (32)")
    add.add_argument("--device", help="cpu, cuda, cuda:1 ... (cuda where there is one)")


def run(words: Sequence[str]) -> None:
    """``tabom trajectories``."""
    arguments = parser().parse_args(words)
    match arguments.action:
        case "import":
            _import(arguments)
        case "check":
            check(arguments.path)
        case "mix":
            _mix(arguments)
        case "export":
            trajectory_export.export(
                arguments.path, arguments.output, tokenizer=arguments.tokenizer, kind=arguments.format
            )
        case "annotate":
            trajectory_annotate.annotate(
                arguments.path,
                arguments.output_dir,
                backbone=arguments.backbone,
                tokenizer=arguments.tokenizer,
                batch_size=arguments.batch_size,
                device=arguments.device,
            )
        case "compare":
            trajectory_compare.print_comparison(arguments.first, arguments.second, is_json=arguments.is_json)
        case "stats":
            trajectory_stats.print_stats(arguments.path, tokenizer=arguments.tokenizer, is_json=arguments.is_json)
        case _:
            trajectory_show.print_row(
                arguments.path,
                row=arguments.row,
                query_id=arguments.query,
                sample=arguments.sample,
                tokenizer=arguments.tokenizer,
            )


def _import(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from tabom.storage.files import whole_directory
    from tabom.trajectories import check_output_dir
    from tabom.trajectories.formats import ImportRequest

    check_output_dir(arguments.output_dir)
    request = ImportRequest(
        arguments.sources,
        arguments.tokenizer,
        format=arguments.format,
        methods=arguments.method,
        first_step=arguments.first_step,
        prompts=arguments.prompts,
        is_chat=arguments.chat_template,
        rows_per_shard=arguments.rows_per_shard,
        response_length=arguments.response_length,
        block_length=arguments.block_length,
        name=arguments.name,
        split=arguments.split,
        revision=arguments.revision,
        mask_token=arguments.mask_token,
    )
    with whole_directory(arguments.output_dir, "trajectories import") as directory:
        report = import_trajectories(request, directory)
    Console().print(trajectory_import.summary(report))
    print(f"{arguments.output_dir}: {report.num_kept} of {report.num_rows} rows; details in {REPORT_NAME}")


def _mix(arguments: argparse.Namespace) -> None:
    from tabom.storage.files import whole_directory
    from tabom.trajectories import check_output_dir, mix_trajectories

    check_output_dir(arguments.output_dir)
    with whole_directory(arguments.output_dir, "trajectories mix") as directory:
        manifest = mix_trajectories(arguments.paths, directory)
    print(f"{arguments.output_dir}: {manifest.num_rows:,} trajectories of {len(arguments.paths)} directories")
