"""A compiled objective is the method's own: values, gradients, running statistics, over all phases of a training."""

import copy
from typing import NamedTuple

import pytest
import torch
from all_methods import METHODS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import (
    Gaussian,
    Method,
    Objective,
    Standard,
    Streams,
)
from certtrain.methods.compiled import Compiled
from certtrain.models.normalize import Normalize


class Network(nn.Module):
    """Normalisation, BatchNorm, a shortcut, joined branches, pooling, a smooth activation, a size and a constant."""

    def __init__(self):
        super().__init__()
        self.normalize = Normalize([0.4], [0.2], (1, 6, 6))
        self.stem, self.norm = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.left, self.right = nn.Conv2d(3, 2, 3, 2, 1), nn.Conv2d(3, 2, 1, 2)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.register_buffer("shift", torch.tensor(0.25))

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(self.normalize(x))))
        x = torch.cat([self.left(x), self.right(x) + self.shift], 1)
        x = x + torch.sigmoid(self.last(nn.functional.leaky_relu(x, 0.1)))
        return self.head(nn.functional.avg_pool2d(torch.relu(x), 3).view(x.size(0), -1))


def batch(examples, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(examples, 1, 6, 6, generator=draw)
    return Batch(x, torch.randint(0, 3, (examples,), generator=draw), torch.arange(examples))


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Two that go through everything; the others, as tracing takes its time, beside the compiler's own test.
QUICK = ("gaussian", "crown_ibp fused")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_the_compiled_objective_is_the_methods_own(name):
    torch.manual_seed(0)
    method, network = METHODS[name], Network().train()
    other = copy.deepcopy(network)
    # Traced with its backward pass for one method; tracing alone is the quicker half.
    counter = CompileCounterWithBackend("aot_eager" if name == "ibp" else "eager")
    engine, compiled = NativeEngine(network), Compiled(method, 4, backend=counter)
    for step in range(8):
        expected = method(other, NativeEngine(other), batch(4, step), step, Streams(0))
        found = compiled(network, engine, batch(4, step), step, Streams(0))
        expected.loss.backward()
        found.loss.backward()
        torch.testing.assert_close(found.loss, expected.loss)
        assert found.parts.keys() - expected.parts.keys() <= {"unstable_relu"}
        for part in expected.parts:
            assert not found.parts[part].requires_grad
            torch.testing.assert_close(found.parts[part], expected.parts[part])
        for one, two in zip(network.parameters(), other.parameters()):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)
    for one, two in zip(network.buffers(), other.buffers()):
        torch.testing.assert_close(one, two)
    phases = {method.phase(step, sparing=False) for step in range(8)}
    assert counter.frame_count == len(phases)  # eps, kappa and beta change without another compilation


def test_an_epochs_last_batch_is_not_compiled():
    network, counter = Network(), CompileCounterWithBackend("eager")
    compiled = Compiled(Standard(), 4, backend=counter)
    losses = [compiled(network, None, batch(size), 0, Streams(0)).loss for size in (3, 4, 4, 3)]
    assert counter.frame_count == 1
    assert torch.equal(losses[0], Standard()(network, None, batch(3), 0, Streams(0)).loss)


def test_the_noise_is_the_keyed_one_to_the_bit():
    seen = []

    class Watched(Streams):
        def normals(self, x, index, draws, sigma):
            seen.append(super().normals(x, index, draws, sigma))
            assert not torch.compiler.is_compiling()
            return seen[-1]

    Compiled(Gaussian(0.5), 4, backend="eager")(Network(), None, batch(4), 7, Watched(3))
    assert len(seen) == 1
    assert torch.equal(seen[0][:, 0], Streams(3).normal(batch(4).x, batch(4).index, 7, 0.5))


class Broken(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)) * (1 if x.sum() > 0 else 2)


def test_what_cannot_be_compiled_is_said_in_one_line():
    with pytest.raises(UserError, match=r"^torch\.compile fails: ") as raised:
        Compiled(Standard(), 4, backend="eager")(Broken(36, 3), None, batch(4), 0, Streams(0))
    assert "trainer.compile=false" in raised.value.fix
    assert len(raised.value.what.splitlines()) == 1


class Pair(NamedTuple):
    """Inputs of a custom method."""

    x: torch.Tensor
    y: torch.Tensor
    other: torch.Tensor


def test_a_custom_method_prepares_tensors_of_its_own_for_the_compiled_objective():
    class Own(Method):
        def prepare(self, network, engine, batch, step, streams):
            return Pair(batch.x, batch.y, streams.uniform(batch.x, batch.index, step, "own"))

        def objective(self, network, engine, inputs, phase, values):
            return Objective((network(inputs.x) - network(inputs.other)).square().sum(), {})

    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    found = Compiled(Own(), 4, backend="eager")(network, None, batch(4), 5, Streams(0))
    torch.testing.assert_close(found.loss, Own()(network, None, batch(4), 5, Streams(0)).loss)
    with pytest.raises(NotImplementedError, match="Method defines no objective"):
        Method()(network, None, batch(4), 0, Streams(0))


def wrong(module, inputs):
    """A backend that does not compute what it is given."""
    return lambda *arguments: [2 * one if one.is_floating_point() else one for one in module(*arguments)]


def test_a_compiler_that_errs_is_found_out():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(UserError, match="compiles this objective wrongly: its gradient is off by 100 %"):
        Compiled(Standard(), 4, backend=wrong)(network, None, batch(4), 0, Streams(0))


def test_to_compare_leaves_no_trace():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    buffers, state = copy.deepcopy(dict(network.named_buffers())), torch.get_rng_state()
    compiled = Compiled(Standard(), 4, backend="eager")
    compiled._make(network, None, None, batch(4), {})  # dropout differs from call to call, which is no fault
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_error_of_the_users_own_stays_what_it_is():
    class Shape(nn.Linear):
        def forward(self, x):
            raise UserError("too small", where="the network", fix="a larger one")

    with pytest.raises(UserError, match="too small"):
        Compiled(Standard(), 4, backend="eager")(Shape(36, 3), None, batch(4), 0, Streams(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_inductors_kernels_compute_the_same(name):
    torch.manual_seed(0)
    method, network = METHODS[name], Network().train()
    other = copy.deepcopy(network)
    compiled, engine = Compiled(method, 4), NativeEngine(network)
    for step in (0, 4, 7):
        expected = method(other, NativeEngine(other), batch(4, step), step, Streams(0)).loss
        found = compiled(network, engine, batch(4, step), step, Streams(0)).loss
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        pairs = ((found, network), (expected, other))
        for grads in zip(*(torch.autograd.grad(loss, net.parameters()) for loss, net in pairs)):
            torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)
