"""A folder of images is split, pinned, shuffled and resumed like data in memory, without being held there."""

import shutil

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from certtrain.data import ImageFolder, TensorLoader
from certtrain.data.image_folder import ImageLoader
from certtrain.data.split import check_examples
from certtrain.errors import UserError
from certtrain.models.contract import InputContract


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """13 + 6 images of three classes; the grey value of a training image is its number."""
    root = tmp_path / "images"
    for name, count in (("ant", 5), ("bee", 4), ("Cat", 4)):
        for i in range(count):
            # In the order that torchvision gives them: upper case first, subfolders after the files above them.
            picture(root / "train" / name / ("sub" if i == count - 1 else "") / f"{i}.PNG", 0)
        for i in range(2):
            picture(root / "test" / name / f"{i}.jpg", 200)
    for number, (path, _) in enumerate(datasets.ImageFolder(root / "train").samples):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    picture(root / "train" / "ant" / ".hidden.png", 77)
    (root / "train" / ".cache").mkdir()
    return root


def module(images, **options):
    options = {"val_size": 0, "image_size": 8, "batch_size": 4, "augment": None, **options}
    return ImageFolder(images.parent, **options)


def test_classes_and_order_are_torchvisions(folder):
    data = module(folder)
    data.setup()
    (folder / "train" / "ant" / ".hidden.png").unlink()
    shutil.rmtree(folder / "train" / ".cache")
    theirs = datasets.ImageFolder(folder / "train")
    assert data.class_names == theirs.classes == ["Cat", "ant", "bee"]
    assert data.train.y.tolist() == theirs.targets
    assert [str(data.train.x.root / name) for name in data.train.x.names] == [path for path, _ in theirs.samples]
    x = data.train.x[torch.arange(13)]
    assert torch.equal(x[:, 0, 0, 0], torch.arange(13) / 255)
    assert (len(data.test), data.num_classes, data.input_shape) == (6, 3, (3, 8, 8))
    assert InputContract.of(data) == InputContract((3, 8, 8), 3, (0.0,), (1.0,))


def test_validation_is_carved_out_and_pinned(folder):
    data = module(folder, val_size=4, certify_examples=2)
    data.setup()
    assert (len(data.train), len(data.val), len(data.certify_index)) == (9, 4, 2)
    assert torch.equal(data.val.x[data.certify_index][:, 0, 0, 0], data.val.source[data.certify_index] / 255)
    assert sorted([*data.train.source.tolist(), *data.val.source.tolist()]) == list(range(13))
    [first, second] = data.test_dataloader(), data.val_dataloader()
    assert [batch.index.tolist() for batch in first] == [list(range(6))]
    assert [batch.x.shape[0] for batch in second] == [4]


def test_batches_are_those_of_a_loader_that_looks_not_ahead(folder):
    data = module(folder, augment={"crop": "center", "flip": True})
    data.setup()
    ahead, plain = (kind(data.train, 4, seed=1, augment=data.augment) for kind in (ImageLoader, TensorLoader))
    for _ in range(3):
        for mine, theirs in zip(ahead, plain, strict=True):
            assert torch.equal(mine.index, theirs.index)
            assert torch.equal(mine.x, theirs.x)
            assert torch.equal(mine.x[:, 0, 0, 0] * 255, mine.index.float())
            assert torch.equal(mine.y, data.train.y[mine.index])


def test_a_saved_place_continues_the_sequence(folder):
    data = module(folder)
    data.setup()
    loader = ImageLoader(data.train, 4, seed=1)
    sequence = [batch.index.tolist() for _ in range(2) for batch in loader]
    first, second = ImageLoader(data.train, 4, seed=1), ImageLoader(data.train, 4, seed=1)
    iterator = iter(first)
    seen = [next(iterator).index.tolist() for _ in range(2)]
    second.load_state_dict(first.state_dict())
    seen += [batch.index.tolist() for batch in second]
    second.set_epoch(1)
    next(iter(second))
    second.set_epoch(1)  # what was begun for the old place is thrown away
    seen += [batch.index.tolist() for batch in second]
    assert seen == sequence


def test_a_trainer_resumes_in_mid_epoch(folder, trainer, recorder, tmp_path):
    class Small(recorder):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(192, 3)

    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")

    whole, rest, augment = Small(), Small(), {"crop": "center", "flip": True}
    trainer(max_epochs=2, callbacks=[Save()]).fit(whole, datamodule=module(folder, augment=augment))
    again = module(folder, augment=augment)
    trainer(max_epochs=2).fit(rest, datamodule=again, ckpt_path=tmp_path / "cut.ckpt")
    assert rest.seen == whole.seen[2:]
    assert all(torch.equal(a, b) for a, b in zip(rest.pixels, whole.pixels[2:], strict=True))


def test_the_test_part_is_val_where_there_is_no_test(folder):
    (folder / "test").rename(folder / "val")
    data = module(folder)
    data.setup()
    assert len(data.test) == 6
    picture(folder / "test" / "ant" / "0.png", 1)  # such as ImageNet's, without classes: val is named then
    data = module(folder, test_folder="val")
    data.setup()
    assert len(data.test) == 6


def spoil(folder, what):
    if what == "no folder":
        shutil.rmtree(folder)
    elif what == "no test":
        shutil.rmtree(folder / "test")
    elif what == "no classes":
        shutil.rmtree(folder / "train")
        (folder / "train").mkdir()
    elif what == "empty class":
        shutil.rmtree(folder / "train" / "ant")
        (folder / "train" / "ant").mkdir()
    elif what == "other classes":
        (folder / "test" / "ant").rename(folder / "test" / "wasp")


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("no folder", {}, "no folder .*images.train"),
        ("no test", {}, "no test part: .*images.test and no .*images.val"),
        ("no classes", {}, "holds 0 class folders"),
        ("empty class", {}, "train.ant holds no images"),
        ("other classes", {}, r"1 missing \(ant\), 1 of its own \(wasp\)"),
        ("", {"num_classes": 4}, "holds 3 classes, not 4"),
        ("", {"test_folder": "final"}, "no .*images.final"),
        ("", {"folder": "pictures"}, "no .*pictures.test"),
    ],
)
def test_what_is_wrong_with_the_folder_is_said(folder, what, options, message):
    spoil(folder, what)
    if what == "no folder":
        (folder / "test").mkdir(parents=True)
    with pytest.raises(UserError, match=message) as caught:
        module(folder, **options).setup()
    assert caught.value.fix


@pytest.mark.parametrize("options", [{"image_size": 0}, {"resize": 4}, {"num_classes": 1}, {"augment": {"corp": 1}}])
def test_options_that_make_no_sense_are_refused(folder, options):
    with pytest.raises(UserError) as caught:
        module(folder, **options)
    assert caught.value.where.startswith("data.")


def test_labels_are_checked_without_decoding(folder):
    data = module(folder)
    data.setup()
    (folder / "train" / "ant" / "0.PNG").unlink()
    common = {"input_shape": (3, 8, 8), "where": "data", "data": "images"}
    check_examples(data.train.x, data.train.y, num_classes=3, **common)
    with pytest.raises(UserError, match=r"outside the classes 0 \.\. 1"):
        check_examples(data.train.x, data.train.y, num_classes=2, **common)
    with pytest.raises(UserError, match="float32 inputs of shape"):
        check_examples(data.train.x, data.train.y[:-1], num_classes=3, **common)
