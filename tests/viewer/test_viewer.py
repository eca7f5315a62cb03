"""`tabom view`: what the page holds, how it plays, and what is refused."""

import dataclasses
import json
import re

import pytest
from helpers import llada_tokenizer_files, origin_of
from playwright.sync_api import expect

from tabom.cli.main import main
from tabom.cli.verbs.view import write_page
from tabom.data.tokenizer import load_tokenizer
from tabom.trajectories import TrajectoryStore, read_row, read_rows, row_names
from tabom.types import NEVER, Grid, TrajectoryRow
from tabom.viewer import viewer_page

NAN = float("nan")
EOS = 2
WANDB = ("--trainer.logger=lightning.pytorch.loggers.WandbLogger", "--trainer.logger.offline=true")


def row(query_id, ids, steps, entropies=None, *, prompt=None, sample=0, is_verified=True):
    entropies = [0.25 * (step + 1) for step in steps] if entropies is None else entropies
    prompt = f"{query_id}?" if prompt is None else prompt
    return TrajectoryRow(query_id, sample, is_verified, [], ids, steps, entropies, prompt, "written", "right")


@pytest.fixture
def write(tmp_path, tokenizer):
    """A directory of rows of four tokens, two a shard."""

    def call(name, rows, **settings):
        store = TrajectoryStore(tmp_path / name)
        chunks = [rows[start : start + 2] for start in range(0, len(rows), 2)] or [[]]
        store.open(origin_of(tokenizer, response_length=4, num_shards=len(chunks), settings=settings))
        for index, chunk in enumerate(chunks):
            rejected = {"wrong": sum(not row.is_verified for row in chunk)} if chunk else {}
            store.write(index, chunk, num_queries=len(chunk), num_tokens=4 * len(chunk), rejected=rejected)
        store.finish()
        return store.directory

    return call


@pytest.fixture
def show(tmp_path, open_page):
    """Open the page of some directories."""

    def call(*directories, tokenizer="characters", width=1280, color_scheme="light", **options):
        page = tmp_path / "page" / "viewer.html"
        write_page(directories, page, tokenizer=tokenizer, **options)
        return at_its_end(open_page(page, width=width, color_scheme=color_scheme))

    return call


def at_its_end(page):
    page.keyboard.press("End")
    return page


def show_rows(tmp_path, open_page, queries, tokenizer, models=("base",), title="rows", drawing=None, **options):
    path = tmp_path / "rows.html"
    text = viewer_page(models, queries, tokenizer, title=title, note="a test", drawing=drawing)
    path.write_text(text, encoding="utf-8")
    return at_its_end(open_page(path, **options))


def embedded(page):
    return json.loads(page.evaluate("document.getElementById('data').textContent"))


def tokens(page, panel=0):
    """(text, step number, state) of every token of a panel; neither is there while it is masked."""
    return page.evaluate(
        """panel => [...document.querySelectorAll(".panel")[panel].querySelectorAll(".tokens > li:not(.break)")].map(
            (cell) => {
                const isSeen = [...cell.children].every((part) => getComputedStyle(part).visibility === "visible");
                const parts = isSeen ? [...cell.children].map((part) => part.textContent) : ["", ""];
                return [...parts, cell.classList[0]];
            })""",
        panel,
    )


def prompts(page):
    return page.locator(".row:visible .snippet").all_text_contents()


def current(page):
    return page.locator(".row[aria-current] .snippet").text_content()


def position(page):
    return page.locator("#position").text_content()


def test_tokens_appear_with_their_steps(make_trajectories, show, tokenizer):
    directory = make_trajectories(num_rows=3)
    page = show(directory)
    _, content = read_row(directory, 0)
    last = max(content.unmask_step)
    slider = page.get_by_role("slider", name="Decoding step")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0", str(last + 1))
    for done in (0, 1, 7, last + 1):
        slider.fill(str(done))
        expected = []
        for token, step in zip(content.response_ids, content.unmask_step, strict=True):
            state = "masked" if step >= done else "new" if step == done - 1 else "known"
            expected.append(["", "", state] if state == "masked" else [tokenizer.decode([token]), str(step + 1), state])
        seen = tokens(page)
        assert [[text.replace("␣", " "), *rest] for text, *rest in seen[:17]] == expected[:17]
        assert [state for *_, state in seen] == [state for *_, state in expected]
        assert position(page) == f"step {done} of {last + 1}"


def test_it_opens_masked_and_plays_once(tmp_path, open_page, tokenizer):
    path = tmp_path / "rows.html"
    ids = tokenizer("abcd")["input_ids"]
    queries = [[row(name, ids, [0, 1, 2, 3])] for name in "xy"]
    path.write_text(viewer_page(["base"], queries, tokenizer, title="base", note="a test"), encoding="utf-8")
    page = open_page(path, reduced_motion="reduce")
    assert (position(page), page.locator("#play").text_content()) == ("step 0 of 4", "▶ Play")
    assert {state for *_, state in tokens(page)} == {"masked"}
    page = open_page(path)
    assert page.locator("#play").text_content() == "⏸ Pause"
    expect(page.locator("#position")).to_have_text("step 4 of 4")
    expect(page.locator("#play")).to_have_text("▶ Play")
    page.keyboard.press("j")
    assert (position(page), page.locator("#play").text_content()) == ("step 4 of 4", "▶ Play")
    assert page.locator("h1").text_content() == "base, step by step"


def test_the_response_is_not_shown_before_it_is_decoded(tmp_path, open_page, tokenizer):
    """Not before its own last step: the other model takes two steps more."""
    ids = tokenizer("abcd")["input_ids"]
    slow = row("q", ids, [0, 1, 2, 3])
    page = show_rows(tmp_path, open_page, [[row("q", ids, [0, 0, 1, 1]), slow]], tokenizer, models=["one", "two"])
    shown = {}
    for step in range(5):
        page.locator("#step").fill(str(step))
        texts = page.locator(".response").all_text_contents()
        shown[step] = [text == "written" for text in texts]
        assert {text for text in texts if text != "written"} <= {"Shown when all of it is revealed."}
    assert shown == {0: [False] * 2, 1: [False] * 2, 2: [True, False], 3: [True, False], 4: [True, True]}


def differing(page):
    return page.locator(".tokens .differs .text").all_text_contents()


def test_wrong_tokens_are_marked_against_the_reference(tmp_path, open_page, tokenizer):
    """Layouts differ in blanks; a right answer has no wrong tokens, and another length is not compared."""
    ids = [*tokenizer("12 34")["input_ids"], EOS, EOS]
    wrong = row("q", ids, list(range(7)), is_verified=False)

    def marked(**changes):
        return show_rows(tmp_path, open_page, [[dataclasses.replace(wrong, **changes)]], tokenizer)

    page = marked(reference="1\n924")
    assert differing(page) == ["2", "3"]
    assert "Underlined: other than in the reference answer." in page.locator(".panel").text_content()
    title = page.locator(".tokens li").nth(1).get_attribute("title")
    assert title == 'token 2, "2": step 2, entropy 0.50 nats; other than in the reference answer'
    page.locator("#step").fill("2")
    assert differing(page) == ["2"]
    for changes in ({"reference": "12345"}, {"reference": "1234"}, {"reference": "9999", "is_verified": True}):
        page = marked(**changes)
        assert differing(page) == []
        assert "Underlined" not in page.locator(".panel").text_content()


def test_filler_says_what_it_is(tmp_path, open_page, tokenizer):
    ids = [*tokenizer("ab")["input_ids"], EOS, EOS, EOS]
    page = show_rows(tmp_path, open_page, [[row("q", ids, [0, 1, 2, 3, 4])]], tokenizer)
    assert "The 2 low boxes are filler after the end of the answer." in page.locator(".panel").text_content()
    titles = [cell.get_attribute("title") for cell in page.locator(".tokens li").all()]
    assert [title.endswith("; filler after the end of the answer") for title in titles] == [False] * 3 + [True] * 2


def grid(page):
    """(text, classes) of every cell."""
    cells = page.locator(".grid-answer span").all()
    return [(cell.text_content(), cell.get_attribute("class")) for cell in cells]


def test_a_task_draws_itself(tmp_path, open_page, tokenizer):
    """A puzzle of two columns; its second clue was decoded as another digit, its second blank wrongly."""
    drawn = {"0210": Grid(num_columns=2, box=1, clues=["", "2", "1", ""])}
    ids = [*tokenizer("1 319")["input_ids"], EOS]
    decoded = row("q", ids, [1, NEVER, 0, 2, 3, 4], prompt="0210", is_verified=False)
    decoded = dataclasses.replace(decoded, reference="12 12")
    other = row("r", ids, [1, NEVER, 0, 2, 3, 4], prompt="none")
    unlike = dataclasses.replace(decoded, reference="of another length")
    page = show_rows(tmp_path, open_page, [[decoded], [other], [unlike]], tokenizer, drawing=drawn.get)
    page.locator("#step").fill("0")
    assert grid(page) == [("", "blank"), ("2", "clue left"), ("1", "clue top"), ("", "blank left top")]
    page.locator("#step").fill("1")
    assert grid(page)[1] == ("3", "clue left new known differs")
    page.locator("#step").fill("5")
    texts = [("1", "blank known"), ("3", "clue left known differs"), ("1", "clue top known")]
    assert grid(page) == [*texts, ("9", "blank left top known differs")]
    label = page.locator(".grid-answer").get_attribute("aria-label")
    assert label == "The answer as a grid of 2 columns: 1 3 1 9"
    fills_of = "cells => cells.map((cell) => cell.style.getPropertyValue('--fill'))"
    token_fills = page.locator(".tokens li").evaluate_all(fills_of)
    assert page.locator(".grid-answer span").evaluate_all(fills_of) == [token_fills[i] for i in (0, 2, 3, 4)]
    page.keyboard.press("j")
    assert page.locator(".grid-answer").count() == 0
    page.keyboard.press("j")
    assert [classes.endswith("differs") for _, classes in grid(page)] == [False, True, False, False]


def test_sudoku_draws_its_puzzles(write, tmp_path):
    """The manifest names the task; what is no puzzle is not drawn."""
    rows = [
        row(name, [50] * 4, [0, 1, 2, 3], prompt=prompt)
        for name, prompt in (("a", "sudoku 1020000000000003="), ("b", "?"))
    ]
    page = tmp_path / "page.html"
    write_page([write("run", rows, task="tabom.tasks.sudoku.Sudoku4x4")], page, tokenizer="characters")
    clues = ["1", "", "2", *[""] * 12, "3"]
    assert [query["grid"] for query in data_of(page)["queries"]] == [{"num_columns": 4, "box": 2, "clues": clues}, None]
    write_page([write("other", rows, task="mine.Sudoku4x4")], page, tokenizer="characters")
    assert [query["grid"] for query in data_of(page)["queries"]] == [None, None]


def test_a_task_of_ones_own_is_named(make_trajectories, write, tmp_path, monkeypatch, capsys):
    """A manifest names no class that would be imported, the command line does."""
    (tmp_path / "mine.py").write_text(
        "from tabom.types import Grid\n"
        "class Mine:\n    @classmethod\n    def drawing(cls, prompt):\n        return Grid(1, 1, [prompt])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run, page = write("run", [row("q", [50, 51, 52, 53], [0, 1, 2, 3])], task="mine.Mine"), tmp_path / "page.html"
    write_page([run], page, tokenizer="characters")
    assert data_of(page)["queries"][0]["grid"] is None
    write_page([run], page, tokenizer="characters", task="mine.Mine")
    assert data_of(page)["queries"][0]["grid"] == {"num_columns": 1, "box": 1, "clues": ["q?"]}
    assert failure(capsys, run, "-o", page, "--task", "mine.Other").startswith(
        "--task: expected a class as MODULE.CLASS, got mine.Other ("
    )
    assert failure(capsys, run, "-o", page, "--task", "json") == (
        "--task: expected a task with the method drawing, got json"
    )


@pytest.mark.parametrize("control", ["#by-entropy", "#next", "#play", "#step"])
def test_keys_work_after_a_click_on_a_control(write, show, control):
    page = show(write("run", [row(name, [50, 51, 52, 53], [0, 1, 2, 3]) for name in "abc"]))
    page.locator(control).click()
    for key, expected in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert position(page) == f"step {expected} of 4"
    before = current(page)
    page.keyboard.press(" ")
    assert (page.locator("#play").text_content(), current(page)) == ("⏸ Pause", before)


def test_keys_work_after_a_choice_by_pointer_but_a_reader_with_keys_stays_in_the_control(write, show):
    page = show(write("run", [row("a", [50, 51, 52, 53], [0, 1, 2, 3])]))
    page.locator("#speed").click()
    page.locator("#speed").select_option("slow")
    page.keyboard.press("Home")
    assert position(page) == "step 0 of 4"
    page.locator("#by-entropy").focus()
    page.keyboard.press(" ")
    assert page.evaluate("document.activeElement.id") == "by-entropy"
    page.locator(".row").click()
    page.keyboard.press(" ")
    assert page.locator("#play").text_content() == "⏸ Pause"


def test_two_models_at_a_glance(tmp_path, open_page, tokenizer):
    """Queries that both decoded are counted; a click shows them alone, a second one all."""
    verdicts = {"a": (True, True), "b": (True, False), "c": (True, False), "d": (False, True), "e": (False, False)}
    queries = [[row(name, [50], [0], is_verified=ok) for ok in pair] for name, pair in verdicts.items()]
    queries.append([row("f", [50], [0]), None])
    page = show_rows(tmp_path, open_page, queries, tokenizer, models=["base", "TABOM"])
    buttons = page.locator("#summary button")
    assert buttons.all_text_contents() == ["both right: 1", "only base: 2", "only TABOM: 1", "neither: 1"]
    buttons.nth(1).click()
    assert prompts(page) == ["b?", "c?"]
    buttons.nth(1).click()
    assert len(prompts(page)) == 6
    assert page.locator(".panel h3").all_text_contents() == ["base✓ correct", "TABOM✗ wrong"]
    page = show_rows(tmp_path, open_page, queries[:1], tokenizer)
    assert page.locator("#summary").is_hidden()


def test_a_trajectory_has_an_address(tmp_path, open_page, tokenizer):
    queries = [[row(f"sudoku/{name}=", [50], [0], is_verified=name == "c")] for name in "abc"]
    page = show_rows(tmp_path, open_page, queries, tokenizer)
    page.keyboard.press("j")
    link = page.locator("#id").get_attribute("href")
    assert link == "#sudoku%2Fb%3D"
    page.goto("about:blank")
    page.goto((tmp_path / "rows.html").as_uri() + link)
    assert current(page) == "sudoku/b=?"
    page.locator(".wanted").select_option("wrong")
    page.evaluate("location.hash = '#sudoku%2Fc%3D'")
    expect(page.locator("#id")).to_have_text("sudoku/c=")
    assert len(prompts(page)) == 3
    page.evaluate("location.hash = '#none'")
    assert current(page) == "sudoku/c=?"


def test_positions_that_decoding_did_not_reveal_are_always_there(tmp_path, open_page, tokenizer):
    ids = tokenizer("abcd")["input_ids"]
    page = show_rows(tmp_path, open_page, [[row("q", ids, [NEVER, 1, 0, 0], [NAN, 0.5, 0.25, 0.0])]], tokenizer)
    page.keyboard.press("Home")
    assert tokens(page) == [["a", "\u2013", "given"], *[["", "", "masked"]] * 3]
    page.keyboard.press("ArrowRight")
    assert tokens(page) == [["a", "\u2013", "given"], ["", "", "masked"], ["c", "1", "new"], ["d", "1", "new"]]
    assert page.locator("#status").text_content() == "Step 1 of 2. revealed c d."
    assert page.locator(".tokens li").nth(0).get_attribute("title") == 'token 1, "a": not revealed by decoding'
    assert page.locator(".tokens li").nth(1).get_attribute("title") == "masked"
    assert page.locator(".tokens li").nth(2).get_attribute("title") == 'token 3, "c": step 1, entropy 0.25 nats'


def test_keys(write, show):
    names = ("first", "second", "third")
    page = show(write("run", [row(name, [50, 51, 52, 53], [0, 1, 2, 3]) for name in names]))
    assert position(page) == "step 4 of 4"
    for key, expected in [("ArrowLeft", 3), ("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("End", 4)]:
        page.keyboard.press(key)
        assert position(page) == f"step {expected} of 4"
    for key, expected in [("j", 1), ("ArrowDown", 2), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0)]:
        page.keyboard.press(key)
        assert current(page) == f"{names[expected]}?"
        assert page.locator("#id").text_content() == names[expected]
    page.locator("#search").focus()
    page.keyboard.type("j k")  # a search, no command
    assert (position(page), current(page)) == ("step 4 of 4", "first?")


def test_the_slider_keeps_its_focus_and_the_list_takes_it_along(write, show):
    page = show(write("run", [row(name, [50, 51, 52, 53], [0, 1, 2, 3]) for name in "abc"]))
    page.locator("#step").focus()
    for key in ("ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.id") == "step"
    assert (position(page), current(page)) == ("step 3 of 4", "b?")
    page.locator(".row").nth(0).click()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "✓b?"
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    assert page.locator(".row[tabindex='0']").count() == 1


def test_playing_reaches_the_end_and_says_nothing_meanwhile(write, show):
    page = show(write("run", [row("q", [50, 51, 52, 53], [0, 1, 2, 3])]))
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => window.seen.push([
                document.getElementById("position").textContent, document.getElementById("status").ariaLive,
            ])).observe(document.getElementById("position"), { childList: true });
        }"""
    )
    page.keyboard.press(" ")  # at the end: starts anew
    expect(page.locator("#play")).to_have_text("▶ Play")
    seen = page.evaluate("window.seen")
    assert [at for at, _ in seen] == [f"step {step} of 4" for step in range(5)]
    assert {live for _, live in seen[:-1]} == {"off"}
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    page.get_by_label("Speed").select_option("slow")
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#play")).to_have_text("▶ Play")
    assert page.locator("#status").get_attribute("aria-live") == "polite"


def test_filters(write, show):
    rows = [
        row("maths/1", [50, 51, 52, 53], [0, 1, 2, 3], prompt="One plus one"),
        row("maths/2", [50, 51, 52, 53], [0, 1, 2, 3], prompt="two PLUS two", is_verified=False),
        row("code/1", [50, 51, 52, 53], [0, 1, 2, 3], prompt="def plus", is_verified=False),
    ]
    page = show(write("run", rows))
    verdict, task, search = page.get_by_label("Verdict on"), page.get_by_label("Task"), page.get_by_label("Search")
    assert task.locator("option").all_text_contents() == ["all tasks", "code", "maths"]
    assert verdict.locator("option").all_text_contents() == ["any verdict", "correct", "wrong"]
    verdict.select_option("wrong")
    assert prompts(page) == ["two PLUS two", "def plus"]
    assert current(page) == "two PLUS two"
    assert page.locator("#count").text_content() == "2 of 3 match"
    task.select_option("code")
    assert prompts(page) == [current(page)] == ["def plus"]
    verdict.select_option("correct")
    assert prompts(page) == []
    assert page.locator("#empty").is_visible()
    assert not page.locator("#panels").is_visible()
    verdict.select_option("")
    task.select_option("")
    assert (current(page), page.locator("#place").text_content()) == ("def plus", "3 of 3")
    search.fill(" Plus T")
    assert prompts(page) == [current(page)] == ["two PLUS two"]
    assert page.locator("#place").text_content() == "1 of 1"


def test_two_models_are_paired_by_prompt_and_sample(write, show, tokenizer):
    ids = tokenizer("abcd")["input_ids"]
    other = tokenizer("wxyz")["input_ids"]
    base = [
        row("only base", ids, [0, 1, 2, 3]),
        row("set/a", ids, [0, 1, 2, 3], prompt="a"),
        row("set/a", ids, [3, 2, 1, 0], prompt="a", sample=1),
    ]
    trained = [
        row("another id", other, [1, 0, 1, 1], prompt="a", sample=1, is_verified=False),
        row("only trained", other, [0, 0, 0, 0]),
        row("another id", other, [0, 0, 1, 1], prompt="a"),
    ]
    page = show(write("base", base), write("trained", trained), names=["base", "trained"])
    assert page.locator(".row .snippet").all_text_contents() == ["a", "a", "only base?", "only trained?"]
    marks = page.locator(".row").evaluate_all("rows => rows.map((row) => row.ariaLabel)")
    assert marks == [
        "base: correct, trained: correct. a",
        "base: correct, trained: wrong. a",
        "base: correct, trained: none. only base?",
        "base: none, trained: correct. only trained?",
    ]
    page.keyboard.press("j")
    assert page.locator("#id").text_content() == "set/a, sample 1"
    assert page.locator(".panel h3").all_text_contents() == ["base✓ correct", "trained✗ wrong"]
    page.locator("#step").fill("2")
    assert [text for text, *_ in tokens(page, 0)] == ["", "", "c", "d"]
    assert [text for text, *_ in tokens(page, 1)] == ["w", "x", "y", "z"]
    assert page.locator("#status").text_content() == "Step 2 of 4. base: revealed c; trained: revealed w y z."
    left, right = (panel.bounding_box() for panel in page.locator(".panel").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    page.get_by_label("Verdict on trained").select_option("none")
    assert prompts(page) == ["only base?"]
    assert page.locator(".panel").nth(1).text_content() == "trainedThis model has no trajectory of the query."


def fills(page):
    return page.locator(".tokens li").evaluate_all(
        "cells => cells.map((cell) => getComputedStyle(cell).backgroundColor)"
    )


LIGHT, DARK = "rgb(253, 231, 37)", "rgb(68, 1, 84)"


def test_colours_by_step_and_by_entropy(tmp_path, open_page, tokenizer):
    ids = tokenizer("abcd")["input_ids"]
    page = show_rows(tmp_path, open_page, [[row("q", ids, [0, 1, 2, 4], [2.0, 1.0, 0.0, NAN])]], tokenizer)
    assert fills(page) == [LIGHT, "rgb(94, 201, 98)", "rgb(33, 145, 140)", DARK]
    assert page.locator(".ramp").text_content() == "step 15"
    page.get_by_role("radio", name="entropy").check()
    assert fills(page)[:3] == [DARK, "rgb(33, 145, 140)", LIGHT]
    assert fills(page)[3] not in (LIGHT, DARK)
    assert page.locator(".ramp").text_content() == "02.00 nats"
    inks = page.locator(".tokens li").evaluate_all("cells => cells.map((cell) => getComputedStyle(cell).color)")
    assert inks[:3] == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", "rgb(0, 0, 0)"]


def test_text_contrasts_with_every_colour(tmp_path, open_page, tokenizer):
    num = 200
    page = show_rows(tmp_path, open_page, [[row("q", [50] * num, list(range(num)))]], tokenizer)
    inks = page.locator(".tokens li").evaluate_all("cells => cells.map((cell) => getComputedStyle(cell).color)")
    assert len(set(inks)) == 2
    assert min(contrast(fill, ink) for fill, ink in zip(fills(page), inks, strict=True)) > 4.5


def contrast(first, second):
    def luminance(color):
        parts = [int(number) / 255 for number in re.findall(r"\d+", color)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_without_entropies_only_steps_give_colours(tmp_path, open_page, tokenizer):
    ids = tokenizer("abcd")["input_ids"]
    bare = row("bare", ids, [0, 1, 2, 3], [NAN] * 4)
    page = show_rows(tmp_path, open_page, [[row("full", ids, [0, 1, 2, 3])], [bare]], tokenizer)
    radio = page.get_by_role("radio", name="entropy")
    radio.check()
    page.get_by_role("button", name="Next trajectory").click()
    assert radio.is_disabled()
    assert page.locator("#why").text_content() == "no entropies were recorded here, as in imported trajectories"
    assert page.locator("figure").text_content() == "No entropies were recorded."
    assert fills(page)[::3] == [LIGHT, DARK]
    page.keyboard.press("k")
    assert radio.is_enabled()
    assert page.locator(".ramp").text_content() == "01.00 nats"


def test_the_curve_marks_the_step_and_has_words_for_it(tmp_path, open_page, tokenizer):
    ids = [*tokenizer("abc")["input_ids"], EOS, EOS]
    page = show_rows(tmp_path, open_page, [[row("q", ids, [2, 0, 1, 1, 3], [2.0, 0.25, 0.5, 0.75, 9.0])]], tokenizer)
    figure = page.get_by_role("img", name="Entropy of each token")
    halves = "Mean entropy 0.38 nats over the half of the tokens revealed first, 1.38 nats over the other half."
    assert figure.get_attribute("aria-label") == (
        f"Entropy of each token when it was revealed, by step, from 0 to 2.00 nats. {halves}"
    )
    assert page.locator("figcaption").text_content() == f"Entropy when revealed. {halves}"
    assert figure.locator("g > circle:not(.cursor circle)").count() == 4  # what follows the end is left out
    cursor = page.locator(".cursor text")
    shown = {}
    for step in range(5):
        page.locator("#step").fill(str(step))
        shown[step] = cursor.text_content() if page.locator(".cursor:not([hidden])").count() else None
    assert shown == {0: None, 1: "0.25 nats", 2: "0.63 nats", 3: "2.00 nats", 4: ""}


HOSTILE = ["</script><script>alert(1)</script>", "\"'&amp;<!--", "😀", "\n", "\t", "\u2028", "${1}", "  "]


def test_hostile_text_is_shown_as_it_is(tmp_path, open_page):
    class Words:
        eos_token_id = 99

        def decode(self, ids):
            return HOSTILE[ids[0]]

    prompt = f"{HOSTILE[0]}\n{HOSTILE[1]} 😀 {{{{ data }}}}"
    hostile = row(f"{HOSTILE[0]}/1", list(range(8)), list(range(8)), prompt=prompt)
    title = f"</title>{HOSTILE[0]}"
    page = show_rows(tmp_path, open_page, [[hostile]], Words(), models=[HOSTILE[0]], title=title)
    assert page.title() == f"Decoding step by step: {title}"
    assert page.locator("#prompt").text_content() == prompt
    assert page.locator(".panel h3").text_content() == f"{HOSTILE[0]}✓ correct"
    shown = [text for text, *_ in tokens(page)]
    assert shown == [*HOSTILE[:3], "↵", "⇥", "␣", "${1}", "␣␣"]
    assert embedded(page)["texts"] == HOSTILE
    assert page.get_by_label("Task").locator("option").all_text_contents()[1] == HOSTILE[0]
    assert page.locator("script").count() == 2


def test_tokens_of_a_checkpoints_own_tokenizer(tmp_path, open_page):
    llada_tokenizer_files(tmp_path / "tokenizer")
    (tmp_path / "tokenizer/config.json").write_text(json.dumps({"mask_token_id": 261}))
    loaded = load_tokenizer(str(tmp_path / "tokenizer"))
    ids = [*loaded("<a")["input_ids"], loaded.eos_token_id, loaded.eos_token_id]
    page = show_rows(tmp_path, open_page, [[row("q", ids, [0, 1, 2, 3])]], loaded)
    assert [text for text, *_ in tokens(page)] == ["<", "a", "<|endoftext|>", "<|endoftext|>"]
    assert page.locator(".filler").count() == 1


def test_without_a_tokenizer_ids_are_shown(write, show):
    page = show(write("run", [row("q", [50, 51, 52, EOS], [0, 1, 2, 3])]), tokenizer=None)
    assert [text for text, *_ in tokens(page)] == ["50", "51", "52", "2"]


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(tmp_path, open_page, tokenizer, width, color_scheme):
    ids = tokenizer("word " * 20)["input_ids"]
    rows = [row(f"{'long' * 30}/{i}", ids, list(range(len(ids))), prompt="wide" * 200) for i in range(30)]
    page = show_rows(
        tmp_path,
        open_page,
        [[one, one] for one in rows],
        None,
        models=["a" * 60, "b" * 60],
        width=width,
        color_scheme=color_scheme,
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width
    figure = page.locator("svg").first.bounding_box()
    assert figure["x"] >= 0
    assert figure["x"] + figure["width"] <= width
    columns = {panel.bounding_box()["x"] for panel in page.locator(".panel").all()}
    assert len(columns) == (1 if width == 390 else 2)
    back, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert contrast(back, text) > 12
    assert (
        contrast(back, "rgb(255, 255, 255)") < 1.1 if color_scheme == "light" else contrast(back, "rgb(0, 0, 0)") < 1.5
    )


def test_a_narrower_window_draws_the_curve_anew(tmp_path, open_page, tokenizer):
    page = show_rows(tmp_path, open_page, [[row("q", [50, 51, 52, 53], [0, 1, 2, 3])]], tokenizer)
    page.locator("#step").fill("3")
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("svg")).to_have_attribute("width", "358")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".cursor text").text_content() == "0.75 nats"
    assert page.locator("svg circle").first.evaluate("dot => dot.style.fill") == LIGHT


def test_less_motion(tmp_path, open_page, tokenizer):
    page = show_rows(tmp_path, open_page, [[row("q", [50, 51, 52, 53], [0, 1, 2, 3])]], tokenizer)
    name = "getComputedStyle(document.querySelector('.new')).animationName"
    assert page.evaluate(name) == "reveal"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(name) == "none"


PRESS = """([key, times]) => {
    const press = () => {
        const start = performance.now();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        return performance.now() - start;
    };
    return Array.from({ length: times }, press).sort((a, b) => a - b)[times >> 1];
}"""
"""Median of the milliseconds that a key takes."""


def test_hundreds_of_long_trajectories_are_no_burden(tmp_path, open_page, tokenizer):
    """500 of 256 tokens: a key does not take longer than among 5, as its work does not grow with their number."""
    milliseconds = []
    for num_queries in (5, 500):
        queries = [[row(f"q/{i}", [50 + j % 40 for j in range(256)], list(range(256)))] for i in range(num_queries)]
        page = show_rows(tmp_path, open_page, queries, tokenizer)
        assert page.locator(".row").count() == num_queries
        assert page.locator(".tokens li").count() == 256
        page.keyboard.press("Home")
        step = page.evaluate(PRESS, ["ArrowRight", 101])
        assert position(page) == "step 101 of 256"
        milliseconds.append((step, page.evaluate(PRESS, ["j", 4])))
        assert page.locator("#place").text_content() == f"5 of {num_queries}"
        assert page.locator(".tokens li").count() == 256
    (step, other), (step_of_many, other_of_many) = milliseconds
    assert step_of_many < 10 * max(step, 0.1)  # the browser's clock has steps of 0.1 ms
    assert other_of_many < 10 * max(other, 0.1)


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text())[1])


def ids_of(path):
    return [query["id"] for query in data_of(path)["queries"]]


def test_the_command(make_trajectories, tmp_path, capsys):
    directory = make_trajectories()
    names = [query_id for query_id, _, _ in row_names(directory)]
    page = tmp_path / "new" / "page.html"
    words = ["view", str(directory), "-o", str(page), "--tokenizer", "characters"]
    main(words)
    assert capsys.readouterr() == (f"{page}: all 24 trajectories\n", "")
    assert ids_of(page) == names
    assert data_of(page)["models"] == [str(directory)]
    main([*words, "--num_trajectories=6", "--names", "base"])
    assert capsys.readouterr().out == f"{page}: 6 of 24 trajectories, spread evenly\n"
    assert ids_of(page) == names[::4]
    assert data_of(page)["models"] == ["base"]
    main([*words, "--query_ids", names[23], names[11]])
    assert capsys.readouterr().out == f"{page}: 2 of 24 trajectories, chosen by query\n"
    assert ids_of(page) == [names[11], names[23]]
    decoding, content = data_of(page)["queries"][0]["decodings"][0], read_row(directory, 11)[1]
    assert decoding["steps"] == content.unmask_step
    assert decoding["entropies"] == pytest.approx(content.unmask_entropy, abs=5e-5)
    assert sorted(path.name for path in page.parent.iterdir()) == ["page.html"]


def test_those_of_both_models_come_before_those_of_one(write, tmp_path):
    base = write("base", [row(f"q{i}", [50, 51, 52, 53], [0, 1, 2, 3]) for i in range(9)])
    trained = write("trained", [row(f"q{i}", [50, 51, 52, 53], [0, 1, 2, 3]) for i in (8, 2, 10)])
    page = tmp_path / "page.html"
    assert write_page([base, trained], page, num_trajectories=6) == "6 of 10 trajectories, spread evenly"
    assert ids_of(page) == ["q2", "q8", "q0", "q3", "q5", "q7"]


def test_rows_that_are_alike_are_all_shown(write, tmp_path):
    """Imported files may hold a prompt again under another id."""
    twice = write("run", [row(name, [50, 51, 52, 53], [0, 1, 2, 3], prompt="same") for name in "abc"])
    page = tmp_path / "page.html"
    write_page([twice], page)
    assert ids_of(page) == ["a", "b", "c"]


def test_rows_are_read_by_number(make_trajectories):
    directory = make_trajectories()
    rows = read_rows(directory, [20, 3, 9, 10, 3])
    assert list(rows) == [3, 9, 10, 20]
    assert all(content == read_row(directory, number)[1] for number, content in rows.items())


def failure(capsys, *words):
    with pytest.raises(SystemExit) as error:
        main(["view", *map(str, words)])
    assert error.value.code == 1
    return capsys.readouterr().err.removeprefix("tabom: error: ").removesuffix("\n")


def test_what_cannot_be_shown(make_trajectories, write, tmp_path, capsys):
    run = make_trajectories(num_rows=3)
    page = tmp_path / "page.html"
    page.write_text("before")
    none, foreign, empty = tmp_path / "none", write("foreign", [row("q", [50] * 4, [0, 1, 2, 3])]), write("empty", [])
    assert failure(capsys, none, "-o", page) == (
        f"{none}/manifest.json: expected the manifest of a finished distillation, found no such file"
    )
    assert failure(capsys, empty, "-o", page) == (
        f"{empty}: expected at least one trajectory, the manifest counts none"
    )
    assert failure(capsys, run, foreign, "-o", page) == (
        f"{foreign}: expected trajectories of the queries in {run}, found none"
    )
    assert failure(capsys, run, run, run, "-o", page) == "SHARDS: expected one directory or two, got 3"
    assert failure(capsys, run, "-o", run) == f"--output: expected a file that ends in .html, got {run}"
    assert failure(capsys, run, "-o", page, "--names", "a", "b") == (
        "--names: expected as many as directories (1), got 2"
    )
    assert failure(capsys, run, "-o", page, "--num_trajectories=0") == "--num_trajectories: expected at least 1, got 0"
    assert failure(capsys, run, "-o", page, "--query_ids", "q7") == f"--query_ids: expected queries in {run}, got q7"
    (run / "shard-00000.parquet").write_bytes(b"PAR1")
    assert failure(capsys, run, "-o", page).startswith(f"{run}/shard-00000.parquet: expected a Parquet file (")
    assert page.read_text() == "before"


def test_another_tokenizer(make_trajectories, tmp_path, capsys):
    run = make_trajectories(num_rows=3)
    other = load_tokenizer("characters")
    other.add_tokens(["new"])
    other.save_pretrained(tmp_path / "other")
    message = failure(capsys, run, "-o", tmp_path / "page.html", "--tokenizer", tmp_path / "other")
    assert re.fullmatch(rf"{run}: expected the tokenizer \w{{12}}, got {tmp_path}/other, which is \w{{12}}", message)


def logged(tmp_path, stage_name):
    (page,) = (tmp_path / "logs/wandb").glob(f"offline-run-*/files/media/html/{stage_name}/viewer_*.html")
    return page


def test_a_distillation_logs_its_first_trajectories(stage, tmp_path, open_page, monkeypatch):
    monkeypatch.setattr("tabom.callbacks.trajectory_writer._NUM_SHOWN", 5)
    writer = {"class_path": "TrajectoryWriter", "init_args": {"output_dir": "new"}}
    options = (*WANDB, f"--trainer.logger.save_dir={tmp_path}/logs", f"--trainer.callbacks={json.dumps([writer])}")
    stage("predict", "distill", *options, "--data.num_queries=6")
    page = open_page(logged(tmp_path, "distill"))
    assert [query["id"] for query in embedded(page)["queries"]] == [name for name, _, _ in row_names(tmp_path / "new")][
        :5
    ]
    assert "(the first 5 of 6 trajectories)" in page.locator("aside").text_content()


def test_an_evaluation_logs_its_samples(stage, tmp_path, open_page):
    evaluation = "--model.validation"
    options = (*WANDB, f"--trainer.logger.save_dir={tmp_path}/logs", f"{evaluation}.mask_ratios=[]")
    cli = stage("test", "tabom", *options, f"{evaluation}.tokens_per_step=[1]")
    samples = cli.model.validation.samples
    assert len({tuple(sample.unmask_step) for sample in samples}) == 4  # each row has its own
    assert len({tuple(sample.unmask_entropy) for sample in samples}) == 4
    page = open_page(logged(tmp_path, "test"))
    data = embedded(page)
    assert len(samples) == len(data["queries"]) == 4
    for sample, query in zip(samples, data["queries"], strict=True):
        (decoding,) = query["decodings"]
        assert (query["id"], query["prompt"], decoding["isCorrect"]) == (
            sample.query_id,
            sample.prompt,
            sample.is_verified,
        )
        assert decoding["steps"] == sample.unmask_step
        assert decoding["entropies"] == pytest.approx(sample.unmask_entropy, abs=5e-5)
        texts = [data["texts"][token] for token in decoding["tokens"]]
        assert "".join(texts).partition("<eos>")[0] == sample.response
