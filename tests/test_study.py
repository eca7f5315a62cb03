"""docs/study.md says what `tabom report` makes of the committed records."""

import tarfile
from pathlib import Path

import pytest

from tabom.cli.verbs import report
from tabom.pipelines.file import read_pipeline
from tabom.shipped import find

pytestmark = pytest.mark.slow
ARCHIVES = sorted((Path(__file__).parents[1] / "docs/results").glob("study-*.tar.xz"))


def words_of_reports():
    """The commands of the pipeline's reports on domains whose records are kept: words by the name of the page."""
    pipeline = read_pipeline(find("pipelines/study", "configs"), {}, ("fit", "test", "predict", "report"))
    reports = {step.name: pipeline.command(step) for step in pipeline.steps.values() if step.verb == "report"}
    domains = [archive.name.removeprefix("study-").split(".")[0] for archive in ARCHIVES]
    return {name: words for name, words in reports.items() if name.split()[0] in domains}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """What the reports say of the records, in Markdown, by the name of the page."""
    folder, texts = tmp_path_factory.mktemp("study"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for archive in ARCHIVES:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
        for name, (verb, *words) in words_of_reports().items():
            left_out = ("--figures=", "--output=")
            made = [word for word in words if not word.startswith(("runs/", *left_out)) or Path(word).is_dir()]
            report.run([verb, *made, "--output=page.md"])
            texts[name] = Path("page.md").read_text()
    return texts


def table_of(text, caption):
    """The lines of the table below a caption that begins so."""
    below = text.partition(f"**{caption}")[2].partition("\n\n")[2]
    return below.partition("\n\n")[0].splitlines()


@pytest.mark.parametrize("name", words_of_reports())
def test_the_tables_are_those_of_the_report(pages, repository, name):
    page = (repository / "docs/study.md").read_text()
    lines = table_of(pages[name], "Points gained in")
    assert len(lines) > 3
    assert "\n".join(lines) in page
