"""Where prompts come from, and who judges the answers."""

from tabom.tasks.addition import Addition
from tabom.tasks.base import ExampleSource, Split, Task, generate_distinct, take
from tabom.tasks.countdown import Countdown
from tabom.tasks.open_prompts import OpenPrompts
from tabom.tasks.python_manual import PythonManual
from tabom.tasks.python_source import PythonSource
from tabom.tasks.question_dataset import QuestionDataset
from tabom.tasks.question_file import QuestionFile
from tabom.tasks.rows import read_rows
from tabom.tasks.sudoku import Sudoku4x4
from tabom.tasks.word_problems import WordProblems

__all__ = [
    "Addition",
    "Countdown",
    "ExampleSource",
    "OpenPrompts",
    "PythonManual",
    "PythonSource",
    "QuestionDataset",
    "QuestionFile",
    "Split",
    "Sudoku4x4",
    "Task",
    "WordProblems",
    "generate_distinct",
    "read_rows",
    "take",
]
