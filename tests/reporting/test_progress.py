import io
import logging
import sys
from contextlib import closing

import pytest
from rich.console import Console
from wandb.sdk.lib.redirect import TerminalEmulator

from tabom.reporting.progress import Display


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain(clock):
    return Console(file=io.StringIO(), force_terminal=False, width=40, get_time=clock)


@pytest.fixture
def terminal(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Console(file=io.StringIO(), force_terminal=True, width=100, get_time=clock)


def lines(console):
    return console.file.getvalue().splitlines()


def screen(console):
    """What a terminal shows after all that was written to it."""
    emulator = TerminalEmulator()
    emulator.write(console.file.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", ""))
    return ["".join(row).rstrip() for row in emulator.display()]


def test_plain_lines_come_once_an_interval_and_at_the_end(plain, clock):
    with closing(Display(console=plain, interval=10)) as display:
        task = display.add("Training", 150, "steps")
        for step in range(1, 151):
            clock.now += 0.25
            display.update(task, step, {"loss": f"{200 - step}", "accuracy": "41.0 %"} if step % 50 == 40 else {})
        clock.now += 100
        display.update(task, 150, {"KL": "0.012"})
    assert lines(plain) == [
        "Training: 40 of 150 steps, 4.0 steps/s, 0:28 left, loss 160, accuracy 41.0 %",
        "Training: 80 of 150 steps, 4.0 steps/s, 0:18 left, loss 160, accuracy 41.0 %",
        "Training: 120 of 150 steps, 4.0 steps/s, 0:08 left, loss 110, accuracy 41.0 %",
        "Training: 150 of 150 steps in 0:38, 4.0 steps/s, loss 60, accuracy 41.0 %, KL 0.012",
    ]


def test_the_rate_leaves_out_what_was_done_before(plain, clock):
    with closing(Display(console=plain, interval=1)) as display:
        task = display.add("Training", 110, "steps", completed=100)
        for step in (101, 102, 103):
            clock.now += 2
            display.update(task, step)
    assert lines(plain) == [
        "Training: 101 of 110 steps, 30.0 steps/min, 0:18 left",
        "Training: 102 of 110 steps, 30.0 steps/min, 0:16 left",
        "Training: 103 of 110 steps, 30.0 steps/min, 0:14 left",
        "Training: 103 of 110 steps in 0:06, 30.0 steps/min",
    ]


def test_slow_tasks_and_those_without_a_total(plain, clock):
    with closing(Display(console=plain, interval=1)) as display:
        slow, endless = display.add("Sweep", 24, "runs"), display.add("Reading", None, "rows")
        for number in (1, 2):
            clock.now += 5400
            display.update(slow, number)
            display.update(endless, 7_200_000 * number)
    assert lines(plain)[-4:] == [
        "Sweep: 2 of 24 runs, 0.7 runs/h, 33:00:00 left",
        "Reading: 14400000 rows, 1333.3 rows/s",
        "Sweep: 2 of 24 runs in 3:00:00, 0.7 runs/h",
        "Reading: 14400000 rows in 3:00:00, 1333.3 rows/s",
    ]


def test_without_a_terminal_a_removed_task_has_one_last_line(plain):
    with closing(Display(plain)) as display:
        display.line("[1] before")
        task = display.add("Validation", 3, "batches")
        display.update(task, 3, {"accuracy": "50.0 %"})
        display.remove(task)
    assert lines(plain) == ["[1] before", "Validation: 3 of 3 batches in 0:00, accuracy 50.0 %"]


def test_what_has_failed_says_how_far_it_came(plain):
    display = Display(console=plain)
    display.update(display.add("Training", 3, "steps"), 1)
    with pytest.raises(ZeroDivisionError), closing(display):
        raise ZeroDivisionError
    assert lines(plain) == ["Training: 1 of 3 steps in 0:00"]


def test_an_update_is_due_once_an_interval(plain, terminal, clock):
    for console, interval in ((plain, 10), (terminal, 0.25)):
        display = Display(console=console, interval=10)
        task = display.add("Training", 150, "steps")
        clock.now += interval - 0.125
        display.update(task, 1)
        assert not display.is_due(task)
        clock.now += 0.125
        assert display.is_due(task)
        display.update(task, 2)
        assert not display.is_due(task)


def test_a_display_that_is_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    with closing(Display(interval=1e-9, is_shown=False)) as display:
        task = display.add("Training", 3, "steps")
        print("from elsewhere")
        display.update(task, 2)
        assert not display.is_due(task)
        display.line("a line")
    assert capsys.readouterr().out == "from elsewhere\n"


def test_on_a_terminal_what_others_write_stands_above_the_bars(terminal, clock):
    streams = sys.stdout, sys.stderr
    handler = logging.StreamHandler()
    logger = logging.getLogger("tests.progress")
    logger.addHandler(handler)
    try:
        with closing(Display(terminal)) as display:
            task = display.add("Training", 4, "steps")
            clock.now += 1
            display.update(task, 1, {"loss": "1.5"})
            print("printed [1]")
            logger.warning("logged")
            print("warned", file=sys.stderr)
            display.line("a line [2]")
            clock.now += 1
            display.update(task, 2)
    finally:
        logger.removeHandler(handler)
    assert screen(terminal) == [
        "printed [1]",
        "logged",
        "warned",
        "a line [2]",
        f"{'━' * 10}╺{'━' * 9} Training: 2 of 4 steps, 1.0 steps/s, 0:02 left, loss 1.5",
    ]
    assert (sys.stdout, sys.stderr, handler.stream) == (*streams, streams[1])


def test_on_a_terminal_bars_disappear(terminal):
    with closing(Display(console=terminal)) as display:
        training, other = display.add("Training", 4, "steps"), display.add("Other", 2, "steps")
        display.show(training, is_visible=False)
        task = display.add("Validation", 2, "batches")
        display.update(task, 1)
        display.remove(task)
        display.show(training, is_visible=True)
        display.show(other, is_visible=False)
    written = terminal.file.getvalue()
    assert "Validation: 0 of 2 batches" in written
    assert screen(terminal) == [f"{'━' * 20} Training: 0 of 4 steps"]


def test_on_a_narrow_terminal_a_task_is_one_line(monkeypatch, clock):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=30, get_time=clock)
    with closing(Display(console=console)) as display:
        display.update(display.add("Training", 40, "steps"), 20, {"loss": "1.234", "accuracy": "41.0 %"})
    assert screen(console) == ["Training: 20 of 40 steps, los…"]
