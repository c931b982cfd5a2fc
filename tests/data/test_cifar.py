import os
import pickle

import numpy as np
import pytest
import torch

from certtrain.data import CIFAR10, CIFAR100
from certtrain.data.cifar import TEST_FILES, TRAIN_FILES, read_batch
from certtrain.errors import UserError


def write_set(root, n=6):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = {}
    for name in TRAIN_FILES + TEST_FILES:
        batch = {"data": np.random.default_rng(len(batches)).integers(0, 256, (n, 3072), dtype=np.uint8)}
        batch["labels"] = [int(i) % 10 for i in range(n)]
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        batches[name] = batch
    return folder, batches


def test_reads_what_was_written(tmp_path):
    _, batches = write_set(tmp_path)
    module = CIFAR10(tmp_path, val_size=0, download=False)
    module.setup()
    assert (len(module.train), len(module.test)) == (30, 6)
    second = batches[TRAIN_FILES[1]]["data"][2]
    assert torch.equal(module.train.x[8], torch.from_numpy(second).view(3, 32, 32).float() / 255)
    assert module.train.y[8] == 2
    assert module.mean == [0.4914, 0.4822, 0.4465]
    assert module.augment.crop_padding == 4
    assert not CIFAR10(tmp_path, augment=None).augment


def test_cifar_100_has_its_fine_classes(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for number, name in enumerate(("train", "test")):
        batch = {"data": np.full((3, 3072), number, dtype=np.uint8), "coarse_labels": [0, 1, 2]}
        (folder / name).write_bytes(pickle.dumps({**batch, "fine_labels": [7, 99, 40]}, protocol=2))
    module = CIFAR100(tmp_path, val_size=0, download=False)
    module.setup()
    assert (module.name, module.num_classes, module.test.y.tolist()) == ("cifar100", 100, [7, 99, 40])
    assert module.test.x.unique().tolist() == [torch.tensor(1 / 255).item()]
    assert module.mean == [0.5071, 0.4865, 0.4409]


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder, _ = write_set(tmp_path)
    (folder / TRAIN_FILES[0]).write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(UserError, match=TRAIN_FILES[0]):
        CIFAR10(tmp_path, download=False).setup()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({}),
        pickle.dumps([1]),
        pickle.dumps({"data": np.zeros((2, 3)), "labels": [0, 1]}),
    ],
)
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(UserError, match="batch is not a complete"):
        read_batch(tmp_path / "batch")


def test_a_file_cut_short_is_named(tmp_path):
    folder, _ = write_set(tmp_path)
    path = folder / TEST_FILES[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=TEST_FILES[0]):
        CIFAR10(tmp_path, download=False).setup()


def test_a_missing_folder_says_what_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(UserError) as caught:
        CIFAR10(tmp_path / "nowhere", download=False).prepare_data()
    assert "data_batch_1" in str(caught.value)
    assert "cifar-10-batches-py" in caught.value.fix


def test_the_published_set(real_data):
    x, y = read_batch(real_data / "cifar-10-batches-py" / "test_batch")
    assert x.shape == (10_000, 3072)
    assert y[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(y).tolist() == [1000] * 10
