"""Map-style datasets of other programs, as the configuration names them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from certtrain.data import FromDatasets
from certtrain.data.datasets import as_input, example
from certtrain.errors import UserError


class Listed:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Flipped(Listed):
    def __getitem__(self, i):
        x, y = self.items[i]
        return (x.flip(-1) if torch.rand(()) < 0.5 else x), y


def pairs(n, shape=(1, 2, 2), classes=3):
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    return [(row, i % classes) for i, row in enumerate(x)]


def test_shape_classes_and_name_follow_from_the_examples():
    data = FromDatasets(train=Listed(pairs(20)), test=TensorDataset(torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 1])))
    data.setup()
    assert (data.input_shape, data.num_classes, data.name) == ((1, 2, 2), 3, "Listed")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 4)
    assert torch.equal(data.train.x[0], pairs(20)[int(data.train.source[0])][0])
    assert data.train.y.dtype == torch.int64


GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50


@pytest.mark.parametrize(
    "value",
    [
        Image.fromarray(GREY),
        GREY,
        GREY[..., None],
        torch.from_numpy(GREY)[None],
        torch.from_numpy(GREY)[None].double() / 255,
        (GREY[None] / 255).astype(np.float64),
    ],
    ids=["image", "array", "array with channel", "bytes", "double", "float array"],
)
def test_inputs_of_all_kinds(value):
    expected = torch.from_numpy(GREY)[None].float() / 255
    torch.testing.assert_close(as_input(value, "here"), expected, rtol=0, atol=1e-7)


def test_colour_images():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    assert torch.equal(as_input(Image.fromarray(pixels), "here"), expected)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"image": 1, "label": 2}, "a dict, not an input and its class"),
        ((torch.rand(2), 0.5), "a class 0.5"),
        ((torch.rand(2), torch.tensor([0, 1])), "a class"),
        ((torch.rand(2), True), "a class True"),
        ((torch.arange(3), 0), "type torch.int64"),
        ((torch.rand(2).to(torch.complex64), 0), "type torch.complex64"),
        ((Image.fromarray(np.zeros((2, 2), dtype=np.uint16)), 0), "an image of mode I;16"),
        (("picture.png", 0), "an input of type str"),
    ],
)
def test_what_is_no_example(item, words):
    with pytest.raises(UserError, match=words) as caught:
        example(item, "data.train, example 3")
    assert caught.value.where == "data.train, example 3"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (Flipped(pairs(20)), Listed(pairs(3)), "another one each time"),
        (Listed(pairs(20)), Flipped(pairs(20)), "another one each time"),
        (Listed([*pairs(3), (torch.rand(1, 2, 3), 0)]), Listed(pairs(3)), r"example 0 has shape .* example 3"),
        (Listed([(x * 2 - 1, y) for x, y in pairs(9)]), Listed(pairs(3)), r"outside the input range \[0, 1\]"),
        (Listed(pairs(9)), Listed(pairs(9, classes=4)), "outside the classes 0 .. 2"),
        (iter(pairs(9)), Listed(pairs(3)), "no examples to ask for by position"),
        (Listed(pairs(9)), Listed([]), "no examples to ask for by position"),
    ],
)
def test_data_that_would_spoil_certificates(train, test, words):
    with pytest.raises(UserError, match=words):
        FromDatasets(train=train, test=test).setup()
