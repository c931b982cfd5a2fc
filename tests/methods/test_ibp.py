"""The IBP objective against numbers worked out on paper, and on the native engine."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, CrownIBP, Ramp, ShiRegulariser, Streams, Weight
from certtrain.methods.losses import robust_cross_entropy
from certtrain.methods.regularisers import MIN_EPS, normalised_radius
from certtrain.methods.robust import IntervalLoss
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of

RAMP = Ramp(start=10, length=10)
NOISE = Streams(0)
NATURAL = 0.313262  # log(1 + exp(-1))


@pytest.fixture
def network():
    torch.manual_seed(3)
    return nn.Sequential(
        Normalize([0.4], [0.25], (1, 6, 6)),
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(10, 1, 6, 6, generator=generator)
    return Batch(x, torch.randint(4, (10,), generator=generator), torch.arange(10))


def values(objective):
    return {name: part.item() for name, part in objective.parts.items()}


def test_half_way_up_the_ramp_by_hand(paper_network, paper_engine, paper_batch):
    # eps = 0.25: the margin's bound is 1 - 3/4 = 1/4; kappa = 0.75.
    objective = IBP(0.5, RAMP)(paper_network, paper_engine, paper_batch, 15, NOISE)
    robust = 0.575939  # log(1 + exp(-1/4))
    assert paper_engine.calls == [(0.25, ("ibp",))]
    assert objective.loss.item() == pytest.approx(0.75 * NATURAL + 0.25 * robust, abs=2e-6)
    assert values(objective) == pytest.approx(
        {"loss_natural": NATURAL, "loss_robust": robust, "clean": 1, "train_verified": 1},
        abs=2e-6,
    )
    assert not any(part.requires_grad for part in objective.parts.values())


def test_after_the_ramp_nothing_is_verified_where_the_bound_is_zero_or_negative(
    paper_network, paper_engine, paper_batch
):
    objective = IBP(0.5, RAMP, l1=0.1)(paper_network, paper_engine, paper_batch, 20, NOISE)  # m = 1 - 3/2
    robust = 0.974077  # log(1 + exp(1/2))
    assert objective.loss.item() == pytest.approx(0.5 * NATURAL + 0.5 * robust + 0.5, abs=2e-6)
    assert values(objective)["train_verified"] == 0
    assert values(objective)["unstable_relu"] == 0.5  # counted at every tenth step
    assert values(objective)["loss_l1"] == pytest.approx(0.5)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_that_proves_nothing_is_not_counted(paper_network, paper_engine, paper_batch, margin):
    class OneOff(IntervalLoss):
        def loss(self, network, bounds, inputs, methods, values):
            off = replace(bounds, margins={"ibp": torch.tensor([[1.0], [margin], [1.0]])})
            return super().loss(network, off, inputs, methods, values)

    method = IBP(0.5, RAMP)
    method.robust = OneOff()
    parts = method(paper_network, paper_engine, paper_batch, 15, NOISE).parts
    assert parts["train_verified"].item() == pytest.approx(2 / 3)


def test_a_wrong_prediction_is_never_verified(paper_network, paper_engine, paper_batch):
    with torch.no_grad():
        paper_network[2].bias.copy_(torch.tensor([-2.0, 0.0]))  # now class 1 wins; the engine's bound says otherwise
    parts = IBP(0.5, RAMP)(paper_network, paper_engine, paper_batch, 15, NOISE).parts
    assert parts["train_verified"].item() == 0
    assert parts["clean"].item() == 0


@pytest.mark.parametrize("method", [IBP, CrownIBP])
@pytest.mark.parametrize("step", [0, 9, 10])
def test_the_natural_warm_up_asks_for_no_bounds(method, step, paper_network, refusing_engine, paper_batch):
    objective = method(0.5, RAMP)(paper_network, refusing_engine, paper_batch, step, NOISE)
    assert objective.loss.item() == pytest.approx(NATURAL, abs=2e-6)
    assert set(objective.parts) == {"loss_natural", "clean"}
    assert method(0.5, RAMP).scheduled(step)["eps"] == 0


def test_a_clean_loss_alone_asks_for_no_bounds(paper_network, refusing_engine, paper_batch):
    method = IBP(0.5, RAMP, kappa=Weight(1.0, 1.0))
    assert method(paper_network, refusing_engine, paper_batch, 30, NOISE).loss.item() == pytest.approx(
        NATURAL, abs=2e-6
    )


def test_the_bound_pass_that_the_warm_up_saves_would_change_nothing(network, batch):
    bounds = NativeEngine(network.eval()).bounds(batch.x, batch.y, threat_of(eps=0.0), ("ibp",))
    robust = torch.logsumexp(F.pad(-bounds.margins["ibp"], (1, 0)), 1).mean()
    assert torch.allclose(robust, F.cross_entropy(network(batch.x), batch.y), atol=1e-5)


def test_on_the_native_engine_the_loss_is_the_formula_and_reaches_every_parameter(network, batch):
    method, engine = IBP(Fraction(1, 20), RAMP, kappa=Weight(0.8, 0.2), l1=1e-3), NativeEngine(network)
    objective = method(network, engine, batch, 15, NOISE)
    bounds = engine.bounds(batch.x, batch.y, threat_of(eps=0.025), ("ibp",))
    robust = torch.logsumexp(F.pad(-bounds.margins["ibp"], (1, 0)), 1).mean()
    l1 = sum(network[i].weight.abs().sum() for i in (1, 5, 7))
    expected = 0.5 * F.cross_entropy(bounds.clean, batch.y) + 0.5 * robust + 1e-3 * l1
    assert torch.allclose(objective.loss, expected, rtol=1e-5)
    objective.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in network.named_parameters() if "weight" in n)


def test_robust_training_verifies_more(network, batch):
    method, engine = IBP(0.01, Ramp(0, 60), kappa=Weight(0.0, 0.0)), NativeEngine(network)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    before = method(network, engine, batch, 60, NOISE).parts["train_verified"].item()
    for step in range(100):
        objective = method(network, engine, batch, step, NOISE)
        optimizer.zero_grad()
        objective.loss.backward()
        optimizer.step()
    assert before <= 0.3
    assert objective.parts["train_verified"].item() >= 0.9


def test_the_same_arguments_give_the_same_objective(network, batch):
    method, engine = IBP(0.1, RAMP, regulariser=ShiRegulariser(0.5)), NativeEngine(network.eval())
    first = method(network, engine, batch, 15, NOISE)
    method(network, engine, batch, 18, NOISE)
    again = method(network, engine, batch, 15, NOISE)
    assert torch.equal(first.loss, again.loss)
    assert values(first) == values(again)


def test_the_regulariser_fades_with_eps_and_needs_bounds_in_the_warm_up(network, batch):
    regulariser, engine = ShiRegulariser(0.6), NativeEngine(network.eval())
    method = IBP(0.1, RAMP, kappa=Weight(0.0, 0.0), regulariser=regulariser)
    for step, weight, eps in ((0, 0.6, MIN_EPS), (10, 0.6, MIN_EPS), (15, 0.3, 0.05)):
        threat = threat_of(eps=eps)
        bounds = engine.bounds(batch.x, batch.y, threat, ("ibp",))
        terms = regulariser.terms(normalised_radius(network, batch.x, threat), bounds.pre_activations)
        assert terms.tight > 0
        assert terms.relu > 0
        main = F.cross_entropy(bounds.clean, batch.y)
        if step == 15:
            main = torch.logsumexp(F.pad(-bounds.margins["ibp"], (1, 0)), 1).mean()
        objective = method(network, engine, batch, step, NOISE)
        assert torch.allclose(objective.loss, main + weight * (terms.tight + terms.relu), rtol=1e-5)
        assert objective.parts["loss_tight"] == terms.tight
        assert objective.parts["loss_relu"] == terms.relu
        assert ("loss_robust" in objective.parts) == (step == 15)
        assert method.scheduled(step)["regulariser"] == pytest.approx(weight)
    late = method(network, engine, batch, 20, NOISE)
    assert "loss_tight" not in late.parts
    assert method.scheduled(20)["regulariser"] == 0


def test_the_input_range_reaches_the_engine(paper_network, paper_engine, paper_batch, monkeypatch):
    asked = []
    answer = type(paper_engine).bounds
    monkeypatch.setattr(
        type(paper_engine),
        "bounds",
        lambda self, x, y, threat, m: asked.append(threat) or answer(self, x, y, threat, m),
    )
    IBP("1/8", Ramp(0, 0), norm="l2", lower=None, upper=2.0)(paper_network, paper_engine, paper_batch, 0, NOISE)
    assert asked == [threat_of(norm="l2", eps=0.125, lower=None, upper=2.0)]


def test_what_is_scheduled():
    method = IBP("2/255", RAMP)
    assert method.scheduled(15) == {"eps": pytest.approx(1 / 255), "kappa": 0.75}
    assert method.scheduled(20)["eps"] == 2 / 255
    assert method.ramp_end == 20
    assert method.needs_engine
    assert IBP(0.1, Ramp(0, 100, "smoothed")).scheduled(50)["kappa"] == pytest.approx(0.75)  # by step


def test_initialise_only_draws_when_asked(network):
    before = network[1].weight.clone()
    IBP(0.1, RAMP).initialise(network)
    assert torch.equal(network[1].weight, before)
    IBP(0.1, RAMP, init="ibp").initialise(network)
    assert not torch.equal(network[1].weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IBP(-0.1, RAMP), "negative"),
        (lambda: IBP("abc", RAMP), "not a radius"),
        (lambda: IBP(0.1, RAMP, init="ipb"), "did you mean ibp"),
        (lambda: IBP(0.1, RAMP, norm="l1"), "l1 is not a set that bounds are about"),
        (lambda: IBP(0.1, RAMP, norm="l7"), "unknown norm"),
        (lambda: IBP(0.1, RAMP, l1=-1.0), "method.l1"),
        (lambda: IBP(0.1, RAMP, norm="l2", regulariser=ShiRegulariser(0.5)), "defined for boxes"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


class Backward(TorchDispatchMode):
    """Counts the backward passes of convolutions."""

    convolutions = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.convolutions += function is torch.ops.aten.convolution_backward.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_a_clean_loss_of_weight_zero_costs_no_backward_pass(kappa):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]
    network = nn.Sequential(*layers)
    batch = Batch(torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    method, engine = IBP(0.05, Ramp(0, 2), kappa=Weight(kappa, kappa)), NativeEngine(network)
    found = method(network, engine, batch, 1, NOISE)
    with Backward() as counted:
        found.loss.backward()
    assert counted.convolutions == (6 if kappa else 4)
    bounds = engine.bounds(batch.x, batch.y, threat_of("linf", 0.025), ("ibp",))
    natural, worst = F.cross_entropy(bounds.clean, batch.y), robust_cross_entropy(bounds.margins["ibp"])
    expected = torch.autograd.grad(kappa * natural + (1 - kappa) * worst, list(network.parameters()))
    for parameter, gradient in zip(network.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient)
    assert found.parts["loss_natural"].item() == pytest.approx(natural.item())
