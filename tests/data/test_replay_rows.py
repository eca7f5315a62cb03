"""Rows of the replay: where they come from, which of them a step gets, and what they may not share."""

import itertools
import re

import pytest
from helpers import write_trajectories

from tabom.data import ReplayData, TrajectoryDataModule, ValidationSizes
from tabom.data.encoding import Row
from tabom.data.loading import ResumableLoader
from tabom.data.stream import EndlessLoader, EndlessRows
from tabom.errors import TabomError
from tabom.tasks import ExampleSource, PythonSource, QuestionFile, Sudoku4x4
from tabom.types import Example, TrajectoryBatch

SIZES = ValidationSizes(num_validation_prompts=0, num_test_prompts=0, num_base_examples=10)


def rows(number):
    return [Row(f"row{i}", [1], [2]) for i in range(number)]


def stream(*, batch_size=4, rank=0, world_size=1, num_rows=10, seed=3, num_workers=0):
    return EndlessLoader(
        EndlessRows(rows(num_rows), seed),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        collate_fn=list,
        num_workers=num_workers,
    )


def first(loader, num_batches):
    return list(itertools.islice(loader, num_batches))


def names(batches):
    return [[row.query_id for row in batch] for batch in batches]


class TestStream:
    def test_exact_order(self):
        assert names(first(stream(num_rows=5, batch_size=3), 4)) == [
            ["row2", "row1", "row4"],
            ["row0", "row3", "row4"],
            ["row1", "row2", "row0"],
            ["row3", "row0", "row2"],
        ]

    def test_every_turn_has_every_row_once_in_another_order(self):
        seen = [name for batch in names(first(stream(), 10)) for name in batch]
        turns = [seen[start : start + 10] for start in range(0, 40, 10)]
        assert all(sorted(turn) == sorted(turns[0]) for turn in turns)
        assert len(set(map(tuple, turns))) == 4
        assert names(first(stream(seed=4), 10)) != names(first(stream(), 10))

    def test_a_row_is_numbered_by_its_place(self):
        numbers = [row.number for batch in first(stream(), 5) for row in batch]
        assert numbers == list(range(20))

    def test_processes_and_accumulated_batches_share_what_one_batch_has(self):
        whole = names(first(stream(batch_size=8), 6))
        halves = names(first(stream(batch_size=4), 12))
        ranks = [names(first(stream(batch_size=4, rank=rank, world_size=2), 6)) for rank in range(2)]
        for step, expected in enumerate(whole):
            assert halves[2 * step] + halves[2 * step + 1] == expected
            assert [ranks[0][step], ranks[1][step]] == [expected[::2], expected[1::2]]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_it_goes_on_after_what_was_given(self, num_workers):
        straight = names(first(stream(), 9))
        loader = stream(num_workers=num_workers)
        assert names(first(loader, 3)) + names(first(loader, 2)) == straight[:5]
        loader = stream(num_workers=num_workers)
        loader.num_given = 20
        assert names(first(loader, 4)) == straight[5:]


SOURCE = PythonSource(prompt_length=3, response_length=5)


@pytest.fixture
def module(make_trajectories):
    path = str(make_trajectories())

    def make(**changes):
        options = {
            "task": Sudoku4x4(),
            "base_domains": {"python": PythonSource()},
            "tokenizer": "characters",
            "response_length": 19,
            "batch_size": 4,
            "held_out": 0.0,
            "validation": SIZES,
            "replay": ReplayData(batch_size=3, source=SOURCE, num_examples=7),
        }
        return TrajectoryDataModule(path=path, **{**options, **changes})

    return make


def replayed(batches):
    return [query_id for batch in batches for query_id in batch.replay.query_ids]


class TestBatches:
    def test_each_batch_brings_rows_of_the_replay(self, module):
        batches = list(module().train_dataloader())
        examples = {example.query_id: example for example in SOURCE.examples("train", 7)}
        assert len(batches) == 4
        for number, batch in enumerate(batches):
            assert isinstance(batch.replay, TrajectoryBatch)
            assert len(batch.query_ids) == 4
            assert batch.replay.clean_ids.shape == (3, 8)
            assert batch.replay.is_response.sum(1).tolist() == [5] * 3
            assert batch.replay.row_numbers.tolist() == list(range(3 * number, 3 * number + 3))
        assert set(replayed(batches)) <= examples.keys()

    def test_without_replay_there_are_none(self, module):
        assert {batch.replay for batch in module(replay=None).train_dataloader()} == {None}

    def test_the_rows_of_the_training_stay_as_they_are(self, module):
        own, plain = (
            [batch.query_ids for batch in module(**options).train_dataloader()] for options in ({}, {"replay": None})
        )
        assert own == plain

    def test_they_move_with_the_batch_and_stay_when_rows_are_picked(self, module):
        (batch, *_) = module().train_dataloader()
        assert batch.to("meta").replay.clean_ids.device.type == "meta"
        picked = batch.select([1])
        assert len(picked.query_ids) == 1
        assert picked.replay is batch.replay

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_restored_loader_goes_on_in_both_streams(self, module, num_workers):
        """Also in a later epoch, in which the replay does not start again."""

        def batches_of(loader, num_epochs, start=0):
            for epoch in range(start, num_epochs):
                loader.sampler.set_epoch(epoch)
                for batch in loader:
                    yield batch.query_ids, batch.replay.query_ids, batch.replay.row_numbers.tolist()

        straight = list(batches_of(module().train_dataloader(), 2))
        assert [numbers[0] for *_, numbers in straight] == list(range(0, 24, 3))
        loader = module(num_workers=num_workers).train_dataloader()
        assert first(batches_of(loader, 2), 6) == straight[:6]
        state, restored = loader.state_dict(), module(num_workers=num_workers).train_dataloader()
        restored.load_state_dict(state)
        assert list(batches_of(restored, 2, start=1)) == straight[6:]

    def test_rows_are_counted_when_the_batches_become_smaller(self, module):
        straight = replayed(module().train_dataloader())
        loader = module().train_dataloader()
        first(loader, 2)
        smaller = module(batch_size=2, replay=ReplayData(batch_size=1, source=SOURCE, num_examples=7))
        restored = smaller.train_dataloader()
        restored.load_state_dict(loader.state_dict())
        assert replayed(restored) == straight[6:10]

    def test_a_state_of_a_training_without_replay(self, module):
        loader = module().train_dataloader()
        loader.load_state_dict({"epoch": 0, "given": [[4, 4]]})
        (batch, *_) = loader
        assert batch.replay.row_numbers.tolist() == [0, 1, 2]


class TestSources:
    def test_answers_are_cut(self, module):
        data = module(replay=ReplayData(batch_size=3, source=SOURCE, num_examples=7, response_length=2))
        assert {int(batch.replay.is_response.sum()) for batch in data.train_dataloader()} == {6}

    def test_a_question_file(self, module, tmp_path):
        path = tmp_path / "questions.csv"
        path.write_text("question,answer\n" + "".join(f"What is {i}?,It is {i}.\n" for i in range(8)))
        source = QuestionFile(str(path), held_out=0.0)
        data = module(replay=ReplayData(batch_size=3, source=source, num_examples=8), base_domains=None)
        text = data.tokenizer.batch_decode(next(iter(data.train_dataloader())).replay.clean_ids)
        assert all(re.fullmatch(r"What is (\d)\?It is \1\.", line) for line in text)

    def test_trajectories_of_any_length_and_verdict(self, module, tmp_path, tokenizer):
        """They lie beside those that are trained on, whose response length is another one."""
        path = write_trajectories(tmp_path / "own", tokenizer, num_rows=6, response_length=21)
        data = module(replay=ReplayData(batch_size=6, trajectories=str(path)))
        (batch, *_) = data.train_dataloader()
        assert sorted(batch.replay.query_ids) == sorted(e.query_id for e in Sudoku4x4().examples("train", 6))
        assert batch.replay.is_response.sum(1).tolist() == [21] * 6

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "replay: expected either source or trajectories, got neither"),
            ({"source": SOURCE, "trajectories": "own"}, "replay: expected either source or trajectories, got both"),
            ({"source": SOURCE, "batch_size": 0}, "replay.batch_size: expected at least 1, got 0"),
            ({"source": SOURCE, "num_examples": 0}, "replay.num_examples: expected at least 1, got 0"),
            ({"source": SOURCE, "response_length": 0}, "replay.response_length: expected at least 1, got 0"),
            (
                {"trajectories": "own", "num_examples": 5},
                "replay.num_examples: expected 1000 with trajectories, which ignores it, got 5",
            ),
            (
                {"trajectories": "own", "response_length": 5},
                "replay.response_length: expected None with trajectories, which ignores it, got 5",
            ),
        ],
    )
    def test_bad_settings(self, options, message):
        with pytest.raises(TabomError) as error:
            ReplayData(**{"batch_size": 3, **options})
        assert str(error.value) == message

    def test_an_empty_source(self, module):
        data = module(replay=ReplayData(batch_size=3, source=Nothing(), num_examples=7))
        with pytest.raises(TabomError) as error:
            data.train_dataloader()
        assert str(error.value) == "replay.source (Nothing): expected examples of split train, got none"

    @pytest.mark.parametrize("has_replay", [True, False])
    def test_an_empty_base_domain(self, module, has_replay):
        data = module(base_domains={"nothing": Nothing()}, **({} if has_replay else {"replay": None}))
        data.train_dataloader()
        with pytest.raises(TabomError) as error:
            data.val_dataloader()
        assert str(error.value) == "base_domains.nothing: expected examples of split validation, got none"

    def test_rows_that_are_longer_than_the_model(self, module):
        data = module()
        data.max_length = 7
        with pytest.raises(TabomError, match=r"^[^ ]*\.py:\d+: expected at most 7 tokens of prompt and response"):
            data.train_dataloader()


class Nothing(ExampleSource):
    def examples(self, split, num_examples):
        return []


class Texts(ExampleSource):
    """The same prompt in any split but one."""

    def __init__(self, **prompts):
        self.prompts = prompts

    def examples(self, split, num_examples):
        if split not in self.prompts:
            raise TabomError(f"no split {split}")
        return [Example(f"{split}{i}", self.prompts[split], "b") for i in range(num_examples)]


class TestNothingIsShared:
    """What forgetting is measured on and what is replayed."""

    def test_files_of_python(self, module):
        """With a larger share held out for the measure, the replay has some of its files."""
        replay = ReplayData(batch_size=3, source=PythonSource(held_out=0.1), num_examples=2000)
        module(replay=replay).train_dataloader()
        data = module(replay=replay, base_domains={"python": PythonSource(held_out=0.6)})
        for call in (data.train_dataloader, data.val_dataloader, data.test_dataloader):
            with pytest.raises(TabomError) as error:
                call()
            assert re.fullmatch(
                r"replay\.source \(PythonSource\): expected no document that forgetting is measured on, "
                r"got '/.*\.py', which base_domains\.python \(PythonSource\) has too",
                str(error.value),
            )

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_prompts(self, module, split):
        """Refused before the training, also where only the test measures it."""
        replay = ReplayData(batch_size=3, source=Texts(train="a"))
        others = {"validation": "c", "test": "d"}
        module(replay=replay, base_domains={"texts": Texts(**others)}).train_dataloader()
        module(replay=replay, base_domains={"texts": Texts(validation="c")}).train_dataloader()
        with pytest.raises(TabomError) as error:
            module(replay=replay, base_domains={"texts": Texts(**{**others, split: "a"})}).train_dataloader()
        assert str(error.value) == (
            "replay.source (Texts): expected no document that forgetting is measured on, got 'a', which "
            "base_domains.texts (Texts) has too"
        )

    def test_prompts_that_the_base_has_answered(self, module, tmp_path, tokenizer):
        path = write_trajectories(tmp_path / "own", tokenizer, num_rows=6)
        prompt = Sudoku4x4().examples("train", 6)[3].prompt
        data = module(
            replay=ReplayData(batch_size=3, trajectories=str(path)),
            base_domains={"texts": Texts(validation=prompt, test="d")},
        )
        with pytest.raises(TabomError) as error:
            data.train_dataloader()
        assert str(error.value) == (
            f"replay.trajectories ({path}): expected no document that forgetting is measured on, got {prompt!r}, which "
            "base_domains.texts (Texts) has too"
        )


def test_a_loader_of_rows_without_replay_keeps_its_batches():
    loader = ResumableLoader(range(6), batch_size=3, accumulation=1, seed=0, rank=0, world_size=1, collate_fn=list)
    assert loader.state_dict()["replay"] == 0
    assert sorted(row for batch in loader for row in batch) == list(range(6))
