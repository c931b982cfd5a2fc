"""Training methods: a pure objective each. The LightningModule that runs one is `certtrain.training.module`."""

from certtrain.methods.base import Context, Method, Objective, Streams
from certtrain.methods.bound_training import BoundTraining
from certtrain.methods.crown_ibp import CrownIBP
from certtrain.methods.gaussian import Gaussian
from certtrain.methods.ibp import IBP
from certtrain.methods.regularisers import ShiRegulariser
from certtrain.methods.standard import Standard
from certtrain.schedules import LearningRate, Ramp, Schedule, Weight

__all__ = [
    "IBP",
    "BoundTraining",
    "Context",
    "CrownIBP",
    "Gaussian",
    "LearningRate",
    "Method",
    "Objective",
    "Ramp",
    "Schedule",
    "ShiRegulariser",
    "Standard",
    "Streams",
    "Weight",
]
