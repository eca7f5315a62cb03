"""Takes the README's pictures of a finished demo: the viewer as it plays a Sudoku, and the top of the report."""

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tabom.cli.verbs.view import write_page
from tabom.errors import TabomError, require

NUM_COLOURS = 48
MARGIN = 16
FRAME, LAST = 350, 2500
"""Milliseconds that a step, and the whole answer, are shown."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that is installed.

    Raises:
        TabomError: If there is none.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome")
    require(path is not None, "chromium: expected it on the PATH, found none; make browser installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def picture(page: Page, first: str, last: str) -> Image.Image:
    """The page from the top of an element to the bottom of another."""
    edges = [page.locator(element).first.evaluate("e => e.getBoundingClientRect()") for element in (first, last)]
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return shot.crop((0, max(0, int(edges[0]["top"]) - MARGIN), shot.width, int(edges[1]["bottom"]) + MARGIN // 4))


def viewer(browser: Browser, trajectories: Path, tokenizer: Path, output: Path) -> None:
    """Write a GIF of 640 pixels' width in which the first trajectory is decoded."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "viewer.html"
        write_page([trajectories], file, tokenizer=str(tokenizer), num_trajectories=1)
        page = browser.new_page(viewport={"width": 640, "height": 900}, reduced_motion="reduce")
        page.goto(file.as_uri())
        frames = []
        for step in range(int(page.locator("#step").get_attribute("max") or 0) + 1):
            page.locator("#step").fill(str(step))
            page.evaluate("document.activeElement.blur()")
            frames.append(picture(page, "#shown", "#panels svg"))
        page.close()
    palette = frames[-1].quantize(NUM_COLOURS)
    start, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    times = [FRAME] * len(others) + [LAST]
    start.save(output, save_all=True, append_images=others, duration=times, loop=0, optimize=True)


def report(browser: Browser, file: Path, output: Path) -> None:
    """Write a report down to its main table, 1280 pixels wide, as PNG."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.goto(file.resolve().as_uri())
    shot = picture(page, "body", "table")
    page.close()
    shot.quantize(256).save(output, optimize=True)


def main() -> None:
    """Read the command line, and take both pictures.

    Raises:
        TabomError: If the run is not finished.
    """
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--run", type=Path, default=Path("runs/demo"), help="directory of a finished demo (runs/demo)")
    options.add_argument("--output_dir", type=Path, default=Path(__file__).parent, help="where they go (docs)")
    arguments = options.parse_args()
    for name in ("trajectories/manifest.json", "base/config.json", "test.html"):
        path = arguments.run / name
        require(path.is_file(), f"{path}: expected that of a finished demo, found no such file; run make demo")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        viewer(browser, arguments.run / "trajectories", arguments.run / "base", arguments.output_dir / "viewer.gif")
        report(browser, arguments.run / "test.html", arguments.output_dir / "report.png")


if __name__ == "__main__":
    try:
        main()
    except TabomError as error:
        raise SystemExit(f"pictures: error: {error}") from error
