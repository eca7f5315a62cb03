"""Sections of tables and figures, as one HTML page, as Markdown, and as files of the figures."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from tabom.reporting.comparison import Rows, markdown_table, show_value
from tabom.storage.names import plain_name


@dataclass(frozen=True)
class Table:
    """Cells with a heading.

    Attributes:
        caption: Above it.
        rows: The head first.
        best: Row and column of the cells that stand out; the head is row 0.
        is_folded: Whether a reader has to open it.
    """

    caption: str
    rows: Rows
    best: frozenset[tuple[int, int]] = frozenset()
    is_folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure, with what it shows for those who do not see it.

    Attributes:
        name: Of its files.
        caption: Below it.
        text: What it shows, in words.
        figure: Drawn in black, which the page turns into the colour of its text.
        rows: The numbers, the head first.
        best: As of a table.
    """

    name: str
    caption: str
    text: str
    figure: Figure
    rows: Rows
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Heading.
        paragraphs: Before all else.
        plots: Figures, after the tables.
        tables: Before the figures.
        warnings: Paragraphs that stand out.
        lead: First sentence of all, in larger letters.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lead: str = ""


def html_page(title: str, about: str, sections: Sequence[Section]) -> str:
    """One page with everything in it, which can be read without its script.

    Args:
        title: Heading.
        about: Below it: where the runs are, when they were made, and from which commit.
        sections: In order.
    """
    environment = Environment(loader=PackageLoader("tabom.reporting"), autoescape=True, trim_blocks=True)
    environment.filters |= {"svg": _svg, "unbroken": lambda text: re.sub(" (?=[±%↑↓])|(?<=±) ", "\u00a0", text)}
    environment.tests["text"] = lambda cell: not re.match(r"[-+<]? ?\d|-$", cell)
    return environment.get_template("report.html").render(title=title, about=about, sections=sections)


def markdown_page(title: str, about: str, sections: Sequence[Section], figures: str | None) -> str:
    """The same for a README.

    Args:
        title: Heading.
        about: Below it.
        sections: With their figures as links.
        figures: Directory of the figures as the page sees it; None leaves them out, and sections of nothing else.
    """
    parts = [f"# {_plain(title)}", _plain(about)]
    for section in sections:
        if figures is None and section.plots and not section.tables:
            continue
        parts += [f"## {_plain(section.title)}", *([f"**{_plain(section.lead)}**"] if section.lead else [])]
        parts += [f"> {_plain(text)}" for text in section.warnings]
        parts += map(_plain, section.paragraphs)
        for table in section.tables:
            rows = [
                [f"**{_plain(cell)}**" if (i, j) in table.best else _plain(cell) for j, cell in enumerate(row)]
                for i, row in enumerate(table.rows)
            ]
            parts += [f"**{_plain(table.caption)}**", markdown_table(rows).rstrip()]
        if figures is not None:
            parts += [f"![{_plain(plot.text)}]({figures}/{plot.name}.png)" for plot in section.plots]
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
    titles = _name_points(plot.figure)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue().partition("<svg ")[2]
    for name, texts in titles.items():
        before, mark, after = drawing.partition(f'id="{name}"')
        drawing = before + mark + _with_titles(after, texts)
    drawing = re.sub(r' (width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.name}-", drawing)
    drawing = drawing.replace("#000000", "currentColor")
    return Markup(f'<svg role="img" aria-label="{escape(plot.text)}" fill="currentColor" {drawing}')


def _with_titles(drawing: str, texts: Sequence[str]) -> str:
    """Give the first markers of a drawing their titles."""
    rest = iter(texts)

    def titled(mark: re.Match[str]) -> str:
        return f"{mark[1]}><title>{escape(next(rest))}</title></use>"

    return re.sub("(<use [^>]*)/>", titled, drawing, count=len(texts))


def _name_points(figure: Figure) -> dict[str, list[str]]:
    """What each marker is of, by the name that its line gets in the drawing."""
    titles: dict[str, list[str]] = {}
    for axes in figure.axes:
        for line in (line for line in axes.lines if line.get_marker() not in ("None", None, "")):
            points = [(x, y) for x, y in zip(*cast("Any", line.get_data()), strict=True) if y == y]
            label = "" if str(line.get_label()).startswith("_") else f"{line.get_label()}: "
            name = f"points{len(titles)}"
            line.set_gid(name)
            titles[name] = [f"{label}{show_value(x)}, {show_value(y)}" for x, y in points]
    return {name: texts for name, texts in titles.items() if texts}


def _plain(text: str) -> str:
    """Text that Markdown takes as it stands."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)
