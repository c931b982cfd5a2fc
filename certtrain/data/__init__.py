"""Lightning data modules over splits held in memory, or in image files."""

from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.cifar import CIFAR10, CIFAR100
from certtrain.data.cifar_c import CIFAR10C
from certtrain.data.corrupted import Corrupted
from certtrain.data.csv_table import CSVTable
from certtrain.data.datasets import FromDatasets
from certtrain.data.evaluation import EvaluationSet
from certtrain.data.image_folder import ImageFolder
from certtrain.data.loader import SequentialLoader, TensorLoader
from certtrain.data.mnist import MNIST, FashionMNIST
from certtrain.data.mnist_c import MNISTC
from certtrain.data.module import DataModule
from certtrain.data.sklearn_sets import BreastCancer, Digits
from certtrain.data.split import Split, index_sha256, index_text
from certtrain.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR10C",
    "CIFAR100",
    "MNIST",
    "MNISTC",
    "Augment",
    "Batch",
    "BreastCancer",
    "CSVTable",
    "Corrupted",
    "DataModule",
    "Digits",
    "EvaluationSet",
    "FashionMNIST",
    "FromDatasets",
    "ImageFolder",
    "SequentialLoader",
    "Split",
    "TensorLoader",
    "TinyImageNet",
    "index_sha256",
    "index_text",
]
