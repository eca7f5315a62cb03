import itertools

import pytest
import torch

from tabom.data import loading
from tabom.data.loading import ResumableLoader, epoch_batches, held_out_loader
from tabom.errors import TabomError


def loader(num_rows=20, *, batch_size=3, accumulation=1, seed=3, rank=0, world_size=1, **options):
    return ResumableLoader(
        range(num_rows),
        batch_size=batch_size,
        accumulation=accumulation,
        seed=seed,
        rank=rank,
        world_size=world_size,
        collate_fn=list,
        **options,
    )


def state(number, *given):
    return {"epoch": number, "given": list(given)}


def epoch(data, number):
    data.sampler.set_epoch(number)
    return list(data)


class TestOrder:
    def test_exact_orders(self):
        assert epoch_batches(11, 4, seed=3, epoch=0).tolist() == [[3, 6, 8, 9], [5, 0, 2, 4]]
        assert epoch_batches(11, 4, seed=3, epoch=1).tolist() == [[7, 3, 8, 5], [2, 10, 1, 4]]

    def test_order_follows_seed_and_epoch(self):
        assert epoch(loader(), 0) == epoch(loader(), 0)
        assert epoch(loader(), 0) != epoch(loader(), 1)
        assert epoch(loader(), 0) != epoch(loader(seed=4), 0)
        assert epoch(loader(), 1) != epoch(loader(seed=4), 0)

    def test_what_fills_no_step_is_dropped(self):
        rows = [row for batch in epoch(loader(), 2) for row in batch]
        assert len(rows) == len(set(rows)) == 18
        accumulated = epoch(loader(accumulation=4), 2)
        assert len(accumulated) == len(loader(accumulation=4)) == 4
        assert len({row for batch in accumulated for row in batch}) == 12

    def test_ranks_and_accumulated_batches_of_a_step(self):
        """Batches of two rows: a rank takes every second row of a step, and cuts them into batches."""
        whole = epoch_batches(20, 8, seed=3, epoch=0).tolist()
        ranks = [list(loader(batch_size=2, accumulation=2, rank=rank, world_size=2)) for rank in range(2)]
        for step, (a, b, c, d, e, f, g, h) in enumerate(whole):
            assert ranks[0][2 * step : 2 * step + 2] == [[a, c], [e, g]]
            assert ranks[1][2 * step : 2 * step + 2] == [[b, d], [f, h]]

    @pytest.mark.parametrize("lengths", [None, [row * 7 % 13 for row in range(53)]], ids=["shuffled", "grouped"])
    def test_a_step_has_the_same_rows_however_they_are_shared_out(self, lengths):
        def steps(batch_size, world_size, accumulation, number):
            ranks = [
                epoch(
                    loader(
                        53,
                        batch_size=batch_size,
                        accumulation=accumulation,
                        rank=rank,
                        world_size=world_size,
                        lengths=lengths,
                    ),
                    number,
                )
                for rank in range(world_size)
            ]
            assert {len(batches) for batches in ranks} == {6 * accumulation}
            return [
                {row for batches in ranks for batch in batches[step : step + accumulation] for row in batch}
                for step in range(0, 6 * accumulation, accumulation)
            ]

        for number in range(3):
            one = steps(8, 1, 1, number)
            assert len(set().union(*one)) == 48
            assert one == steps(4, 2, 1, number) == steps(1, 1, 8, number) == steps(2, 2, 2, number)

    def test_too_few_rows_for_a_step(self):
        loader(24, accumulation=4, world_size=2)
        with pytest.raises(TabomError) as error:
            loader(23, accumulation=4, world_size=2)
        assert str(error.value) == (
            "training data: expected at least 24 rows (batch_size 3 x world_size 2 x accumulate_grad_batches 4), got 23"
        )


class TestGrouping:
    def test_exact_order(self, monkeypatch):
        """Windows of two steps of two rows; the last window has one step."""
        monkeypatch.setattr(loading, "BATCHES_PER_WINDOW", 2)
        lengths = [5, 1, 4, 2, 3, 5, 1, 4, 2, 3, 9]
        assert epoch_batches(11, 2, seed=3, epoch=0).tolist() == [[3, 6], [8, 9], [5, 0], [2, 4], [1, 10]]
        assert epoch_batches(11, 2, seed=3, epoch=0, lengths=lengths).tolist() == [
            [4, 2],
            [6, 3],
            [1, 10],
            [8, 9],
            [5, 0],
        ]

    def test_little_is_padded_and_steps_come_in_no_order_of_length(self):
        lengths = torch.randint(20, 200, (2000,), generator=torch.Generator().manual_seed(0))

        def padding(batches):
            length = lengths[batches]
            return float(1 - length.sum() / (length.amax(1) * batches.shape[1]).sum())

        shuffled = epoch_batches(2000, 16, seed=3, epoch=0)
        grouped = epoch_batches(2000, 16, seed=3, epoch=0, lengths=lengths.tolist())
        assert padding(shuffled) > 0.4
        assert padding(grouped) < 0.03
        assert grouped.unique().numel() == 2000
        means = lengths[grouped].float().mean(1)
        assert abs(torch.corrcoef(torch.stack([means, torch.arange(125.0)]))[0, 1]) < 0.3
        assert not torch.equal(grouped, epoch_batches(2000, 16, seed=3, epoch=1, lengths=lengths.tolist()))


@pytest.mark.parametrize("num_workers", [0, 2])
class TestResume:
    def test_a_restored_loader_goes_on(self, num_workers):
        straight = epoch(loader(), 1)
        first = loader(num_workers=num_workers)
        first.sampler.set_epoch(1)
        states = [first.state_dict(), *(first.state_dict() for _ in first)]
        assert [state["given"] for state in states] == [[], [[3, 3]], [[6, 3]], [[9, 3]], [[12, 3]], [[15, 3]], []]
        second = loader(num_workers=num_workers)
        for num_given in (1, 4, 5):
            second.load_state_dict(states[num_given])
            assert list(second) == straight[num_given:]
        assert epoch(second, 2) == epoch(loader(), 2)
        second.load_state_dict(states[6])
        assert list(second) == straight

    def test_a_loader_can_be_restored_again_within_the_epoch(self, num_workers):
        first = loader(num_workers=num_workers)
        first.load_state_dict(state(1, [6, 3]))
        assert first.state_dict()["given"] == [[6, 3]]
        next(iter(first))
        assert (first.state_dict()["epoch"], first.state_dict()["given"]) == (1, [[9, 3]])

    def test_what_was_given_in_an_epoch_that_ended_early_does_not_count_in_the_next(self, num_workers):
        data = loader(num_workers=num_workers)
        data.load_state_dict(state(1, [6, 3]))
        assert epoch(data, 2) == epoch(loader(), 2)

    def test_the_epoch_may_be_set_after_the_iterator_is_made(self, num_workers):
        """As Lightning does."""
        data = loader(num_workers=num_workers)
        batches = iter(data)
        data.sampler.set_epoch(2)
        assert list(batches) == epoch(loader(), 2)

    def test_torch_s_random_numbers_stay(self, num_workers):
        """What else is drawn from them does not depend on how often an epoch was begun."""
        before = torch.get_rng_state()
        next(iter(loader(num_workers=num_workers)))
        assert torch.equal(torch.get_rng_state(), before)


def test_each_rank_of_a_step_resumes():
    for rank, accumulation in itertools.product(range(2), (1, 2)):
        data = loader(40, accumulation=accumulation, rank=rank, world_size=2)
        straight = list(data)
        data.load_state_dict(state(0, [18, 6 * accumulation]))
        assert list(data) == straight[3:]


def test_a_state_that_counts_batches_as_before_rows_were_counted():
    data = loader()
    straight = list(data)
    data.load_state_dict({"epoch": 0, "num_given": 4})
    assert list(data) == straight[4:]


SIZES = [(3, 1, 1), (3, 2, 1), (6, 1, 1), (3, 1, 2), (4, 1, 1), (5, 1, 2), (1, 1, 1), (2, 2, 2)]


@pytest.mark.parametrize("lengths", [None, [row * 7 % 13 for row in range(83)]], ids=["shuffled", "grouped"])
@pytest.mark.parametrize(("batch_size", "accumulation", "world_size"), SIZES)
def test_an_epoch_goes_on_in_steps_of_another_size(lengths, batch_size, accumulation, world_size):
    """Each row comes at most once, and only what does not fill a step is left; stopped twice, in three sizes."""
    seen, current = [], state(1)
    parts = [((3, 2, 1), 2), ((batch_size, accumulation, world_size), 3), ((2, 3, 1), None)]
    for (size, each, ranks), num_steps in parts:
        loaders = [
            loader(83, batch_size=size, accumulation=each, rank=rank, world_size=ranks, lengths=lengths)
            for rank in range(ranks)
        ]
        stop = num_steps and num_steps * each
        for data in loaders:
            data.load_state_dict(current)
            assert len(data) - data.num_left <= len(data)
            assert (len(data) - data.num_left) % each == 0
            left = data.num_left
            batches = list(itertools.islice(data, stop))
            assert len(batches) == (stop or left)
            seen += [row for batch in batches for row in batch]
        current = loaders[0].state_dict()
    assert len(seen) == len(set(seen))
    assert 83 - 6 < len(seen) <= 83


def test_the_same_step_in_other_batches_has_the_same_rows():
    straight = [row for batch in loader(83, batch_size=12) for row in batch]
    first = loader(83, batch_size=12)
    kept = [row for batch in itertools.islice(first, 3) for row in batch]
    for batch_size, accumulation in ((12, 1), (6, 2), (3, 4)):
        second = loader(83, batch_size=batch_size, accumulation=accumulation)
        second.load_state_dict(first.state_dict())
        assert kept + [row for batch in second for row in batch] == straight


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seed_everything", {"seed": 4}),
        ("training data", {"num_rows": 21}),
        ("training data", {"identity": "other"}),
        ("data.group_by_length", {"lengths": list(range(20))}),
    ],
)
def test_other_rows_are_refused_within_an_epoch(name, changes):
    first = loader(identity="same")
    batches = iter(first)
    next(batches)
    data = loader(**{"identity": "same", **changes})
    with pytest.raises(TabomError, match=rf"^{name}: expected .*, as in the checkpoint, whose epoch is not over, got "):
        data.load_state_dict(first.state_dict())
    list(batches)
    data.load_state_dict(first.state_dict())


def test_the_same_batches_in_every_epoch():
    data = loader(is_repeated=True)
    assert epoch(data, 0) == epoch(data, 3) == list(loader())


def test_evaluation_repeats_nothing():
    rows = [
        row
        for rank in range(3)
        for batch in held_out_loader(range(10), batch_size=2, rank=rank, world_size=3, collate_fn=list)
        for row in batch
    ]
    assert sorted(rows) == list(range(10))
