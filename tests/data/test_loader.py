import itertools

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.data import Augment, SequentialLoader, Split, TensorLoader
from certtrain.errors import UserError


def split_of(n):
    return Split(torch.arange(n * 16).float().view(n, 1, 4, 4) / (n * 16), torch.arange(n) % 2, "train")


def indices(loader):
    return [batch.index.tolist() for batch in loader]


def flat(lists):
    return list(itertools.chain(*lists))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.booleans())
def test_ranks_share_the_batches_of_one_process(n, batch_size, world_size, drop_last):
    batches = n // batch_size if drop_last else -(-n // batch_size)
    smallest = batch_size if drop_last else n - (batches - 1) * batch_size
    places = [{"drop_last": drop_last, "rank": rank, "world_size": world_size} for rank in range(world_size)]
    if not batches or smallest < world_size:
        for place in places:
            with pytest.raises(UserError, match="batch"):
                TensorLoader(split_of(n), batch_size, **place)
        return
    alone = TensorLoader(split_of(n), batch_size, drop_last=drop_last)
    loaders = [TensorLoader(split_of(n), batch_size, **place) for place in places]
    assert {len(loader) for loader in loaders} == {len(alone)} == {batches}
    for whole, *shares in zip(indices(alone), *map(indices, loaders), strict=True):
        assert sorted(flat(shares)) == sorted(whole)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    saved = loaders[0].state_dict()
    assert saved == alone.state_dict()  # resumed on any number of processes


def test_epochs_are_keyed_by_seed_and_epoch_alone():
    loader, other = TensorLoader(split_of(40), 7, seed=3), TensorLoader(split_of(40), 11, seed=3)
    first, second = indices(loader), indices(loader)
    assert first != second
    assert flat(first) == flat(indices(other))
    other.set_epoch(1)
    assert flat(second) == flat(indices(other))
    assert flat(first) != flat(indices(TensorLoader(split_of(40), 7, seed=4)))


def test_an_epoch_comes_again_and_the_loader_stays_where_it_is():
    loader, augment = TensorLoader(split_of(30), 7, seed=3), Augment(crop_padding=1, flip=True)
    first, second = indices(loader), indices(loader)
    assert indices(loader.again()) == indices(loader.again()) == second  # at its end
    loader = TensorLoader(split_of(30), 7, seed=3, augment=augment)
    images = [batch.x for batch in loader]
    assert all(torch.equal(batch.x, image) for batch, image in zip(loader.again(), images, strict=True))
    loader = TensorLoader(split_of(30), 7, seed=3)
    next(iter(loader))
    assert indices(loader.again()) == first
    assert indices(loader) == first[1:]


def test_batches_hold_their_examples_and_augmentation_ignores_batching():
    split = split_of(30)
    for batch in TensorLoader(split, 7):
        assert torch.equal(batch.x, split.x[batch.index])
        assert torch.equal(batch.y, split.y[batch.index])
    augment = Augment(crop_padding=1, flip=True)
    small, large = (TensorLoader(split, size, augment=augment) for size in (4, 30))
    together = torch.cat([batch.x for batch in small])
    first, second = next(iter(large)), next(iter(large))
    assert torch.equal(together, first.x)
    same = first.x[first.index.argsort()] == second.x[second.index.argsort()]
    assert not same.flatten(1).all(1).all()  # the next epoch has other crops
    assert torch.equal(second.x, augment(split.x[second.index], 0, 1, second.index))


@given(st.integers(0, 25), st.integers(2, 9))
def test_a_saved_place_continues_the_sequence(stop, batch_size):
    endless = TensorLoader(split_of(20), batch_size)
    stream = [batch for _ in range(12) for batch in indices(endless)]
    loader, seen = TensorLoader(split_of(20), batch_size), []
    while len(seen) < stop:
        seen += [batch.index.tolist() for batch in itertools.islice(loader, min(len(loader), stop - len(seen)))]
    resumed = TensorLoader(split_of(20), batch_size)
    resumed.load_state_dict(loader.state_dict())
    iter(resumed)  # fit loops ask more than once
    while len(seen) < 30:
        seen += indices(resumed)
    assert seen == stream[: len(seen)]


def test_a_place_in_mid_epoch_of_other_data_is_refused():
    loader = TensorLoader(split_of(20), 4)
    next(iter(loader))
    for other in (TensorLoader(split_of(20), 5), TensorLoader(split_of(21), 4), TensorLoader(split_of(20), 4, seed=1)):
        with pytest.raises(UserError, match="mid-epoch"):
            other.load_state_dict(loader.state_dict())
    list(loader)
    ended = TensorLoader(split_of(20), 4)
    list(ended)
    other = TensorLoader(split_of(20), 5)
    other.load_state_dict(ended.state_dict())
    assert (other.epoch, other.position) == (1, 0)


@given(st.integers(0, 20), st.integers(1, 7), st.integers(1, 3))
def test_evaluation_visits_everything_once_in_order(n, batch_size, world_size):
    loaders = [SequentialLoader(split_of(n), batch_size, rank=r, world_size=world_size) for r in range(world_size)]
    seen = [flat(indices(loader)) for loader in loaders]
    assert sorted(flat(seen)) == list(range(n))
    assert all(share == sorted(share) for share in seen)
    assert [len(loader) for loader in loaders] == [len(indices(loader)) for loader in loaders]


RUNS = {
    "mid-epoch": (3, 11, 1, {}),
    "at an epoch's end": (7, 16, 1, {}),
    "in a later epoch": (9, 20, 1, {}),
    "accumulating": (6, 13, 2, {}),
    "accumulating, at an epoch's end": (4, 9, 2, {}),
    "limited epochs": (4, 9, 1, {"limit_train_batches": 3}),
    "limited epochs, at an end": (3, 9, 1, {"limit_train_batches": 3}),
    "limited by a share": (5, 9, 1, {"limit_train_batches": 0.5}),
    "with validation": (7, 16, 1, {"val": True}),
    "with validation within": (5, 16, 1, {"val": True, "val_check_interval": 2}),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_resumed_trainer_sees_the_batches_that_it_would_have_seen(case, tiny, recorder, trainer, tmp_path):
    stop, end, accumulate, options = RUNS[case]
    val_size = 10 if options.get("val") else 0  # 50 or 40 examples: 7 or 5 batches an epoch
    options = {"accumulate_grad_batches": accumulate, **{key: options[key] for key in options if key != "val"}}
    data = {"val_size": val_size, "augment": {"crop_padding": 1, "flip": True}}

    straight = recorder()
    trainer(max_steps=end, max_epochs=-1, **options).fit(straight, datamodule=tiny(**data))

    first, second = recorder(), recorder()
    run = trainer(max_steps=stop, max_epochs=-1, **options)
    run.fit(first, datamodule=tiny(**data))
    run.save_checkpoint(tmp_path / "stop.ckpt")
    again = trainer(max_steps=end, max_epochs=-1, **options)
    again.fit(second, datamodule=tiny(**data), ckpt_path=tmp_path / "stop.ckpt")

    assert again.global_step == end
    assert [index for _, index in straight.seen] == [index for _, index in first.seen + second.seen]
    pixels = zip(straight.pixels, first.pixels + second.pixels)
    assert all(torch.equal(a, b) for a, b in pixels)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
@pytest.mark.parametrize("stop", [4, 7, 10, 14])
def test_a_checkpoint_written_within_the_run_resumes_to_max_epochs(hook, stop, tiny, recorder, trainer, tmp_path):
    class Save(L.Callback):
        pass

    def save(self, trainer, *_):
        if trainer.global_step == stop:
            trainer.save_checkpoint(tmp_path / "within.ckpt")

    setattr(Save, hook, save)
    straight, second = recorder(), recorder()
    trainer(max_epochs=3, callbacks=[Save()]).fit(straight, datamodule=tiny())
    if hook == "on_train_epoch_end" and stop % 7:
        assert not (tmp_path / "within.ckpt").exists()
        return
    again = trainer(max_epochs=3)
    again.fit(second, datamodule=tiny(), ckpt_path=tmp_path / "within.ckpt")
    assert [index for _, index in straight.seen[stop:]] == [index for _, index in second.seen]
    assert torch.equal(straight.layer.weight, second.layer.weight)


@pytest.mark.parametrize("stop", [3, 7, 9])
def test_a_stop_by_steps_resumes_to_max_epochs(stop, tiny, recorder, trainer, tmp_path):
    # Lightning counts the epoch that max_steps cut short as a finished one and then restores no loader.
    straight, first, second = recorder(), recorder(), recorder()
    trainer(max_epochs=3).fit(straight, datamodule=tiny())
    run = trainer(max_steps=stop, max_epochs=-1)
    run.fit(first, datamodule=tiny())
    run.save_checkpoint(tmp_path / "stop.ckpt")
    trainer(max_epochs=3).fit(second, datamodule=tiny(), ckpt_path=tmp_path / "stop.ckpt")
    seen = [index for _, index in first.seen + second.seen]
    assert seen == [index for _, index in straight.seen][: len(seen)]
    assert len(seen) >= 14


@pytest.mark.parametrize("limit", [3, 0.5])
def test_limited_epochs_begin_anew(limit, tiny, recorder, trainer):
    network, loader = recorder(), TensorLoader(split_of(50), 8)
    trainer(max_epochs=3, limit_train_batches=limit).fit(network, datamodule=tiny())
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert [index for number, index in network.seen if number == epoch] == indices(loader)[:3]
