"""Word problems on small whole numbers, with worked answers in the form of GSM8K's."""

import random
from pathlib import Path

from tabom.errors import check_range, require
from tabom.tasks.answers import last_number
from tabom.tasks.base import Puzzles
from tabom.tasks.rows import read_rows
from tabom.types import Example

_PEOPLE = {
    "Anna": "She", "Ben": "He", "Clara": "She", "David": "He", "Emma": "She", "Frank": "He", "Grace": "She",
    "Henry": "He", "Iris": "She", "Jack": "He", "Kate": "She", "Leo": "He", "Maria": "She", "Noah": "He",
    "Olivia": "She", "Peter": "He", "Rosa": "She", "Sam": "He", "Tina": "She", "Victor": "He",
}  # fmt: skip
_THINGS = (
    "apples", "balls", "books", "buttons", "cards", "coins", "cookies", "eggs", "flowers", "hats", "lemons", "marbles",
    "nuts", "oranges", "pencils", "plums", "shells", "stamps", "stickers", "toys",
)  # fmt: skip
_PACKED = ("{who} has {count} boxes with {each} {things} in each.", "{who} buys {count} bags of {each} {things}.")
_MORE = ("{pronoun} buys {number} more.", "{pronoun} finds {number} more.", "A friend brings {number} more.")
_LESS = ("{pronoun} gives away {number}.", "{pronoun} loses {number}.", "{pronoun} sells {number}.")
_MOST_IN_A_PACK = 9


class WordProblems(Puzzles):
    """How many things somebody has at the end: sums, differences and products, an equation a step in the answer.

    The answer to ``Anna has 12 apples. She buys 5 more. How many apples does Anna have now?`` is ``12 + 5 = 17`` and,
    on a line of its own, ``#### 17``. A response is correct if its last number is that of the reference.

    Args:
        num_steps: Numbers of equations to draw from, each at least 1.
        largest: Of the numbers that are added or taken away, and of the number at the start; at least 2.
        test_file: Used as the test split instead of generated problems; a file that :func:`~tabom.tasks.read_rows`
            reads, with the columns question and answer of GSM8K.
        seed: Of the generator.

    Raises:
        TabomError: If a number is out of range.
    """

    def __init__(
        self, num_steps: tuple[int, ...] = (1, 2), largest: int = 20, test_file: str | None = None, seed: int = 0
    ) -> None:
        require(len(num_steps) > 0, "num_steps: expected at least one number, got none")
        for number in num_steps:
            check_range("num_steps", number, least=1)
        check_range("largest", largest, least=2)
        self.num_steps = tuple(num_steps)
        self.largest = largest
        super().__init__(test_file, seed)

    def is_correct(self, example: Example, response: str) -> bool:
        """Compare the last numbers, exactly."""
        value = last_number(response)
        return value is not None and value == last_number(example.reference)

    def _draw(self, rng: random.Random) -> Example:
        who, things, num_left = rng.choice(list(_PEOPLE)), rng.choice(_THINGS), rng.choice(self.num_steps)
        equations: list[str] = []
        if rng.random() < 1 / 3:
            count, each = rng.randint(2, _MOST_IN_A_PACK), rng.randint(2, _MOST_IN_A_PACK)
            value, num_left = count * each, num_left - 1
            sentences = [rng.choice(_PACKED).format(who=who, count=count, each=each, things=things)]
            equations.append(f"{count} * {each} = {value}")
        else:
            value = rng.randint(2, self.largest)
            sentences = [f"{who} has {value} {things}."]
        for _ in range(num_left):
            is_more = value < 2 or rng.random() < 1 / 2
            number = rng.randint(1, self.largest if is_more else min(value - 1, self.largest))
            sentences.append(rng.choice(_MORE if is_more else _LESS).format(pronoun=_PEOPLE[who], number=number))
            result = value + number if is_more else value - number
            equations.append(f"{value} {'+' if is_more else '-'} {number} = {result}")
            value = result
        sentences.append(f"How many {things} does {who} have now?")
        return _example(" ".join(sentences), "\n".join([*equations, f"#### {value}"]))

    def _read(self, path: Path) -> list[Example]:
        examples = []
        for place, row in read_rows(path, ("question", "answer")):
            require(
                last_number(row["answer"]) is not None,
                f"{place}: column answer: expected an answer that ends with a number, got {row['answer']!r:.80}",
            )
            examples.append(_example(row["question"], row["answer"]))
        return examples


def _example(question: str, answer: str) -> Example:
    return Example(query_id=f"word_problems/{question}", prompt=f"{question}\n", reference=answer)
