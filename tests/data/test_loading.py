import pytest

from tabom.data.loading import ResumableLoader, evaluation_loader


def loader(num_rows=20, rank=0, world_size=1, seed=3):
    return ResumableLoader(range(num_rows), batch_size=3, seed=seed, rank=rank, world_size=world_size, collate_fn=list)


def epoch(data, number):
    data.sampler.set_epoch(number)
    return list(data)


def test_order_follows_seed_and_epoch():
    assert epoch(loader(), 0) == epoch(loader(), 0)
    assert epoch(loader(), 0) != epoch(loader(), 1)
    assert epoch(loader(), 0) != epoch(loader(seed=4), 0)


def test_an_epoch_holds_every_row_at_most_once():
    rows = [row for batch in epoch(loader(), 2) for row in batch]
    assert len(rows) == len(set(rows)) == 18


def test_ranks_share_an_epoch():
    rows = [row for rank in range(2) for batch in epoch(loader(rank=rank, world_size=2), 0) for row in batch]
    assert len(rows) == len(set(rows)) == 18


@pytest.mark.parametrize("num_given", [0, 1, 4, 6])
def test_a_restored_loader_goes_on(num_given):
    first, straight = loader(), epoch(loader(), 1)
    first.sampler.set_epoch(1)
    given = iter(first)
    for _ in range(num_given):
        next(given)
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    expected = straight if num_given == len(straight) else straight[num_given:]
    assert list(second) == expected
    assert epoch(second, 2) == epoch(loader(), 2)


def test_a_loader_can_be_restored_again_within_the_epoch():
    first = loader()
    first.load_state_dict({"epoch": 1, "num_given": 2})
    next(iter(first))
    assert first.state_dict() == {"epoch": 1, "num_given": 3}


def test_evaluation_repeats_nothing():
    rows = [
        row
        for rank in range(3)
        for batch in evaluation_loader(range(10), batch_size=2, rank=rank, world_size=3, collate_fn=list)
        for row in batch
    ]
    assert sorted(rows) == list(range(10))
