import struct

import pytest
import torch

from certtrain.data import MNIST, FashionMNIST
from certtrain.data.mnist import FILES, read_idx
from certtrain.errors import UserError


def write_idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape) + values.numpy().tobytes()
    )


def write_set(root, folder="MNIST", train=30, test=10):
    parts = {}
    for images, labels, n in ((*FILES[:2], train), (*FILES[2:], test)):
        parts[images] = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8)
        parts[labels] = (torch.arange(n) % 10).to(torch.uint8)
    for name, values in parts.items():
        write_idx(root / folder / "raw" / name, values)
    return parts


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_reads_what_was_written(kind, tmp_path):
    parts = write_set(tmp_path, kind.folder)
    module = kind(tmp_path, val_size=0, download=False)
    module.prepare_data()
    module.setup()
    assert torch.equal(module.train.x, parts[FILES[0]][:, None].float() / 255)
    assert torch.equal(module.test.y, parts[FILES[3]].long())
    assert module.mean == [0.0]
    assert not module.augment


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4)])
def test_idx_files_of_any_shape(shape, tmp_path):
    values = torch.randint(0, 256, shape, dtype=torch.uint8)
    write_idx(tmp_path / "file", values)
    assert torch.equal(read_idx(tmp_path / "file"), values)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b"\x1f\x8b" + b[2:]])
def test_a_damaged_file_is_named(spoil, tmp_path):
    write_set(tmp_path)
    path = tmp_path / "MNIST" / "raw" / FILES[0]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=FILES[0]) as caught:
        MNIST(tmp_path, download=False).setup()
    assert "fetched again" in caught.value.fix


def test_a_missing_folder_says_what_was_looked_for_and_how_to_get_it(tmp_path):
    for call in ("prepare_data", "setup"):
        with pytest.raises(UserError) as caught:
            getattr(MNIST(tmp_path / "nowhere", download=False), call)()
        message = str(caught.value)
        assert str(tmp_path / "nowhere" / "MNIST" / "raw") in message
        assert all(name in message for name in FILES)
        assert "MNIST/raw" in caught.value.fix
        assert caught.value.where == "data_dir"


def test_a_failed_download_is_told_with_its_cause(tmp_path):
    (tmp_path / "file").write_text("in the way")  # torchvision cannot make its folder here: fails before any network
    with pytest.raises(UserError, match="download failed") as caught:
        MNIST(tmp_path / "file").prepare_data()
    assert "MNIST/raw" in caught.value.fix


def test_present_files_are_never_fetched(tmp_path, monkeypatch):
    write_set(tmp_path)
    module = MNIST(tmp_path, val_size=0)
    monkeypatch.setattr(module, "_fetch", lambda: pytest.fail("fetched"))
    module.prepare_data()
    module.setup()


def test_the_published_set(real_data):
    module = MNIST(real_data, val_size=5000, download=False)
    module.setup()
    assert (len(module.train), len(module.val), len(module.test)) == (55_000, 5_000, 10_000)
    assert module.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert float(module.test.x.double().mean()) == pytest.approx(0.1325, abs=1e-4)
    assert len(module.certify_index) == 200
