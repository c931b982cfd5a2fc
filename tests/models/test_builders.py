"""Every builder: parameter counts, shapes, tracing, and the errors that name model and data."""

import inspect
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from torch import fx, nn

import certtrain.models as models
from certtrain.errors import UserError
from certtrain.models import Normalize

MNIST, CIFAR, DIGITS, TINY, IMAGENET = (1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 64), (3, 224, 224)
CONF = Path(__file__).parents[2] / "conf" / "model"
BUILDERS = [name for name in models.__all__ if name[0].islower()]


def build(name, shape, num_classes=10, **options):
    return getattr(models, name)(shape, num_classes, [0.5] * shape[0], [0.25] * shape[0], **options)


def conv(i, o, k):
    return i * o * k * k + o


def fc(*sizes):
    return sum(i * o + o for i, o in pairwise(sizes))


# Each count is the sum over the published layer list, written out once more: sizes after the convolutions by hand.
CNN7_CIFAR = conv(3, 64, 3) + conv(64, 64, 3) + conv(64, 128, 3) + 2 * conv(128, 128, 3) + fc(128 * 16 * 16, 512, 10)
# Blocks of 1x1, 3x3 and 1x1 convolutions, each with BatchNorm; a stage's first has a projection and other inputs.
RESNET50 = (
    49 * 3 * 64
    + 128
    + sum(
        n * (4 * p * p + 9 * p * p + 4 * p * p + 12 * p) + (i - 4 * p) * p + i * 4 * p + 8 * p
        for n, p, i in ((3, 64, 64), (4, 128, 256), (6, 256, 512), (3, 512, 1024))
    )
)
# Blocks of two 3x3 convolutions, each with BatchNorm; the first of a stage has a projection, except in the first stage.
RESNET18 = (
    49 * 3 * 64
    + 128
    + sum(9 * i * p + 3 * 9 * p * p + 8 * p + (i * p + 2 * p) * (i != p) for i, p in pairwise((64, 64, 128, 256, 512)))
)
RESNET_STAGES = (2 * 9 * 16 * 16 + 64, 2 * 9 * 32 * 32 + 128, 2 * 9 * 64 * 64 + 256)
COUNTS = [
    ("mlp", MNIST, {}, fc(784, 100, 100, 10), 89_610),
    ("mlp", (30,), {"hidden": [64]}, fc(30, 64, 10), 2_634),
    ("dm_small", MNIST, {}, conv(1, 16, 4) + conv(16, 32, 4) + fc(32 * 10 * 10, 100, 10), 329_606),
    ("dm_small", CIFAR, {}, conv(3, 16, 4) + conv(16, 32, 4) + fc(32 * 12 * 12, 100, 10), 470_918),
    (
        "dm_medium",
        MNIST,
        {},
        conv(1, 32, 3) + conv(32, 32, 4) + conv(32, 64, 3) + conv(64, 64, 4) + fc(64 * 4 * 4, 512, 512, 10),
        893_418,
    ),
    (
        "dm_medium",
        CIFAR,
        {},
        conv(3, 32, 3) + conv(32, 32, 4) + conv(32, 64, 3) + conv(64, 64, 4) + fc(64 * 5 * 5, 512, 512, 10),
        1_188_906,
    ),
    ("dm_large", CIFAR, {}, CNN7_CIFAR, 17_190_602),
    ("dm_large", MNIST, {}, CNN7_CIFAR - 2 * 9 * 64 - 128 * 60 * 512, 13_257_290),
    ("cnn7", CIFAR, {"batch_norm": "none"}, CNN7_CIFAR, 17_190_602),
    ("cnn7", CIFAR, {"batch_norm": "conv"}, CNN7_CIFAR + 2 * (2 * 64 + 3 * 128), 17_191_626),
    ("cnn7", CIFAR, {}, CNN7_CIFAR + 2 * (2 * 64 + 3 * 128 + 512), 17_192_650),
    ("cnn7", MNIST, {}, CNN7_CIFAR - 2 * 9 * 64 - 128 * 60 * 512 + 2 * 1024, 13_259_338),
    (
        "cnn7",
        CIFAR,
        {"width": 128},
        conv(3, 128, 3) + conv(128, 128, 3) + conv(128, 256, 3) + 2 * conv(256, 256, 3) + fc(256 * 16 * 16, 512, 10)
        + 2 * (2 * 128 + 3 * 256 + 512),
        35_189_642,
    ),
    (
        "cnn7",
        TINY,
        {"last_stride": 2, "num_classes": 200},
        conv(3, 64, 3) + conv(64, 64, 3) + conv(64, 128, 3) + 2 * conv(128, 128, 3) + fc(128 * 16 * 16, 512, 200)
        + 2 * (2 * 64 + 3 * 128 + 512),
        17_290_120,
    ),
    ("cnn3", MNIST, {}, conv(1, 16, 5) + 32 + conv(16, 32, 4) + 64 + fc(32 * 7 * 7, 10), 24_426),
    ("cnn3", CIFAR, {}, conv(3, 16, 5) + 32 + conv(16, 32, 4) + 64 + fc(32 * 8 * 8, 10), 30_026),
    ("cnn3", CIFAR, {"width": 64}, conv(3, 64, 5) + 128 + conv(64, 128, 4) + 256 + fc(128 * 8 * 8, 10), 218_378),
    (
        "cnn5",
        MNIST,
        {},
        conv(1, 16, 3) + 32 + conv(16, 16, 4) + 32 + conv(16, 32, 4) + 64 + fc(32 * 7 * 7, 512, 10) + 1024,
        822_106,
    ),
    (
        "cnn5",
        CIFAR,
        {},
        conv(3, 16, 3) + 32 + conv(16, 16, 4) + 32 + conv(16, 32, 4) + 64 + fc(32 * 8 * 8, 512, 10) + 1024,
        1_068_154,
    ),
    (
        "cnn5",
        CIFAR,
        {"width": 64},
        conv(3, 64, 3) + 128 + conv(64, 64, 4) + 128 + conv(64, 128, 4) + 256 + fc(128 * 8 * 8, 512, 10) + 1024,
        4_400_074,
    ),
    ("wong_small", MNIST, {}, conv(1, 16, 4) + conv(16, 32, 4) + fc(32 * 7 * 7, 100, 10), 166_406),
    ("wong_small", CIFAR, {}, conv(3, 16, 4) + conv(16, 32, 4) + fc(32 * 8 * 8, 100, 10), 214_918),
    (
        "wong_large",
        MNIST,
        {},
        conv(1, 32, 3) + conv(32, 32, 4) + conv(32, 64, 3) + conv(64, 64, 4) + fc(64 * 7 * 7, 512, 512, 10),
        1_974_762,
    ),
    (
        "wong_large",
        CIFAR,
        {},
        conv(3, 32, 3) + conv(32, 32, 4) + conv(32, 64, 3) + conv(64, 64, 4) + fc(64 * 8 * 8, 512, 512, 10),
        2_466_858,
    ),
    ("zhang_2layer", MNIST, {}, conv(1, 4, 4) + conv(4, 8, 4) + fc(8 * 49, 128, 10), 52_182),
    (
        "zhang_2layer",
        MNIST,
        {"width": 2, "linear": 256},
        conv(1, 8, 4) + conv(8, 16, 4) + fc(16 * 49, 256, 10),
        205_730,
    ),
    ("zhang_3layer", MNIST, {}, conv(1, 4, 3) + conv(4, 8, 3) + conv(8, 8, 4) + fc(8 * 49, 64, 10), 27_170),
    (
        "zhang_3layer",
        MNIST,
        {"width": 2},
        conv(1, 8, 3) + conv(8, 16, 3) + conv(16, 16, 4) + fc(16 * 49, 128, 10),
        107_130,
    ),
    (
        "zhang_3layer",
        MNIST,
        {"kernel": 5},
        conv(1, 4, 5) + conv(4, 8, 5) + conv(8, 8, 4) + fc(8 * 36, 64, 10),
        21_090,
    ),
    (
        "zhang_4layer",
        MNIST,
        {},
        conv(1, 4, 3) + conv(4, 4, 4) + conv(4, 8, 3) + conv(8, 8, 4) + fc(8 * 49, 256, 256, 10),
        170_598,
    ),
    ("lenet", MNIST, {}, conv(1, 20, 5) + conv(20, 50, 5) + fc(50 * 16, 500, 10), 431_080),
    *(
        (
            f"cifar_resnet{6 * n + 2}",
            CIFAR,
            {},
            3 * 9 * 16 + 32  # first convolution and its BatchNorm
            + n * sum(RESNET_STAGES) - 9 * (16 * 32 + 32 * 64)  # a stage's first convolution has half the inputs
            + 16 * 32 + 64 + 32 * 64 + 128  # projections
            + fc(64, 10),
            count,
        )
        for n, count in ((3, 272_474), (18, 1_730_714))
    ),
    (
        "resnet_small",
        MNIST,
        {},
        conv(1, 16, 3) + conv(16, 32, 3) + conv(32, 32, 3) + conv(16, 32, 1)
        + conv(32, 64, 3) + conv(64, 64, 3) + conv(32, 64, 1) + fc(64 * 49, 100, 10),
        386_838,
    ),
    ("resnet18", IMAGENET, {"num_classes": 1000}, RESNET18 + fc(512, 1000), 11_689_512),
    ("resnet50", IMAGENET, {"num_classes": 1000}, RESNET50 + fc(2048, 1000), 25_557_032),
    ("resnet_small", CIFAR, {"batch_norm": True}, 483_126 + 16 + 3 * 32 + 3 * 64, 483_430),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "options", "by_hand", "stated"), COUNTS)
def test_parameter_counts(name, shape, options, by_hand, stated):
    network = build(name, shape, **options)
    assert sum(p.numel() for p in network.parameters()) == by_hand == stated


def test_the_stated_counts_stand_in_the_docstrings():
    text = "".join(inspect.getsource(getattr(models, name)) for name in BUILDERS)
    assert all(
        f"{stated:,}" in text for name, shape, _, _, stated in COUNTS if stated not in (2_634, 21_090, 17_191_626)
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_builds_traces_and_starts_with_the_normalisation(name):
    shape = CIFAR if "cifar" in name else MNIST
    options = {"width": 8, "linear": 16} if name == "cnn7" else {}
    network = build(name, shape, 7, **options).eval()
    assert isinstance(next(network.children()), Normalize)
    assert sum(isinstance(module, Normalize) for module in network.modules()) == 1
    x = torch.rand(2, *shape)
    out = network(x)
    assert out.shape == (2, 7)
    assert torch.equal(fx.symbolic_trace(network)(x), out)
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@pytest.mark.parametrize("name", BUILDERS)
def test_normalisation_acts_before_everything(name):
    options = {"width": 8, "linear": 16} if name == "cnn7" else {}
    shape = CIFAR if "cifar" in name else MNIST
    network = build(name, shape, **options).eval()
    x = torch.rand(2, *shape)
    plain = nn.Sequential(*list(network)[1:])
    assert torch.allclose(network(x), plain((x - 0.5) / 0.25), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "mlp"])
def test_vectors_are_refused_with_model_and_data_named(name):
    with pytest.raises(UserError, match=rf"{name}.*\(30,\)"):
        build(name, (30,))


@pytest.mark.parametrize("name", ["dm_small", "dm_medium", "lenet", "zhang_3layer", "wong_small"])
def test_images_that_are_too_small_are_refused(name):
    with pytest.raises(UserError, match=rf"\(1, 3, 3\).*{name}"):
        build(name, (1, 3, 3))
    build(name, (1, 16, 16))


@pytest.mark.parametrize(
    ("name", "options", "where"),
    [
        ("cnn7", {"batch_norm": "all"}, "model.batch_norm"),
        ("cnn7", {"width": 0}, "model.width"),
        ("mlp", {"hidden": 100}, "model.hidden"),
        ("mlp", {"hidden": [100, -1]}, "model.hidden"),
        ("zhang_2layer", {"linear": 1.5}, "model.linear"),
        ("zhang_3layer", {"kernel": 4}, "model.kernel"),
        ("lenet", {"pool": "mean"}, "model.pool"),
    ],
)
def test_bad_options_are_refused(name, options, where):
    with pytest.raises(UserError) as caught:
        build(name, MNIST, **options)
    assert caught.value.where == where


def test_batch_norm_options_differ_only_in_batch_norm():
    kinds = {}
    for option in ("none", "conv", "conv_fc"):
        network = build("cnn7", DIGITS, width=4, linear=8, batch_norm=option)
        kinds[option] = [type(module).__name__ for module in network]
    assert kinds["none"] == [kind for kind in kinds["conv"] if kind != "BatchNorm2d"]
    assert kinds["conv"] == [kind for kind in kinds["conv_fc"] if kind != "BatchNorm1d"]
    assert (kinds["conv"].count("BatchNorm2d"), kinds["conv_fc"].count("BatchNorm1d")) == (5, 1)
    linear = kinds["conv_fc"].index("Linear")
    assert kinds["conv_fc"][linear : linear + 3] == ["Linear", "BatchNorm1d", "ReLU"]


@pytest.mark.parametrize("name", BUILDERS)
def test_configuration_states_every_option_with_its_default(name):
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    options = yaml.safe_load(text)
    assert options.pop("_target_") == f"certtrain.models.{name}"
    signature = inspect.signature(getattr(models, name)).parameters
    positional = ["input_shape", "num_classes", "mean", "std"]
    assert list(signature)[:4] == positional
    defaults = {key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in signature.items()}
    assert options == {key: value for key, value in defaults.items() if key not in positional}


def test_every_configuration_has_its_builder():
    stated = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
    derived = {name for name, options in stated.items() if "_target_" not in options}
    assert sorted(stated.keys() - derived) == sorted([*BUILDERS, "custom"])
    assert derived == {"cnn7_wide"}
    assert stated["cnn7_wide"] == {"defaults": ["cnn7", "_self_"], "width": 128}
