"""A training step never waits for an accelerator: nothing in it asks for a value or sends one.

Neither needs an accelerator to be seen. Tensors without data on a pretended GPU show what is sent to it, and know of no
value that could be asked for; those on the meta device take the backward pass and the optimiser as well.
"""

from fractions import Fraction

import all_methods
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from certtrain.bounds import NativeEngine
from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.loader import TensorLoader
from certtrain.data.split import Split
from certtrain.methods import IBP, BoundTraining
from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.taps import TAPS, LatentAttack
from certtrain.models.normalize import Normalize
from certtrain.threat.scales import Scales
from certtrain.training.module import CertifiedTraining

SCALES = Scales(tuple(f"f{i}" for i in range(36)), (Fraction(1), Fraction(0)) * 18, (0,) * 36, "test")
METHODS = {**all_methods.METHODS, "ibp, a table": IBP(0.1, all_methods.RAMP, scales=SCALES)}


# An attack asks for gradients, which there are none of on a pretended GPU.
ATTACKING = {"taps": TAPS(0.1, all_methods.RAMP, latent_attack=LatentAttack(2), ibp_ramp=False)}


class Module(CertifiedTraining):
    """Without a trainer to count its steps."""

    global_step = 0


class NothingSent(TorchDispatchMode):
    """Refuses copies between devices; what asks for a value the tensors without data refuse by themselves."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = {one.device.type for one in args if isinstance(one, torch.Tensor) and one.dim() > 0}
        sent = isinstance(found, torch.Tensor) and given == {"cpu"} and found.device.type != "cpu"
        lifted = function is torch.ops.aten._to_copy.default and args[0].device != found.device
        if sent or lifted:
            pytest.fail(f"{function} sends what is on {args[0].device} to {found.device}")
        return found


class Constant(nn.Module):
    def forward(self, x):
        return (x * 2 - 1).view(x.size(0), -1)


def network():
    body = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, 2), nn.ReLU()]
    return nn.Sequential(Normalize([0.4], [0.2], (1, 6, 6)), *body, Constant(), nn.Linear(16, 3))


def module(method):
    made = network().train()
    return Module(made, method, NativeEngine(made), torch.optim.Adam, lambda step: 1.0)


def empty_on(training, device):
    """Its parameters and buffers without their data."""
    for part in training.modules():
        for name, tensor in part._parameters.items():
            part._parameters[name] = nn.Parameter(torch.empty(tensor.shape, device=device))
        for name, tensor in part._buffers.items():
            part._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def attacks(method):
    """An attack takes gradients, which the tensors of a pretended GPU have none of; the other test goes through it."""
    return isinstance(method, BoundTraining) and isinstance(method.robust, AttackedLoss)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not attacks(method)])
def test_a_step_sends_nothing_to_the_device(name):
    training = module(METHODS[name])
    with FakeTensorMode(allow_non_fake_inputs=True):
        empty_on(training, "cuda")
        training.global_step = 4
        split = Split(torch.empty(8, 1, 6, 6), torch.empty(8, dtype=torch.int64), "train")
        loader = TensorLoader(split, 4, augment=Augment(1, "edge", True), device="cuda")
        training.training_step(loader.batch(0), 0)  # the order of an epoch and a table's sizes are sent once
        for step in range(8):
            training.global_step = step
            with NothingSent():
                training.training_step(loader.batch(step % 2), step)


@pytest.mark.parametrize("name", [*METHODS, *ATTACKING])
def test_a_step_asks_for_no_value(name):
    training = module((METHODS | ATTACKING)[name])
    empty_on(training, "meta")
    optimizer = torch.optim.Adam(training.parameters())
    x, y = torch.empty(4, 1, 6, 6, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    for step in range(8):
        training.global_step = step
        training.training_step(Batch(x, y, y), step).backward()
        optimizer.step()
        optimizer.zero_grad()
