"""`certtrain` on a folder of images: trained, validated, certified, predicted; a broken image is named."""

import json

import numpy as np
import pytest
from PIL import Image

from certtrain.cli.main import main

TINY = ["data=image_folder", "model=mlp", "model.hidden=[8]", "data.image_size=6", "data.batch_size=4", "data_dir=."]
TINY += ["epochs=2", "trainer=cpu", "eps=0.01", "radii=[0.01]", "schedule.warmup=0", "schedule.ramp=1", "val_size=6"]
TINY += ["validation.examples=4", "name=pictures"]


@pytest.fixture
def images(in_tmp):
    """24 + 8 images in two classes, dark and bright, in ./images."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name, level in (("dark", 40), ("bright", 180)):
            (in_tmp / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(level, level + 60, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(in_tmp / "images" / part / name / f"{number}.png")
    return in_tmp / "images"


def test_a_folder_of_images_is_trained_certified_and_predicted(images, few_attacks, capsys):
    assert main(["train", "method=ibp", *TINY]) == 0
    assert main(["certify", "run=pictures", "certifier=ibp", "indices=every_2nd", *few_attacks[:1]]) == 0
    result = json.loads((images.parent / "runs" / "pictures" / "result.json").read_text())
    assert result["data"] == "image_folder"
    assert result["validation"]["n"] == 4
    [(name, entry)] = result["test"].items()
    assert (name, entry["n"]) == ("ibp_every_2nd", 4)
    card = json.loads((images.parent / "runs" / "pictures" / "certificates" / f"{name}.json").read_text())
    assert (card["dataset"], card["input_contract"]["shape"]) == ("image_folder", [3, 6, 6])


def test_a_broken_image_is_named_by_train(images, capsys):
    (images / "train" / "dark" / "3.png").write_text("no image")
    assert main(["train", "method=gaussian", *TINY, "val_size=0"]) == 2
    said = capsys.readouterr().err
    assert "dark/3.png cannot be read as an image" in said
    assert "Traceback" not in said
