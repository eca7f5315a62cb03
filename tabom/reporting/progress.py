"""One display of progress: bars on a terminal, plain lines anywhere else."""

import logging
import math
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, ProgressSample, Task, TaskID
from rich.table import Column
from rich.text import Text

REFRESHES_PER_SECOND = 4
_PERIODS = ((1, "s"), (60, "min"), (3600, "h"))


class Display:
    """Shows how far tasks are, at what rate, how much time is left, and a few numbers of each.

    A task is a line such as ``Training: 40 of 150 steps, 3.1 steps/s, 0:35 left, loss 1.234``. On a terminal it stands
    beside a bar and is redrawn a few times a second; what other code prints or logs appears above. Elsewhere it is
    written from time to time and once when the task ends. Rate and time left are those of the last thousand updates.

    Args:
        console: Where to; None is standard output.
        interval: Least time between two lines of a task where there is no terminal, in seconds.
        is_shown: False shows nothing at all, as on all processes but the first.
    """

    def __init__(
        self,
        console: Console | None = None,
        interval: float = 10.0,
        *,
        is_shown: bool = True,
    ) -> None:
        self._console = (console or Console()) if is_shown else Console(quiet=True, force_interactive=False)
        self._is_live = self._console.is_interactive
        self._interval = (1 / REFRESHES_PER_SECOND if self._is_live else interval) if is_shown else math.inf
        self._bars = Progress(
            BarColumn(None, table_column=Column(max_width=20)),
            _TextOfTask(Column(no_wrap=True)),
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            speed_estimate_period=math.inf,
        )
        self._exits = ExitStack()

    def add(self, description: str, total: int | None, unit: str, completed: int = 0) -> TaskID:
        """Show a further task.

        Args:
            description: What is done.
            total: How many there are; None if that is unknown.
            unit: What is counted, in the plural.
            completed: How many were done before; the rate leaves them out.
        """
        now = self._console.get_time()
        if self._is_live and not self._bars.live.is_started:
            self._start()
        task = self._bars.add_task(description, total=total, completed=completed, unit=unit, numbers={}, shown=now)
        # Rich itself would measure the rate from the first update, and a few long runs have only a few.
        self._find(task)._progress.append(ProgressSample(now, 0))
        return task

    def is_due(self, task: TaskID) -> bool:
        """Whether an update would be shown now: for numbers that take time to make."""
        return self._console.get_time() - self._find(task).fields["shown"] >= self._interval

    def update(self, task: TaskID, completed: int, numbers: Mapping[str, str] | None = None) -> None:
        """Show how many are done.

        Args:
            task: What :meth:`add` returned.
            completed: How many are done.
            numbers: Values with their units, by name; those that were given before and are not named here stay.
        """
        is_due, known = self.is_due(task), self._find(task).fields["numbers"]
        self._bars.update(task, completed=completed, numbers=known | (numbers or {}))
        if is_due:
            self._bars.update(task, shown=self._console.get_time())
            if not self._find(task).finished:
                self._write(task, is_ended=False)

    def show(self, task: TaskID, *, is_visible: bool) -> None:
        """Hide a bar, or show it again."""
        self._bars.update(task, visible=is_visible)

    def remove(self, task: TaskID) -> None:
        """End a task: its bar disappears; where there is no terminal, its last line is written."""
        self._write(task, is_ended=True)
        self._bars.remove_task(task)

    def line(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bars as they are; where there is no terminal, write the last lines of what was not removed."""
        for task in self._bars.tasks:
            self._write(task.id, is_ended=True)
        self._exits.close()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)

    def _start(self) -> None:
        names = {id(sys.stdout): "stdout", id(sys.stderr): "stderr"}
        self._exits.enter_context(self._bars)
        for handler in _stream_handlers():
            if id(handler.stream) in names:
                old = handler.setStream(getattr(sys, names[id(handler.stream)]))
                self._exits.callback(handler.setStream, old)

    def _find(self, task: TaskID) -> Task:
        return next(found for found in self._bars.tasks if found.id == task)

    def _write(self, task: TaskID, *, is_ended: bool) -> None:
        if not self._is_live:
            self.line(_text(self._find(task), is_ended=is_ended))


class _TextOfTask(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_text(task, is_ended=task.finished))


def _text(task: Task, *, is_ended: bool) -> str:
    unit, speed = task.fields["unit"], task.finished_speed or task.speed
    parts = [f"{task.description}: {task.completed:.0f}{'' if task.total is None else f' of {task.total:.0f}'} {unit}"]
    if is_ended:
        parts[0] += f" in {clock(task.finished_time or task.elapsed or 0)}"
    if speed:
        # a second, minute or hour, whichever first gives 1 or more
        factor, period = next((f, name) for f, name in _PERIODS if speed * f >= 1 or name == "h")
        parts.append(f"{speed * factor:.1f} {unit}/{period}")
    if not is_ended and task.time_remaining is not None:
        parts.append(f"{clock(task.time_remaining)} left")
    return ", ".join([*parts, *(f"{name} {value}" for name, value in task.fields["numbers"].items())])


def clock(seconds: float) -> str:
    """Time as ``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _stream_handlers() -> list["logging.StreamHandler[Any]"]:
    """Of all loggers; those that write to standard output hold it, and would not notice that it is redirected."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
