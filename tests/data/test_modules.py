import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tabom.data import PretrainingDataModule, PromptDataModule, TrajectoryDataModule, ValidationSizes
from tabom.data.encoding import encode_prompts
from tabom.errors import TabomError
from tabom.tasks import Countdown, PythonSource, QuestionFile, Sudoku4x4
from tabom.types import NEVER, CorruptedBatch, Example, PromptBatch, TrajectoryBatch, Verdict

SIZES = ValidationSizes(num_validation_prompts=6, num_test_prompts=7, num_base_examples=10, batch_size=4)


def common():
    return {
        "task": Sudoku4x4(),
        "base_domains": {"python": PythonSource()},
        "tokenizer": "characters",
        "response_length": 19,
        "validation": SIZES,
    }


@pytest.fixture
def trajectories(make_trajectories):
    path = str(make_trajectories())

    def make(**changes):
        return TrajectoryDataModule(path=path, batch_size=4, **{**common(), **changes})

    return make


class TestPrompts:
    def test_validation_and_test_hold_text_and_prompts(self):
        data = PromptDataModule(**common())
        for loaders, num_prompts in ((data.val_dataloader(), 6), (data.test_dataloader(), 7)):
            text, prompts = (list(loader) for loader in loaders)
            assert all(isinstance(batch, CorruptedBatch) for batch in text)
            assert all(isinstance(batch, PromptBatch) for batch in prompts)
            assert sum(len(batch.query_ids) for batch in text) == 10
            assert sum(len(batch.examples) for batch in prompts) == num_prompts

    def test_masks_are_the_same_at_every_check(self):
        def noisy(**changes):
            data = PromptDataModule(**{**common(), "validation": dataclasses.replace(SIZES, **changes)})
            return torch.cat([batch.noisy_ids for batch in data.val_dataloader()[0]])

        first, again, larger_batches, other = noisy(), noisy(), noisy(batch_size=10), noisy(mask_seed=1)
        assert torch.equal(first, again)
        assert torch.equal(first, larger_batches)
        assert not torch.equal(first, other)

    def test_masks_do_not_depend_on_how_many_texts_there_are(self):
        def rows(number):
            sizes = dataclasses.replace(SIZES, num_base_examples=number)
            changes = {"validation": sizes, "base_domains": {"puzzles": Countdown()}}
            text = PromptDataModule(**{**common(), **changes}).val_dataloader()[0]
            return {
                query_id: ids[inside].tolist()
                for batch in text
                for query_id, ids, inside in zip(batch.query_ids, batch.noisy_ids, batch.attention_mask, strict=True)
            }

        assert rows(4).items() <= rows(10).items()

    def test_how_many_tokens_of_a_text_are_masked_follows_from_the_seed_of_the_masks(self):
        """Over the seeds any number is, or the NELBO would be that of some counts alone."""

        def count(seed):
            sizes = dataclasses.replace(SIZES, num_base_examples=1, mask_seed=seed)
            (text, *_) = PromptDataModule(**{**common(), "validation": sizes}).val_dataloader()
            return int(next(iter(text)).is_masked.sum())

        assert len({count(seed) for seed in range(8)}) >= 5

    def test_masks_of_two_domains_are_drawn_apart(self):
        (source,) = common()["base_domains"].values()
        data = PromptDataModule(**{**common(), "base_domains": {"first": source, "second": source}})
        first, second = (torch.cat([batch.is_masked for batch in loader]) for loader in data.val_dataloader()[:2])
        assert first.shape == second.shape
        assert not torch.equal(first, second)

    def test_masks_do_not_follow_the_run_seed(self):
        def noisy():
            return torch.cat([batch.noisy_ids for batch in PromptDataModule(**common()).val_dataloader()[0]])

        torch.manual_seed(1)
        first = noisy()
        torch.manual_seed(2)
        assert torch.equal(first, noisy())

    def test_predict_holds_training_queries(self):
        data = PromptDataModule(**common(), num_queries=9, queries_per_shard=4)
        shards = list(data.predict_dataloader())
        assert [shard.index for shard in shards] == [0, 1, 2]
        assert [len(shard.prompts.examples) for shard in shards] == [4, 4, 1]
        queries = [example for shard in shards for example in shard.prompts.examples]
        assert queries == Sudoku4x4().examples("train", 9)
        assert data.num_to_decode() == 9

    def test_samples_of_a_query_stand_together(self):
        data = PromptDataModule(**common(), num_queries=3, num_samples=2)
        (shard,) = data.predict_dataloader()
        first, second, third = (example.query_id for example in Sudoku4x4().examples("train", 3))
        assert shard.prompts.queries == [(first, 0), (first, 1), (second, 0), (second, 1), (third, 0), (third, 1)]
        assert data.num_to_decode() == 6

    def test_finished_shards_come_last_and_hold_nothing(self):
        data = PromptDataModule(**common(), num_queries=9, queries_per_shard=2)
        data.finished_shards = frozenset({0, 3})
        shards = [(shard.index, shard.prompts is None) for shard in data.predict_dataloader()]
        assert shards == [(1, False), (2, False), (4, False), (0, True), (3, True)]
        assert data.num_to_decode() == 5

    def test_what_is_left_is_shared_by_all_ranks_and_none_goes_without(self):
        def of_rank(rank, finished, **sizes):
            data = PromptDataModule(**common(), **sizes)
            data.trainer = SimpleNamespace(global_rank=rank, world_size=4)
            data.finished_shards = frozenset(finished)
            return [shard.index for shard in data.predict_dataloader() if shard.prompts], data.num_to_decode()

        sizes = {"num_queries": 15, "queries_per_shard": 2}
        assert [of_rank(rank, {0, 1, 4}, **sizes) for rank in range(4)] == [([2, 7], 3), ([3], 2), ([5], 2), ([6], 2)]
        assert [of_rank(rank, (), num_queries=2) for rank in range(4)] == [([0], 2), ([], 0), ([], 0), ([], 0)]
        data = PromptDataModule(**common(), num_queries=2)
        data.trainer = SimpleNamespace(global_rank=3, world_size=4)
        assert [shard.prompts for shard in data.predict_dataloader()] == [None]

    def test_every_prompt_that_is_left_is_encoded_once(self, monkeypatch):
        encoded = []

        def counted(tokenizer, prompts, query_ids, *, chat):
            encoded.extend(query_ids)
            return encode_prompts(tokenizer, prompts, query_ids, chat=chat)

        monkeypatch.setattr("tabom.data.prompts.encode_prompts", counted)
        data = PromptDataModule(**common(), num_queries=9, num_samples=2, queries_per_shard=4)
        data.finished_shards = frozenset({1})
        shards = [shard for shard in data.predict_dataloader() if shard.prompts]
        queries = [example.query_id for shard in shards for example in shard.prompts.examples[::2]]
        assert len(queries) == 5
        assert encoded == queries

    def test_a_prompt_that_cannot_be_encoded_is_found_before_anything_is_decoded(self, monkeypatch):
        examples = [*Sudoku4x4().examples("train", 4), Example("q/5", "", "x")]
        monkeypatch.setattr(Sudoku4x4, "examples", lambda self, split, num_examples: examples)
        data = PromptDataModule(**common(), num_queries=5, queries_per_shard=2)
        with pytest.raises(TabomError, match=r"^q/5: expected a prompt of at least one token, got none$"):
            data.predict_dataloader()

    def test_all_queries_there_are(self, tmp_path):
        path = tmp_path / "q.jsonl"
        path.write_text("".join(f'{{"question": "1 + {i}?", "answer": "{1 + i}"}}\n' for i in range(20)))
        task = QuestionFile(str(path), held_out=0.1)
        data = PromptDataModule(**common() | {"task": task, "base_domains": None}, queries_per_shard=8)
        queries = [example for shard in data.predict_dataloader() for example in shard.prompts.examples]
        assert queries == task.examples("train", None)
        assert data.query_settings()["num_queries"] == data.num_to_decode() == len(queries) > 10
        assert data.num_shards == -(-len(queries) // 8)

    def test_there_is_no_end_of_generated_queries(self):
        with pytest.raises(TabomError) as error:
            PromptDataModule(**common()).predict_dataloader()
        assert str(error.value) == "num_queries: expected a number, since the task generates its examples, got null"

    @pytest.mark.parametrize("name", ["response_length", "num_queries", "num_samples", "queries_per_shard"])
    def test_numbers_below_one(self, name):
        with pytest.raises(TabomError, match=rf"^{name}: expected at least 1, got 0$"):
            PromptDataModule(**{**common(), name: 0})

    def test_without_a_base_domain(self):
        (loader,) = PromptDataModule(**{**common(), "base_domains": None}).val_dataloader()
        assert isinstance(next(iter(loader)), PromptBatch)

    def test_several_base_domains(self):
        """Text of each, prompts of those that have a verifier, and the new domain last."""
        sizes = dataclasses.replace(SIZES, num_base_prompts=5)
        domains = {"python": PythonSource(), "countdown": Countdown()}
        data = PromptDataModule(**{**common(), "base_domains": domains, "validation": sizes})
        kinds = [[(type(batch), batch.domain) for batch in loader] for loader in data.val_dataloader()]
        assert [set(kind) for kind in kinds] == [
            {(CorruptedBatch, "python")},
            {(CorruptedBatch, "countdown")},
            {(PromptBatch, "countdown")},
            {(PromptBatch, "")},
        ]
        assert [sum(len(batch.noisy_ids) for batch in loader) for loader in data.val_dataloader()] == [10, 10, 5, 6]

    @pytest.mark.parametrize("name", ["", "a.b", "a/b"])
    def test_names_of_base_domains(self, name):
        """They are parts of the logged keys."""
        with pytest.raises(TabomError) as error:
            PromptDataModule(**{**common(), "base_domains": {name: PythonSource()}})
        assert str(error.value) == f"base_domains: expected names of letters, digits, - and _, got {name!r}"

    def test_a_base_domain_s_answers_are_verified_by_itself(self, tokenizer):
        data = PromptDataModule(**{**common(), "base_domains": {"countdown": Countdown()}})
        (example,) = Countdown().examples("test", 1)
        ids = torch.tensor([tokenizer(example.reference)["input_ids"]])
        assert data.judge([example], ids, "countdown")[0].is_correct
        assert not data.judge([example], ids[:, :-1], "countdown")[0].is_correct

    def test_without_prompts(self):
        sizes = dataclasses.replace(SIZES, num_validation_prompts=0)
        data = PromptDataModule(**{**common(), "validation": sizes})
        (loader,) = data.val_dataloader()
        assert isinstance(next(iter(loader)), CorruptedBatch)
        assert len(data.test_dataloader()) == 2

    def test_verdicts_read_up_to_the_first_end_of_sequence(self, tokenizer):
        data = PromptDataModule(**common())
        example = Example("q", "sudoku 1204341221434321=", "")

        def verdict(text, tail):
            ids = tokenizer(text)["input_ids"] + tail
            return data.judge([example], torch.tensor([ids]))[0]

        right = "1234341221434321"
        assert verdict(right, [2, 2, 2]) == Verdict(right, True, num_tokens=17, has_ended=True)
        assert verdict(right, [2, 40, 2]) == Verdict(right, True, num_tokens=17, has_ended=True)
        longer = right + tokenizer.decode([40])
        assert verdict(right, [40, 2, 2]) == Verdict(longer, False, num_tokens=18, has_ended=True)
        assert verdict(right, [40]) == Verdict(longer, False, num_tokens=17, has_ended=False)
        assert verdict(right, [1, 1, 2]).is_correct is False


def pretraining():
    settings = common()
    domains = settings.pop("base_domains")
    return {**settings, "base_domain": domains["python"]}


class TestPretraining:
    def test_the_mixture(self):
        data = PretrainingDataModule(
            **pretraining(), batch_size=10, num_base_rows=40, num_task_examples=5, task_share=0.5
        )
        loader = data.train_dataloader()
        assert len(loader) == 8
        query_ids = [query_id for batch in loader for query_id in batch.query_ids]
        from_task = [query_id for query_id in query_ids if query_id.startswith("sudoku4x4/")]
        assert (len(query_ids), len(from_task), len(set(from_task))) == (80, 40, 5)

    def test_text_keeps_its_length_and_answers_are_filled(self):
        data = PretrainingDataModule(**pretraining(), batch_size=10, num_base_rows=40, task_share=0.5)
        for batch in data.train_dataloader():
            for query_id, is_response, is_filler in zip(
                batch.query_ids, batch.is_response, batch.is_filler, strict=True
            ):
                is_puzzle = query_id.startswith("sudoku4x4/")
                assert is_response.sum() == (19 if is_puzzle else 24)
                assert is_filler.sum() == (2 if is_puzzle else 0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"task_share": 1.0}, "task_share: expected at least 0 and below 1, got 1.0"),
            ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
            ({"num_workers": -1}, "num_workers: expected at least 0, got -1"),
            ({"response_length": 0}, "response_length: expected at least 1, got 0"),
        ],
    )
    def test_bad_settings(self, changes, message):
        with pytest.raises(TabomError) as error:
            PretrainingDataModule(**{**pretraining(), **changes})
        assert str(error.value) == message

    def test_answers_longer_than_the_budget(self):
        data = PretrainingDataModule(**{**pretraining(), "response_length": 8})
        with pytest.raises(TabomError, match=r"at most response_length = 8 tokens, got 16$"):
            data.train_dataloader()


class TestTrajectories:
    def test_batches_carry_the_recorded_order(self, trajectories):
        batches = list(trajectories(held_out=0.0).train_dataloader())
        assert len(batches) == 4
        for batch in batches:
            assert isinstance(batch, TrajectoryBatch)
            assert batch.unmask_step[:, -19:].sort(1).values.tolist() == [list(range(19))] * 4
            assert not batch.unmask_entropy[:, -19:].isnan().any()

    @pytest.mark.parametrize("block_length", [None, 5, 100])
    def test_batches_carry_the_blocks_of_the_sampler(self, make_trajectories, block_length, caplog):
        path = make_trajectories(settings={"sampler": {"block_length": block_length}})
        data = TrajectoryDataModule(path=str(path), batch_size=4, **common())
        with caplog.at_level("INFO"):
            data.setup("fit")
        assert caplog.messages == []
        expected = [k // (block_length or 19) for k in range(19)]
        held_out = data.val_dataloader()[-2]
        for loader in (data.train_dataloader(), held_out):
            for batch in loader:
                assert batch.block[:, -19:].tolist() == [expected] * len(batch.query_ids)

    def test_blocks_of_a_block_causal_model_begin_within_its_prompts(self, make_trajectories):
        path = make_trajectories(settings={"sampler": {"block_length": None}, "block_size": 7})
        data = TrajectoryDataModule(path=str(path), batch_size=4, held_out=0.0, **common())
        for batch in data.train_dataloader():
            for is_there, block in zip(batch.attention_mask, batch.block[:, -19:], strict=True):
                num_prompt = int(is_there.sum()) - 19
                expected = [(num_prompt + k) // 7 - num_prompt // 7 for k in range(19)]
                assert block.tolist() == expected
                assert block.max() == 3 or num_prompt % 7 <= 2

    def test_questions_that_the_task_measures_on_are_not_trained_on(self, make_trajectories, tmp_path, caplog):
        """Imported trajectories know nothing of the task's splits; the test split may be missing in a training."""
        path = make_trajectories()
        recorded = Sudoku4x4(answer_layout="rows").examples("train", 24)
        tested = tmp_path / "test.jsonl"
        tested.write_text("".join(json.dumps({"question": e.prompt, "answer": "1"}) + "\n" for e in recorded[:5]))
        (tmp_path / "train.jsonl").write_text('{"question": "new", "answer": "1"}\n')

        def trained(test_file):
            task = QuestionFile(str(tmp_path / "train.jsonl"), test_file=test_file, held_out=0.0)
            data = TrajectoryDataModule(
                path=str(path), batch_size=1, only_verified=False, held_out=0.0, **{**common(), "task": task}
            )
            return {query for batch in data.train_dataloader() for query in batch.query_ids}

        everything = {example.query_id for example in recorded}
        assert trained(str(tmp_path / "none.jsonl")) == everything
        with caplog.at_level("INFO"):
            assert trained(str(tested)) == everything - {example.query_id for example in recorded[:5]}
        assert f"{path}: 5 of 24 rows are not trained on, since data.task has their questions" in caplog.text

    def test_blocks_that_are_not_known_are_said_to_be_one(self, make_trajectories, caplog):
        path = make_trajectories(settings={"imported_from": "released.jsonl"})
        data = TrajectoryDataModule(path=str(path), batch_size=4, **common())
        with caplog.at_level("INFO"):
            data.setup("fit")
        assert caplog.messages == [
            f"{path}: it does not say in which blocks the trajectories were decoded, so that all positions of a "
            "response count as compared; tabom trajectories import --block_length N says it"
        ]
        assert not next(iter(data.train_dataloader())).block.any()

    def test_only_verified(self, trajectories):
        num_all = len(trajectories(held_out=0.0, only_verified=False).train_dataloader().dataset)
        num_verified = len(trajectories(held_out=0.0).train_dataloader().dataset)
        assert (num_all, num_verified) == (24, 16)

    @pytest.mark.parametrize("kind", ["failure_rate", "advantage"])
    def test_weights_and_advantages_are_those_of_a_loop_over_queries(self, make_trajectories, kind):
        """Eight queries of three decodings: all pass, two pass, one passes, none passes, and again."""
        verdicts = [int(sample < 3 - query % 4) for query in range(8) for sample in range(3)]
        path = str(make_trajectories(num_samples=3, is_verified=[verdict == 1 for verdict in verdicts]))
        data = TrajectoryDataModule(path=path, batch_size=1, held_out=0.5, query_weighting=kind, **common())
        held_out = {
            query_id for loader in data.val_dataloader()[2:] for batch in loader for query_id in batch.query_ids
        }
        expected = {}
        for query in range(8):
            rows = range(3 * query, 3 * query + 3)
            mean = sum(verdicts[row] for row in rows) / 3
            for row in rows:
                if data.table.query_ids[row] in held_out:
                    continue
                if kind == "advantage" and mean not in (0, 1):
                    expected[row] = verdicts[row] - mean
                if kind == "failure_rate" and verdicts[row] and mean != 1:
                    expected[row] = 1 - mean
        if kind == "failure_rate":
            average = sum(expected.values()) / len(expected)
            expected = {row: value / average for row, value in expected.items()}
        batch = data.collate(list(data.train_dataloader().dataset))
        assert list(batch.query_ids) == [data.table.query_ids[row] for row in expected]
        assert batch.unmask_step[:, -19:].tolist() == data.table.unmask_step[list(expected)].tolist()
        got, other = (batch.advantage, batch.row_weight) if kind == "advantage" else (batch.row_weight, batch.advantage)
        assert got.tolist() == pytest.approx(list(expected.values()))
        assert other is None
        assert 0 < len(expected) < 12
        assert held_out

    def test_one_trajectory_a_query_is_the_first_that_is_wanted(self, make_trajectories):
        path = str(make_trajectories(num_samples=3, is_verified=[False, True, True] * 7 + [False] * 3))
        data = TrajectoryDataModule(path=path, batch_size=2, held_out=0.0, one_per_query=True, **common())
        dataset = data.train_dataloader().dataset
        assert [row.query_id for row in dataset] == data.table.query_ids[:21:3]
        assert [list(row.unmask_step) for row in dataset] == data.table.unmask_step[1:21:3].tolist()
        assert {(row.row_weight, row.advantage) for row in dataset} == {(None, None)}

    @pytest.mark.parametrize(
        ("rows", "kind", "message"),
        [
            (
                {},
                "advantage",
                "several decodings per query for {}, got one of each; distil with data.num_samples above 1",
            ),
            (
                {"num_samples": 2, "is_verified": [True] * 24},
                "failure_rate",
                "a query with verified and refused decodings for {}, found none of 12",
            ),
            (
                {"num_samples": 2, "is_verified": [True, True, False, False] * 6},
                "advantage",
                "a query with verified and refused decodings for {}, found none of 12",
            ),
        ],
    )
    def test_verdicts_that_compare_nothing_are_errors(self, make_trajectories, rows, kind, message):
        path = str(make_trajectories(**rows))
        data = TrajectoryDataModule(path=path, batch_size=2, query_weighting=kind, **common())
        with pytest.raises(TabomError) as error:
            data.train_dataloader()
        assert str(error.value) == f"{path}: expected {message.format(f'data.query_weighting {kind}')}"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"query_weighting": "failure_rate", "answers": "ground_truth"},
                "query_weighting: expected none with answers ground_truth, which ignores it, got failure_rate",
            ),
            (
                {"query_weighting": "advantage", "one_per_query": True},
                "one_per_query: expected False with query_weighting advantage, which compares the trajectories of a "
                "query, got True",
            ),
        ],
    )
    def test_options_that_contradict_each_other_are_errors(self, trajectories, options, message):
        with pytest.raises(TabomError) as error:
            trajectories(**options)
        assert str(error.value) == message

    def test_ground_truth_answers_the_same_queries_without_an_order(self, trajectories, tokenizer):
        own = trajectories(held_out=0.2).train_dataloader().dataset
        truth = trajectories(held_out=0.2, answers="ground_truth").train_dataloader().dataset
        assert [row.query_id for row in own] == [row.query_id for row in truth]
        assert [row.prompt_ids for row in own] == [row.prompt_ids for row in truth]
        assert all(len(row.unmask_step) == 0 for row in truth)
        references = {e.query_id: e.reference for e in Sudoku4x4(answer_layout="rows").examples("train", 24)}
        assert [tokenizer.decode(row.response_ids) for row in truth] == [references[row.query_id] for row in truth]
        (batch, *_) = trajectories(answers="ground_truth").train_dataloader()
        assert (batch.unmask_step == NEVER).all()

    def test_ground_truth_that_is_too_long(self, make_trajectories):
        path = str(make_trajectories("short", response_length=17))

        def data(**changes):
            settings = {**common(), "response_length": 17, "answers": "ground_truth", "batch_size": 4, **changes}
            return TrajectoryDataModule(path=path, **settings)

        with pytest.raises(TabomError, match=r"of at most response_length = 17 tokens, got 19$"):
            data().train_dataloader()
        cut = data(truncate_answers=True).train_dataloader().dataset
        references = {e.query_id: e.reference for e in Sudoku4x4(answer_layout="rows").examples("train", 24)}
        assert [data().tokenizer.decode(row.response_ids) for row in cut] == [references[r.query_id][:17] for r in cut]

    def test_a_prompt_that_is_trained_on_is_not_held_out(self, trajectories):
        """Under two ids, as an import once gave them."""
        data = trajectories(held_out=0.4)
        trained = data.train_dataloader().dataset[0].query_id
        *_, held_out, _ = data.val_dataloader()
        other = next(iter(held_out)).query_ids[0]
        first, second = (data.table.query_ids.index(query_id) for query_id in (trained, other))
        data.table.prompt_ids[second] = data.table.prompt_ids[first]
        message = f"one id a prompt, so that none is both trained on and held out, got {trained} and {other} for"
        for loaders in (data.train_dataloader, data.val_dataloader):
            with pytest.raises(TabomError, match=message):
                loaders()

    def test_rows_without_a_reference_are_left_out_of_ground_truth(self, trajectories):
        data = trajectories(held_out=0.0, answers="ground_truth")
        data.table.references[:6] = [""] * 6
        assert len(data.train_dataloader().dataset) == 12
        data.table.references[:] = [""] * 24
        with pytest.raises(TabomError, match=r"reference answers for data\.answers ground_truth, found none in"):
            data.train_dataloader()

    def test_held_out_trajectories_are_not_trained_on(self, trajectories):
        data = trajectories(held_out=0.4)
        trained = {row.query_id for row in data.train_dataloader().dataset}
        *_, held_out, _ = data.val_dataloader()
        evaluated = {query_id for batch in held_out for query_id in batch.query_ids}
        assert evaluated
        assert not evaluated & trained
        assert len(evaluated | trained) == 16

    def test_held_out_queries_come_as_decoded_and_with_the_task_s_answers(self, trajectories):
        data = trajectories(held_out=0.4)
        *_, decoded, truth = data.val_dataloader()
        decoded, truth = list(decoded), list(truth)
        assert {batch.answers for batch in decoded} == {"self_distilled"}
        assert {batch.answers for batch in truth} == {"ground_truth"}
        ids = [[query_id for batch in batches for query_id in batch.query_ids] for batches in (decoded, truth)]
        assert ids[0] == ids[1]
        assert not torch.equal(decoded[0].clean_ids, truth[0].clean_ids)
        assert (truth[0].unmask_step == NEVER).all()

    @pytest.mark.parametrize("chat_template", [False, True])
    @pytest.mark.parametrize("case", ["nothing held out", "no references", "references of training rows alone"])
    def test_held_out_queries_without_references(self, trajectories, case, chat_template):
        """Then there is nothing of the task's own to compare with."""
        data = trajectories(held_out=0.0 if case == "nothing held out" else 0.4, chat_template=chat_template)
        held_out = set(data._indices(data._wanted, is_held_out=True))
        if case != "nothing held out":
            is_kept = [case != "no references" and i not in held_out for i in range(24)]
            data.table.references[:] = [
                r if kept else "" for r, kept in zip(data.table.references, is_kept, strict=True)
            ]
        if chat_template:
            data._split_loaders = lambda split, number: []  # texts of the task have no template here
        for loaders in (data.val_dataloader(), data.test_dataloader()):
            kinds = [batch.answers for loader in loaders for batch in loader if isinstance(batch, TrajectoryBatch)]
            assert set(kinds) == (set() if case == "nothing held out" else {"self_distilled"})

    def test_too_few_for_a_batch(self, make_trajectories):
        data = TrajectoryDataModule(path=str(make_trajectories()), batch_size=40, held_out=0.0, **common())
        with pytest.raises(TabomError) as error:
            data.train_dataloader()
        assert str(error.value) == (
            "training data: expected at least 40 rows (batch_size 40 x world_size 1 x accumulate_grad_batches 1), "
            "got 16"
        )

    def test_rows_are_those_of_the_table(self, trajectories):
        """As lists, which they were made of up front before."""
        data = trajectories(held_out=0.0)
        table, verified = data.table, [i for i in range(24) if i % 3 != 2]
        rows = data.train_dataloader().dataset
        assert len(rows) == 16
        assert [
            (row.query_id, row.prompt_ids, *map(list, (row.response_ids, row.unmask_step, row.unmask_entropy)))
            for row in rows
        ] == [
            (
                table.query_ids[i],
                table.prompt_ids[i],
                table.response_ids[i].tolist(),
                table.unmask_step[i].tolist(),
                table.unmask_entropy[i].tolist(),
            )
            for i in verified
        ]
        assert np.shares_memory(rows[3].unmask_step, table.unmask_step)
        assert [row.number for row in rows] == list(range(16))

    @pytest.mark.parametrize("changes", [{}, {"answers": "ground_truth"}, {"num_workers": 2}])
    def test_batches_carry_the_numbers_of_their_rows(self, trajectories, changes):
        loader = trajectories(held_out=0.0, **changes).train_dataloader()
        batches = list(loader)
        assert loader.num_workers == changes.get("num_workers", 0)
        assert loader.persistent_workers is (loader.num_workers > 0)
        assert sorted(number for batch in batches for number in batch.row_numbers.tolist()) == list(range(16))
        for batch in batches:
            assert batch.query_ids == tuple(loader.dataset[number].query_id for number in batch.row_numbers.tolist())

    @pytest.mark.parametrize(
        ("world_size", "batch_size", "accumulation", "given"),
        [(1, 4, 6, 1), (2, 4, 3, 1), (3, 4, 2, 2), (4, 3, 2, 1), (6, 4, 1, 1), (8, 3, 1, 1), (24, 1, 1, 1)],
    )
    def test_a_global_batch_is_shared_out(self, trajectories, world_size, batch_size, accumulation, given):
        """24 rows, 4 at most at a time."""
        data = trajectories(held_out=0.0, global_batch_size=24)
        data.trainer = SimpleNamespace(world_size=world_size, accumulate_grad_batches=given)
        for stage in ("validate", "test", "predict"):
            data.setup(stage)
            assert (data.batch_size, data.trainer.accumulate_grad_batches) == (4, given)
        for _ in range(2):
            data.setup("fit")
            assert (data.batch_size, data.trainer.accumulate_grad_batches) == (batch_size, accumulation)

    @pytest.mark.parametrize(
        ("world_size", "given", "message"),
        [
            (5, 1, "global_batch_size: expected a multiple of the 5 processes, got 24"),
            (
                2,
                2,
                "trainer.accumulate_grad_batches: expected 3, which follows from data.global_batch_size 24, or "
                "nothing, got 2",
            ),
        ],
    )
    def test_a_global_batch_that_cannot_be_had(self, trajectories, world_size, given, message):
        data = trajectories(held_out=0.0, global_batch_size=24)
        data.trainer = SimpleNamespace(world_size=world_size, accumulate_grad_batches=given)
        with pytest.raises(TabomError) as error:
            data.setup("fit")
        assert str(error.value) == message

    def test_a_training_takes_the_global_batch_in_each_step(self, stage):
        cli = stage("fit", "tabom", "--data.batch_size=2", "--data.global_batch_size=6", "--trainer.max_steps=3")
        assert cli.trainer.accumulate_grad_batches == 3
        assert cli.trainer.fit_loop.epoch_loop.batch_progress.total.completed == 3 * 3

    def test_long_prompts_are_cut_for_training_alone(self, trajectories):
        whole, cut = trajectories(held_out=0.4), trajectories(held_out=0.4, max_prompt_length=10)
        truth = trajectories(held_out=0.4, max_prompt_length=10, answers="ground_truth")
        expected = {row.query_id: row.prompt_ids[:10] for row in whole.train_dataloader().dataset}
        assert expected
        for data in (cut, truth):
            assert {row.query_id: row.prompt_ids for row in data.train_dataloader().dataset} == expected
        for loader in cut.val_dataloader()[-2:]:
            assert all(batch.attention_mask[:, :-19].sum(1).max() == 10 for batch in loader)
        held_out = [[ids for b in data.val_dataloader()[-2] for ids in b.query_ids] for data in (cut, whole)]
        assert held_out[0] == held_out[1]

    def test_an_optimizer_step_takes_accumulated_batches_of_all_processes(self, trajectories):
        data = trajectories(held_out=0.0)

        def loader(rank, world_size, accumulation):
            cpu = SimpleNamespace(root_device=torch.device("cpu"))
            data.trainer = SimpleNamespace(
                global_rank=rank,
                world_size=world_size,
                accumulate_grad_batches=accumulation,
                overfit_batches=0,
                strategy=cpu,
            )
            return data.train_dataloader()

        one, two = (
            [batch.query_ids for rank in range(world_size) for batch in loader(rank, world_size, accumulation)]
            for world_size, accumulation in ((1, 3), (2, 2))
        )
        assert (len(one), len(two)) == (3, 4)
        assert set(two[0] + two[1]) | set(two[2] + two[3]) == {row.query_id for row in data.train_dataloader().dataset}
        assert loader(0, 2, 2).pin_memory is False
        with pytest.raises(TabomError, match=r"\(batch_size 4 x world_size 2 x accumulate_grad_batches 3\), got 16$"):
            loader(0, 2, 3)

    def test_steps_of_about_one_length(self, make_trajectories):
        path = str(make_trajectories())
        loaders = [
            TrajectoryDataModule(path=path, batch_size=4, held_out=0.0, group_by_length=grouped, **common())
            for grouped in (False, True)
        ]
        for data in loaders:
            data.table.prompt_ids[:] = [[7] * (1 + i * 5 % 24) for i in range(24)]
        (shuffled, grouped) = (list(data.train_dataloader()) for data in loaders)
        widths = sorted(batch.clean_ids.shape[1] - 19 for batch in grouped)
        lengths = sorted(len(loaders[0].table.prompt_ids[i]) for i in range(24) if i % 3 != 2)
        assert widths == lengths[3::4]
        assert sum(widths) < sum(batch.clean_ids.shape[1] - 19 for batch in shuffled)

    def test_none_verified(self, make_trajectories):
        path = make_trajectories(is_verified=[False] * 24)
        with pytest.raises(TabomError) as error:
            TrajectoryDataModule(path=str(path), **common()).train_dataloader()
        assert str(error.value) == f"{path}: expected at least one verified trajectory, found none among 24"

    def test_bad_shards_end_the_run_at_setup(self, tmp_path):
        with pytest.raises(TabomError) as error:
            TrajectoryDataModule(path=str(tmp_path), **common()).setup("fit")
        assert str(error.value) == (
            f"{tmp_path}/manifest.json: expected the manifest of a finished distillation, found no such file"
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
            ({"held_out": 1.0}, "held_out: expected at least 0 and below 1, got 1.0"),
            ({"num_workers": -1}, "num_workers: expected at least 0, got -1"),
        ],
    )
    def test_bad_settings(self, changes, message):
        with pytest.raises(TabomError) as error:
            TrajectoryDataModule(path="x", **{**common(), **changes})
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "smallest"),
    [("num_validation_prompts", 0), ("num_test_prompts", 0), ("num_base_examples", 1), ("batch_size", 1)],
)
def test_nothing_to_evaluate_on(name, smallest):
    ValidationSizes(**{name: smallest})
    with pytest.raises(TabomError) as error:
        ValidationSizes(**{name: smallest - 1})
    assert str(error.value) == f"validation.{name}: expected at least {smallest}, got {smallest - 1}"
