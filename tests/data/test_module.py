import inspect
from pathlib import Path

import pytest
import torch
import yaml

import certtrain.data as data
from certtrain.data import (
    CIFAR10,
    CIFAR10C,
    CIFAR100,
    MNIST,
    MNISTC,
    BreastCancer,
    Corrupted,
    DataModule,
    Digits,
    FashionMNIST,
    ImageFolder,
    TinyImageNet,
    index_sha256,
)
from certtrain.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "data"
SETS = {"digits": Digits, "breast_cancer": BreastCancer, "mnist": MNIST, "fashion_mnist": FashionMNIST}
SETS |= {"cifar10": CIFAR10, "cifar100": CIFAR100, "image_folder": ImageFolder, "tiny_imagenet": TinyImageNet}
# To certify on: a corruption must be named, and what is null comes from the run.
EVALUATION = {"mnist_c": (MNISTC, "fog"), "cifar10_c": (CIFAR10C, "fog"), "corrupted": (Corrupted, "blur")}


def test_setup_splits_and_pins_once(tiny):
    module = tiny(val_size=0.2, certify_examples=4)
    module.prepare_data()
    module.setup("fit")
    train, index = module.train, module.certify_index
    assert (len(module.train), len(module.val), len(module.test)) == (40, 10, 20)
    assert index.tolist() == [0, 2, 5, 7]
    assert module.certify_index_sha256 == index_sha256(module.val.source[index])
    module.prepare_data()
    module.setup("test")
    assert module.train is train


def test_pinned_examples_depend_on_split_seed_alone(tiny):
    def pinned(**options):
        module = tiny(val_size=0.2, **options)
        module.setup()
        return module.certify_index_sha256, len(module.certify_index)

    assert pinned() == pinned(seed=5, batch_size=3)
    assert pinned() != pinned(split_seed=1)
    assert pinned()[1] == 10  # fewer than 200: all
    assert pinned(certify_examples=0)[1] == 0


def test_everything_is_trained_on_without_validation(tiny):
    module = tiny(val_size=0)
    module.setup()
    assert len(module.train) == 50
    assert len(module.val) == len(module.certify_index) == 0
    assert module.val_dataloader() == []


def test_evaluation_sees_no_augmentation(tiny):
    module = tiny(val_size=0.2, augment={"crop_padding": 2, "flip": True}, eval_batch_size=3)
    module.setup()
    for split, loader in ((module.val, module.val_dataloader()), (module.test, module.test_dataloader())):
        assert torch.equal(torch.cat([batch.x for batch in loader]), split.x)
    assert any(not torch.equal(batch.x, module.train.x[batch.index]) for batch in module.train_dataloader())


@pytest.mark.parametrize(("n", "options", "batches"), [(50, {}, 7), (50, {"drop_last": True}, 6), (48, {}, 6)])
def test_steps_per_epoch_count_optimiser_steps(n, options, batches, tiny, recorder, trainer):
    module = tiny(n, **options)
    module.setup()
    for accumulate in (1, 2, 3):
        run = trainer(max_epochs=1, accumulate_grad_batches=accumulate)
        run.fit(recorder(), datamodule=tiny(n, **options))
        assert module.steps_per_epoch(accumulate) == run.global_step == -(-batches // accumulate)


def test_a_trainer_gets_every_training_and_validation_example(tiny, recorder, trainer):
    network = recorder()
    trainer(max_epochs=2, num_sanity_val_steps=0).fit(network, datamodule=tiny(val_size=10))
    assert network.validated == list(range(10)) * 2
    for epoch in (0, 1):
        seen = [index for number, batch in network.seen if number == epoch for index in batch]
        assert sorted(seen) == list(range(40))
    empty = recorder()
    trainer(max_epochs=1).fit(empty, datamodule=tiny(val_size=0))
    assert empty.validated == []


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": -4},
        {"batch_size": 2.5},
        {"eval_batch_size": 0},
        {"certify_examples": -1},
        {"mean": [0.1, 0.2]},
        {"std": []},
        {"augment": {"crop": 2}},
        {"val_size": 50},
        {"val_size": 0.99999},
        {"batch_size": 51, "drop_last": True},
    ],
)
def test_bad_options_name_their_key(options, tiny):
    def start():
        module = tiny(**options)
        module.setup()
        module.train_dataloader()

    with pytest.raises(UserError) as caught:
        start()
    assert f"data.{next(iter(options))}" in caught.value.where
    assert caught.value.fix


def test_spoiled_data_are_refused_at_setup(tiny):
    class Spoiled(tiny):
        def load(self):
            (x, y), test = super().load()
            x[4] = float("nan")
            return (x, y), test

    with pytest.raises(UserError, match="training part of tiny has NaN"):
        Spoiled().setup()


def test_tabular_data_cannot_be_augmented():
    with pytest.raises(UserError, match="no images"):
        BreastCancer(augment={"flip": True})


@pytest.mark.parametrize("name", SETS)
def test_configuration_states_every_option_with_its_default(name):
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    options = yaml.safe_load(text)
    options.pop("defaults", None)
    kind = SETS[name]
    assert options.pop("_target_") == f"certtrain.data.{kind.__name__}"
    for key in ("data_dir", "val_size", "seed"):
        assert options.pop(key) == f"${{{key}}}"
    parameters = dict(inspect.signature(DataModule.__init__).parameters) | dict(inspect.signature(kind).parameters)
    known = set(parameters) - {"self", "options", "data_dir", "val_size", "seed"}
    assert set(options) == known - {"certify_examples"}  # the commands pass validation.examples
    stated, default = kind(val_size=0, **options), kind(val_size=0)
    for key in set(options) - {"num_classes", "batch_size"}:  # counted; chosen for learning on the set
        assert getattr(stated, key) == getattr(default, key)


@pytest.mark.parametrize("name", EVALUATION)
def test_the_configuration_of_an_evaluation_set_leaves_to_the_run_what_is_the_run_s(name):
    kind, corruption = EVALUATION[name]
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert options.pop("_target_") == f"certtrain.data.{kind.__name__}"
    assert options.pop("data_dir") == "${data_dir}"
    assert [options.pop(key) for key in ("corruption", "mean", "std")] == ["???", None, None]
    base = {"base": Digits()} if "base" in options else {}
    assert options.pop("base", None) is None
    stated, default = (kind(corruption=corruption, **base, **given) for given in (options, {}))
    assert all(getattr(stated, key) == getattr(default, key) for key in options)
    assert set(inspect.signature(kind).parameters) == {"data_dir", "corruption", "options", *base, *options}


def test_every_configuration_has_its_data_set():
    # An image folder, and a table, whose files a user must name; two datasets by their classes.
    named = ["imagenet", "imagenet64", "csv", "dataset"]
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted([*SETS, *EVALUATION, *named])
    kinds = [*SETS.values(), *(kind for kind, _ in EVALUATION.values())]
    assert {kind.__name__ for kind in kinds} <= set(data.__all__)
