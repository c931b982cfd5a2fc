"""Lightning data modules over splits held in memory, or in image files."""

from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.cifar import CIFAR10
from certtrain.data.csv_table import CSVTable
from certtrain.data.datasets import FromDatasets
from certtrain.data.image_folder import ImageFolder
from certtrain.data.loader import SequentialLoader, TensorLoader
from certtrain.data.mnist import MNIST, FashionMNIST
from certtrain.data.module import DataModule
from certtrain.data.sklearn_sets import BreastCancer, Digits
from certtrain.data.split import Split, index_sha256, index_text

__all__ = [
    "CIFAR10",
    "MNIST",
    "Augment",
    "Batch",
    "BreastCancer",
    "CSVTable",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "FromDatasets",
    "ImageFolder",
    "SequentialLoader",
    "Split",
    "TensorLoader",
    "index_sha256",
    "index_text",
]
