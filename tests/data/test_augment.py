import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.data import Augment
from certtrain.errors import UserError

fills = st.sampled_from(["zero", "edge"])


def reference(image, padding, fill, top, left, mirror):
    """Pad, crop, mirror: one image at a time, as the literature's transforms do."""
    if padding:
        mode = "constant" if fill == "zero" else "replicate"
        image = torch.nn.functional.pad(image[None], [padding] * 4, mode=mode)[0]
    height, width = image.shape[-2] - 2 * padding, image.shape[-1] - 2 * padding
    image = image[:, top : top + height, left : left + width]
    return image.flip(-1) if mirror else image


@given(
    st.integers(0, 3), fills, st.booleans(), st.integers(0, 5), st.integers(1, 3), st.tuples(*[st.integers(2, 6)] * 2)
)
def test_every_output_is_a_crop_of_the_padded_image(padding, fill, flip, epoch, channels, size):
    x = torch.rand(4, channels, *size)
    out = Augment(padding, fill, flip)(x, 0, epoch, torch.arange(4))
    places = range(2 * padding + 1)
    for image, result in zip(x, out):
        crops = [
            reference(image, padding, fill, top, left, mirror)
            for top in places
            for left in places
            for mirror in ((False, True) if flip else (False,))
        ]
        assert any(torch.equal(result, crop) for crop in crops)


@pytest.mark.parametrize("flip", [False, True])
def test_every_crop_occurs_equally_often(flip):
    n, padding = 9000, 1
    x = torch.arange(9.0).view(1, 1, 3, 3).expand(n, 1, 3, 3) / 10 + 0.05
    out = Augment(padding, "zero", flip)(x, 1, 0, torch.arange(n)).flatten(1)
    _, counts = out.unique(dim=0, return_counts=True)
    kinds = 9 * (1 + flip)
    assert len(counts) == kinds
    expected = n / kinds
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


@given(st.integers(0, 3), st.integers(0, 9))
def test_keyed_by_seed_epoch_and_index_alone(seed, epoch):
    augment, x = Augment(2, "zero", True), torch.rand(20, 3, 8, 8)
    index = torch.randperm(20)
    together = augment(x, seed, epoch, torch.arange(20))
    assert torch.equal(together[index], augment(x[index], seed, epoch, index))
    assert torch.equal(together[3:4], augment(x[3:4], seed, epoch, torch.tensor([3])))
    assert not torch.equal(together, augment(x, seed, epoch + 1, torch.arange(20)))
    assert not torch.equal(together, augment(x, seed + 1, epoch, torch.arange(20)))


def test_nothing_asked_for_is_nothing_done():
    x = torch.rand(2, 1, 4, 4)
    assert not Augment()
    assert Augment()(x, 0, 0, torch.arange(2)) is x


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"crop_padding": -1}, ">= 0"),
        ({"crop_padding": 1.5}, ">= 0"),
        ({"fill": "reflect"}, "zero, edge"),
        ({"crop_paddings": 2}, "crop_padding"),
    ],
)
def test_bad_options_are_refused(options, fix):
    with pytest.raises(UserError) as caught:
        Augment.of(options)
    assert fix in caught.value.fix
    assert caught.value.where.startswith("data.augment")


@given(st.integers(0, 3), fills, st.booleans(), st.integers(0, 3), st.lists(st.integers(0, 8), min_size=1))
def test_an_epochs_images_are_those_of_any_batch(padding, fill, flip, epoch, positions):
    x, index, augment = torch.rand(9, 2, 4, 5), torch.tensor(positions), Augment(padding, fill, flip)
    assert torch.equal(augment.of_epoch(x, 7, epoch)(index), augment(x[index], 7, epoch, index))
