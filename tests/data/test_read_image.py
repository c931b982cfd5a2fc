"""One reader for training and `predict`: the same pixels, the same refusals, and nothing decoded that is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from certtrain.cli.predict import read_input
from certtrain.data.image_files import ImageFiles
from certtrain.data.read_image import read_image
from certtrain.errors import UserError
from certtrain.models import InputContract

SIDE = 8
COLOUR, GREY = (InputContract((channels, SIDE, SIDE), 10, (0.0,), (1.0,)) for channels in (3, 1))


def png(width, height, *, bits=8, colour=2, data=None):
    """A PNG of colours (2) or grey values (0), of any depth and any promise in its header."""
    channels = 3 if colour == 2 else 1
    if data is None:
        row = np.arange(width * channels, dtype=np.uint16) * 997 + 300
        row = row.astype(">u2").tobytes() if bits == 16 else row.astype(np.uint8).tobytes()
        data = zlib.compress((b"\0" + row) * height)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def both(path, contract=COLOUR):
    """What training and `predict` make of a file: the input, or the refusal."""

    def outcome(read):
        try:
            return read()
        except UserError as error:
            return error.what

    trained = outcome(lambda: ImageFiles(path.parent, [path.name], SIDE, None)[torch.tensor([0])])
    return trained, outcome(lambda: read_input(path, contract))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "YCbCr"])
def test_every_kind_of_8_bits_is_the_same_to_both(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    colours = Image.fromarray(pixels if mode == "RGBA" else pixels[..., :3])
    image = colours.quantize() if mode == "P" else colours.convert(mode)
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    trained, predicted = both(path)
    assert torch.equal(trained, predicted)
    assert len(trained.unique()) > 1


def test_orientation_is_read_by_neither(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    pixels = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    trained, predicted = both(tmp_path / "turned.png")
    assert torch.equal(trained, predicted)
    assert torch.equal((trained[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(pixels))


WIDE = {
    "grey.png": png(SIDE, SIDE, bits=16, colour=0),
    "colour.png": png(SIDE, SIDE, bits=16),  # which Pillow halves without a word
    "colour.ppm": b"P6 8 8 65535\n" + bytes(range(256)) + bytes(128),
    "grey.pgm": b"P5 8 8 65535\n" + bytes(128),
}


@pytest.mark.parametrize("contract", [COLOUR, GREY])
@pytest.mark.parametrize("name", WIDE)
def test_more_than_8_bits_are_refused_by_both(tmp_path, name, contract):
    path = tmp_path / name
    path.write_bytes(WIDE[name])
    for said in both(path, contract):
        assert "more than 8 bits a value" in said
        assert name in said


@pytest.mark.parametrize("kind", ["F", "I", "I;16"])
def test_wide_tiffs_are_refused_by_both(tmp_path, kind):
    Image.new(kind, (SIDE, SIDE)).save(tmp_path / "a.tiff")
    assert all("more than 8 bits a value" in said for said in both(tmp_path / "a.tiff"))


def test_a_large_image_is_refused_by_its_header(tmp_path, monkeypatch):
    """The data are no pixels at all: who read them would fail in another way."""
    path = tmp_path / "huge.png"
    path.write_bytes(png(13_000, 13_000, data=b"no pixels"))
    trained, predicted = both(path)
    assert "13000 x 13000 pixels, more than 67,108,864" in trained
    assert "13000 x 13000 pixels, and the network takes 8 x 8" in predicted
    path.write_bytes(png(60_000, 60_000, data=b"no pixels"))  # which Pillow itself refuses
    assert all("huge.png" in said for said in both(path))


def test_no_program_is_run_by_a_file(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    assert all("cannot be read as an image" in said for said in both(tmp_path / "a.png"))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "tiff", "webp", "gif", "ppm"])
def test_broken_files_end_in_a_refusal_that_names_them(tmp_path, suffix):
    """Bytes changed, cut off and put in: an image all the same, or one clear message; the same for both."""
    path, draw = tmp_path / f"a.{suffix}", np.random.default_rng(1)
    Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for trial in range(60):
        broken = bytearray(whole)
        if trial % 3 == 0:
            del broken[draw.integers(len(broken)) :]
        else:
            for place in draw.integers(0, len(broken), 1 + trial % 4):
                broken[place] = draw.integers(256)
        path.write_bytes(broken)
        trained, predicted = both(path)
        if isinstance(predicted, str):
            assert str(path) in predicted
        else:
            assert torch.equal(trained, predicted)


def test_the_size_is_the_networks(tmp_path):
    Image.new("RGB", (SIDE, SIDE + 1)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="8 x 9 pixels, and the network takes 8 x 8"):
        read_input(tmp_path / "a.png", COLOUR)
    assert read_image(tmp_path / "a.png", where="x").shape == (SIDE + 1, SIDE, 3)
