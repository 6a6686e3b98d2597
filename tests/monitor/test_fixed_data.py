import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lanczos_saddle.monitor.fixed_data import fixed

X, Y = torch.arange(60.0).reshape(20, 3), torch.arange(20)


def taken(data, samples=None, **options):
    return fixed(data, samples, **{"seed": 0, "calls": False, **options})


def test_tensors_are_taken_as_they_are_or_drawn_once():
    assert taken((X, Y))[0] is X
    x, y = taken((X, Y), 7)
    assert len(set(y.tolist())) == 7
    assert torch.equal(x, X[y])  # rows stay together
    assert torch.equal(taken((X, Y), 7)[1], y)
    assert not torch.equal(taken((X, Y), 7, seed=1)[1], y)
    assert taken((X, Y), 100)[1] is Y


def test_a_loader_is_passed_over_once_and_left_as_it_was():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), batch_size=6, shuffle=True, generator=generator)
    before = generator.get_state()
    batches = taken(loader)
    assert torch.equal(generator.get_state(), before)
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == Y.tolist()
    assert torch.equal(torch.cat([y for _, y in loader]), torch.cat([y for _, y in batches]))  # what it gives anyhow
    assert [len(y) for _, y in taken(loader, 8)] == [6, 2]


def test_an_iterator_in_use_goes_on_where_it_was():
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(5))
    alone = [y.tolist() for _, y in loader]
    loader.generator.manual_seed(5)
    running = iter(loader)
    got = [next(running)[1].tolist()]
    taken(loader, 10)
    assert [*got, *(y.tolist() for _, y in running)] == alone


def test_a_sampler_draws_nothing_of_the_training():
    generator = torch.Generator().manual_seed(0)
    sampler = WeightedRandomSampler(torch.ones(20), 20, generator=generator)
    before = generator.get_state()
    taken(DataLoader(TensorDataset(X, Y), batch_size=4, sampler=sampler))
    assert torch.equal(generator.get_state(), before)


def test_lists_of_batches_stay_or_are_cut():
    batches = [(X[:8], Y[:8]), (X[8:], Y[8:])]
    assert taken(batches) is batches
    assert [len(y) for _, y in taken(batches, 10)] == [8, 2]


def test_what_a_model_is_called_with():
    batch = {"input_ids": X, "labels": Y}
    assert taken(batch, calls=True) is batch
    few = taken(batch, 4, calls=True)
    assert torch.equal(few["input_ids"], X[few["labels"]])
    assert [len(b["labels"]) for b in taken([batch, batch], 25, calls=True)] == [20, 5]


def test_what_ends_after_one_pass_is_refused():
    with pytest.raises(ValueError, match="one-shot"):
        taken(iter([(X, Y)]))
    with pytest.raises(ValueError, match="empty"):
        taken([], 3)
