"""What a script has at hand becomes batches: positions derived, values and classes checked."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from certtrain.data import Split
from certtrain.data.foreign import as_split, training_batches
from certtrain.errors import UserError

X = torch.rand(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 3
SET = TensorDataset(X, Y)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(list(zip(X, Y.tolist())))


class Module(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(SET, batch_size=4)

    def test_dataloader(self):
        return DataLoader(SET, batch_size=4)


FORMS = {
    "tensors": (X, Y),
    "list": [X, Y],
    "bytes": ((X * 255).round().to(torch.uint8), Y.int()),
    "split": Split(X, Y, "train"),
    "dataset": SET,
    "list of examples": type("Listed", (), {"__getitem__": lambda _, i: SET[i], "__len__": lambda _: 10})(),
    "loader": DataLoader(SET, batch_size=4, shuffle=True),
    "stream": Stream(),
    "module": Module(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_example_comes_once_an_epoch(form):
    data = FORMS[form]
    own = form in ("loader", "module")
    batches = training_batches(data, None if own else 4, seed=1)
    for _ in range(2):
        found = list(batches)
        assert [len(batch.y) for batch in found] == [4, 4, 2]
        index = torch.cat([batch.index for batch in found])
        assert sorted(index.tolist()) == list(range(10))
        x, y = torch.cat([batch.x for batch in found]), torch.cat([batch.y for batch in found])
        assert sorted(x[:, 0, 0, 0].tolist()) == pytest.approx(sorted(X[:, 0, 0, 0].tolist()), abs=1 / 255)
        assert x.dtype == torch.float32
        assert sorted(y.tolist()) == sorted(Y.tolist())
    assert getattr(batches, "smallest", None) == (None if form == "stream" else 2)
    if own:
        with pytest.raises(TypeError, match="own"):
            training_batches(data, 4, seed=1)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("loader", "bytes", "stream")])
def test_a_split_of_it(form):
    split = as_split(FORMS[form])
    assert torch.equal(split.x, X)
    assert torch.equal(split.y, Y)


def test_a_shuffled_loader_has_no_positions():
    with pytest.raises(TypeError, match="shuffles"):
        as_split(FORMS["loader"])
    with pytest.raises(TypeError, match="a int is no data"):
        as_split(3)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X * 4 - 2, Y, r"outside \[0, 1\]"),
        (X / 0, Y, r"outside \[0, 1\]"),
        (X, Y - 1, "the class -1"),
        (X, torch.rand(10), "torch.float32 classes"),
        (X, torch.nn.functional.one_hot(Y), "classes of shape"),
    ],
)
def test_values_that_are_none(x, y, words):
    for data in ((x, y), DataLoader(TensorDataset(x, y), batch_size=5)):
        with pytest.raises(UserError, match=words) as caught:
            list(training_batches(data, None, 0))
        assert caught.value.fix


def test_classes_beyond_the_logits():
    for data in (SET, (X, Y)):
        batches = training_batches(data, 4, 0)

        def used(batches=batches):
            batches.refuse_classes_beyond(2)
            list(batches)

        with pytest.raises(UserError, match="a label 2, and the network has 2 logits"):
            used()
        batches.refuse_classes_beyond(3)
        list(batches)
