"""Sections of tables and figures, as one HTML page, as Markdown, and as files of the figures."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from tabom.reporting.comparison import Rows, markdown_table
from tabom.storage.names import plain_name


@dataclass(frozen=True)
class Table:
    """Cells with a heading.

    Attributes:
        caption: Above it.
        rows: The head first.
    """

    caption: str
    rows: Rows


@dataclass(frozen=True)
class Plot:
    """A figure, with what it shows for those who do not see it.

    Attributes:
        name: Of its files.
        caption: Below it.
        text: What it shows, in words.
        figure: Drawn in black, which the page turns into the colour of its text.
        rows: The numbers, the head first.
    """

    name: str
    caption: str
    text: str
    figure: Figure
    rows: Rows


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Heading.
        paragraphs: Before all else.
        plots: Figures.
        tables: After the figures.
        warnings: Paragraphs that stand out.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def html_page(title: str, sections: Sequence[Section]) -> str:
    """One page with everything in it, without scripts."""
    environment = Environment(loader=PackageLoader("tabom.reporting"), autoescape=True, trim_blocks=True)
    environment.filters["svg"] = _svg
    return environment.get_template("report.html").render(title=title, sections=sections)


def markdown_page(title: str, sections: Sequence[Section], figures: str | None) -> str:
    """The same for a README.

    Args:
        title: Heading.
        sections: With their figures as links.
        figures: Directory of the figures as the page sees it; None leaves them out, and sections of nothing else.
    """
    parts = [f"# {_plain(title)}"]
    for section in sections:
        if figures is None and section.plots and not section.tables:
            continue
        parts += [f"## {_plain(section.title)}", *(f"> {_plain(text)}" for text in section.warnings)]
        parts += map(_plain, section.paragraphs)
        if figures is not None:
            parts += [f"![{_plain(plot.text)}]({figures}/{plot.name}.png)" for plot in section.plots]
        for table in section.tables:
            rows = [[_plain(cell) for cell in row] for row in table.rows]
            parts += [f"**{_plain(table.caption)}**", markdown_table(rows).rstrip()]
    return "\n\n".join(parts) + "\n"


def save_figures(sections: Sequence[Section], directory: Path) -> None:
    """Write every figure as PNG and SVG."""
    directory.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.plots:
            for ending in ("png", "svg"):
                plot.figure.savefig(directory / f"{plain_name(plot.name, 'name of a figure')}.{ending}", dpi=150)


def _svg(plot: Plot) -> Markup:
    """A figure in the page: names of its own, text as text, black as the text's colour, as wide as there is room."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": plot.text})
    drawing = buffer.getvalue().partition("<svg ")[2]
    drawing = re.sub(r' (width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.name}-", drawing)
    drawing = drawing.replace("#000000", "currentColor")
    return Markup(f'<svg role="img" aria-label="{escape(plot.text)}" fill="currentColor" {drawing}')


def _plain(text: str) -> str:
    """Text that Markdown takes as it stands."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)
