"""Networks by their published names; the first layer of each is its normalisation."""

from certtrain.models.contract import InputContract
from certtrain.models.ctbench import cnn3, cnn5
from certtrain.models.gowal import cnn7, dm_large, dm_medium, dm_small
from certtrain.models.lenet import lenet
from certtrain.models.mlp import mlp
from certtrain.models.normalize import Normalize
from certtrain.models.resnet import cifar_resnet20, cifar_resnet110, resnet_small
from certtrain.models.torchvision_models import resnet18, resnet50
from certtrain.models.two_logits import TwoLogits
from certtrain.models.wong import wong_large, wong_small
from certtrain.models.zhang import zhang_2layer, zhang_3layer, zhang_4layer

__all__ = [
    "InputContract",
    "Normalize",
    "TwoLogits",
    "cifar_resnet20",
    "cifar_resnet110",
    "cnn3",
    "cnn5",
    "cnn7",
    "dm_large",
    "dm_medium",
    "dm_small",
    "lenet",
    "mlp",
    "resnet18",
    "resnet50",
    "resnet_small",
    "wong_large",
    "wong_small",
    "zhang_2layer",
    "zhang_3layer",
    "zhang_4layer",
]
