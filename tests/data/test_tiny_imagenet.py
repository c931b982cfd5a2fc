"""TinyImageNet as its file unpacks, and as scripts of others leave it."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from certtrain.data import TinyImageNet
from certtrain.errors import UserError

WNIDS = ("n02", "n01")


@pytest.fixture
def published(tmp_path):
    """The layout of the file: 2 x 3 training and 4 validation images, whose grey value is their number."""
    root = tmp_path / "tiny-imagenet-200"

    def picture(path, level):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), level, dtype=np.uint8)).save(path, quality=100)

    for number, wnid in enumerate(WNIDS):
        for i in range(3):
            picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * number + i)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    lines = []
    for i, wnid in ((0, "n01"), (1, "n02"), (10, "n01"), (2, "n02")):
        picture(root / "val" / "images" / f"val_{i}.JPEG", 100 + i)
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbeaker\nn03\tcat\n")
    (root / "test" / "images").mkdir(parents=True)
    return root


def loaded(root, **options):
    data = TinyImageNet(root.parent, **{"val_size": 0, "num_classes": 2, **options})
    data.setup()
    return data


def levels(split):
    return (split.x[torch.arange(len(split))][:, 0, 30, 30] * 255).round().int().tolist()


def test_classes_come_from_the_annotations(published):
    data = loaded(published)
    assert data.class_names == ["goldfish", "beaker"]
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert levels(data.train) == [10, 11, 12, 0, 1, 2]
    assert (data.test.y.tolist(), levels(data.test)) == ([0, 0, 1, 1], [100, 110, 101, 102])
    assert (data.name, data.input_shape) == ("tiny_imagenet", (3, 64, 64))
    assert (data.mean, data.std) == ([0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262])
    assert (data.augment.crop_padding, data.augment.fill, data.augment.flip) == (4, "edge", True)
    assert loaded(published, image_size=56, augment=None).test.x.shape == (4, 3, 56, 56)


@pytest.mark.parametrize("layout", ["CTBench", "CTRAIN", "without annotations"])
def test_a_sorted_val_holds_the_same_examples_in_the_same_order(published, layout):
    before = loaded(published).test
    known = levels(before), before.y.tolist()
    val = published / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        folder = val / "images" / wnid if layout == "CTRAIN" else val / wnid
        folder.mkdir(exist_ok=True)
        (val / "images" / name).rename(folder / name)
    if layout != "CTRAIN":
        (val / "images").rmdir()
    if layout == "without annotations":
        (val / "val_annotations.txt").unlink()
    after = loaded(published).test
    assert (levels(after), after.y.tolist()) == known


def test_what_is_missing_is_said_with_how_to_get_it(published):
    with pytest.raises(UserError, match="holds 2 classes, not 200"):
        loaded(published, num_classes=200)
    (published / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(UserError, match=r"names 1 images .* such as val_2.JPEG"):
        loaded(published)
    (published / "val" / "val_annotations.txt").write_text("val_0.JPEG n01\n")
    with pytest.raises(UserError, match="not a table"):
        loaded(published)
    shutil.rmtree(published)
    with pytest.raises(UserError, match="there is no folder train") as caught:
        loaded(published)
    assert "tiny-imagenet-200.zip" in caught.value.fix
