import pytest

from tabom.errors import TabomError
from tabom.tasks import OpenPrompts


def test_prompts_in_their_order_and_any_response():
    task = OpenPrompts(["b", "a", "c"])
    examples = task.examples("train", 2)
    assert [(example.prompt, example.reference) for example in examples] == [("b", ""), ("a", "")]
    assert len({example.query_id for example in task.examples("train", 3)}) == 3
    assert task.are_correct(examples, ["", "x"]) == [True, True]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "prompts: expected at least one, got none"),
        (["a", "b", "a"], "prompts: expected different ones, got 'a' twice"),
    ],
)
def test_bad_prompts(prompts, message):
    with pytest.raises(TabomError) as error:
        OpenPrompts(prompts)
    assert str(error.value) == message


def test_other_splits_are_empty_and_no_prompt_is_there_twice():
    task = OpenPrompts(["a", "b"])
    with pytest.raises(TabomError) as error:
        task.examples("train", 3)
    assert str(error.value) == "prompts: expected at least 3 examples, found 2"
    with pytest.raises(TabomError, match="found 0"):
        task.examples("validation", 1)
