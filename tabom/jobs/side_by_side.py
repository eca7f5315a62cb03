"""The loop that keeps several jobs running until none is left, or until it is asked to stop."""

import signal
import sys
import time
from abc import ABC, abstractmethod
from types import FrameType
from typing import Generic, TypeVar

from tabom.jobs.job import Job
from tabom.jobs.template import Template, has_devices
from tabom.signals import handled_by

POLL_SECONDS = 0.2
JobT = TypeVar("JobT", bound=Job)


class SideBySide(ABC, Generic[JobT]):
    """Runs jobs, so many at once. After SIGTERM, SIGINT or SIGUSR1 it asks those that run to end, and waits for them.

    Args:
        verb: Of the command line, for what is said about a signal.
        num_jobs: At once.
    """

    def __init__(self, verb: str, num_jobs: int) -> None:
        self._verb = verb
        self._num_jobs = num_jobs
        self._active: list[JobT] = []  # also those that a killed process had started
        self._is_stopping = False
        self._template = None if has_devices() else Template()

    @abstractmethod
    def _begin_next(self) -> JobT | None:
        """Start a further job; None if there is none that can start now."""

    @abstractmethod
    def _note_end(self, job: JobT) -> None:
        """Note what became of a job that has ended."""

    def _look(self) -> None:
        """Look at the jobs that run, several times a second, before others start."""

    def _run_all(self) -> None:
        """Run until nothing is active and nothing can start; after an exception as well what runs has ended."""
        with handled_by(self._note_signal):
            try:
                while self._turn():
                    time.sleep(POLL_SECONDS)
            except BaseException:
                while running := [job for job in self._active if job.is_running()]:
                    for job in running:
                        job.stop()
                    time.sleep(POLL_SECONDS)
                raise
            finally:
                if self._template is not None:
                    self._template.close()

    def _turn(self) -> bool:
        """Note what has ended, and start what can start; returns whether anything is active."""
        for job in [job for job in self._active if not job.is_running()]:
            self._active.remove(job)
            self._note_end(job)
        self._look()
        if self._is_stopping:
            for job in self._active:
                job.stop()
        else:
            while len(self._active) < self._num_jobs and (job := self._begin_next()):
                self._active.append(job)
        return len(self._active) > 0

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self._is_stopping:
            self._is_stopping = True
            name = signal.Signals(number).name
            print(f"tabom {self._verb}: {name}, what runs is being stopped", file=sys.stderr)
