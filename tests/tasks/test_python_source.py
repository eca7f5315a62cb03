import pytest

from tabom.errors import TabomError
from tabom.tasks import PythonSource


@pytest.fixture
def root(tmp_path):
    for number in range(40):
        (tmp_path / f"module{number}.py").write_text(f"value = {number}\n\tnaïve = 'text of file {number}'\n" * 5)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text("left out " * 50)
    return tmp_path


def files(source, split, num=400):
    return {example.query_id.partition(":")[0] for example in source.examples(split, num)}


def test_chunks_are_pieces_of_the_files(root):
    source = PythonSource(prompt_length=6, response_length=9, root=str(root))
    for example in source.examples("train", 100):
        name, start = example.query_id.split(":")
        text = (root / name).read_text().expandtabs(4).replace("ï", "")
        assert example.prompt + example.reference == text[int(start) : int(start) + 15]
        assert (len(example.prompt), len(example.reference)) == (6, 9)


def test_files_are_held_out_whole(root):
    source = PythonSource(held_out=0.4, root=str(root))
    held_out = files(source, "validation"), files(source, "test")
    assert all(held_out)
    assert not held_out[0] & held_out[1]
    assert not (held_out[0] | held_out[1]) & files(source, "train")
    assert files(source, "train") == files(source, "pretrain")
    assert len(files(source, "train") | held_out[0] | held_out[1]) == 40


def test_the_same_chunks_every_time(root):
    first, again, other = (PythonSource(root=str(root), seed=seed).examples("train", 20) for seed in (0, 0, 1))
    assert first == again != other


def test_the_standard_library_is_there():
    examples = PythonSource().examples("test", 50)
    assert all(set(example.prompt + example.reference) <= {"\n", *map(chr, range(32, 127))} for example in examples)


def test_nothing_found(tmp_path):
    with pytest.raises(TabomError) as error:
        PythonSource(root=str(tmp_path)).examples("train", 1)
    assert str(error.value) == (f"{tmp_path}: expected *.py files of split train, found none that is long enough")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_length": 0}, "prompt_length: expected at least 1, got 0"),
        ({"response_length": 0}, "response_length: expected at least 1, got 0"),
        ({"held_out": 1.0}, "held_out: expected a share between 0 and 1, got 1.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(TabomError) as error:
        PythonSource(**settings)
    assert str(error.value) == message
