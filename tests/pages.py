"""Pages: what is written on those of the documentation, and how those that tabom makes look.

They are looked at in headless Chromium; where none is installed, such tests are skipped, but not in CI.
"""

import os
import re
import shlex
import shutil

import pytest


def blocks(text):
    """(language, title, content) of a page's blocks of code, in order."""
    return re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def command_lines(content):
    """Words of the commands of a block, without where their output goes; a backslash continues a line."""
    lines = (shlex.split(line, comments=True) for line in content.replace("\\\n", " ").splitlines())
    return [words[: words.index(">")] if ">" in words else words for words in lines if words]


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        message = "no chromium: `make browser` installs it"
        pytest.fail(message) if "CI" in os.environ else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file; at the end of the test nothing must have gone wrong in it, and nothing have been asked for."""
    contexts, complaints = [], []

    def call(path, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        own = path.resolve().as_uri()
        page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: None if is_own(request.url, own) else complaints.append(request.url))
        page.goto(own)
        return page

    yield call
    for context in contexts:
        context.close()
    assert complaints == []


def is_own(url, own):
    return url.partition("#")[0] == own or url.startswith(("data:", "blob:"))
