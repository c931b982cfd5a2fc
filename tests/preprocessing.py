"""How each repository prepares images, as its code was read; `test_presets` holds the presets of a paper to it.

Normalisation, crop of training images, and size. Provenance: the file and commit that were read.
"""

SOURCES = {
    "shi2021": "shizhouxing/Fast-Certified-Robust-Training datasets.py, 50560c6",
    "xu2020": "Verified-Intelligence/auto_LiRPA examples/vision/{cifar,tinyimagenet}_training.py, 10a9b30",
    "mueller2023": "eth-sri/SABR src/datasets.py, src/networks.py, 6938721; --data_augmentation fast of its README",
    "depalma2024": "alessandrodepalma/expressive-losses datasets.py, 9965672",
    "ctbench2025": "eth-sri/CTBench loaders.py, networks.py (which holds the normalisation), 0f18162",
    "ctrain2026": "ADA-research/CTRAIN CTRAIN/data_loaders/data_loaders.py, d5a8371",
}

NONE, MOMENTS = ([0.0], [1.0]), ([0.1307], [0.3081])
CIFAR = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
TINY = ([0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262])
AS_IT_IS = {"crop_padding": 0, "flip": False}
EDGE_2, EDGE_4 = ({"crop_padding": pixels, "fill": "edge", "flip": True} for pixels in (2, 4))
CROPPED = {"crop": "random", "crop_padding": 0, "flip": True}

MOST = {
    "mnist": (NONE, AS_IT_IS, 28),
    "cifar10": (CIFAR, EDGE_2, 32),
    "tiny_imagenet": (TINY, {"crop": "random", **EDGE_4}, 64),
}
PUBLISHED = {
    "shi2021": MOST,
    "xu2020": {**MOST, "cifar10": (CIFAR, EDGE_4, 32), "tiny_imagenet": (TINY, CROPPED, 56)},
    "mueller2023": {**MOST, "tiny_imagenet": (TINY, CROPPED, 56)},
    "depalma2024": MOST,
    "ctbench2025": {**MOST, "mnist": (MOMENTS, AS_IT_IS, 28)},
    "ctrain2026": {**MOST, "mnist": (MOMENTS, AS_IT_IS, 28)},
}


def published(paper, data):
    """What a preset's `data` must say, as far as it was read: `mean`, `std`, `augment` and the side of an image."""
    found = PUBLISHED.get(paper, {}).get("tiny_imagenet" if data == "image_folder" else data)
    if found is None:
        return None
    (mean, std), augment, side = found
    return {"mean": mean, "std": std, "augment": augment, "side": side}


def stated(node):
    """The same of a composed configuration, with of its augmentation what is published."""
    side = {"CIFAR10": 32, "MNIST": 28}.get(node["_target_"].rpartition(".")[2]) or node["image_size"]
    return {"mean": node["mean"], "std": node["std"], "augment": node["augment"], "side": side}
