"""Slow: every preset that is too large to be trained here trains three steps on noise in its data set's own files.

Through the commands, with batches of two images; of presets that share a recipe one of each method. The schedule is cut
to three steps; image folders have three classes, and draws and attack steps of the certificates are few.
"""

import json
import pickle

import numpy as np
import pytest
import yaml
from PIL import Image

from certtrain.cli.main import main
from certtrain.config.overrides import options
from certtrain.system.files import conf_dir

DRAW = np.random.default_rng(0)
STEPS, TEST, CLASSES = 3, 2, 3


def large():
    """Presets of networks with more than half a million parameters; of shared recipes one for each method."""
    seen = set()
    for name in options("experiment"):
        if "/" in name:
            path = conf_dir() / "experiment" / f"{name}.yaml"
            own = yaml.safe_load(path.read_text())
            shared = [entry for entry in own["defaults"] if isinstance(entry, str)]
            nodes = [*(yaml.safe_load((conf_dir() / f"{entry[1:]}.yaml").read_text()) for entry in shared), own]
            chosen = {
                key: value
                for node in nodes
                for entry in node["defaults"]
                if entry not in shared
                for key, value in entry.items()
            }
            data, model, method = (chosen[f"override /{group}"] for group in ("data", "model", "method"))
            kind = (data, method) if shared else name
            if not model.startswith(("zhang", "lenet")) and kind not in seen:
                seen.add(kind)
                yield name, data, {key: value for node in nodes for key, value in node.items()}


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder, count):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", count), ("t10k", TEST)):
        idx(raw / f"{part}-images-idx3-ubyte", DRAW.integers(0, 256, (n, 28, 28)))
        idx(raw / f"{part}-labels-idx1-ubyte", DRAW.integers(0, 10, n))


def write_cifar10(folder, count):
    raw = folder / "cifar-10-batches-py"
    raw.mkdir(parents=True)
    sizes = {f"data_batch_{number}": 1 for number in range(2, 6)} | {"data_batch_1": count - 4, "test_batch": TEST}
    for name, n in sizes.items():
        batch = {"data": DRAW.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": DRAW.integers(0, 10, n).tolist()}
        (raw / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_images(folder, count, width, height):
    for part, n in (("train", count), ("val", CLASSES)):
        for number in range(max(n, CLASSES)):
            path = folder / part / f"class{number % CLASSES}" / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(DRAW.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def write(data, folder, count):
    if data == "imagenet":
        write_images(folder / "imagenet", count, 320, 280)
    elif data == "imagenet64":
        write_images(folder / "ImageNet64", count, 64, 64)
    elif data in ("tiny_imagenet", "image_folder"):
        write_images(folder / "tiny-imagenet-200", count, 64, 64)
    else:
        {"mnist": write_mnist, "cifar10": write_cifar10}[data](folder, count)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data", "stated"), [pytest.param(*one, id=one[0]) for one in large()])
def test_a_large_preset_trains_and_certifies(name, data, stated, in_tmp):
    batch = max(2, stated.get("trainer", {}).get("accumulate_grad_batches", 1))  # which is computed in so many parts
    write(data, in_tmp / "data", STEPS * batch)
    overrides = [f"experiment={name}", "name=dry", f"data.batch_size={batch}", "epochs=1", "trainer.accelerator=cpu"]
    if data in ("imagenet", "imagenet64", "tiny_imagenet", "image_folder"):
        overrides.append(f"data.num_classes={CLASSES}")
    if "eps" in stated:  # of the full radius: nothing in the first step, half in the second one, all in the third one
        overrides += ["schedule.warmup=0", "schedule.ramp=0.67"]
    if "weight_averaging" in stated.get("callbacks", {}):
        overrides += ["callbacks.weight_averaging.start=0", "callbacks.weight_averaging.every=1"]
    assert main(["train", *overrides]) == 0
    few = ["certifier.ibp.attack_steps=1", "certifier=ibp"] if "eps" in stated else ["n0=4", "n=20"]
    assert main(["certify", "run=dry", "indices=first_2", *few]) == 0
    result = json.loads((in_tmp / "runs" / "dry" / "result.json").read_text())
    assert (result["status"], result["steps"], result["epochs"]) == ("complete", STEPS, 1)
    [entry] = result["test"].values()
    assert entry["n"] == 2
    assert entry["invalid"] == 0
    assert result["experiment"] == name
