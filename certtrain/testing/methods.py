"""What every training method must do, on a network of few neurons and without a Trainer."""

from __future__ import annotations

import copy
import io
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.methods.base import Context, Method, Objective, Streams
from certtrain.models.normalize import Normalize

CLASSES, SHAPE = 3, (1, 4, 4)


def small_network(seed: int = 0, *, batch_norm: bool = False) -> nn.Sequential:
    """Normalisation, a convolution, ReLUs and two linear layers: (B, 1, 4, 4) to (B, 3)."""
    torch.manual_seed(seed)
    norm = [nn.BatchNorm2d(2)] if batch_norm else []
    return nn.Sequential(
        Normalize([0.4], [0.3], SHAPE),
        nn.Conv2d(1, 2, 3, padding=1),
        *norm,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.ReLU(),
        nn.Linear(5, CLASSES),
    )


def small_batch(size: int = 6, seed: int = 0) -> Batch:
    """Images whose class is the third of them that is brightest: something can be learnt."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (size,), generator=draw)
    x = 0.5 * torch.rand(size, *SHAPE, generator=draw)
    for row, label in enumerate(y.tolist()):
        x[row, :, label] += 0.4
    return Batch(x, y, torch.randperm(1000, generator=draw)[:size])


class MethodSuite:
    """Inherit, and define `make`.

    Attributes:
        splits: whether the loss of a batch is the mean of its examples' losses; false for one with statistics of the
            whole batch in it.
        learns: whether twenty steps after the ramp make the loss smaller.
    """

    splits: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def make(self) -> Method:
        """A new method, whose ramp, if it has one, ends within a hundred steps."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """The network to train; another one where the method needs it."""
        return small_network()

    def steps(self, method: Method) -> list[int]:
        """Steps of every phase: before, in and after the ramp."""
        end = method.ramp_end
        return sorted({0, 1, end // 2, max(0, end - 1), end, end + 7})

    def run(self, method: Method, network: nn.Module, batch: Batch, step: int, seed: int = 0) -> Objective:
        """The objective of a batch, bounded by our own engine when the method needs one."""
        engine = NativeEngine(network) if method.needs_engine else None
        return method(network, engine, batch, step, Streams(seed))

    def test_the_same_arguments_give_the_same_objective(self) -> None:
        """Two objects, two calls, another state of the global generators: the same bits."""
        batch, network = small_batch(), self.network()
        for step in self.steps(self.make()):
            torch.manual_seed(step)
            first = self.run(self.make(), network, batch, step)
            torch.manual_seed(step + 1)
            state = torch.get_rng_state()
            again = self.run(self.make(), network, batch, step)
            assert torch.equal(first.loss, again.loss), f"step {step}"
            assert torch.equal(state, torch.get_rng_state()), "the global generator was used: draw from `streams`"

    def test_random_numbers_belong_to_the_example_not_to_its_place(self) -> None:
        """What is prepared of an example is the same in any batch and order."""
        method, network, batch = self.make(), self.network().eval(), small_batch()
        order = torch.tensor([4, 0, 2])
        part = Batch(*(column[order] for column in batch))
        engine = NativeEngine(network) if method.needs_engine else None
        for step in self.steps(method):
            whole = method.prepare(network, engine, batch, step, Streams(3))
            some = method.prepare(network, engine, part, step, Streams(3))
            for one, other in zip(whole, some, strict=True):
                if isinstance(one, Tensor) and one.shape[:1] == batch.y.shape:
                    torch.testing.assert_close(one[order], other, rtol=1e-4, atol=1e-5)

    def test_what_is_prepared_has_no_gradient_and_leaves_the_network_alone(self) -> None:
        """Modes, weights, gradients, running statistics and `requires_grad` stay as they were."""
        method, network, batch = self.make(), small_network(batch_norm=True).train(), small_batch()
        before = copy.deepcopy(network.state_dict())
        engine = NativeEngine(network) if method.needs_engine else None
        for step in self.steps(method):
            inputs = method.prepare(network, engine, batch, step, Streams(0))
            assert not any(isinstance(one, Tensor) and one.requires_grad for one in inputs)
            assert all(module.training for module in network.modules())
            assert all(p.grad is None and p.requires_grad for p in network.parameters())
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_losses_and_gradients_are_finite_in_every_phase(self) -> None:
        """Parts are detached numbers of one element, among them some `loss_*`."""
        method, batch = self.make(), small_batch()
        for step in self.steps(method):
            network = self.network()
            objective = self.run(method, network, batch, step)
            objective.loss.backward()
            grads = [p.grad for p in network.parameters() if p.grad is not None]
            assert grads
            assert all(torch.isfinite(grad).all() for grad in grads), f"step {step}"
            assert math.isfinite(objective.loss.item())
            assert any(name.startswith("loss_") for name in objective.parts)
            assert all(part.numel() == 1 and not part.requires_grad for part in objective.parts.values())

    def test_a_batch_is_the_mean_of_its_parts(self) -> None:
        """Several devices share a batch: each has the mean over its own part."""
        if not self.splits:
            return
        method, network, batch = self.make(), self.network(), small_batch(6)
        for step in self.steps(method):
            halves = [Batch(*(column[part] for column in batch)) for part in (slice(0, 2), slice(2, 6))]
            losses = [self.run(method, network, half, step).loss for half in halves]
            torch.testing.assert_close(
                self.run(method, network, batch, step).loss, (2 * losses[0] + 4 * losses[1]) / 6, rtol=1e-4, atol=1e-5
            )

    def test_schedules_are_functions_of_the_step(self) -> None:
        """Finite numbers under the same names at every step, whatever was asked before; the ramp ends at an integer."""
        method, other = self.make(), self.make()
        assert isinstance(method.ramp_end, int)
        assert method.ramp_end >= 0
        steps = self.steps(method)
        names = {tuple(sorted(method.scheduled(step))) for step in steps}
        assert len(names) == 1
        assert all(math.isfinite(value) for step in steps for value in method.scheduled(step).values())
        forwards = [method.scheduled(step) for step in steps]
        assert forwards == [other.scheduled(step) for step in reversed(steps)][::-1]
        for step in steps:
            hash(method.phase(step))

    def test_the_compiled_objective_is_the_same(self) -> None:
        """As far as tracing goes; what a compiler makes of it is compared when a phase is compiled."""
        from certtrain.methods.compiled import Compiled

        method, network, batch = self.make(), self.network(), small_batch()
        engine = NativeEngine(network) if method.needs_engine else None
        compiled = Compiled(method, len(batch.y), backend="eager")
        step = method.ramp_end // 2
        torch._dynamo.reset()  # each method that is traced counts against one limit of the process
        try:
            found = compiled(network, engine, batch, step, Streams(0)).loss
        finally:
            torch._dynamo.reset()
        torch.testing.assert_close(found, self.run(method, network, batch, step).loss, rtol=1e-4, atol=1e-5)

    def test_what_comes_before_a_step_draws_from_no_generator_and_leaves_what_it_found(self) -> None:
        """It may change weights and statistics; modes, `requires_grad` and gradients collected so far stay."""
        method, network, batch = self.make(), small_network(batch_norm=True).train(), small_batch()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        engine = NativeEngine(network) if method.needs_engine else None
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        state = torch.get_rng_state()
        for step in self.steps(method):
            method.before_step(Context(network, engine, optimizer, [batch], step, 0, Streams(0)), batch)
        assert torch.equal(state, torch.get_rng_state()), "the global generator was used: draw from `streams`"
        assert all(module.training for module in network.modules())
        assert all(w.requires_grad and torch.equal(w.grad, torch.ones_like(w)) for w in network.parameters())
        assert all(torch.isfinite(weight).all() for weight in network.parameters())

    def test_its_state_travels_in_a_checkpoint(self) -> None:
        """Tensors and plain containers, which load with weights_only."""
        method, file = self.make(), io.BytesIO()
        torch.save(method.state_dict(), file)
        file.seek(0)
        other = self.make()
        other.load_state_dict(torch.load(file, weights_only=True))
        network, batch = self.network(), small_batch()
        step = method.ramp_end
        assert torch.equal(self.run(method, network, batch, step).loss, self.run(other, network, batch, step).loss)

    def test_it_learns(self) -> None:
        """Forty steps of Adam after the ramp, each after the hook that comes before it."""
        if not self.learns:
            return
        method, network, batch = self.make(), self.network(), small_batch(24)
        method.initialise(network)
        engine = NativeEngine(network) if method.needs_engine else None
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        losses = []
        method.begin(Context(network, engine, optimizer, [batch], 0, 0, Streams(0)))
        for step in range(method.ramp_end, method.ramp_end + 40):
            method.before_step(Context(network, engine, optimizer, [batch], step, 0, Streams(0)), batch)
            optimizer.zero_grad()
            loss = method(network, engine, batch, step, Streams(0)).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
