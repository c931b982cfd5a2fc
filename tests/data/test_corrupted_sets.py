"""Corrupted test sets: the published arrays, and corruptions of our own under names of their own."""

import pickle

import numpy as np
import pytest
import torch

from certtrain.data import CIFAR10C, MNISTC, Corrupted, DataModule, Digits, cifar_c, mnist_c
from certtrain.data.corrupted import CORRUPTIONS, CorruptedInputs
from certtrain.errors import UserError


@pytest.fixture
def mnist_files(tmp_path):
    folder = tmp_path / "mnist_c" / "fog"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    np.save(folder / "test_images.npy", images)
    np.save(folder / "test_labels.npy", np.array([7, 2, 1, 0]))
    return tmp_path, images


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10C, "images", 3)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.tile(np.array([3, 8, 9], dtype=np.uint8), 5))
    return tmp_path, images


def test_mnist_c_is_read_as_published(mnist_files):
    root, images = mnist_files
    data = MNISTC(root, corruption="fog")
    data.prepare_data()
    data.setup()
    assert data.name == "mnist_c_fog"
    assert torch.equal(data.test.x, torch.from_numpy(images).view(4, 1, 28, 28).float() / 255)
    assert data.test.y.tolist() == [7, 2, 1, 0]
    assert data.test.y.dtype == torch.int64
    assert (len(data.train), len(data.val), len(data.certify_index)) == (0, 0, 0)


def test_cifar_10_c_has_five_severities_one_after_another(cifar_files):
    root, images = cifar_files
    data = CIFAR10C(root, corruption="fog", severity=3)
    data.setup()
    assert data.name == "cifar10_c_fog_3"
    assert torch.equal(data.test.x, torch.from_numpy(images[6:9]).permute(0, 3, 1, 2).float() / 255)
    assert data.test.y.tolist() == [3, 8, 9]


def test_there_is_nothing_to_train_on(mnist_files):
    data = MNISTC(mnist_files[0], corruption="fog")
    with pytest.raises(UserError, match="mnist_c_fog is a test set") as caught:
        data.steps_per_epoch()
    assert "certify run=" in caught.value.fix
    with pytest.raises(UserError, match="test set"):
        data.train_dataloader()


@pytest.mark.parametrize(("kind", "corruption"), [(MNISTC, "shear"), (CIFAR10C, "snow")])
def test_missing_files_are_named_with_where_they_are_published(kind, corruption, tmp_path):
    with pytest.raises(UserError) as caught:
        kind(tmp_path, corruption=corruption).setup()
    assert corruption in caught.value.what
    assert "zenodo.org/records/" in caught.value.fix


def test_a_file_that_would_run_code_is_refused(mnist_files):
    class Evil:
        def __reduce__(self):
            return (mnist_files[0] / "ran").mkdir, ()

    path = mnist_files[0] / "mnist_c" / "fog" / "test_images.npy"
    for content in (np.array([Evil()], dtype=object), None):
        if content is not None:
            np.save(path, content, allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps({"data": 1}))
        with pytest.raises(UserError, match=r"test_images\.npy is not an array as published"):
            MNISTC(mnist_files[0], corruption="fog").setup()
    assert not (mnist_files[0] / "ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((4, 28, 28), np.uint8), "shape"),
        (np.zeros((3, 28, 28, 1), np.uint8), "shape"),
        (np.zeros((4, 28, 28, 1)), "float64 instead of whole numbers"),
        (np.zeros((4, 28, 28, 1), np.int32), "holds int32 images"),
    ],
)
def test_another_array_than_the_published_one_is_refused(mnist_files, content, said):
    np.save(mnist_files[0] / "mnist_c" / "fog" / "test_images.npy", content)
    with pytest.raises(UserError, match=said):
        MNISTC(mnist_files[0], corruption="fog").setup()


def test_a_file_cut_short_and_one_of_fewer_images_are_refused(cifar_files):
    root, images = cifar_files
    path = root / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"fog\.npy is not an array as published"):
        CIFAR10C(root, corruption="fog").setup()
    np.save(path, images[:10])
    with pytest.raises(UserError, match=r"instead of \(15, 32, 32, 3\)"):
        CIFAR10C(root, corruption="fog").setup()


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: MNISTC(corruption="fogg"), "data.corruption"),
        (lambda: MNISTC(corruption="../fog"), "data.corruption"),
        (lambda: CIFAR10C(corruption="fog", severity=6), "data.severity"),
        (lambda: CIFAR10C(corruption="fog", severity="3"), "data.severity"),
        (lambda: Corrupted(corruption="fog", base=Digits()), "data.corruption"),
        (lambda: Corrupted(corruption="blur", severity=0, base=Digits()), "data.severity"),
        (lambda: Corrupted(corruption="blur"), "data.base"),
        (lambda: Corrupted(corruption="blur", base=Vectors()), "data.base"),
    ],
)
def test_what_is_not_there_is_refused_by_its_key(make, where):
    with pytest.raises(UserError) as caught:
        make()
    assert caught.value.where == where
    assert caught.value.fix


class Vectors(DataModule):
    name, input_shape, num_classes = "vectors", (5,), 2

    def load(self):
        raise AssertionError("nothing is loaded")


def test_no_corruption_of_ours_bears_a_published_name():
    published = {*mnist_c.CORRUPTIONS, *cifar_c.CORRUPTIONS}
    published |= {"elastic", "frosted_glass_blur", "line", "inverse", "quantize"}  # of other releases of the two
    assert not published & set(CORRUPTIONS)
    assert Corrupted(corruption="blur", base=Digits()).name == "digits_certtrain_blur_1"


@pytest.fixture(scope="module")
def colour():
    return torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_of_ours_is_a_function_of_the_image_and_its_place(name, colour):
    for x in (colour, colour[:, :1]):
        harsh = CorruptedInputs(x, torch.arange(3), name, 5)
        all_at_once = harsh[torch.arange(3)]
        assert all_at_once.shape == x.shape == harsh.shape
        assert all_at_once.dtype == torch.float32
        bits = all_at_once.double() * 255
        assert (bits - bits.round()).abs().max() < 1e-4  # 8 bits a value, in [0, 1]
        assert 0 <= all_at_once.min() <= all_at_once.max() <= 1
        alone = torch.cat([harsh[torch.tensor([i])] for i in (2, 1)])
        assert torch.equal(alone, all_at_once[[2, 1]])
        assert torch.equal(harsh.take(torch.tensor([2]))[torch.tensor([0])], all_at_once[2:])
        mild = CorruptedInputs(x, torch.arange(3), name, 1)[torch.arange(3)]
        changes = [(found - x).abs().mean() for found in (mild, all_at_once)]
        assert 0 < changes[0] < changes[1]
    assert harsh[torch.arange(0)].shape == (0, 1, 20, 24)


def test_a_run_s_own_images_are_corrupted_the_same_whatever_its_seed():
    found = []
    for seed in (0, 5):
        data = Corrupted(base=Digits(seed=seed, val_size=0), corruption="noise", severity=2)
        data.prepare_data()
        data.setup()
        found.append(data.test.x[torch.tensor([0, 359])])
    assert torch.equal(*found)
    assert data.name == "digits_certtrain_noise_2"
    assert torch.equal(data.test.y, data.base.test.y)
    assert (data.input_shape, data.num_classes) == ((1, 8, 8), 10)
    noise = data.test.x[torch.arange(360)] - data.base.test.x
    inside = (data.base.test.x > 0.3) & (data.base.test.x < 0.7)  # where nothing is cut off
    assert noise[inside].std() == pytest.approx(0.08, rel=0.05)
    assert abs(float(noise[inside].mean())) < 0.005
