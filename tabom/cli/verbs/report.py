"""Write tables and figures of finished runs: one HTML page that needs no network, or Markdown for a README.

The runs are compared at equal forgetting, from the records that they keep of themselves.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabom.errors import check_range, require

if TYPE_CHECKING:
    from tabom.reporting.page import Section


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom report``."""
    options = argparse.ArgumentParser("tabom report", description=__doc__)
    options.add_argument("verb", help=argparse.SUPPRESS)
    options.add_argument(
        "paths", type=Path, nargs="+", metavar="RUN_DIR", help="directory with runs anywhere below it, or a record"
    )
    options.add_argument(
        "-o", "--output", type=Path, action="append", required=True, metavar="FILE",
        help="page to be written, .html or .md; may be given twice",
    )  # fmt: skip
    options.add_argument(
        "--figures", type=Path, metavar="DIR", help="where every figure is written as PNG and SVG; Markdown links there"
    )
    options.add_argument("--baseline", metavar="LABEL", help="method that differences are taken to (sft_sd)")
    options.add_argument("--metric", default="accuracy_1_per_step", help="set against forgetting (accuracy_1_per_step)")
    options.add_argument(
        "--levels", type=float, nargs="+", metavar="KL",
        help="forgetting at which methods are compared (what all of them reach)",
    )  # fmt: skip
    options.add_argument("--stage", choices=("test", "validate"), help="what is read (test, where there is one)")
    options.add_argument(
        "--print", action="store_true", dest="is_printed", help="print the main table and what was found as well"
    )
    options.add_argument("--title", default="Post-training runs", help="heading of the page")
    return options


def run(words: Sequence[str]) -> None:
    """``tabom report``."""
    options = vars(parser().parse_args(words))
    outputs = options.pop("output")
    for output in outputs:
        require(output.suffix in (".html", ".md"), f"--output: expected a file ending in .html or .md, got {output}")
    options.pop("verb")
    for level in options["levels"] or ():
        check_range("--levels", level, above=0)
    is_printed = options.pop("is_printed")
    content = write_pages(options.pop("paths"), outputs, **options)
    if is_printed:
        _print(content)


def _print(content: "Sequence[Section]") -> None:
    """The main table, and below it what was found."""
    from rich.console import Console

    from tabom.reporting.comparison import rich_table

    console = Console(width=max(Console().width, 150))
    for table in [section.tables[0] for section in content if section.title == "Results"]:
        console.print(rich_table(table.rows, table.caption))
    for text in [text for section in content for text in (*section.warnings, section.lead) if text]:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def write_pages(
    paths: Sequence[Path],
    outputs: Sequence[Path],
    *,
    title: str,
    metric: str,
    stage: str | None = None,
    baseline: str | None = None,
    levels: Sequence[float] | None = None,
    figures: Path | None = None,
) -> list["Section"]:
    """Write what the runs below some paths say; the options are those of ``tabom report``.

    Returns:
        What the pages hold.

    Raises:
        TabomError: If there are no runs there, or none with the metric or of the baseline.
    """
    from tabom.reporting.page import html_page, markdown_page, save_figures
    from tabom.reporting.report import about, sections
    from tabom.reporting.results import collect
    from tabom.storage.files import whole_file
    from tabom.storage.run_record import find_records

    records = find_records(paths)
    content, line = sections(records, collect(records, stage), metric, baseline, levels), about(paths, records)
    if figures is not None:
        save_figures(content, figures)
    for output in outputs:
        if output.suffix == ".html":
            text = html_page(title, line, content)
        else:
            links = figures and Path(os.path.relpath(figures, output.parent)).as_posix()
            text = markdown_page(title, line, content, links)
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as file:
            file.write(text.encode())
        print(f"{output}: {len(records)} runs")
    return content
