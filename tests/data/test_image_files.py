"""Decoding and augmentation give what torchvision's transforms give, keyed by seed, epoch and index."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from certtrain.data.image_files import FileAugment, ImageFiles, resized_box
from certtrain.errors import UserError
from certtrain.randomness import uniforms

SIZES = [(40, 30), (30, 40), (33, 33), (24, 50)]


@pytest.fixture
def files(tmp_path):
    draw = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return ImageFiles(tmp_path, [f"{number}.png" for number in range(len(SIZES))], 16, 20)


def opened(files, index):
    return Image.open(files.root / files.names[index]).convert("RGB")


def test_evaluation_is_torchvisions_resize_centre_crop_and_scaling(files):
    theirs = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16), transforms.ToTensor()])
    index = torch.tensor([2, 0, 3])
    x = files[index]
    assert x.shape == (3, *files.shape[1:]) == (3, 3, 16, 16)
    assert x.dtype == files.dtype == torch.float32
    assert torch.equal(x, torch.stack([theirs(opened(files, i)) for i in index]))
    assert files[torch.arange(0)].shape == (0, 3, 16, 16)
    assert torch.equal(files.take(index)[torch.tensor([1])], x[1:2])


def test_a_resized_crop_is_torchvisions_of_the_same_box(files):
    augment, index = FileAugment(crop="resized", flip=True), torch.tensor([1, 3, 0])
    x = augment.of_epoch(files, 1, 2)(index)
    mirrored = 0
    for image, i, u in zip(x, index, uniforms(1, "augment", 2, index, 41).tolist()):
        left, top, right, bottom = resized_box(*SIZES[i], u)
        part = F.resized_crop(opened(files, i), top, left, bottom - top, right - left, [16, 16])
        mirrored += u[-1] < 0.5
        assert torch.equal(image, F.to_tensor(F.hflip(part) if u[-1] < 0.5 else part))
    assert mirrored in (1, 2)  # or the test would not see both


def test_resized_boxes_have_torchvisions_distribution():
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs = [transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    theirs = torch.tensor([[left, top, left + w, top + h] for top, left, h, w in theirs]).float()
    ours = [resized_box(500, 375, u) for u in uniforms(0, "augment", 0, torch.arange(4000), 40).tolist()]
    ours = torch.tensor(ours).float()
    assert bool((ours[:, :2] >= 0).all() and (ours[:, 2] <= 500).all() and (ours[:, 3] <= 375).all())
    error = theirs.std(0) * (2 / 4000) ** 0.5
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all())
    assert torch.allclose(ours.std(0), theirs.std(0), rtol=0.08)


@pytest.mark.parametrize(("width", "height"), [(500, 10), (10, 500), (7, 7)])
def test_the_last_resort_is_the_largest_centred_box(width, height):
    left, top, right, bottom = resized_box(width, height, [0.999, 0.0 if width > height else 0.999, 0, 0] * 10)
    assert (left, top) == ((width - (right - left)) // 2, (height - (bottom - top)) // 2)
    assert {right - left, bottom - top} == {7 if width == height else 10, {500: 13}.get(max(width, height), 7)}


@pytest.mark.parametrize("fill", ["zero", "edge"])
def test_a_random_crop_is_a_part_of_the_padded_image(files, fill):
    augment, index = FileAugment(crop="random", crop_padding=2, fill=fill, flip=False), torch.arange(4)
    x = augment.of_epoch(files, 0, 0)(index)
    for image, i, u in zip(x, index, uniforms(0, "augment", 0, index, 41).tolist()):
        whole = F.pad(transforms.Resize(20)(opened(files, i)), [2], padding_mode={"zero": "constant"}.get(fill, fill))
        left, top = int(u[0] * (whole.size[0] - 15)), int(u[1] * (whole.size[1] - 15))
        assert torch.equal(image, F.to_tensor(F.crop(whole, top, left, 16, 16)))


@pytest.mark.parametrize("crop", ["center", "random", "resized"])
def test_augmentation_is_keyed_and_ignores_batching(files, crop):
    augment = FileAugment(crop=crop, flip=True)
    together = augment.of_epoch(files, 3, 7)(torch.arange(4))
    again = augment.of_epoch(files, 3, 7)(torch.tensor([2, 1]))
    assert torch.equal(again, together[[2, 1]])
    assert not torch.equal(together, augment.of_epoch(files, 3, 8)(torch.arange(4)))
    assert not torch.equal(together, augment.of_epoch(files, 4, 7)(torch.arange(4)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_8_bit_images_become_rgb(tmp_path, mode):
    image = Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)).convert(mode)
    image.save(tmp_path / "a.png")
    x = ImageFiles(tmp_path, ["a.png"], 8, None)[torch.tensor([0])]
    assert torch.equal(x[0], F.to_tensor(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["text", "cut short", "16 bits", "missing", "small"])
def test_a_file_that_is_no_use_is_named(tmp_path, kind):
    path = tmp_path / "broken.png"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    if kind == "text":
        path.write_text("no image")
    elif kind == "cut short":
        picture.save(path)
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "16 bits":
        Image.fromarray(np.full((8, 8), 60_000, dtype=np.uint16)).save(path)
    elif kind == "small":
        picture.crop((0, 0, 8, 5)).save(path)
    with pytest.raises(UserError, match=r"broken\.png") as caught:
        ImageFiles(tmp_path, ["broken.png"], 8, None)[torch.tensor([0])]
    assert caught.value.fix


@pytest.mark.parametrize("options", [{"crop": "centre"}, {"crop": "resized", "crop_padding": 2}, {"fill": "grey"}])
def test_augmentations_that_make_no_sense_are_refused(options):
    with pytest.raises(UserError) as caught:
        FileAugment(**options)
    assert caught.value.where.startswith("data.augment")


def test_only_what_is_asked_for_is_decoded(files, monkeypatch):
    reads = []
    whole = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **how: reads.append(path.name) or whole(path, **how))
    part = files.take(torch.tensor([3, 1])).to("cpu")
    assert (len(part), part.shape[0], reads) == (2, 2, [])
    part[torch.tensor([1])]
    assert reads == ["1.png"]
