"""Starts commands of tabom in the current folder as copies of one process, which has imported what they need.

For tests that start many: the imports take longer than most of the commands. What has to be a process started afresh,
such as one that starts further processes of a training, is started by ``subprocess``.
"""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from tabom.jobs.job import PROGRAM, Job
from tabom.jobs.template import Template


class Copy:
    """A command that was started; it has what ``subprocess.Popen`` has, as far as tests ask for it.

    Attributes:
        returncode: As ``Popen`` says it, from its end on.
    """

    def __init__(self, words, template, number):
        self._lock = Path(f"copy{number}.lock")
        self._job = Job(self._lock, self._lock.with_suffix(".log"), self._lock.with_suffix(".exit"))
        self._job.begin([*PROGRAM, *words], os.environ, template)
        self.returncode = None

    def poll(self):
        if not self._job.is_running():
            code = self._job.exit_code()  # none of a process that was killed with the one that waits for it
            self.returncode = -signal.SIGKILL if code is None else code
        return self.returncode

    def send_signal(self, number):
        os.killpg(int(self._lock.read_text()), number)

    def communicate(self):
        """What it printed, in the place of what it wrote to stderr, when it has ended."""
        while self.poll() is None:
            time.sleep(0.005)
        return None, self._job.log.read_text()


@pytest.fixture
def start_copy():
    """Start a command of the words after ``tabom``, in the folder of the first of them."""
    template, numbers = Template(), itertools.count()
    yield lambda *words: Copy(words, template, next(numbers))
    template.close()
